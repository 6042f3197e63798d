"""Model soups: the mean of several fine-tunes' weights (Wortsman et al., arXiv 2203.05482), read tensor by tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgekit.errors import WeightsError
from edgekit.models.soup_record import SoupRecord, record_metadata
from edgekit.models.state_dict import State
from edgekit.support.files import replacing, writing


@dataclass(frozen=True)
class GreedyTrial:
    """One step of a greedy soup: the candidate, the soup's held-out accuracy with it, and whether it was kept."""

    candidate: Path
    accuracy: float
    kept: bool


@dataclass(frozen=True)
class GreedyChoice:
    """The members of a greedy soup, in the order in which they were added, and all trials."""

    members: tuple[Path, ...]
    trials: tuple[GreedyTrial, ...]
    """All candidates in the order in which they were tried; the best single member comes first."""


def check_members(paths: Sequence[Path]) -> None:
    """Raise WeightsError unless all are .safetensors with the same tensor names, shapes and dtypes."""
    first = _header(paths[0])
    for path in paths[1:]:
        other = _header(path)
        differing = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if differing:
            shown = "; ".join(
                f"{name}: {_described(first.get(name))} and {_described(other.get(name))}" for name in differing[:3]
            )
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise WeightsError(
                f"'{paths[0]}' and '{path}' differ in {len(differing)} tensors ({shown}{more})",
                valid="fine-tunes of the same model",
                fix="Leave out the checkpoints of other models",
            )


def mean(paths: Sequence[Path]) -> State:
    """Average each tensor over the files, summing in float64 and rounding to the files' dtype.

    Integer tensors, such as position indices, must be equal; a BatchNorm's number of batches is taken from the first
    file. Each file is mapped for one tensor at a time, so memory is that of the result and the largest tensor, however
    many files are averaged. Raises WeightsError for a value that isn't finite, or if integers differ.
    """
    return {name: _mean_of(name, paths) for name in _header(paths[0])}


def greedy(paths: Sequence[Path], accuracies: Sequence[float], accuracy: Callable[[State], float]) -> GreedyChoice:
    """Add members one at a time, the most accurate first, and keep one only if the soup's accuracy strictly rises.

    `accuracies` are those of the single members on held-out images; `accuracy` evaluates a state dict on the same
    images. Members of equal accuracy are tried in the order of `paths`.
    """
    ranked = sorted(range(len(paths)), key=lambda index: -accuracies[index])
    best, members = accuracies[ranked[0]], [paths[ranked[0]]]
    trials = [GreedyTrial(members[0], best, True)]
    for index in ranked[1:]:
        trial = accuracy(mean([*members, paths[index]]))
        trials.append(GreedyTrial(paths[index], trial, trial > best))
        if trial > best:
            best = trial
            members.append(paths[index])
    return GreedyChoice(tuple(members), tuple(trials))


def save_soup(state: State, path: Path, record: SoupRecord) -> None:
    """Write a soup with its record in the metadata, atomically. Raises OutputError if the file can't be written."""
    with writing(path), replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata=record_metadata(record))
        except SafetensorError as error:  # safetensors raises it for a full disk, too
            raise OSError(str(error)) from error


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of each tensor by name."""
    if path.suffix.lower() != ".safetensors":
        raise WeightsError(
            f"'{path}' is not a .safetensors file",
            valid=".safetensors files, which a soup can read tensor by tensor",
            fix="Save each checkpoint with safetensors.torch.save_file(model.state_dict(), FILE)",
        )
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "doesn't exist"
        raise WeightsError(f"weights file '{path}' {problem}", fix="Correct the path")
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            return {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in slices.items()}
    except SafetensorError as error:
        raise WeightsError(
            f"weights file '{path}' can't be read as a .safetensors file: {error}",
            fix="Download or save the file again",
        ) from error


def _described(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if entry is None else f"{entry[0]} {list(entry[1])}"


def _mean_of(name: str, paths: Sequence[Path]) -> torch.Tensor:
    total: torch.Tensor | None = None
    first: torch.Tensor | None = None
    for path in paths:
        # Each tensor opens the file again: pages of a file that stays mapped would count as this process's memory.
        with safe_open(path, "pt") as file:
            value = file.get_tensor(name)
            if not value.is_floating_point():
                first = value.clone() if first is None else first
                if not name.endswith("num_batches_tracked") and not torch.equal(first, value):
                    raise WeightsError(
                        f"integer tensor '{name}' of '{path}' differs from that of '{paths[0]}', and can't be averaged",
                        fix="Leave out one of the two checkpoints",
                    )
                continue
            if not bool(torch.isfinite(value).all()):
                raise WeightsError(
                    f"tensor '{name}' of weights '{path}' contains NaN or infinity", fix="Leave out this checkpoint"
                )
            if total is None:
                dtype, total = value.dtype, torch.zeros_like(value, dtype=torch.float64)
            total += value
            del value
    if total is None:
        assert first is not None
        return first
    return total.div_(len(paths)).to(dtype)
