"""Decoding of images in every form in which an app or a data set has them."""

import os
from contextlib import suppress
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgekit.errors import ImageError

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

try:
    from PIL.AvifImagePlugin import SUPPORTED as HAS_AVIF  # Pillow 11.3 or newer, and not in every build
except ImportError:
    HAS_AVIF = False

# Raster formats that every Pillow build registers. EPS is left out on purpose, because Pillow would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", *(("AVIF",) if HAS_AVIF else ()))


def open_image(source: ImageLike, name: str | None = None) -> Image.Image:
    """Decode an image to RGB with 8 bits per channel, upright according to its EXIF tag.

    `source` is a path, the bytes of a file, a PIL image, or a uint8 array [H,W,3], [H,W] or [H,W,1]. Grey, CMYK and
    palette images are converted as Pillow does (alpha is dropped); 16-bit grey is scaled to 8 bits. Raises ImageError
    with `name`, or else the path, if the file is missing, truncated or not an image.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "array")
    if isinstance(source, Image.Image):
        return _decode(source, name or getattr(source, "filename", "") or "PIL image", borrowed=True)
    if isinstance(source, bytes):
        return _open(BytesIO(source), name or f"{len(source)} bytes")
    if isinstance(source, str | os.PathLike):
        return _open(os.fspath(source), name or str(source))
    raise ImageError(
        f"can't read an image from {type(source).__name__}", valid="a path, bytes, a PIL image or a uint8 array"
    )


def _open(file: str | BytesIO, name: str) -> Image.Image:
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
        return _decode(image, name)


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
    return Image.fromarray(array).convert("RGB")
