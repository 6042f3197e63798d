"""Decoding of every kind of image, and equality with the pixels of timm's evaluation transform."""

import json
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import BundleError, ImageError, UsageError
from edgekit.images.preprocess import Preprocessing, open_image
from tests.helpers.refusals import refuses
from tests.helpers.strategies import preprocessings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocessing(**changes: Any) -> Preprocessing:
    values: dict[str, Any] = {
        "height": 64,
        "width": 64,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": MEAN,
        "std": STD,
    }
    return Preprocessing(**{**values, **changes})


def assert_same_as_timm(image: Image.Image, ours: Preprocessing) -> None:
    from timm.data.transforms_factory import create_transform

    transform = create_transform(
        (3, ours.height, ours.width),
        is_training=False,
        interpolation=ours.interpolation,
        crop_pct=ours.crop_pct,
        crop_mode=ours.crop_mode,
        mean=ours.mean,
        std=ours.std,
    )
    expected = transform(image.convert("RGB")).numpy()
    actual = ours(image)
    assert actual.shape == (1, 3, ours.height, ours.width)
    assert actual.dtype == np.float32
    assert actual.flags.c_contiguous
    difference = np.abs(actual[0] - expected) * np.asarray(ours.std, np.float32)[:, None, None]
    assert difference.max() <= 1 / 255 + 1e-6, f"{difference.max() * 255:.2f}/255"


def noise(width: int, height: int) -> Image.Image:
    """An image with smooth and sharp parts, which reveals a wrong filter or a shift by a pixel."""
    rng = np.random.default_rng(width * 1000 + height)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return Image.blend(coarse, Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)), 0.4)


SIZES = [
    (64, 64),
    (73, 73),
    (100, 75),
    (75, 101),
    (500, 333),
    (20, 31),
    (64, 200),
    (63, 65),
    (1, 1),
    (300, 3),
    (7, 400),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.9, 0.95])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_same_pixels_as_timm(size: tuple[int, int], crop_pct: float, crop_mode: str) -> None:
    if crop_mode == "border" and max(size) / min(size) > 20:
        return  # timm would resize a side to 0
    assert_same_as_timm(noise(*size), preprocessing(crop_pct=crop_pct, crop_mode=crop_mode))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"])
def test_every_interpolation(interpolation: str, crop_mode: str) -> None:
    for size in ((150, 90), (40, 50)):
        assert_same_as_timm(noise(*size), preprocessing(interpolation=interpolation, crop_mode=crop_mode))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(150, 90), (90, 150), (40, 50)])
def test_targets_that_are_not_square(size: tuple[int, int], crop_mode: str) -> None:
    assert_same_as_timm(noise(*size), preprocessing(height=48, width=80, crop_mode=crop_mode))


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_real_photographs(shared_data: Path, crop_pct: float, crop_mode: str) -> None:
    ours = preprocessing(height=224, width=224, crop_pct=crop_pct, crop_mode=crop_mode)
    with zipfile.ZipFile(shared_data / "imagenet-500.zip") as archive:
        for name in sorted(archive.namelist())[::60]:
            image = open_image(archive.read(name), name)
            assert_same_as_timm(image, ours)


def test_photographs_in_other_modes_than_rgb(shared_data: Path) -> None:
    modes = set()
    with zipfile.ZipFile(shared_data / "imagenet-500.zip") as archive:
        for name in archive.namelist():
            content = archive.read(name)
            image = Image.open(BytesIO(content))
            if image.mode != "RGB":
                modes.add(image.mode)
                np.testing.assert_array_equal(np.asarray(open_image(content)), np.asarray(image.convert("RGB")))
    assert "L" in modes


def test_normalize_equals_torch() -> None:
    import torch

    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    ours = preprocessing(height=16, width=16)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255) - mean) / std
    np.testing.assert_array_equal(ours.normalize(pixels), expected.numpy())
    np.testing.assert_array_equal(ours.normalize(pixels[0]), expected.numpy())


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((1, 3, 4, 4), np.uint8)])
def test_normalize_refuses_other_arrays(pixels: Any) -> None:
    with pytest.raises(ImageError) as caught:
        preprocessing().normalize(pixels)
    assert "uint8 [H,W,3]" in caught.value.valid


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


GRADIENT = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def test_grey_images_and_arrays() -> None:
    expected = np.stack([GRADIENT] * 3, axis=2)
    for source in (GRADIENT, GRADIENT[:, :, None], expected, encode(Image.fromarray(GRADIENT), "PNG")):
        image = open_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled(form: str) -> None:
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    # Pillow 10 can't write this PPM itself
    pgm = b"P5 4 1 65535\n" + deep.astype(">u2").tobytes()
    image = open_image(pgm if form == "PPM" else encode(Image.fromarray(deep), form))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "what"), [(np.array([[0, 0.5, 1]], np.float32), "floats"), (np.array([[0, 56700]], np.int32), "32-bit")]
)
def test_levels_of_an_unknown_range_are_refused(values: Any, what: str) -> None:
    """Pillow would make the one black, and the other white."""
    for source in (encode(Image.fromarray(values), "TIFF"), Image.fromarray(values)):
        with refuses(ImageError, what, "levels of 0 to 255"):
            open_image(source, "photo.tif")


