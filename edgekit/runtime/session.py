"""A loaded bundle. An app calls it, and `edgekit evaluate` and `edgekit benchmark` measure the same object.

What follows the model is softmax over the classes, a sigmoid for each class, or a vector of length 1. A live session
follows a link to a bundle, which `edgekit push` switches while the app runs. A session tells whether an INT8 model
saturates on x86 processors without VNNI, whose kernels add two products in 16 bits.
"""

import importlib
import os
import platform
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import Activation, InputDtype, Runtime, cpu_features
from edgekit.errors import BundleError, EdgekitError, GoldenError, InputError, UsageError
from edgekit.images.preprocess import ImageLike
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.engine import Engine, check_manifest, check_threads, engine_errors
from edgekit.support.libraries import quiet

TINY = np.float32(1e-12)
"""Length below which a vector isn't made longer, so that one of zeros stays one."""


def activated(outputs: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Scores from 0 to 1, or vectors, of a model's outputs, both float32 [N,K] or [K]. The outputs must be finite."""
    values = outputs
    if activation == "softmax":
        powers = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        values = powers / powers.sum(axis=-1, keepdims=True)
    elif activation == "sigmoid":
        values = np.exp(-np.logaddexp(np.float32(0), -outputs))
    elif activation == "normalize":
        values = outputs / np.maximum(np.linalg.norm(outputs, axis=-1, keepdims=True), TINY)
    return values


TOP = 5
"""Number of labels that `Session.classify` returns if each image has one class."""
LOW_PRECISIONS = ("bf16", "f16")
LOW_PRECISION_SPREAD = 0.3
"""Smallest golden tolerance in bf16 or f16, in standard deviations of the outputs. INT8 has the same tolerance.

Measured with torch on random weights, bf16 is off by 0.03 (ResNet-18, ConvNeXt V2 Atto) to 0.13 (MobileNetV3), while
the tolerance of a float bundle is 0.01.
"""


class GoldenWarning(UserWarning):
    """A bundle gives other numbers with the installed release of its runtime than with the one it was made with."""


@dataclass(frozen=True)
class VerifyResult:
    """Comparison of the test vectors' outputs on this processor with those in the bundle."""

    max_abs_difference: float
    """Largest absolute difference of an output."""
    tolerance: float
    """Largest absolute difference that is allowed."""

    @property
    def passed(self) -> bool:
        """Whether no output differs by more, or is NaN."""
        return self.max_abs_difference <= self.tolerance


class Session:
    """A model that is ready to run; `edgekit.load` opens one.

    Several threads may share a session. OpenVINO and LiteRT guard their one request with a lock, and ONNX Runtime
    runs concurrently. Preprocessing needs no lock. Use a session in a `with` block, or call `close`.

    Examples:
        Preprocess and classify in separate steps:

        ```python
        with edgekit.load("runs/demo/onnx-int8") as session:
            batch = session.preprocess("cat.jpg")  # float32 [1, 3, height, width]
            logits = session(batch)  # float32 [1, classes]
            print(session.bundle.labels[logits[0].argmax()])
        ```
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Open the model of a bundle that was read with `read_bundle`.

        Args:
            bundle: The bundle on disk.
            threads: Number of threads that the runtime computes with. By default it is the manifest's, at most the
                number of physical cores that this process may use, or that number if the manifest has none.

        Raises:
            UsageError: `threads` is not a whole number from 1.
            BundleError: The model differs from its manifest, or the manifest has an unknown session option.
            MissingExtraError: The runtime is not installed, or is older than the bundle needs.
            EngineError: The runtime failed to load the model.
        """
        self.bundle = bundle
        """The bundle that was opened."""
        self.threads = check_threads(threads, bundle.manifest.threads)
        """Number of threads that the runtime computes with."""
        runtime = Runtime.find(bundle.manifest.target)
        check_manifest(bundle.manifest, runtime)
        engine = importlib.import_module(runtime.engine_module).Engine
        with engine_errors(f"loading {bundle.model_path} in {runtime.title}"):
            self._engine: Engine = engine(bundle.model_path, bundle.manifest, self.threads)
        self._action = f"running {bundle.model_path} in {runtime.title}"
        size = bundle.manifest.preprocessing
        dtypes: tuple[InputDtype, ...] = ("float32", bundle.manifest.dtype)
        self._takes = {np.dtype(dtype): size.shape_of(dtype)[1:] for dtype in dtypes}

    @property
    def engine_name(self) -> str:
        """Distribution that runs the model, such as "onnxruntime"."""
        return self._engine.package

    @property
    def engine_version(self) -> str:
        """Installed version of that distribution."""
        return self._engine.version

    def preprocess(self, image: ImageLike) -> NDArray[np.float32]:
        """Decode, resize, crop and normalize one image as the model was trained.

        Args:
            image: A path, the bytes of an image file, a PIL image, or pixels as a uint8 array [H,W,3] (RGB), [H,W] or
                [H,W,1] (grey).

        Returns:
            A batch for the session, float32 [1,C,H,W]; C is 3, or 1 for a model of grey images.

        Raises:
            ImageError: The image is missing, can't be decoded, or has another shape or dtype.
        """
        return self.bundle.manifest.preprocessing(image)

    def __call__(self, batch: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model on a batch, one image at a time.

        Args:
            batch: Normalized images, float32 [N,C,H,W], as `preprocess` returns them. A bundle whose manifest has the
                `dtype` "uint8" turns them back into pixels, and also takes the pixels of crops, uint8 [N,H,W,C].

        Returns:
            Outputs of the model, float32 [N,classes]: logits, or vectors before they are normalized.

        Raises:
            InputError: The batch has another dtype or shape, or it has values that no pixel has, for a bundle that
                takes pixels.
            EngineError: The runtime failed, or the session is closed.
        """
        batch = self._input(batch)
        with engine_errors(self._action):
            if len(batch) == 1:
                return self._engine.run(batch)
            outputs = np.empty((len(batch), self.bundle.manifest.classes), np.float32)
            for index in range(len(batch)):
                outputs[index] = self._engine.run(batch[index : index + 1])[0]
        return outputs

    def _input(self, batch: NDArray[Any]) -> NDArray[Any]:
        """A batch as the model takes it, contiguous. Raises InputError for another dtype or shape."""
        is_batch = isinstance(batch, np.ndarray) and batch.ndim == 4
        if not is_batch or batch.shape[1:] != self._takes.get(batch.dtype):
            actual = f"{batch.dtype} {list(batch.shape)}" if isinstance(batch, np.ndarray) else type(batch).__name__
            raise InputError(
                f"the batch is {actual}",
                valid=" or ".join(f"{dtype} [N, {', '.join(map(str, shape))}]" for dtype, shape in self._takes.items()),
                fix="Prepare each image with `Session.preprocess`",
            )
        manifest = self.bundle.manifest
        return np.ascontiguousarray(batch if batch.dtype == manifest.dtype else manifest.preprocessing.pixels(batch))

    def classify(
        self, image: ImageLike, top: int | None = None, threshold: float | None = None
    ) -> list[tuple[str, float]]:
        """Preprocess one image, run the model, and rank the labels.

        Args:
            image: A path, the bytes of an image file, a PIL image, or pixels as a uint8 array [H,W,3] (RGB), [H,W] or
                [H,W,1] (grey).
            top: Largest number of labels to return. By default 5, or every label of a multi-label model that reaches
                its threshold.
            threshold: Smallest score of a label that is returned, from 0 to 1. By default the manifest's `thresholds`
                for a multi-label model, or 0.5 if it has none, and 0 for other classifiers.

        Returns:
            Labels with their scores from 0 to 1, the best first: softmax scores, or the probability of each label for a
            multi-label model, for which the list may be empty.

        Raises:
            UsageError: `top` is not a whole number from 1, `threshold` is not a number from 0 to 1, or the model gives
                vectors.
            ImageError: The image is missing, can't be decoded, or has another shape or dtype.
            BundleError: The outputs are not finite, so the model is damaged.
            EngineError: The runtime failed, or the session is closed.
        """
        limits = self._limits(top, threshold)
        return self._ranked(self.bundle.manifest.prepare(image), *limits)

    def classify_each(
        self, images: Iterable[ImageLike], top: int | None = None, threshold: float | None = None
    ) -> Generator[list[tuple[str, float]], None, None]:
        """Classify images, such as a camera's frames, each of which is prepared while the model runs on the one before.

        Another thread takes the images from the iterable and prepares them, at most one ahead. Close the iterator
        before what it takes the images from, or let it end.

        Args:
            images: Images as `classify` takes them.
            top: See `classify`.
            threshold: See `classify`.

        Returns:
            What `classify` returns for each image, one after the other. It raises the same errors, and ends with one.
        """
        limits = self._limits(top, threshold)
        with closing(ahead(images, lambda: self)) as prepared:
            for _, batch in prepared:
                yield self._ranked(batch, *limits)

    def _ranked(self, batch: NDArray[Any], top: int | None, least: float | Sequence[float]) -> list[tuple[str, float]]:
        """The best labels of an image, which is the model's input, with their scores."""
        scores = self._activated(batch)
        ranked = np.argsort(-scores, kind="stable")
        best = ranked[(scores.astype(np.float64) >= least)[ranked]][:top]
        return [(self.bundle.labels[index], float(scores[index])) for index in best]

    def embed(self, image: ImageLike) -> NDArray[np.float32]:
        """Preprocess one image, and return the vector that the model gives for it.

        Args:
            image: A path, the bytes of an image file, a PIL image, or pixels as a uint8 array [H,W,3] (RGB), [H,W] or
                [H,W,1] (grey).

        Returns:
            The vector, float32 [K]. Its length is 1 if the manifest's `activation` is "normalize", so that the dot
            product of two vectors is their cosine.

        Raises:
            UsageError: The model is a classifier.
            ImageError: The image is missing, can't be decoded, or has another shape or dtype.
            BundleError: The outputs are not finite, so the model is damaged.
            EngineError: The runtime failed, or the session is closed.
        """
        if not self.bundle.manifest.gives_vectors:
            raise UsageError(f"bundle '{self.bundle.path}' gives scores of classes, not vectors", fix="Call `classify`")
        return self._activated(self.bundle.manifest.prepare(image))

    def _limits(self, top: int | None, threshold: float | None) -> tuple[int | None, float | Sequence[float]]:
        """Number of labels, and the smallest score, of all or of each, for `classify`. Raises UsageError."""
        manifest = self.bundle.manifest
        if manifest.gives_vectors:
            raise UsageError(f"bundle '{self.bundle.path}' gives vectors, which have no labels", fix="Call `embed`")
        if top is not None and (type(top) is not int or top < 1):
            raise UsageError(f"top is {top!r}", valid="a whole number from 1")
        is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
        if threshold is not None and not (is_number and 0 <= threshold <= 1):
            raise UsageError(f"threshold is {threshold!r}", valid="a number from 0 to 1")
        if manifest.activation == "sigmoid":
            return top, (manifest.thresholds or 0.5) if threshold is None else threshold
        return top or TOP, threshold or 0

    def _activated(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Scores of the classes, or the vector, of one image: float32 [K]. Raises BundleError if one isn't finite."""
        outputs = self(batch)
        if not np.isfinite(outputs).all():
            raise BundleError(
                f"the outputs of bundle '{self.bundle.path}' for this image are NaN or infinite: its model is damaged",
                fix="Make the bundle again with `edgekit deploy`",
            )
        values: NDArray[np.float32] = activated(outputs, self.bundle.manifest.activation)[0]
        return values

    def verify(self) -> VerifyResult:
        """Run the bundle's test vectors and compare their outputs with the bundle's.

        In bf16 or f16 the tolerance is at least 0.3 standard deviations of the outputs of the test vectors.

        Returns:
            The largest difference and the tolerance.

        Raises:
            GoldenError: An output differs by more than the tolerance.
            BundleError: The test vectors are damaged.
            EngineError: The runtime failed, or the session is closed.
        """
        result = self.compare_golden()
        if not result.passed:
            engine = f"{self.engine_name} {self.engine_version}"
            raise golden_error(str(self.bundle.path), result, engine, self.bundle.manifest.made_with)
        return result

    def compare_golden(self) -> VerifyResult:
        """Compare the test vectors as `verify` does, but leave it to the caller whether a difference is an error."""
        golden = self.bundle.golden()
        outputs = self(self.bundle.manifest.input_of(golden.pixels))
        difference = float(np.abs(outputs - golden.logits).max())
        tolerance = golden.tolerance
        if self.bundle.manifest.session.get("inference_precision") in LOW_PRECISIONS:
            tolerance = max(tolerance, LOW_PRECISION_SPREAD * float(golden.logits.std()))
        return VerifyResult(difference, tolerance)

    def in_low_precision(self) -> "Session | None":
        """Open the same bundle in bf16 or f16.

        Returns:
            A second session, or None if the model is INT8, or if its runtime would not choose bf16 or f16 here.

        Raises:
            EngineError: The runtime failed to load the model.
        """
        low = self._engine.low_precision_float() if self.bundle.manifest.precision == "float" else None
        if low is None:
            return None
        options = {**self.bundle.manifest.session, "inference_precision": low}
        manifest = replace(self.bundle.manifest, session=options)
        return Session(replace(self.bundle, manifest=manifest), self.threads)

    def close(self) -> None:
        """Release the model; calling the session afterwards raises EngineError."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


Prepared = Generator[tuple[Session, NDArray[Any]], None, None]
"""The session for each of some images, with the image as the model's input."""


def ahead(images: Iterable[ImageLike], current: Callable[[], Session]) -> Prepared:
    """Yield each image, which another thread prepares while the caller runs the one before, with its session.

    Raises the errors of `Manifest.prepare`, of `current` and of the iterable.
    """
    source = iter(images)

    def prepare() -> tuple[Session, NDArray[Any]] | None:
        for image in source:
            session = current()
            return session, session.bundle.manifest.prepare(image)
        return None

    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(prepare)
        while (prepared := following.result()) is not None:
            following = thread.submit(prepare)
            yield prepared


def golden_error(
    bundle: str, result: VerifyResult, engine: str, made_with: str | None, processor: str = "this processor"
) -> GoldenError:
    """The error for test vectors that differ. `engine` ran them, and `made_with` had computed them, if known."""
    again = "make the bundle for this processor's class with `edgekit deploy --device-class`"
    other = f"Install {made_with}, with which the bundle was made, or {again}"
    return GoldenError(
        f"the outputs of the test vectors in bundle '{bundle}' differ by {result.max_abs_difference:.3g} on "
        f"{processor} with {engine}",
        valid=f"a difference of at most {result.tolerance:.3g}",
        fix=other if made_with not in (None, engine) else f"{again[0].upper()}{again[1:]}",
    )


def open_session(bundle: Bundle, threads: int | None) -> Session:
    """Open a session and suppress what the runtime prints meanwhile, such as LiteRT's line about its delegate."""
    with quiet():
        return Session(bundle, threads)


Open = Callable[[str | os.PathLike[str]], Session]
"""Opens the bundle at a path, and raises an EdgekitError if it doesn't pass its test vectors."""


class UpdateWarning(UserWarning):
    """A new bundle can't be used, and the session keeps the old one."""


class LiveSession:
    """The session of the bundle that a link points to; `edgekit.follow` opens one.

    Each image is classified with one bundle. When the link has changed, the next call of `current`, `classify` or
    `embed` opens the new bundle and runs its test vectors. Only that call waits: those of other threads go on with
    the old bundle. Meanwhile both are in memory. If the new bundle can't be opened, or gives other numbers, an
    UpdateWarning says why, and the old one stays until the link changes again.

    Examples:
        Preprocess and classify in separate steps, with one session for each image:

        ```python
        with edgekit.follow("runs/demo/onnx-int8") as live:
            session = live.current()
            logits = session(session.preprocess("cat.jpg"))
            print(session.bundle.labels[logits[0].argmax()])
        ```
    """

    def __init__(self, path: str | os.PathLike[str], open_bundle: Open) -> None:
        """Open the bundle that a link points to, with the errors of `open_bundle`.

        Args:
            path: Link to the folder of a bundle, or the folder itself.
            open_bundle: Opens the bundle at this path, now and when the link has changed.
        """
        self._path, self._open = path, open_bundle
        self._opening = threading.Lock()
        self._seen = self._state()
        self._session = open_bundle(path)
        self._closed = False

    def current(self) -> Session:
        """Open the new bundle if the link has changed, and return the session to use for the next image."""
        if self._state() != self._seen and self._opening.acquire(blocking=False):
            try:
                self._reopen()
            finally:
                self._opening.release()
        return self._session

    def classify(
        self, image: ImageLike, top: int | None = None, threshold: float | None = None
    ) -> list[tuple[str, float]]:
        """Classify an image with the current session; `Session.classify` tells arguments, result and errors."""
        return self.current().classify(image, top, threshold)

    def classify_each(
        self, images: Iterable[ImageLike], top: int | None = None, threshold: float | None = None
    ) -> Generator[list[tuple[str, float]], None, None]:
        """Classify each image with the session that is current when it is prepared, as `Session.classify_each` does."""
        with closing(ahead(images, self.current)) as prepared:
            for session, batch in prepared:
                yield session._ranked(batch, *session._limits(top, threshold))

    def embed(self, image: ImageLike) -> NDArray[np.float32]:
        """The vector of an image with the current session; `Session.embed` tells argument, result and errors."""
        return self.current().embed(image)

    def close(self) -> None:
        """Release the model for good: classifying afterwards raises EngineError, even if the link changes again."""
        with self._opening:
            self._closed = True
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _state(self) -> tuple[int, int, int] | None:
        """Identity of the folder that the link points to, which no other folder has; None if there is none."""
        try:
            facts = os.stat(self._path)
        except OSError:
            return None
        return facts.st_dev, facts.st_ino, facts.st_mtime_ns

    def _reopen(self) -> None:
        state = self._state()
        if self._closed or state in (None, self._seen):
            return
        # Whatever becomes of this bundle, it is not tried again: a switch during the attempt gives another state.
        self._seen = state
        try:
            # Other threads may still run the old session, which is released with their last reference to it.
            self._session = self._open(self._path)
        except (EdgekitError, OSError) as error:
            old = self._session.bundle.path
            warnings.warn(f"the bundle '{old}' stays in use, because: {error}", UpdateWarning, stacklevel=4)


VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""CPU features, as in /proc/cpuinfo, of which either one adds four products in 32 bits."""
X86 = ("x86_64", "AMD64")


class SaturationWarning(UserWarning):
    """A bundle computes less accurately on this processor than on those with VNNI."""


def pairs_that_can_saturate(target: str, model: Path) -> int:
    """Number of pairs of weights in a finished model file that can saturate on x86 without VNNI."""
    runtime = Runtime.find(target)
    if not runtime.saturating_inputs:
        return 0
    pairs: int = importlib.import_module(runtime.profiler_module).count_pairs(model)
    return pairs


def lacks_vnni(root: Path = Path("/")) -> bool:
    """Whether this is an x86 processor that is known to have no VNNI. `root` is the folder that contains proc."""
    features = cpu_features(root) if platform.machine() in X86 else []
    return bool(features) and VNNI.isdisjoint(features)


def warn_if_saturating(bundle: Bundle) -> None:
    """Warn with a SaturationWarning if the bundle's INT8 weights can saturate on this processor."""
    manifest = bundle.manifest
    pairs = manifest.pairs_that_can_saturate
    if manifest.precision != "int8" or pairs == 0 or not Runtime.find(manifest.target).saturating_inputs:
        return
    if lacks_vnni():
        which = "an unknown number" if pairs is None else f"{pairs:,}"
        warnings.warn(
            f"bundle '{bundle.path}' may be less accurate on this processor, which has no VNNI: {which} of its pairs "
            "of weights can saturate. Make the bundle again with this version of edgekit, for an x86 device class.",
            SaturationWarning,
            stacklevel=3,
        )
