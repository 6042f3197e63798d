"""Model soups: the mean of several fine-tunes' weights (Wortsman et al., arXiv 2203.05482), all or a greedy choice.

`edgekit soup` averages tensor by tensor, and stores a record in the soup's file, by which a deploy leaves out the
images that chose the members.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgekit import __version__
from edgekit.errors import DataError, OutputError, UsageError, WeightsError
from edgekit.images.dataset import Dataset, LabelledCrops
from edgekit.images.selection import select
from edgekit.models.checkpoint import read_checkpoint
from edgekit.models.loading import load_network, settle_classes
from edgekit.models.network import State, fit_weights, some, torch_logits
from edgekit.models.options import ModelOptions
from edgekit.support.files import file_sha256, replacing, writing
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter

METADATA = "edgekit.soup"
"""Metadata key of a soup's file that stores the record as JSON."""

Method = Literal["uniform", "greedy"]


@dataclass(frozen=True, kw_only=True)
class SoupMember:
    """One of the checkpoints; its top-1 figures are on the held-out images, or None if nothing was measured."""

    file: str
    """Name of the checkpoint's file, without the folder."""
    sha256: str
    kept: bool
    """Whether its weights are in the soup."""
    held_out_top1: float | None = None
    """Top-1 of the member alone."""
    greedy_top1: float | None = None
    """Top-1 of the greedy soup when this member was tried."""


@dataclass(frozen=True)
class SoupAccuracy:
    """Top-1 of one set of weights; `final_top1` is on images that chose no member, or None without such images."""

    held_out_top1: float
    final_top1: float | None


@dataclass(frozen=True)
class SoupAccuracies:
    """Top-1 of the best member, of the mean of all members and of the greedy soup."""

    best_single: SoupAccuracy
    uniform: SoupAccuracy
    greedy: SoupAccuracy


@dataclass(frozen=True)
class HeldOut:
    """The images that chose the members. Because of that, they can't tell how accurate the soup is."""

    count: int
    sha256: str
    seed: int
    images: tuple[str, ...]
    """SHA-256 of each image."""


@dataclass(frozen=True, kw_only=True)
class SoupRecord:
    """A soup: its members, the most accurate first, and the measured figures, or None if nothing was measured."""

    schema_version: Literal[1] = 1
    edgekit: str
    method: Method
    members: tuple[SoupMember, ...]
    accuracy: SoupAccuracies | None = None
    held_out: HeldOut | None = None
    final_count: int | None = None
    """Number of images on which `final_top1` was measured."""

    def page(self) -> list[str]:
        """The members, then the accuracies."""
        lines = []
        for member in self.members:
            single = f": {member.held_out_top1:.2%} alone" if member.held_out_top1 is not None else ""
            lines.append(f"{'kept' if member.kept else 'left out':<8} {member.file}{single}")
        if self.accuracy is None or self.held_out is None:
            return lines
        for name, accuracy in vars(self.accuracy).items():
            final = accuracy.final_top1
            rest = f", {final:.2%} on the other {self.final_count}" if final is not None else ""
            lines.append(
                f"{name.replace('_', ' ')}: top-1 {accuracy.held_out_top1:.2%} on the {self.held_out.count} "
                f"images that chose the members{rest}"
            )
        return lines


def read_record(path: Path) -> SoupRecord | None:
    """Read the record in a soup's file; None if the file isn't a soup."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA)
        return msgspec.json.decode(text, type=SoupRecord) if text else None
    except (SafetensorError, msgspec.DecodeError):
        return None  # reading the weights reports the damaged file


def held_out_of(weights: str | None) -> tuple[str, ...]:
    """SHA-256 of the images on which a soup's members were chosen; empty for other weights."""
    record = read_record(Path(weights)) if weights else None
    return record.held_out.images if record and record.held_out else ()


@dataclass(frozen=True)
class SoupOptions:
    """Options of `edgekit soup`. Without `model` and `data` it averages all members and measures nothing."""

    members: tuple[Path, ...]
    output: Path
    method: Method = "greedy"
    model: ModelOptions | None = None
    data: Path | None = None
    num_held_out_samples: int | None = None
    """Number of images that choose the members, or None for half of them. The others give the final figures."""
    seed: int = 0


def make_soup(options: SoupOptions, reporter: Reporter) -> SoupRecord:
    """Write the soup with its record in the metadata, and return the record.

    Raises UsageError, WeightsError, DataError or OutputError before anything is written.
    """
    _check(options)
    check_members(options.members)
    with reporter.stage("hash members", len(options.members)) as step:
        hashes = {}
        for path in options.members:
            hashes[path] = file_sha256(path)
            step()
    record = SoupRecord(
        edgekit=__version__,
        method=options.method,
        members=tuple(SoupMember(file=path.name, sha256=hashes[path], kept=True) for path in options.members),
    )
    if options.model is not None and options.data is not None:
        record = _measured(record, options, options.model, options.data, reporter)
    kept = {member.file for member in record.members if member.kept}
    paths = [path for path in options.members if path.name in kept]
    with reporter.stage(f"average {len(paths)}"):
        save_soup(mean(paths), options.output, record)
    return record


