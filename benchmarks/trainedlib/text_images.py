"""Draws lines of random text, upright and upside down, for the text-direction classifier."""

import random
import string
import zipfile
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from edgekit.support.files import replacing

WIDTH, HEIGHT = 192, 48
CALIBRATION, EVALUATION = 128, 3000
CLASSES = ("0", "180")
"""Class folders: the angle by which the text is turned."""
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic")


def text_zip(part: str, cache: Path) -> Path:
    """The zip "calibration" or "evaluation" in the cache, which is drawn unless it exists."""
    path, count = cache / f"text-{part}.zip", CALIBRATION if part == "calibration" else EVALUATION
    if path.exists():
        return path
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for index in range(count):
            turned = index % len(CLASSES)
            content = BytesIO()
            draw(f"{part} {index}", turned=bool(turned)).save(content, "png")
            archive.writestr(zipfile.ZipInfo(f"{CLASSES[turned]}/{index:04}.png"), content.getvalue())
    return path


def draw(seed: str, turned: bool) -> Image.Image:
    """One line of text, whose content and looks depend on the seed."""
    choose = random.Random(seed)
    paper = tuple(choose.randrange(256) for _ in range(3))
    image = Image.new("RGB", (WIDTH, HEIGHT), paper)
    name, size = choose.choice(FONTS), choose.randint(18, 36)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), size)
    letters = choose.choice((string.ascii_letters, string.ascii_letters + string.digits))
    text = "".join(choose.choices(letters, k=choose.randint(4, max(5, 320 // size))))
    place = (choose.randint(2, 20), HEIGHT / 2 + choose.uniform(-4, 4))
    ImageDraw.Draw(image).text(place, text, font=font, fill=_ink(choose, paper), anchor="lm")
    image = image.rotate(choose.uniform(-3, 3), Image.Resampling.BICUBIC, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(choose.uniform(0, 1.2)))
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_180)
    noise = np.random.default_rng(choose.randrange(1 << 32)).normal(0, choose.uniform(2, 16), (HEIGHT, WIDTH, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _ink(choose: random.Random, paper: tuple[int, ...]) -> tuple[int, ...]:
    """A colour that differs from the paper's by at least 70 in each channel."""
    return tuple((value + choose.randint(70, 186)) % 256 for value in paper)
