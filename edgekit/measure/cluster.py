"""Run shards in other processes, on this machine or on several, with Dask distributed.

Dask sends work as pickles, which run code when they are read, so every process of the cluster must belong to the user.
On this machine the processes listen on loopback and accept only clients with the certificate that is made for the run.
A scheduler elsewhere is as safe as its network, or as the certificates in the user's Dask configuration.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

from edgekit.errors import EngineError, StageError, UsageError
from edgekit.measure.shards import SerialExecutor, ShardExecutor
from edgekit.support.child_process import child_environment
from edgekit.support.libraries import first_line, import_needed, quiet

CONNECT_S = 10
QUEUED = 4
"""Shards in the queue of each worker; more would only fill the scheduler's memory."""


@contextmanager
def executor_of(workers: int | None, scheduler: str | None) -> Iterator[ShardExecutor]:
    """Open an executor: this process, a number of workers on this machine, or the workers of a Dask scheduler.

    Raises UsageError if no scheduler answers at the address, and MissingExtraError without the extra `scale`.
    """
    if workers is not None and scheduler is not None:
        raise UsageError(
            "--workers and --scheduler were both given",
            fix="Use --workers to start processes here, or --scheduler to use processes that run already",
        )
    if workers is None and scheduler is None:
        yield SerialExecutor()
        return
    distributed = import_needed("distributed", "scale")
    with ExitStack() as stack, quiet(), child_environment():
        try:
            if scheduler is None:
                client = _local_client(distributed, workers, stack)
            else:
                client = stack.enter_context(distributed.Client(scheduler, timeout=CONNECT_S))
        except (OSError, ValueError, RuntimeError) as error:
            if scheduler is None:
                problem = f"--workers: {workers} processes could not be started: {first_line(error)}"
                raise UsageError(problem, fix="Use fewer --workers, or leave it out") from error
            raise UsageError(
                f"--scheduler: no Dask scheduler answers at '{scheduler}': {error}",
                fix="Start one with `dask scheduler`",
            ) from error
        yield DaskExecutor(client)


def _local_client(distributed: Any, workers: int | None, stack: ExitStack) -> Any:
    """A client of new worker processes on this machine, which end with `stack`."""
    security = import_needed("distributed.security", "scale").Security.temporary()
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        security=security,
        silence_logs=logging.CRITICAL,
        memory_limit=0,
    )
    return stack.enter_context(distributed.Client(stack.enter_context(cluster), timeout=CONNECT_S, security=security))


class DaskExecutor:
    """A Dask client. If a worker dies, another one gets its shard; a shard that kills three workers fails."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        distributed = import_needed("distributed", "scale")
        todo = iter(enumerate(pieces))
        running = distributed.as_completed()
        index_of = {}

        def submit(count: int) -> None:
            for index, piece in islice(todo, count):
                future = self._client.submit(work, piece, pure=False)
                index_of[future.key] = index
                running.add(future)

        submit(QUEUED * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"])))
        for future in running:
            index = index_of.pop(future.key)
            submit(1)
            try:
                yield index, future.result()
            except StageError as error:
                yield index, error
            except distributed.KilledWorker as error:
                yield index, EngineError(f"a shard killed several workers in a row: {first_line(error)}")
