"""The trials of a search in a SQLite file, from which workers of one or several commands claim them one by one."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import msgspec

from edgekit.errors import UsageError
from edgekit.tuning.space import Choices
from edgekit.tuning.trial import Figures, State, Trial

TABLES = (
    "CREATE TABLE IF NOT EXISTS search (study TEXT PRIMARY KEY, layers TEXT, planner TEXT, seen REAL)",
    "CREATE TABLE IF NOT EXISTS trial (study TEXT, number INTEGER, choices TEXT, state TEXT DEFAULT 'waiting', "
    "worker TEXT, seen REAL, losses INTEGER DEFAULT 0, reason TEXT, figures TEXT, PRIMARY KEY (study, number))",
)
LOSE = (  # the fourth loss of a worker fails the trial
    "UPDATE trial SET state = CASE WHEN losses < 3 THEN 'waiting' ELSE 'fail' END, losses = losses + 1, worker = NULL "
    "WHERE study = ? AND state = 'running' AND "
)


def database_file(storage: str) -> Path:
    """The SQLite file that --storage names by path or as sqlite:///PATH. UsageError for any other URL."""
    scheme, is_url, rest = storage.partition("://")
    path = storage if not is_url else rest[1:] if scheme == "sqlite" and rest.startswith("/") else ""
    if path in ("", ":memory:"):
        valid = "a SQLite file, as a path or as sqlite:///PATH"
        raise UsageError(f"--storage is '{storage}'", valid=valid, fix="Use a path such as --storage tune.db")
    return Path(path).absolute()


class TrialTable:
    """The trials of one study. Each method is one transaction, so threads and processes may share the file.

    A worker without a heartbeat for `silence_s` seconds counts as lost, and its trial returns to the queue. All methods
    raise UsageError if the file can't be used. `now` is the clock for heartbeats, in seconds.
    """

    def __init__(self, file: Path, study: str, silence_s: float, now: Callable[[], float] = time.time) -> None:
        self.silence_s, self._file, self._study, self._now = silence_s, file, study, now
        with self._transaction() as db:
            for statement in TABLES:
                db.execute(statement)
            db.execute("INSERT OR IGNORE INTO search (study) VALUES (?)", (study,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._file, timeout=60, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")  # closing the connection without it rolls back
        except sqlite3.Error as error:
            raise UsageError(
                f"--storage: can't use '{self._file}' as the study's database: {error}",
                valid="a SQLite file in a writable folder",
                fix="Use a path such as --storage tune.db",
            ) from error

    def layers(self) -> list[str] | None:
        """The layers in the order in which trials leave them in float; None before the study is planned."""
        with self._transaction() as db:
            (layers,) = db.execute("SELECT layers FROM search WHERE study = ?", (self._study,)).fetchone()
        return None if layers is None else list(json.loads(layers))

    def claim_plan(self, worker: str) -> bool:
        """Whether this worker is to plan the study, because no other does. Calling it again is its heartbeat."""
        free = "layers IS NULL AND (planner IS NULL OR planner = ? OR seen < ?)"
        now = self._now()
        values = (worker, now, self._study, worker, now - self.silence_s)
        with self._transaction() as db:
            update = db.execute(f"UPDATE search SET planner = ?, seen = ? WHERE study = ? AND {free}", values)
            return update.rowcount == 1

    def plan(self, layers: Sequence[str], points: Sequence[Choices]) -> None:
        """Queue a trial for each point, in this order. Does nothing if another worker has done so meanwhile."""
        rows = [(self._study, number, json.dumps(asdict(point))) for number, point in enumerate(points)]
        values = (json.dumps(list(layers)), self._study)
        with self._transaction() as db:
            update = db.execute("UPDATE search SET layers = ? WHERE study = ? AND layers IS NULL", values)
            if update.rowcount == 1:
                db.executemany("INSERT INTO trial (study, number, choices) VALUES (?, ?, ?)", rows)

    def trials(self) -> list[Trial]:
        """All trials, in the order of the plan."""
        columns = "SELECT number, choices, state, worker, reason, figures FROM trial "
        with self._transaction() as db:
            return [_trial(row) for row in db.execute(f"{columns} WHERE study = ? ORDER BY number", (self._study,))]

    def claim(self, worker: str) -> int | None:
        """Assign the next waiting trial to this worker, and return its number; None if no trial is waiting.

        Trials of lost workers return to the queue, behind those that never started.
        """
        now = self._now()
        waiting = "SELECT number FROM trial WHERE study = ? AND state = 'waiting' ORDER BY losses, number LIMIT 1"
        with self._transaction() as db:
            db.execute(f"{LOSE} seen < ?", (self._study, now - self.silence_s))
            row = db.execute(waiting, (self._study,)).fetchone()
            if row is None:
                return None
            values = (worker, now, self._study, *row)
            db.execute(
                "UPDATE trial SET state = 'running', worker = ?, seen = ? WHERE study = ? AND number = ?", values
            )
        return int(row[0])

    def beat(self, worker: str) -> None:
        """Record the heartbeat of a worker that runs a trial."""
        self._update("seen = ?", worker, self._now())

    def finish(self, worker: str, state: State, reason: str | None = None, figures: Figures | None = None) -> bool:
        """End the trial that a worker runs. False, without recording the result, if the worker counts as lost."""
        measured = None if figures is None else json.dumps(asdict(figures))
        return self._update("state = ?, reason = ?, figures = ?", worker, state, reason, measured)

    def release(self, worker: str) -> None:
        """Return the trial of a worker that was interrupted, or that can't continue, to the queue."""
        with self._transaction() as db:
            db.execute(f"{LOSE} worker = ?", (self._study, worker))

    def retry_lost(self) -> None:
        """Return the trials that failed because their workers were lost to the queue."""
        lost = "WHERE study = ? AND state = 'fail' AND reason IS NULL"
        with self._transaction() as db:
            db.execute(f"UPDATE trial SET state = 'waiting', losses = 0 {lost}", (self._study,))

    def _update(self, changes: str, worker: str, *values: str | float | None) -> bool:
        running = "WHERE study = ? AND state = 'running' AND worker = ?"
        with self._transaction() as db:
            return db.execute(f"UPDATE trial SET {changes} {running}", (*values, self._study, worker)).rowcount == 1


def _trial(row: tuple[int, str, State, str | None, str | None, str | None]) -> Trial:
    number, choices, state, worker, reason, figures = row
    measured = None if figures is None else msgspec.json.decode(figures, type=Figures)
    return Trial(number, Choices(**json.loads(choices)), state, worker, reason, measured)