def test_cmyk_and_alpha_as_pillow_converts_them() -> None:
    photo = noise(20, 10)
    cmyk = encode(photo.convert("CMYK"), "JPEG")
    alpha = photo.convert("RGBA")
    alpha.putalpha(100)
    for content in (cmyk, encode(alpha, "PNG"), encode(alpha.convert("LA"), "PNG")):
        expected = Image.open(BytesIO(content)).convert("RGB")
        np.testing.assert_array_equal(np.asarray(open_image(content)), np.asarray(expected))


@pytest.mark.parametrize("transparency", [None, 0, bytes(range(100))])
def test_palette_images_keep_their_colours(transparency: int | bytes | None) -> None:
    palette = noise(16, 16).quantize(100)
    options = {} if transparency is None else {"transparency": transparency}
    image = open_image(encode(palette, "PNG", **options))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(palette.convert("RGB")))


UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: np.rot90,
}
"""Transformation that the EXIF specification requires of a viewer, by the value of the orientation tag."""


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(noise(24, 16), form, exif=exif)
    stored = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
    expected = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(np.asarray(open_image(content)), expected)
    opened = Image.open(BytesIO(content))
    np.testing.assert_array_equal(np.asarray(open_image(opened)), expected)
    assert opened.size == (24, 16), "the caller's image was modified"


def test_orientation_of_16_bit_grey() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = open_image(encode(Image.fromarray(deep), "PNG", exif=exif))
    assert np.asarray(image)[:, 0, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_that_is_unreadable_does_not_lose_the_image() -> None:
    content = encode(noise(24, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30)
    stored = np.asarray(Image.open(BytesIO(content)))
    np.testing.assert_array_equal(np.asarray(open_image(content)), stored)


@pytest.mark.filterwarnings("ignore:.*EXIF data")
@pytest.mark.parametrize(
    "damage",
    [
        struct.pack(">HHIi", 0x0100, 9, 1, -5),
        struct.pack(">HHI4s", 0x0213, 2, 4, b"abc"),
        struct.pack(">HHII", 0x8769, 4, 1, 9999),
    ],
    ids=["negative width", "text for a number", "no such block"],
)
def test_damage_elsewhere_in_exif_does_not_lose_the_orientation(damage: bytes) -> None:
    tags = [struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0), damage]
    block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    content = encode(noise(24, 16), "JPEG", exif=block)
    expected = UPRIGHT[6](np.asarray(Image.open(BytesIO(content))))
    for source in (content, Image.open(BytesIO(content))):
        np.testing.assert_array_equal(np.asarray(open_image(source)), expected)


FAST = preprocessing(height=16, width=24, margin=2.0)


@pytest.mark.parametrize(
    ("size", "factor"), [((55, 40), 1), ((112, 80), 2), ((107, 80), 1), ((399, 287), 4), ((4000, 3000), 8)]
)
def test_the_fast_form_reduces_as_far_as_its_margin(size: tuple[int, int], factor: int) -> None:
    assert preprocessing(height=16, width=24, crop_pct=0.86, margin=2.0).reduction(size[1], size[0]) == factor
    assert preprocessing(height=16, width=24, crop_pct=0.86).reduction(size[1], size[0]) == 1


def assert_alike(ours: NDArray[np.uint8], others: NDArray[np.uint8], levels: float = 1) -> None:
    assert np.abs(ours.astype(int) - others).mean() <= levels


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_jpeg_at_a_fraction_has_the_pixels_of_the_whole(crop_mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    sides = (608, 400) if orientation > 1 else (601, 403)
    content = encode(noise(6, 4).resize(sides, Image.Resampling.BICUBIC), "JPEG", exif=exif)
    fast = preprocessing(height=32, width=48, crop_mode=crop_mode, margin=2.0)
    at_a_fraction, whole = fast.crop(content), fast.crop(np.asarray(open_image(content)))
    assert not np.array_equal(at_a_fraction, whole)
    assert_alike(at_a_fraction, whole)
    assert_alike(whole, fast.in_form("exact").crop(content))
    odd = encode(noise(6, 4).resize((607, 403), Image.Resampling.BICUBIC), "JPEG", exif=exif)
    assert_alike(fast.crop(odd), fast.in_form("exact").crop(odd))


@pytest.mark.parametrize("size", [(20, 12), (240, 160)])
@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16", "animated"])
def test_every_kind_of_image_has_a_fast_form(mode: str, size: tuple[int, int]) -> None:
    photo = noise(6, 4).resize(size, Image.Resampling.BICUBIC)
    if mode == "animated":
        content = encode(photo, "GIF", save_all=True, append_images=[noise(*size)])
        np.testing.assert_array_equal(FAST.crop(content), FAST.crop(encode(photo, "GIF")), "other than the first image")
    elif mode == "I;16":
        content = encode(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), "PNG")
    else:
        content = encode(photo.convert(mode), "PNG" if mode in ("RGBA", "P") else "JPEG")
    assert_alike(FAST.crop(content), FAST.in_form("exact").crop(content), 2)


def test_a_small_image_has_the_same_bytes_in_each_form() -> None:
    for size in ((10, 7), (24, 16), (70, 40)):
        np.testing.assert_array_equal(FAST.crop(noise(*size)), FAST.in_form("exact").crop(noise(*size)))


def test_a_truncated_jpeg_is_an_error_in_each_form() -> None:
    content = encode(noise(400, 300), "JPEG")
    for ours in (FAST, FAST.in_form("exact")):
        with refuses(ImageError, "cut.jpg", "truncated"):
            ours.crop(content[: len(content) * 2 // 3], "cut.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_are_named(form: str, tmp_path: Path) -> None:
    content = encode(noise(200, 200), form)
    path = tmp_path / "cut.image"
    for length in (len(content) * 2 // 3, 30, 3, 0):
        path.write_bytes(content[:length])
        with refuses(ImageError, "cut.image"):
            open_image(path)


def test_files_that_are_not_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    with refuses(ImageError, "text.jpg"):
        open_image(tmp_path / "text.jpg")
    with refuses(ImageError, "nothing.jpg"):
        open_image(str(tmp_path / "nothing.jpg"))
    with refuses(ImageError, tmp_path):
        open_image(tmp_path)
    with refuses(ImageError, "'member.jpg'"):
        open_image(b"nothing", "member.jpg")
    with refuses(ImageError, "int"):
        open_image(5)  # type: ignore[arg-type]


def test_postscript_is_never_opened() -> None:
    content = encode(noise(8, 8), "EPS")
    with pytest.raises(ImageError):
        open_image(content)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4), np.uint16),
    ],
)
def test_wrong_arrays_are_refused(array: Any) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(array)
    assert "uint8" in caught.value.valid


