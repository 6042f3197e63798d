"""Run shards in other processes, on this machine or on several, with Dask distributed.

Dask sends work as pickles, which run code when they are read, so every process of the cluster must belong to the user.
On this machine the processes listen on loopback and accept only clients with the certificate that is made for the run.
A scheduler elsewhere is as safe as its network, or as the certificates in the user's Dask configuration.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

from edgekit.errors import EngineError, StageError, UsageError
from edgekit.measure.shards import SerialExecutor, ShardExecutor
from edgekit.support.child_process import child_environment
from edgekit.support.libraries import first_line, import_needed, quiet

CONNECT_S = 10
WITHOUT_WORKERS_S = 120
"""Time in seconds that a cluster has to replace its last worker."""
LOOK_S = 5
"""Time in seconds between two looks at the workers of a cluster that has finished nothing meanwhile."""
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
    """A Dask client. If a worker dies, another one gets its shard; a shard that kills three workers fails.

    EngineError ends the work if no worker is left and none comes back.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, work: Callable[[Any], Any], pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        distributed = import_needed("distributed", "scale")
        todo = iter(enumerate(pieces))
        running = {}

        def submit(count: int) -> None:
            for index, piece in islice(todo, count):
                running[self._client.submit(work, piece, pure=False)] = index

        submit(QUEUED * max(1, self._workers()))
        while running:
            for future in self._finished(list(running)):
                index = running.pop(future)
                submit(1)
                try:
                    yield index, future.result()
                except StageError as error:
                    yield index, error
                except distributed.KilledWorker as error:
                    yield index, EngineError(f"a shard killed several workers in a row: {first_line(error)}")

    def _workers(self) -> int:
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def _finished(self, running: Sequence[Any]) -> Sequence[Any]:
        """Wait until some of these futures are finished, and return those."""
        distributed, alone_since = import_needed("distributed", "scale"), None
        while True:
            try:
                finished: Sequence[Any] = distributed.wait(running, LOOK_S, "FIRST_COMPLETED").done
            except TimeoutError:
                alone_since = None if self._workers() else alone_since or time.monotonic()
                if alone_since and time.monotonic() - alone_since > WITHOUT_WORKERS_S:
                    raise EngineError(
                        f"no worker has been left for {WITHOUT_WORKERS_S} s",
                        fix="Run the same command again, with fewer --workers if memory is short",
                    ) from None
                continue
            return finished
