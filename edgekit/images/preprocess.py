"""Conversion of an image to a model's input, by the same code for calibration, evaluation and apps.

An image may come in every form in which an app or a data set has it. The rules of resizing and cropping are those of
timm's evaluation transform, pixel for pixel.
"""

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from edgekit.config.runtimes import CROP_MODES, INTERPOLATIONS, Form, InputDtype
from edgekit.errors import BundleError, ImageError, InputError, UsageError

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

try:
    from PIL.AvifImagePlugin import SUPPORTED as HAS_AVIF  # Pillow 11.3 or newer, and not in every build
except ImportError:
    HAS_AVIF = False

# Raster formats that every Pillow build registers. EPS is left out on purpose, because Pillow would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", *(("AVIF",) if HAS_AVIF else ()))


Reduction: TypeAlias = Callable[[int, int], int]
"""Gives the factor, 1, 2, 4 or 8, by which an image of a height and width may be reduced while it is decoded."""


@dataclass(frozen=True)
class Decoded:
    """An upright RGB image that was reduced by a factor, and its height and width before that."""

    image: Image.Image
    height: int
    width: int
    factor: int


def _whole(height: int, width: int) -> int:
    return 1


def open_image(source: ImageLike, name: str | None = None) -> Image.Image:
    """Decode an image to RGB with 8 bits per channel, upright according to its EXIF tag.

    `source` is a path, the bytes of a file, a PIL image, or a uint8 array [H,W,3], [H,W] or [H,W,1]. Grey, CMYK and
    palette images are converted as Pillow does (alpha is dropped); 16-bit grey is scaled to 8 bits. Raises ImageError
    with `name`, or else the path, if the file is missing, truncated or not an image.
    """
    return open_reduced(source, name, _whole).image


def open_reduced(source: ImageLike, name: str | None, reduction: Reduction) -> Decoded:
    """The same, reduced by a factor. JPEGs in files are decoded at that fraction, and all others are averaged."""
    if isinstance(source, np.ndarray):
        return _reduced(_from_array(source, name or "array"), reduction)
    if isinstance(source, Image.Image):
        named = name or getattr(source, "filename", "") or "PIL image"
        return _reduced(_decode(source, named, borrowed=True), reduction)
    if isinstance(source, bytes):
        return _open(BytesIO(source), name or f"{len(source)} bytes", reduction)
    if isinstance(source, str | os.PathLike):
        return _open(os.fspath(source), name or str(source), reduction)
    raise ImageError(
        f"can't read an image from {type(source).__name__}", valid="a path, bytes, a PIL image or a uint8 array"
    )


def _open(file: str | BytesIO, name: str, reduction: Reduction) -> Decoded:
    try:
        image = Image.open(file, formats=_FORMATS)
    except FileNotFoundError:
        raise ImageError(f"image '{name}' doesn't exist", fix="Check the path") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"'{name}' is not an image of a known format", valid=", ".join(_FORMATS), fix="Convert it, such as to PNG"
        ) from None
    # Pillow's plugins raise almost anything on damaged files (struct.error, SyntaxError, zlib.error, KeyError …).
    except Exception as error:
        raise ImageError(f"can't open image '{name}': {error}") from error
    with image:
        size = _draft(image, reduction)
        decoded = _decode(image, name)
    return Decoded(decoded, *size) if size else _reduced(decoded, reduction)