def test_an_image_too_long_to_resize_is_refused() -> None:
    with refuses(ImageError, "6000000x1"):
        preprocessing(height=224, width=224).crop(Image.new("RGB", (6_000_000, 1)))


def test_dict_round_trip() -> None:
    ours = preprocessing(crop_mode="border", crop_pct=1.0)
    assert Preprocessing.from_dict(ours.to_dict()) == ours
    assert list(ours.to_dict()) == ["height", "width", "interpolation", "crop_pct", "crop_mode", "mean", "std"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height is 0"),
        ({"width": 5000}, "width is 5000"),
        ({"width": 64.0}, r"width is 64\.0"),
        ({"height": True}, "height is True"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'.*bicubic"),
        ({"interpolation": 3}, "interpolation is 3"),
        ({"crop_mode": ["center"]}, "crop_mode is"),
        ({"crop_pct": 0}, "crop_pct is 0"),
        ({"crop_pct": float("nan")}, "crop_pct is nan"),
        ({"crop_pct": "1"}, "crop_pct is '1'"),
        ({"mean": [0.5, 0.5]}, "mean is"),
        ({"mean": 0.5}, "mean is"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean is"),
        ({"std": [0.5, 0.5, 0]}, r"std is .0\.5, 0\.5, 0."),
        ({"std": None}, "std is None"),
        ({"margin": 0.5}, "margin is 0.5"),
        ({"margin": "fast"}, "margin is 'fast'"),
        ({"colour": "RGB"}, "key 'colour' is unknown"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Preprocessing.from_dict({**preprocessing().to_dict(), **change})
    if "unknown" not in message:
        with pytest.raises(UsageError, match=message):
            preprocessing(**change)


@pytest.mark.parametrize("key", ["height", "mean", "crop_mode"])
def test_missing_keys_are_named(key: str) -> None:
    values = preprocessing().to_dict()
    del values[key]
    with refuses(BundleError, f"'{key}'"):
        Preprocessing.from_dict(values)
    with refuses(BundleError, "preprocessing", "list"):
        Preprocessing.from_dict([])


@st.composite
def images(draw: st.DrawFn) -> Image.Image:
    """Noise over a gradient, which reveals a wrong filter or a shift by a pixel, in shapes of up to 1 to 8."""
    width, height = draw(st.integers(1, 160)), draw(st.integers(1, 160))
    assume(max(width, height) <= 8 * min(width, height))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    slope = np.linspace(0, 120, width * height * 3).reshape(height, width, 3)
    return Image.fromarray((slope + random.integers(0, 136, slope.shape)).astype(np.uint8))


@given(image=images(), ours=preprocessings())
@example(noise(100, 99), preprocessing(crop_mode="border", crop_pct=1.0))  # one pixel short at the far end
def test_any_image_has_the_pixels_that_timm_gives_it(image: Image.Image, ours: Preprocessing) -> None:
    assert_same_as_timm(image, ours)


@given(ours=preprocessings(largest=4096))
def test_preprocessing_survives_json(ours: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours
