"""Reports contain no local folders."""

from pathlib import Path

import pytest

from edgekit.support.files import shareable_command, without_folders


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("deploy", "deploy"),
        ("/home/me/secret/photos", "photos"),
        ("../secret/photos/", "photos"),
        ("~/secret/best.pth", "best.pth"),
        ("runs/secret/demo", "demo"),
        ("--data=/home/me/photos.zip", "--data=photos.zip"),
        ("-o/home/me/runs/demo", "-odemo"),
        ("checkpoint=/home/me/best.pth", "checkpoint=best.pth"),
        (r"C:\Users\me\photos", "photos"),
        (r"--weights=C:\Users\me\best.pth", "--weights=best.pth"),
        ("sqlite:////home/me/tune.db", "tune.db"),
        ("open_clip:ViT-B-32/laion2b", "open_clip:ViT-B-32/laion2b"),
        ("my.models:build", "my.models:build"),
        ("num_classes=10,patch_size=2", "num_classes=10,patch_size=2"),
        ("0.5,0.5,0.5", "0.5,0.5,0.5"),
        ("ssh://pi@raspberrypi.local", "ssh://pi@raspberrypi.local"),
        ("--device=ssh://pi@raspberrypi.local", "--device=ssh://pi@raspberrypi.local"),
        ("..", ".."),
        ("/", "/"),
        ("-o", "-o"),
        ("", ""),
    ],
)
def test_a_path_in_a_command_becomes_its_name(argument: str, shown: str) -> None:
    assert shareable_command(["deploy", argument]) == ("deploy", shown)


def test_folders_in_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"can't read 'photos/cat/1.png': [Errno 13] Permission denied: '{tmp_path}/photos/cat/1.png'"
    assert without_folders(text, [Path("photos")]) == (
        "can't read 'cat/1.png': [Errno 13] Permission denied: 'cat/1.png'"
    )
