"""The image sets of the bench."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.trainedlib.scenes import scenes_zip
from benchmarks.trainedlib.subjects import Images
from benchmarks.trainedlib.text_images import text_zip
from benchmarks.trainedlib.training import TRAIN, VAL


@dataclass(frozen=True)
class Sets:
    """Where the image sets are."""

    imagenet: Path | None
    cifar: Path | None
    cache: Path

    def of(self, images: Images) -> tuple[Path, Path | None]:
        """The evaluation set, and the calibration set unless it is the same."""
        if images == "imagenet":
            return self._given(self.imagenet, "--imagenet"), None
        if images == "cifar":
            return self.cifar_folder / VAL, self.cifar_folder / TRAIN
        if images == "scenes":
            return scenes_zip("evaluation", self.cache), scenes_zip("calibration", self.cache)
        return text_zip("evaluation", self.cache), text_zip("calibration", self.cache)

    @property
    def cifar_folder(self) -> Path:
        return self._given(self.cifar, "--cifar")

    def _given(self, path: Path | None, option: str) -> Path:
        if path is None or not path.exists():
            raise SystemExit(f"{option} must name the images of these networks")
        return path
