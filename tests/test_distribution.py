"""Nothing that is shipped installs the distribution `edgekit`, which on the public index is an unrelated project."""

import re
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from edgekit.support import libraries
from tests.helpers.environments import PIP, run

_BETWEEN = r"""["',\s\\]+"""
_BARE = r"edgekit(?![\w-]|\.\w)"
INSTALLS = re.compile(
    # pip, its options, "install", and further words of the same command; all this also as a list of strings.
    rf"\b(?:pip[\d.]*|pipx|uv){_BETWEEN}(?:-[\w-]+(?:[ =][\w./-]+)?{_BETWEEN})*(?:install|download|wheel|add){_BETWEEN}"
    rf"""(?:[^\s`;&|#)]*[^\s`;&|#),.:][^\S\n]+|[^\s`;&|#)]*["'],\s+(?=["']))*["'\\]*{_BARE}"""
    # A requirement, wherever it stands.
    rf"|(?<![\w./-])edgekit(?:\[[a-z{{]|\s*[=~<>!]=\s*\d)"
)


def bare_installs(text: str) -> list[str]:
    """What in a text would make pip install the distribution `edgekit`."""
    return [match.group() for match in INSTALLS.finditer(re.sub(r"\\\n", " ", text))]


def texts(archive: Path) -> dict[str, str]:
    """Every text file of a wheel or an sdist, by its name."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            files = {name: wheel.read(name) for name in wheel.namelist()}
    else:
        with tarfile.open(archive) as sdist:
            members = ((each.name, sdist.extractfile(each)) for each in sdist.getmembers())
            files = {name: file.read() for name, file in members if file}
    found = {}
    for name, content in files.items():
        try:
            found[name] = content.decode()
        except UnicodeDecodeError:
            continue  # weights, images, archives
    return found


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_no_shipped_text_installs_the_bare_name(kind: str, request: pytest.FixtureRequest) -> None:
    shipped = texts(request.getfixturevalue(kind))
    names = {name.rpartition("/")[2] for name in shipped}
    assert (
        {"METADATA", "doctor.py"} <= names if kind == "wheel" else {"README.md", "PKG-INFO", "pyproject.toml"} <= names
    )
    assert {name: found for name, text in shipped.items() if (found := bare_installs(text))} == {}


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_the_metadata_names_and_requires_the_right_distribution(kind: str, request: pytest.FixtureRequest) -> None:
    (metadata,) = (
        message_from_bytes(text.encode())
        for name, text in texts(request.getfixturevalue(kind)).items()
        if name.endswith((".dist-info/METADATA", "/PKG-INFO"))
    )
    assert metadata["Name"] == libraries.NAME == "edgekit-deploy"
    required = {re.split(r"[^\w.-]", each)[0] for each in metadata.get_all("Requires-Dist", [])}
    assert {"numpy", "torch"} <= required
    assert "edgekit" not in required


def test_the_documents_name_the_wheel_that_is_built(sdist: Path, wheel: Path) -> None:
    documents = "".join(text for name, text in texts(sdist).items() if name.endswith(".md"))
    named = re.findall(r"[\w.]+-[\w.]+-py3-none-any\.whl", documents)
    assert named
    assert set(named) == {wheel.name}


NAME = "edgekit"
"""Put together with a command below, so that this file, which the sdist holds, passes its own test."""


@pytest.mark.parametrize(
    "command",
    [
        "pip install {}",
        "pip install {}.",
        "pip3 install --upgrade {}",
        'pip install "{}[build]"',
        'Run: pip install \\"{}[{{extra}}]\\"',
        "python -m pip install --no-compile '{}[tflite,cli]'",
        "`pip\ninstall {}`",
        "pip install \\\n    {}",
        "pip install numpy {}==0.1.0",
        "uv pip install {}",
        "pip --python .venv/bin/python install {}",
        "uv add {}",
        '[sys.executable, "-m", "pip", "install", "--quiet", "{}"]',
        'build = ["{}[onnx]", "nncf>=3"]',
        "{}==0.1.0",
    ],
)
def test_a_planted_line_is_found(command: str) -> None:
    assert bare_installs(f"Some text.\n{command.format(NAME)}\n")
    assert not bare_installs(f"Some text.\n{command.format(libraries.NAME)}\n")


@pytest.mark.parametrize(
    "text",
    [
        'pip install ".[build]"\n{} demo',
        'pip install "./dist/{}_deploy-0.1.0-py3-none-any.whl[build]"',
        'Run: pip install "{}-deploy[cli]", then {} demo.',
        "`pip install {}-deploy` brings the command {}",
        "pip uninstall {} {}-deploy",
        "import {}",
    ],
)
def test_other_uses_of_the_name_are_not_found(text: str) -> None:
    assert bare_installs(text.replace("{}", NAME)) == []


@pytest.mark.slow
def test_the_bare_name_adds_an_extra_to_the_edgekit_that_is_installed(cli_python: Path, tmp_path: Path) -> None:
    listed = run(*PIP, "--python", cli_python, "list", "--format=freeze", cwd=tmp_path).stdout
    assert {each.partition("==")[0] for each in listed.split()} >= {"edgekit-deploy", "typer", "rich"}
    assert run(cli_python.with_name("edgekit"), "--version", cwd=tmp_path).returncode == 0
