"""What the outputs of a network mean: one class, several labels, or a vector. Each task is a module."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekit.errors import UsageError
from edgekit.measure.tasks.embedding import Embedding
from edgekit.measure.tasks.multi_label import MultiLabel
from edgekit.measure.tasks.single_label import SingleLabel
from edgekit.measure.tasks.task import Answers as Answers
from edgekit.measure.tasks.task import Targets as Targets
from edgekit.measure.tasks.task import Task as Task

TASKS: Mapping[str, Task] = {task.name: task for task in (SingleLabel(), MultiLabel(), Embedding())}
"""The tasks by their names."""


def task_of(name: str, thresholds: Sequence[float] = ()) -> Task:
    """The task of this name, with its thresholds. Raises UsageError for an unknown one, as of a newer edgekit."""
    if name not in TASKS:
        raise UsageError(f"the task is '{name}'", valid=", ".join(TASKS), fix="Update edgekit to evaluate this bundle")
    return replace(TASKS[name], thresholds=tuple(thresholds))
