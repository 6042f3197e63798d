"""The progress of another process, as this one shows it."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.devices.messages import StageBegan, Stepped
from edgekit.devices.wire import ShownProgress
from edgekit.support.progress import Reporter, Step


class Recorder(Reporter):
    """Stores the steps of each stage."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.stages: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Step]:
        amounts = self.stages[f"{title}: {total}"] = []
        yield lambda amount=1: amounts.append(amount)


def test_steps_arrive_in_parts() -> None:
    recorder = Recorder()
    with ShownProgress(recorder, "pi5: ") as shown:
        for message in (StageBegan("calibrate", 8), Stepped(0.25), Stepped(6), Stepped(8), StageBegan("time", 2)):
            shown.show(message)
        shown.show(Stepped(2))
    assert recorder.stages == {"pi5: calibrate: 8": [0.25, 5.75, 2], "pi5: time: 2": [2]}
