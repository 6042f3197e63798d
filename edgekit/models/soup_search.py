"""Implements `edgekit soup`: averages all fine-tunes, or those that raise the accuracy on held-out images."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit import __version__
from edgekit.errors import OutputError, UsageError
from edgekit.images.crops import LabelledCrops, crop_samples
from edgekit.images.dataset import open_dataset
from edgekit.images.selection import select
from edgekit.models import load_network
from edgekit.models.checkpoint import read_checkpoint
from edgekit.models.class_order import settle_classes
from edgekit.models.logits import batched_logits
from edgekit.models.options import ModelOptions
from edgekit.models.soup import check_members, greedy, mean, save_soup
from edgekit.models.soup_record import HeldOut, Method, SoupAccuracies, SoupAccuracy, SoupMember, SoupRecord
from edgekit.models.state_dict import State, fit_weights
from edgekit.support.files import writing
from edgekit.support.hashes import file_sha256
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter


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
    if options.model is not None and options.data is not None:
        record = _MemberEvaluation(options, options.model, options.data, reporter).choose(hashes, reporter)
    else:
        members = tuple(SoupMember(file=path.name, sha256=hashes[path], kept=True) for path in options.members)
        record = SoupRecord(edgekit=__version__, method=options.method, members=members)
    averaged = {member.file for member in record.members if member.kept}
    paths = [path for path in options.members if path.name in averaged]
    with reporter.stage(f"average {len(paths)}"):
        save_soup(mean(paths), options.output, record)
    return record


def _check(options: SoupOptions) -> None:
    if len(options.members) < 2:
        raise UsageError(
            f"the number of checkpoints is {len(options.members)}", valid="two or more", fix="Add another fine-tune"
        )
    paths, names = [path.resolve() for path in options.members], [path.name for path in options.members]
    if repeated := _first_repeated(paths):
        raise UsageError(f"checkpoint '{repeated}' is listed twice", fix="List each checkpoint once")
    if repeated := _first_repeated(names):
        raise UsageError(
            f"two checkpoints have the file name '{repeated}', by which the record identifies them", fix="Rename one"
        )
    _check_output(options)
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


def _first_repeated(values: Sequence[Hashable]) -> Hashable | None:
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


def _check_output(options: SoupOptions) -> None:
    fix = "Name another file with `--output FILE`"
    if options.output.suffix.lower() != ".safetensors":
        raise OutputError(f"the output '{options.output}' is not a .safetensors file", fix=fix)
    if options.output.resolve() in {path.resolve() for path in options.members}:
        raise OutputError(f"the output '{options.output}' is one of the soup's checkpoints", fix=fix)
    if options.output.is_dir():
        raise OutputError(f"the output '{options.output}' is a folder", fix=fix)


class _MemberEvaluation:
    """One network that is loaded with the members' and soups' weights in turn, and the images that measure it."""

    def __init__(self, options: SoupOptions, model: ModelOptions, data: Path, reporter: Reporter) -> None:
        self.options = options
        with quiet():
            self.network = load_network(replace(model, weights=str(options.members[0])), seed=options.seed)
        dataset = open_dataset(data, self.network.labels)
        if dataset.origin:
            reporter.say(dataset.origin)
        settle_classes(self.network, model, dataset, reporter)
        count = options.num_held_out_samples or max(1, len(dataset.samples) // 2)
        self.held_out = select(dataset, count, options.seed)
        rest = select(dataset, None, options.seed, exclude=self.held_out, exact=False)
        preprocessing = self.network.preprocessing
        self.images = crop_samples(dataset, self.held_out.samples, preprocessing)
        self.final = crop_samples(dataset, rest.samples, preprocessing)

    def choose(self, hashes: Mapping[Path, str], reporter: Reporter) -> SoupRecord:
        """Choose the members to average. `hashes` are the SHA-256 of all checkpoints."""
        members = self.options.members
        with reporter.stage("evaluate members", len(members)) as step:
            singles = []
            for path in members:
                singles.append(self.accuracy(read_checkpoint(path)))
                step()
        with reporter.stage("greedy soup"):
            choice = greedy(members, singles, self.accuracy)
        with reporter.stage("evaluate soups"):
            accuracies = SoupAccuracies(
                best_single=self._evaluate([choice.trials[0].candidate]),
                uniform=self._evaluate(members),
                greedy=self._evaluate(choice.members),
            )
        chosen = choice.members if self.options.method == "greedy" else members
        alone = dict(zip(members, singles, strict=True))
        tried = {trial.candidate: trial.accuracy for trial in choice.trials}
        return SoupRecord(
            edgekit=__version__,
            method=self.options.method,
            members=tuple(
                SoupMember(
                    file=path.name,
                    sha256=hashes[path],
                    kept=path in chosen,
                    held_out_top1=alone[path],
                    greedy_top1=tried[path],
                )
                for path in sorted(members, key=lambda path: -alone[path])
            ),
            accuracy=accuracies,
            held_out=HeldOut(
                count=len(self.held_out.samples),
                sha256=self.held_out.sha256,
                seed=self.options.seed,
                images=self.held_out.hashes,
            ),
            final_count=len(self.final),
        )

    def _evaluate(self, chosen: Sequence[Path]) -> SoupAccuracy:
        held_out = self.accuracy(mean(chosen))
        final = self._top1(self.final) if len(self.final) else None  # the network still has these weights
        return SoupAccuracy(held_out, final)

    def accuracy(self, state: State) -> float:
        """Top-1 on the held-out images with these weights."""
        fit_weights(self.network.module, state, self.options.output)
        return self._top1(self.images)

    def _top1(self, crops: LabelledCrops) -> float:
        best = np.concatenate([logits.argmax(1) for logits in batched_logits(self.network, crops.pixels)])
        return float((best == crops.labels).mean())
