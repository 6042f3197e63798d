"""Soups: the mean of several fine-tunes' weights (Wortsman et al., arXiv 2203.05482), read tensor by tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgekit.errors import WeightsError
from edgekit.models.checkpoint import State
from edgekit.models.soup_record import SoupRecord, record_metadata
from edgekit.support.files import replacing, writing


@dataclass(frozen=True)
class GreedyTrial:
    """A candidate, the held-out accuracy of the soup with it, and whether it was kept."""

    candidate: Path
    accuracy: float
    kept: bool


@dataclass(frozen=True)
class GreedyChoice:
    """The members that a greedy choice keeps, in the order in which they were added."""

    members: tuple[Path, ...]
    trials: tuple[GreedyTrial, ...]
    """The best single member first."""


def check_members(paths: Sequence[Path]) -> None:
    """Raise WeightsError unless all are .safetensors with the same tensors by name, shape and dtype; reads headers."""
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
                f"'{paths[0]}' and '{path}' differ in {len(differing)} tensors ({shown}{more}): a soup is made of "
                "fine-tunes of one model"
            )


def mean(paths: Sequence[Path]) -> State:
    """The mean of each tensor over the files, summed in float64 and rounded to the files' dtype.

    Integers, such as position indices, must be equal; a BatchNorm's count of batches is the first file's. Each file is
    mapped for one tensor at a time: memory is the result's and the largest tensor's, whatever the number of files.
    Raises WeightsError for a value that isn't finite or integers that differ.
    """
    return {name: _mean_of(name, paths) for name in _header(paths[0])}


def greedy(paths: Sequence[Path], accuracies: Sequence[float], accuracy: Callable[[State], float]) -> GreedyChoice:
    """Add members one at a time, the most accurate first, and keep one only if the soup's accuracy strictly rises.

    `accuracies` are the members' own on held-out images, `accuracy` that of a state dict. Equal members are tried in
    the order given.
    """
    ranked = sorted(range(len(paths)), key=lambda index: -accuracies[index])
    best, kept = accuracies[ranked[0]], [paths[ranked[0]]]
    trials = [GreedyTrial(kept[0], best, True)]
    for index in ranked[1:]:
        trial = accuracy(mean([*kept, paths[index]]))
        trials.append(GreedyTrial(paths[index], trial, trial > best))
        if trial > best:
            best = trial
            kept.append(paths[index])
    return GreedyChoice(tuple(kept), tuple(trials))


def save_soup(state: State, path: Path, record: SoupRecord) -> None:
    """Write a soup beside and rename, its record in the metadata. OutputError if that can't be done."""
    with writing(path), replacing(path) as beside:
        try:
            save_file(state, beside, metadata=record_metadata(record))
        except SafetensorError as error:  # safetensors' word for a full disk, too
            raise OSError(str(error)) from error


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of each tensor."""
    if path.suffix.lower() != ".safetensors":
        raise WeightsError(
            f"'{path}' is not a .safetensors file: a soup reads its members tensor by tensor, which other formats "
            "don't allow. Save each with safetensors.torch.save_file(model.state_dict(), FILE)"
        )
    if not path.is_file():
        raise WeightsError(f"weights file '{path}' {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            return {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    except SafetensorError as error:
        raise WeightsError(f"weights file '{path}' is not a safetensors file that can be read: {error}") from error


def _described(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if entry is None else f"{entry[0]} {list(entry[1])}"


def _mean_of(name: str, paths: Sequence[Path]) -> torch.Tensor:
    total: torch.Tensor | None = None
    first: torch.Tensor | None = None
    for path in paths:
        # Opened anew for each tensor: pages of a file that stays mapped would count as this process's memory.
        with safe_open(path, "pt") as file:
            value = file.get_tensor(name)
            if not value.is_floating_point():
                first = value.clone() if first is None else first
                if not name.endswith("num_batches_tracked") and not torch.equal(first, value):
                    raise WeightsError(f"integer tensor '{name}' of '{path}' differs from that of '{paths[0]}'")
                continue
            if not bool(torch.isfinite(value).all()):
                raise WeightsError(f"weights '{path}': tensor '{name}' holds NaN or infinity")
            if total is None:
                dtype, total = value.dtype, torch.zeros_like(value, dtype=torch.float64)
            total += value
            del value
    if total is None:
        assert first is not None
        return first
    return total.div_(len(paths)).to(dtype)