def _draft(image: Image.Image, reduction: Reduction) -> tuple[int, int, int] | None:
    """Let a JPEG be decoded at a fraction of its size. Returns its upright height and width, and the factor, if so."""
    if not isinstance(image, JpegImageFile):
        return None
    (width, height), orientation = image.size, 1
    with suppress(Exception):  # as where the image is decoded
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in (5, 6, 7, 8):  # which a quarter turn makes upright
        width, height = height, width
    factor = reduction(height, width)
    # What is left of the sides is averaged at the right and the bottom; in a turned image, that would be elsewhere.
    if factor == 1 or (orientation != 1 and (width % factor or height % factor)):
        return None
    image.draft(None, (image.width // factor, image.height // factor))
    return height, width, factor


def _reduced(image: Image.Image, reduction: Reduction) -> Decoded:
    factor = reduction(image.height, image.width)
    return Decoded(image.reduce(factor) if factor > 1 else image, image.height, image.width, factor)


def _decode(image: Image.Image, name: str, borrowed: bool = False) -> Image.Image:
    """The image as upright RGB. A `borrowed` image belongs to the caller and isn't modified."""
    try:
        image.load()
        image = _copy(image) if borrowed else image
        # Transposing in place moves the pixels before it rewrites the EXIF block, so damage in other tags of the block
        # can't prevent the rotation. A block that can't be read at all does not mean that the pixels are damaged.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        return image if image.mode == "RGB" else _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:  # see _open
        raise ImageError(
            f"can't decode image '{name}': {error}", fix="Download the file again, because it may be truncated"
        ) from error


def _copy(image: Image.Image) -> Image.Image:
    """A copy with the same format, by which `_to_rgb` distinguishes 16-bit grey from 32-bit."""
    copy = image.copy()
    copy.format = image.format
    return copy


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen_bits:
        grey = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("F", "I"):
        raise ImageError(
            f"the pixels of image '{name}' are {'floats' if image.mode == 'F' else 'signed or 32-bit integers'}",
            valid="unsigned integers of 8 or 16 bits",
            fix="Scale its values to levels of 0 to 255, as in training, and save it again",
        )
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours as a direct conversion, without Pillow's warning
    return image.convert("RGB")


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.dtype == np.uint8 and array.size > 0
    if not fits or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"{name} has dtype {array.dtype} and shape {list(array.shape)}", valid="uint8 [H,W,3], [H,W] or [H,W,1]"
        )
    image = Image.fromarray(array)
    return image if image.mode == "RGB" else image.convert("RGB")  # the copy of a frame takes as long as resizing it


CHANNELS = (3, 1)
"""Numbers of channels that a network may take: RGB, or grey."""
MAX_SIDE = 4096
MAX_PIXELS = 1 << 28
MARGIN = 2.0
"""Margin of the fast form. With 1, ten times as many pixels change by a level; with 3, a frame of 1080 lines that a
network of 224 pixels classifies isn't reduced at all."""
FACTORS = (8, 4, 2)
"""Factors by which JPEG decoders reduce."""


@dataclass(frozen=True)
class Preprocessing:
    """The input that a model expects: size in pixels, timm's crop rule, mean and std of each channel in the range 0-1.

    Three means and standard deviations are those of RGB images. One of each means that the images are grey.

    `crop_mode`: "center" scales the shorter side and crops; "squash" scales both sides; "border" scales the longer side
    and pads with the mean. The scaled side has the input's length divided by `crop_pct`.

    With a `margin`, the form is "fast": before it is scaled, an image is reduced by the largest factor of 2, 4 and 8
    that leaves both its sides at least this many times as long as after scaling. Raises UsageError for invalid values.
    """

    height: int
    width: int
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    margin: float | None = None

    def __post_init__(self) -> None:
        if problems := _problems(self):
            raise UsageError(
                f"preprocessing: {'; '.join(f'{name} is {getattr(self, name)!r}' for name in problems)}",
                valid="; ".join(f"for {name}, {valid}" for name, valid in problems.items()),
            )

    @property
    def channels(self) -> int:
        """3 for RGB images, 1 for grey ones."""
        return len(self.mean)

    @property
    def form(self) -> Form:
        """Whether images are reduced before they are scaled."""
        return "exact" if self.margin is None else "fast"

    def in_form(self, form: Form) -> "Preprocessing":
        """The same in a form, "fast" with its margin of today."""
        return self if form == self.form else replace(self, margin=MARGIN if form == "fast" else None)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of one normalized image, [1,C,H,W]."""
        return (1, self.channels, self.height, self.width)

    @property
    def crop_shape(self) -> tuple[int, int, int]:
        """Shape of one cropped image, [H,W,C]."""
        return (self.height, self.width, self.channels)

    def shape_of(self, dtype: InputDtype) -> tuple[int, int, int, int]:
        """Shape of one image as a model's input: normalized, [1,C,H,W], or as pixels, [1,H,W,C]."""
        return self.input_shape if dtype == "float32" else (1, *self.crop_shape)

    def __call__(self, image: ImageLike) -> NDArray[np.float32]:
        """Decode, crop and normalize one image: float32 [1,C,H,W]."""
        return self.normalize(self.crop(image))

    def crop(self, source: ImageLike, name: str | None = None) -> NDArray[np.uint8]:
        """Decode, resize and crop an image: uint8 [H,W,C]. Raises the errors of `open_image`, with `name`.

        Raises ImageError, too, if its sides are too unequal to resize.
        """
        return self.crop_decoded(open_reduced(source, name, self.reduction))

    def reduction(self, height: int, width: int) -> int:
        """The factor by which an image of this height and width is reduced: 1, 2, 4 or 8."""
        if self.margin is None:
            return 1
        least = [self.margin * side for side in self._resized(height, width)]
        return next((factor for factor in FACTORS if height >= factor * least[0] and width >= factor * least[1]), 1)

    def crop_decoded(self, decoded: Decoded) -> NDArray[np.uint8]:
        """Resize and crop an image that `open_reduced` has decoded for this preprocessing: uint8 [H,W,C]."""
        height, width = (max(side, 1) for side in self._resized(decoded.height, decoded.width))
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"an image of {decoded.width}x{decoded.height} pixels would be resized to {width}x{height}",
                fix="Crop the image first",
            )
        left, top = _offset(width, self.width), _offset(height, self.height)
        region = (max(left, 0), max(top, 0), min(left + self.width, width), min(top + self.height, height))
        image = self._resized_region(decoded, width, height, region)
        if image.size != (self.width, self.height):
            canvas = Image.new(image.mode, (self.width, self.height), self._fill)
            canvas.paste(image, (region[0] - left, region[1] - top))
            image = canvas
        return np.asarray(image).reshape(self.crop_shape)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(pixels / 255 - mean) / std of uint8 [H,W,C] or [N,H,W,C]: float32 [N,C,H,W], contiguous."""
        channels, batch = self.channels, pixels if pixels.ndim == 4 else pixels[None]
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != channels:
            raise ImageError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}",
                valid=f"uint8 [H,W,{channels}] or [N,H,W,{channels}]",
            )
        result = np.empty((batch.shape[0], channels, *batch.shape[1:3]), np.float32)
        for channel in range(channels):
            np.take(self._table[channel], batch[..., channel], out=result[:, channel], mode="clip")
        return result

    def pixels(self, batch: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The inverse of `normalize`: the nearest levels, uint8 [N,H,W,C], of float32 [N,C,H,W].

        Raises InputError if a value is off every level by more than a half, as in images normalized otherwise.
        """
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        levels = (batch * std + mean) * np.float32(255)
        nearest = levels.round().clip(0, 255)
        off = np.abs(levels - nearest).max(initial=0)
        if not off <= 0.5:  # which a NaN isn't
            raise InputError(
                f"a value of the batch is off the nearest of 256 levels by {off:.3g}",
                valid="at most 0.5, for a bundle that takes pixels",
                fix="Prepare each image with `Session.preprocess`",
            )
        return nearest.astype(np.uint8).transpose(0, 2, 3, 1)

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON values."""
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.margin is None:  # so that older versions of edgekit read the bundle
            del values["margin"]
        return values

    @classmethod
    def from_dict(cls, values: object) -> "Preprocessing":
        """The inverse of `to_dict`. Raises BundleError if a key is unknown, missing or of the wrong type."""
        if not isinstance(values, Mapping):
            raise BundleError(f"preprocessing is {type(values).__name__}, not an object")
        values = {"margin": None, **values}
        names = [field.name for field in fields(cls)]
        for key in [*values, *names]:
            if key not in names or key not in values:
                state = "missing" if key in names else "unknown"
                raise BundleError(f"preprocessing: key '{key}' is {state}", valid=f"the keys {', '.join(names)}")
        lists = {key: tuple(values[key]) for key in ("mean", "std") if isinstance(values[key], list)}
        try:
            return cls(**{**values, **lists})
        except UsageError as error:
            raise BundleError(error.problem, valid=error.valid, fix=error.fix) from None

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """Normalized values of all bytes, [C,256]. A lookup is faster than arithmetic and has the bits of torch."""
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.asarray(values, np.float32)[:, None] for values in (self.mean, self.std))
        return np.asarray((levels - mean) / std, np.float32)

    def _resized_region(
        self, decoded: Decoded, width: int, height: int, region: tuple[int, int, int, int]
    ) -> Image.Image:
        """What is in `region` (left, top, right, bottom) of the image after it was resized to this width and height.

        Where only a part of the image is wanted, only that is computed. Some of its pixels differ by a level, or by
        two where it is enlarged, from those of the whole, because Pillow rounds the region's place in the image to
        float32; so the filters that jump at their ends compute the whole. Two calls, because Pillow chooses by the
        shape which side it resizes first.
        """
        image = decoded.image.convert("L") if self.channels == 1 else decoded.image
        if (width, height) == image.size:
            return image.crop(region)
        filter_ = Image.Resampling[self.interpolation.upper()]
        wide, tall = decoded.width / decoded.factor, decoded.height / decoded.factor
        if self.crop_mode != "center" or self.interpolation in ("nearest", "box"):
            return image.resize((width, height), filter_, (0, 0, wide, tall)).crop(region)
        x, y = wide / width, tall / height
        left, top, right, bottom = region
        image = image.resize((right - left, image.height), filter_, (left * x, 0, right * x, image.height))
        return image.resize((image.width, bottom - top), filter_, (0, top * y, image.width, bottom * y))

    @property
    def _fill(self) -> tuple[int, ...]:
        if self.crop_mode != "border":
            return (0,) * self.channels
        return tuple(min(max(round(255 * value), 0), 255) for value in self.mean)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the crop, rounded as timm and torchvision do."""
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
    """Start of the crop, negative if the image must be padded. Rounds as torchvision does."""
    return round((size - target) / 2) if size >= target else -((target - size) // 2)


def _problems(values: Preprocessing) -> dict[str, str]:
    """The valid values of each field whose value isn't."""
    problems = {}
    for name, side in (("height", values.height), ("width", values.width)):
        if type(side) is not int or not 1 <= side <= MAX_SIDE:
            problems[name] = f"a whole number of pixels from 1 to {MAX_SIDE}"
    for name, word, choices in (
        ("interpolation", values.interpolation, INTERPOLATIONS),
        ("crop_mode", values.crop_mode, CROP_MODES),
    ):
        if word not in choices:
            problems[name] = f"one of {', '.join(choices)}"
    if not _is_number(values.crop_pct) or not 0.1 <= values.crop_pct <= 1:
        problems["crop_pct"] = "a number from 0.1 to 1"
    for name, numbers in (("mean", values.mean), ("std", values.std)):
        if not isinstance(numbers, tuple) or len(numbers) not in CHANNELS or not all(map(_is_number, numbers)):
            problems[name] = "three finite numbers for red, green and blue, or one for grey"
        elif name == "std" and min(numbers) <= 0:
            problems[name] = "numbers above 0"
    if values.margin is not None and not (_is_number(values.margin) and 1 <= values.margin <= MAX_SIDE):
        problems["margin"] = f"a number from 1 to {MAX_SIDE}, or null for the exact form"
    if not problems and len(values.mean) != len(values.std):
        problems["std"] = f"as many numbers as mean, which has {len(values.mean)}"
    return problems


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