def _measured(
    record: SoupRecord, options: SoupOptions, model: ModelOptions, data: Path, reporter: Reporter
) -> SoupRecord:
    """The record with the accuracies of members and soups, the most accurate member first, and the chosen members."""
    with quiet():
        network = load_network(replace(model, weights=str(options.members[0])), seed=options.seed)
    dataset = Dataset.open(data, network.labels, "one")
    if not dataset.is_labelled:
        raise DataError(
            f"'{dataset.path}' states no label, and the accuracy of members and soups needs them",
            valid="a label for each image",
            fix="Leave out --data and --model for a uniform average",
        )
    if dataset.origin:
        reporter.say(dataset.origin)
    settle_classes(network, model, dataset, reporter)
    held_out = select(dataset, options.num_held_out_samples or max(1, len(dataset.samples) // 2), options.seed)
    rest = select(dataset, None, options.seed, exclude=held_out, exact=False)
    images, final = (dataset.crop(chosen.samples, network.preprocessing) for chosen in (held_out, rest))

    def top1(state: State, crops: LabelledCrops = images) -> float:
        fit_weights(network.module, state, options.output)
        return float((torch_logits(network, crops.pixels).argmax(1) == crops.labels).mean())

    def evaluate(paths: Sequence[Path]) -> SoupAccuracy:
        state = mean(paths)
        return SoupAccuracy(top1(state), top1(state, final) if len(final) else None)

    alone = {}
    with reporter.stage("evaluate members", len(options.members)) as step:
        for path in options.members:
            alone[path] = top1(read_checkpoint(path))
            step()
    with reporter.stage("greedy soup"):
        chosen, tried = greedy(alone, top1)
    with reporter.stage("evaluate soups"):
        accuracies = SoupAccuracies(evaluate(chosen[:1]), evaluate(options.members), evaluate(chosen))
    paths = {path.name: path for path in options.members}
    members = [
        replace(
            member,
            kept=options.method == "uniform" or paths[member.file] in chosen,
            held_out_top1=alone[paths[member.file]],
            greedy_top1=tried[paths[member.file]],
        )
        for member in record.members
    ]
    return replace(
        record,
        members=tuple(sorted(members, key=lambda member: -alone[paths[member.file]])),
        accuracy=accuracies,
        held_out=HeldOut(len(held_out.samples), held_out.sha256, options.seed, held_out.hashes),
        final_count=len(final),
    )


def _check(options: SoupOptions) -> None:
    if len(options.members) < 2:
        raise UsageError(
            f"the number of checkpoints is {len(options.members)}", valid="two or more", fix="Add another fine-tune"
        )
    names = [path.name for path in options.members]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"two checkpoints have the file name '{repeated}', by which the record identifies them",
            fix="List each checkpoint once, or rename one",
        )
    if options.output.resolve() in {path.resolve() for path in options.members}:
        fix = "Name another file with `--output FILE`"
        raise OutputError(f"the output '{options.output}' is one of the soup's checkpoints", fix=fix)
    measurable = options.model is not None, options.data is not None
    if options.method == "greedy" and not all(measurable):
        raise UsageError(
            "a greedy soup chooses members by accuracy and needs a model and held-out images",
            fix="Add `--model NAME` and `--data PATH`, or average all checkpoints with `--method uniform`",
        )
    if any(measurable) and not all(measurable):
        raise UsageError(
            "only one of --model and --data is set",
            valid="both, to measure the accuracy, or neither",
            fix="Add the other option, or remove this one",
        )
    with writing(options.output):
        options.output.parent.mkdir(parents=True, exist_ok=True)


def check_members(paths: Sequence[Path]) -> None:
    """Raise WeightsError unless all are .safetensors with the same tensor names, shapes and dtypes."""
    first = _header(paths[0])
    for path in paths[1:]:
        other = _header(path)
        pairs = [
            f"{name}: {first.get(name, 'absent')} and {other.get(name, 'absent')}"
            for name in {**first, **other}
            if first.get(name) != other.get(name)
        ]
        if pairs:
            raise WeightsError(
                f"'{paths[0]}' and '{path}' differ in {len(pairs)} tensors ({some(pairs)})",
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


def greedy(alone: Mapping[Path, float], accuracy: Callable[[State], float]) -> tuple[list[Path], dict[Path, float]]:
    """Add members one at a time, the most accurate first, and keep one only if the soup's accuracy strictly rises.

    `alone` has the accuracy of each single member on held-out images; `accuracy` evaluates a state dict on the same
    images. Members of equal accuracy are tried in their order. Returns the members of the soup, and the accuracy of the
    soup when each member was tried.
    """
    members: list[Path] = []
    tried: dict[Path, float] = {}
    best = 0.0
    for path in sorted(alone, key=lambda path: -alone[path]):
        tried[path] = accuracy(mean([*members, path])) if members else alone[path]
        if not members or tried[path] > best:
            best = tried[path]
            members.append(path)
    return members, tried


def save_soup(state: State, path: Path, record: SoupRecord) -> None:
    """Write a soup with its record in the metadata, atomically. Raises OutputError if the file can't be written."""
    metadata = {"format": "pt", METADATA: json.dumps(msgspec.to_builtins(record))}
    with writing(path), replacing(path) as temporary:
        try:
            save_file(state, temporary, metadata=metadata)
        except SafetensorError as error:  # safetensors raises it for a full disk, too
            raise OSError(str(error)) from error


def _header(path: Path) -> dict[str, str]:
    """Dtype and shape of each tensor by name."""
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
            return {name: f"{tensor.get_dtype()} {list(tensor.get_shape())}" for name, tensor in slices.items()}
    except SafetensorError as error:
        raise WeightsError(
            f"weights file '{path}' can't be read as a .safetensors file: {error}",
            fix="Download or save the file again",
        ) from error


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
