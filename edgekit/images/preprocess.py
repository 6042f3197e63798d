"""From an image to the array that a model takes: the same code calibrates, evaluates and serves.

The resize and crop rules are those of timm's evaluation transform, pixel for pixel.
"""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgekit.errors import BundleError, ImageError, UsageError

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash", "border")
MAX_SIDE = 4096
MAX_PIXELS = 1 << 28

# Raster formats that every Pillow build registers. EPS is left out on purpose: it would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000")


def open_image(source: ImageLike | bytes, name: str | None = None) -> Image.Image:
    """Decode an image to RGB, upright by its EXIF tag, 8 bits a channel.

    `source` is a path, the bytes of a file, a PIL image, or a uint8 array [H,W,3], [H,W] or [H,W,1]. Grey, CMYK and
    palette images are converted as Pillow does (alpha is dropped); 16-bit grey is scaled to 8 bits. Raises ImageError
    naming `name`, or else the path, for a file that is missing, truncated or not an image.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "array")
    if isinstance(source, Image.Image):
        return _decode(source, name or getattr(source, "filename", "") or "PIL image", borrowed=True)
    if isinstance(source, bytes):
        return _open(BytesIO(source), name or f"{len(source)} bytes")
    if isinstance(source, str | os.PathLike):
        return _open(os.fspath(source), name or str(source))
    raise ImageError(f"can't read an image from {type(source).__name__}: give a path, a PIL image or a uint8 array")


def _open(file: str | BytesIO, name: str) -> Image.Image:
    try:
        image = Image.open(file, formats=_FORMATS)
    except FileNotFoundError:
        raise ImageError(f"image '{name}' doesn't exist: check the path") from None
    except UnidentifiedImageError:
        raise ImageError(f"'{name}' is not an image of a known format ({', '.join(_FORMATS)})") from None
    # Pillow's plugins raise almost anything on damaged files (struct.error, SyntaxError, zlib.error, KeyError …).
    except Exception as error:
        raise ImageError(f"can't open image '{name}': {error}") from error
    with image:
        return _decode(image, name)


def _decode(image: Image.Image, name: str, borrowed: bool = False) -> Image.Image:
    """RGB, upright. A `borrowed` image belongs to the caller and isn't modified."""
    try:
        image.load()
        image = _copy(image) if borrowed else image
        # Turning in place moves the pixels first and rewrites the EXIF block afterwards: damage in other tags of the
        # block then can't cost the rotation, and a block that can't be read at all says nothing about the pixels.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        return image if image.mode == "RGB" else _to_rgb(image)
    except Exception as error:  # see _open
        raise ImageError(f"can't decode image '{name}': {error}. It may be truncated: fetch it again") from error


def _copy(image: Image.Image) -> Image.Image:
    """A copy that keeps its format, by which `_to_rgb` tells 16-bit grey from 32-bit."""
    copy = image.copy()
    copy.format = image.format
    return copy


