"""A loaded bundle: what an app calls, and what evaluation and benchmark measure."""

import importlib
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import find_runtime
from edgekit.errors import BundleError, GoldenError, InputError, UsageError
from edgekit.images.preprocess import ImageLike
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import Engine, check_manifest, check_threads, engine_errors
from edgekit.support.libraries import quiet

LOW_PRECISION_SPREAD = 0.3
"""Smallest golden tolerance in bf16 or f16, in standard deviations of the logits: as for INT8.

Measured with torch on random weights: bf16 is 0.03 (ResNet-18, ConvNeXt V2 Atto) to 0.13 (MobileNetV3) off, and the
tolerance of a float bundle is 0.01.
"""


@dataclass(frozen=True)
class VerifyResult:
    """How far the golden samples' logits are from those in the bundle, on this processor."""

    max_abs_difference: float
    tolerance: float


class Session:
    """A model ready to run.

    Safe to use from several threads: OpenVINO and LiteRT run one image at a time behind a lock, ONNX Runtime runs
    concurrently; preprocessing takes no lock. Use it in a `with` block, or call `close`.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Open the bundle's model; raises UsageError, BundleError, MissingExtraError or EngineError."""
        self.bundle = bundle
        self.threads = check_threads(threads)
        runtime = find_runtime(bundle.manifest.target)
        check_manifest(bundle.manifest, runtime)
        engine = importlib.import_module(runtime.engine_module).Engine
        with engine_errors(f"loading {bundle.model_path} in {runtime.title}"):
            self._engine: Engine = engine(bundle.model_path, bundle.manifest, self.threads)
        self._action = f"running {bundle.model_path} in {runtime.title}"
        self._image_shape = bundle.manifest.input_shape[1:]

    @property
    def engine_name(self) -> str:
        """The package that runs the model, such as "onnxruntime"."""
        return self._engine.package

    @property
    def engine_version(self) -> str:
        """The version of that package."""
        return self._engine.version

    def preprocess(self, image: ImageLike) -> NDArray[np.float32]:
        """Decode, crop and normalize a path, a PIL image or a uint8 array [H,W,3]: float32 [1,3,H,W]."""
        return self.bundle.manifest.preprocessing(image)

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, float32 [N,classes], of normalized images, float32 [N,3,H,W]; they are run one at a time.

        Raises InputError for another dtype or shape, EngineError if the runtime fails or the session is closed.
        """
        fits = isinstance(batch, np.ndarray) and batch.dtype == np.float32 and batch.ndim == 4
        if not fits or batch.shape[1:] != self._image_shape:
            given = f"{batch.dtype} {list(batch.shape)}" if isinstance(batch, np.ndarray) else type(batch).__name__
            wanted = ", ".join(map(str, self._image_shape))
            raise InputError(f"the batch is {given}: valid is float32 [N, {wanted}], as Session.preprocess gives")
        batch = np.ascontiguousarray(batch)
        with engine_errors(self._action):
            if len(batch) == 1:
                return self._engine.run(batch)
            logits = np.empty((len(batch), self.bundle.manifest.classes), np.float32)
            for index in range(len(batch)):
                logits[index] = self._engine.run(batch[index : index + 1])[0]
        return logits

    def classify(self, image: ImageLike, top: int = 5) -> list[tuple[str, float]]:
        """The `top` best labels of a path, a PIL image or a uint8 array [H,W,3], with their softmax scores."""
        if type(top) is not int or top < 1:
            raise UsageError(f"top is {top!r}: give a whole number from 1")
        logits = self(self.preprocess(image))[0]
        if not np.isfinite(logits).all():
            raise BundleError(
                f"bundle '{self.bundle.path}' gives NaN or infinity for this image: its model is damaged. Make it "
                "again with: edgekit deploy MODEL"
            )
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[:top]
        return [(self.bundle.labels[index], float(scores[index])) for index in best]

    def verify(self) -> VerifyResult:
        """Run the golden samples; raises GoldenError if a logit differs by more than the bundle's tolerance.

        In bf16 or f16 the tolerance is at least `LOW_PRECISION_SPREAD`.
        """
        golden = self.bundle.golden()
        batch = self.bundle.manifest.preprocessing.normalize(golden.pixels)
        difference = float(np.abs(self(batch) - golden.logits).max())
        tolerance = golden.tolerance
        if self.bundle.manifest.session.get("inference_precision", "f32") != "f32":
            tolerance = max(tolerance, LOW_PRECISION_SPREAD * float(golden.logits.std()))
        if not difference <= tolerance:  # NaN must fail too
            raise GoldenError(
                f"bundle '{self.bundle.path}' gives other numbers on this processor with {self.engine_name} "
                f"{self.engine_version}: the logits of its golden samples differ by {difference:.3g}, valid is at most "
                f"{tolerance:.3g}. Try another version of the runtime, or another bundle"
            )
        return VerifyResult(difference, tolerance)

    def in_low_precision(self) -> "Session | None":
        """The same bundle computed in bf16 or f16, where its runtime would do that to a float model here."""
        low = self._engine.low_precision_float() if self.bundle.manifest.precision == "float" else None
        if low is None:
            return None
        options = {**self.bundle.manifest.session, "inference_precision": low}
        manifest = replace(self.bundle.manifest, session=options)
        return Session(replace(self.bundle, manifest=manifest), self.threads)

    def close(self) -> None:
        """Let the model go; calling the session afterwards raises EngineError."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(bundle: Bundle, threads: int | None) -> Session:
    """A session of the bundle, opened without what runtimes announce on stderr, as LiteRT does its delegate."""
    with quiet():
        return Session(bundle, threads)
