"""Measures one network with every choice: builds through edgekit or a stock tool, and runs in the runtime itself."""

import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib.candidates import Candidate, Infer, open_candidate
from benchmarks.rows import Row
from benchmarks.trainedlib.choices import MOST_DROP, Choice, varied
from benchmarks.trainedlib.timing import FLOAT
from edgekit.errors import EdgekitError
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.measure.bundles import summarize_profile
from edgekit.models.network import batched_logits, torch_logits
from edgekit.pipeline.build import build_one
from edgekit.pipeline.deploy import deploy
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import ACTIVATIONS, MOST_IMAGES, fitted_temperature
from edgekit.pipeline.loading import load_job
from edgekit.report.row import Accuracy
from edgekit.runtime.session import open_session
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter
from edgekit.tuning.improvements import improvements_of


class Bench:
    """One network with its images and float logits."""

    def __init__(self, job: Job, images: int) -> None:
        self.reporter = Reporter(quiet=True)
        self._shipped: dict[str, Row] = {}
        self.job = job
        self.spec, job_images = load_job(job, self.reporter)
        self.graphs = JobGraphs(self.spec, self.reporter)
        chosen = job_images.evaluation.split(images)[0].samples
        self.crops = job_images.dataset.crop(chosen, self.spec.network.preprocessing)
        self.float_logits = np.concatenate(list(batched_logits(self.spec.network, self.crops.pixels)))
        self.reference = self.spec.task.kept(self.float_logits)

    @cached_property
    def float_score(self) -> float:
        """The metric of torch's float network."""
        task, spec = self.spec.task, self.spec.network
        return task.reference("torch", self.reference, self.crops.labels, spec.classes, random_weights=False).value

    @property
    def image(self) -> NDArray[np.float32]:
        """The first evaluation image, float32 [1,C,H,W]."""
        return self.spec.network.preprocessing.normalize(self.crops.pixels[:1])

    @cached_property
    def calibration(self) -> list[NDArray[np.float32]]:
        size = self.spec.network.preprocessing
        crops = self.spec.calibration_dataset.crop_each(self.spec.calibration.samples, size)
        return [size.normalize(crop) for crop in crops]

    def measure(self, runtime: str, choice: Choice, folder: Path) -> Row | None:
        """Figures of one choice, or the error; None if the choice changes nothing in the family's recipe.

        The choice's files stay in the folder, and edgekit's float bundle beside that of the shipped choice.
        """
        start = time.monotonic()
        remove(folder)
        row: Row = {"recipe": self.spec.recipe.name, "calibration_images": len(self.spec.calibration.samples)}
        row |= {
            "images": len(self.crops),
            "float_top1": round(self.float_score, 4),
        }
        try:
            if choice.stock:
                figures = self._stock(runtime, choice.stock, folder)
            elif choice.repaired:
                figures = self._repaired(runtime, folder)
            elif choice.keys:
                recipe = varied(self.spec.recipe, runtime, choice.keys)
                if recipe == self.spec.recipe:
                    return None
                figures = self._edgekit(runtime, self.graphs.with_recipe(recipe), folder)
            else:
                figures = self._shipped[runtime] = self._edgekit(runtime, self.graphs, folder)
                build_one(self.graphs, runtime, "float", folder.with_name(FLOAT))
        except (EdgekitError, StockError) as error:
            figures = {"error": str(error)}
        when = {
            "seconds": round(time.monotonic() - start, 1),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return row | figures | when

    def _edgekit(self, runtime: str, graphs: JobGraphs, folder: Path) -> Row:
        bundle = build_one(graphs, runtime, "int8", folder)
        with open_session(bundle, 1) as session:
            figures = self.figures(session)
            share = summarize_profile(session)[0].share_of_macs
        return figures | {"int8_share_of_macs": _rounded(share, 3), "temperature": bundle.manifest.temperature}

    def _repaired(self, runtime: str, folder: Path) -> Row:
        """Figures of the bundle that `edgekit deploy` makes if it repairs the shipped one, or those of the shipped one.

        Its speed isn't gated, because a repair ends where INT8 is slower than float, which depends on the processor.
        """
        shipped = self._shipped.get(runtime) or self._edgekit(runtime, self.graphs, folder)
        if shipped["drop_top1_points"] <= MOST_DROP:
            remove(folder)
            return shipped | {"attempts": 0, "float_layers": []}
        remove(run := folder.with_name("run"))
        job = replace(
            self.job,
            targets=(runtime,),
            num_eval_samples=len(self.crops),
            max_drop=MOST_DROP,
            min_speedup=0,
            output=run,
        )
        (row,) = (row for row in deploy(job, self.reporter, improvements_of).results if row.name == f"{runtime}-int8")
        if row.failure or row.accuracy is None or row.int8 is None:
            raise EdgekitError(str(row.failure))
        attempts = row.repair.attempts if row.repair else ()
        remove(folder)
        (run / row.name).rename(folder)
        remove(run)
        return {
            **_accuracy(row.accuracy),
            "snr_db": _rounded(row.snr_db, 2),
            "int8_share_of_macs": _rounded(row.int8.share_of_macs, 3),
            "before_points": _rounded(attempts[0].drop_top1_points if attempts else None, 2),
            "attempts": max(0, len(attempts) - 1),
            "float_layers": list(row.repair.result.float_layers) if row.repair else [],
        }

    def _stock(self, runtime: str, name: str, folder: Path) -> Row:
        from benchmarks.peerlib.builds import Stock  # imports TensorFlow, which takes seconds

        with quiet():
            made = list(Stock(self.spec.network.module, self.calibration, folder).candidates((runtime,), (name,)))
        ((candidate, why),) = [pair for pair in made if pair[0].name == name]
        if why is not None:
            raise StockError(why)
        return self.figures(_opened(candidate)) | {"int8_share_of_macs": None}

    def figures(self, infer: Infer) -> Row:
        """Accuracy of a function from float32 images [1,C,H,W] to logits [1,classes], beside the float network's."""
        images = self.crops.normalized(self.spec.network.preprocessing)
        logits = np.concatenate([infer(image) for image in images])
        accuracy = self.spec.task.compare(self.spec.task.kept(logits), self.reference, self.crops.labels)
        figures = _accuracy(accuracy) | {"snr_db": round(snr_db(self.float_logits, logits), 2)}
        return figures | (self._confidence(infer, logits) if self.spec.task.activation in ACTIVATIONS else {})

    def _confidence(self, infer: Infer, logits: NDArray[np.float32]) -> Row:
        """Calibration errors and crossings, also with the temperature that fits the calibration images best."""
        task, network, chosen = self.spec.task, self.spec.network, self.spec.calibration.samples[:MOST_IMAGES]
        pixels = self.spec.calibration_dataset.crop(chosen, network.preprocessing).pixels
        on_calibration = np.concatenate([infer(network.preprocessing.normalize(each)) for each in pixels])
        temperature = fitted_temperature(on_calibration, torch_logits(network, pixels), task.activation)
        kept = {"": task.kept(logits), "with_temperature_": task.kept(logits / np.float32(temperature))}
        row: Row = {"fitted_temperature": round(temperature, 4)}
        for prefix, answers in kept.items():
            confidence = task.confidence(answers, self.reference, self.crops.labels)
            row["float_calibration_error"] = _rounded(confidence.reference_calibration_error, 4)
            row[f"{prefix}calibration_error"] = _rounded(confidence.calibration_error, 4)
            row[f"{prefix}change_ci95"] = [round(end, 4) for end in confidence.calibration_error_change_ci95 or ()]
            row[f"{prefix}crossings"] = [[each.threshold, each.upward, each.downward] for each in confidence.crossings]
        return row


def remove(folder: Path) -> None:
    """Remove a folder that may not exist."""
    shutil.rmtree(folder, ignore_errors=True)


def _accuracy(accuracy: Accuracy) -> Row:
    return {
        "top1": round(accuracy.value, 4),
        "drop_top1_points": round(accuracy.drop_points, 2),
        "drop_ci95_points": [round(end, 2) for end in accuracy.drop_ci95_points],
        **({"metric": accuracy.metric} if accuracy.score else {}),
        **({each.name: round(each.value, 4) for each in accuracy.score.details} if accuracy.score else {}),
        "lost": accuracy.right_to_wrong,
        "won": accuracy.wrong_to_right,
        "agreement": round(accuracy.agreement, 4),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


class StockError(Exception):
    """A stock tool failed."""


def _opened(candidate: Candidate) -> Infer:
    try:
        return open_candidate(candidate, 1)
    except Exception as error:  # a runtime may raise anything for a stock tool's file
        raise StockError(f"{type(error).__name__}: {error}") from error