def _to_rgb(image: Image.Image) -> Image.Image:
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen_bits:
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours as a direct conversion, without Pillow's warning
    return image.convert("RGB")


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.dtype == np.uint8 and array.size > 0
    if not fits or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"{name} has dtype {array.dtype} and shape {list(array.shape)}: give uint8 [H,W,3], [H,W] or [H,W,1]"
        )
    return Image.fromarray(array).convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images: size in pixels, timm's crop rule, mean and std of RGB in 0-1.

    `crop_mode`: "center" scales the shorter side and crops; "squash" scales both sides, "border" the longer one and
    pads with the mean. The side scaled to is the target's divided by `crop_pct`. Raises UsageError on invalid values.
    """

    height: int
    width: int
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise UsageError(f"preprocessing: {'; '.join(problems)}")

    def __call__(self, image: ImageLike) -> NDArray[np.float32]:
        """Decode, crop and normalize one image: float32 [1,3,H,W]."""
        return self.normalize(self.crop(open_image(image)))

    def crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop an RGB image: uint8 [H,W,3]. Raises ImageError if its sides are too unequal to resize."""
        height, width = self._resized(image.height, image.width)
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"an image of {image.width}x{image.height} would be resized to {width}x{height}: crop it first"
            )
        if (height, width) != (image.height, image.width):
            image = image.resize((max(width, 1), max(height, 1)), Image.Resampling[self.interpolation.upper()])
        left, top = _offset(image.width, self.width), _offset(image.height, self.height)
        if image.width < self.width or image.height < self.height:  # an offset of 0 may lack a pixel at the far end
            canvas = Image.new("RGB", (self.width, self.height), self._fill)
            canvas.paste(image, (-left, -top))
            return np.asarray(canvas)
        return np.asarray(image.crop((left, top, left + self.width, top + self.height)))

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(pixels / 255 - mean) / std of uint8 [H,W,3] or [N,H,W,3]: float32 [N,3,H,W], contiguous."""
        batch = pixels if pixels.ndim == 4 else pixels[None]
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise ImageError(f"pixels are {pixels.dtype} {list(pixels.shape)}: give uint8 [H,W,3] or [N,H,W,3]")
        result = np.empty((batch.shape[0], 3, *batch.shape[1:3]), np.float32)
        for channel in range(3):
            np.take(self._table[channel], batch[..., channel], out=result[:, channel], mode="clip")
        return result

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON can hold them."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: object) -> "Preprocessing":
        """The inverse of `to_dict`; raises BundleError naming a key that is unknown, missing or of the wrong type."""
        if not isinstance(values, Mapping):
            raise BundleError(f"preprocessing is {type(values).__name__}, not an object")
        names = [field.name for field in fields(cls)]
        for key in [*values, *names]:
            if key not in names or key not in values:
                state = "missing" if key in names else "unknown"
                raise BundleError(f"preprocessing: key '{key}' is {state}; the keys are {', '.join(names)}")
        triples = {key: tuple(values[key]) for key in ("mean", "std") if isinstance(values[key], list)}
        try:
            return cls(**{**values, **triples})
        except UsageError as error:
            raise BundleError(str(error)) from None

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """Every normalized value of a byte, [3,256]: a lookup is faster than arithmetic, and equal to torch's bits."""
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.asarray(values, np.float32)[:, None] for values in (self.mean, self.std))
        return np.asarray((levels - mean) / std, np.float32)

    @property
    def _fill(self) -> tuple[int, int, int]:
        if self.crop_mode != "border":
            return (0, 0, 0)
        red, green, blue = (min(max(round(255 * value), 0), 255) for value in self.mean)
        return (red, green, blue)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to resize to before the crop; the rounding is timm's and torchvision's."""
        target_height, target_width = (math.floor(side / self.crop_pct) for side in (self.height, self.width))
        if self.crop_mode == "squash":
            return target_height, target_width
        if self.crop_mode == "center" and target_height == target_width:
            longer = int(target_height * max(height, width) / min(height, width))
            return (longer, target_height) if width <= height else (target_height, longer)
        choose = max if self.crop_mode == "border" else min
        ratio = choose(height / target_height, width / target_width)
        return round(height / ratio), round(width / ratio)


def _offset(size: int, target: int) -> int:
    """Where the crop starts; negative where the image must be padded. Rounds as torchvision does."""
    return round((size - target) / 2) if size >= target else -((target - size) // 2)


def _problems(given: Preprocessing) -> list[str]:
    """What is wrong with the values, each a sentence that names its field."""
    found = []
    for name, side in (("height", given.height), ("width", given.width)):
        if type(side) is not int or not 1 <= side <= MAX_SIDE:
            found.append(f"{name} is {side!r}: give a whole number of pixels from 1 to {MAX_SIDE}")
    for name, word, choices in (
        ("interpolation", given.interpolation, INTERPOLATIONS),
        ("crop_mode", given.crop_mode, CROP_MODES),
    ):
        if word not in choices:
            found.append(f"{name} is {word!r}: choose from {', '.join(choices)}")
    if not _is_number(given.crop_pct) or not 0.1 <= given.crop_pct <= 1:
        found.append(f"crop_pct is {given.crop_pct!r}: give a number from 0.1 to 1")
    for name, triple in (("mean", given.mean), ("std", given.std)):
        if not isinstance(triple, tuple) or len(triple) != 3 or not all(_is_number(value) for value in triple):
            found.append(f"{name} is {triple!r}: give three finite numbers, one for each of red, green and blue")
        elif name == "std" and min(triple) <= 0:
            found.append(f"std is {triple!r}: each must be above 0")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
