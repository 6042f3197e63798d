"""`edgekit soup`: average fine-tunes, all of them or those that raise the accuracy on held-out images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit import __version__
from edgekit.errors import OutputError, UsageError
from edgekit.images.crops import LabelledCrops, crop_samples
from edgekit.images.dataset import open_dataset
from edgekit.images.selection import select
from edgekit.models import load_network
from edgekit.models.checkpoint import State, fit_weights, read_checkpoint
from edgekit.models.logits import batched_logits
from edgekit.models.options import ModelOptions
from edgekit.models.soup import check_members, greedy, mean, save_soup
from edgekit.models.soup_record import HeldOut, Method, SoupAccuracies, SoupAccuracy, SoupMember, SoupRecord
from edgekit.support.files import writing
from edgekit.support.hashes import file_sha256
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter


@dataclass(frozen=True)
class SoupOptions:
    """What `edgekit soup` was asked for. Without `model` and `data` it averages all and measures nothing."""

    members: tuple[Path, ...]
    output: Path
    method: Method = "greedy"
    model: ModelOptions | None = None
    data: Path | None = None
    num_held_out_samples: int | None = None
    """Images to choose on; None for half of them. The others are for the final figures."""
    seed: int = 0


def make_soup(options: SoupOptions, reporter: Reporter) -> SoupRecord:
    """Write the soup, with the record in its metadata, and return the record.

    Raises UsageError, WeightsError, DataError or OutputError before anything is written.
    """
    _check(options)
    check_members(options.members)
    with reporter.stage("hash members", len(options.members)) as step:
        hashes = {path: (file_sha256(path), step())[0] for path in options.members}
    if options.model is not None and options.data is not None:
        record = _MemberEvaluation(options, options.model, options.data).choose(hashes, reporter)
    else:
        members = tuple(SoupMember(file=path.name, sha256=hashes[path], kept=True) for path in options.members)
        record = SoupRecord(edgekit=__version__, method=options.method, members=members)
    kept = [path for path in options.members if path.name in {each.file for each in record.members if each.kept}]
    with reporter.stage(f"average {len(kept)}"):
        save_soup(mean(kept), options.output, record)
    return record


def _check(options: SoupOptions) -> None:
    if len(options.members) < 2:
        raise UsageError(f"{len(options.members)} checkpoint was given: a soup is made of two at least")
    if len({path.resolve() for path in options.members}) < len(options.members):
        raise UsageError("a checkpoint was given twice: give each member once")
    if len({path.name for path in options.members}) < len(options.members):
        raise UsageError("two checkpoints have the same file name: the record tells members by it, rename one")
    if options.output.suffix.lower() != ".safetensors":
        raise OutputError(f"the output '{options.output}' is not a .safetensors file: name one with --output FILE")
    if options.output.resolve() in {path.resolve() for path in options.members}:
        raise OutputError(f"the output '{options.output}' is one of the members: name another with --output FILE")
    if options.output.is_dir():
        raise OutputError(f"the output '{options.output}' is a folder: name a file with --output FILE")
    given = options.model is not None, options.data is not None
    if options.method == "greedy" and not all(given):
        raise UsageError(
            "a greedy soup chooses by accuracy: give --model NAME and held-out images with --data PATH, or average "
            "all with --method uniform"
        )
    if any(given) and not all(given):
        raise UsageError("--model and --data go together: give both to measure, or neither")
    with writing(options.output):
        options.output.parent.mkdir(parents=True, exist_ok=True)


class _MemberEvaluation:
    """One network that takes the members' and soups' weights in turn, and images to measure it on."""

    def __init__(self, options: SoupOptions, model: ModelOptions, data: Path) -> None:
        self.options = options
        with quiet():
            self.network = load_network(replace(model, weights=str(options.members[0])), seed=options.seed)
        dataset = open_dataset(data, self.network.labels)
        count = options.num_held_out_samples or max(1, len(dataset.samples) // 2)
        self.held_out = select(dataset, count, options.seed)
        rest = select(dataset, None, options.seed, exclude=self.held_out, exact=False)
        preprocessing = self.network.preprocessing
        self.images = crop_samples(dataset, self.held_out.samples, preprocessing)
        self.final = crop_samples(dataset, rest.samples, preprocessing)

    def choose(self, hashes: Mapping[Path, str], reporter: Reporter) -> SoupRecord:
        """Choose the members to average. `hashes` are the SHA-256 of all that were given."""
        members = self.options.members
        with reporter.stage("evaluate members", len(members)) as step:
            singles = [(self.accuracy(read_checkpoint(path)), step())[0] for path in members]
        with reporter.stage("greedy soup"):
            choice = greedy(members, singles, self.accuracy)
        with reporter.stage("evaluate soups"):
            accuracies = SoupAccuracies(
                best_single=self._evaluate([choice.trials[0].candidate]),
                uniform=self._evaluate(members),
                greedy=self._evaluate(choice.members),
            )
        kept = choice.members if self.options.method == "greedy" else members
        alone = dict(zip(members, singles, strict=True))
        tried = {trial.candidate: trial.accuracy for trial in choice.trials}
        return SoupRecord(
            edgekit=__version__,
            method=self.options.method,
            members=tuple(
                SoupMember(
                    file=path.name,
                    sha256=hashes[path],
                    kept=path in kept,
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
