"""An app to start from: a folder for any static host, whose page classifies images with a bundle in the browser."""

import shutil
from importlib.resources import as_file
from pathlib import Path

from edgekit.config.toml_reader import data_folder
from edgekit.devices.web.limits import BROWSER_TARGET
from edgekit.devices.web.runtime_package import RuntimeFiles, runtime_files
from edgekit.errors import OutputError, UsageError
from edgekit.report.answer import advised
from edgekit.report.document import Report
from edgekit.runtime.bundle import MANIFEST, Bundle, read_bundle
from edgekit.support.files import replacing

LICENCE = "LITERT_LICENSE"


def check_app_folder(folder: Path) -> None:
    """Raise OutputError unless the folder is new or empty. Writes nothing."""
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise OutputError(f"--web can't read '{folder}': {error.strerror or error}", fix="Choose another one") from None
    if taken:
        problem = f"--web is '{folder}', which {'is not empty' if folder.is_dir() else 'is not a folder'}"
        raise OutputError(problem, valid="a new or an empty folder", fix="Choose another folder, or remove this one")


def bundle_for_app(report: Report, run: Path, name: str | None) -> Bundle:
    """The bundle of a run with this name, or else the one for LiteRT that is recommended for a device.

    Raises UsageError if that is none, or one for another runtime, and BundleError if its files were altered.
    """
    made = list(dict.fromkeys(row.bundle for row in report.results if row.bundle and row.target == BROWSER_TARGET))
    there = [bundle for bundle in made if (run / bundle).is_dir()]
    valid = ", ".join(there) or "none, because the run has no bundle for LiteRT"
    if not there:
        fix = f"Make one with `edgekit deploy … --target {BROWSER_TARGET}`"
    else:
        fix = f"Name one with `--bundle`, such as `--bundle {there[-1]}`"
    if name is None:
        recommended = [advice.bundle for advice in advised(report) if advice.bundle in there]
        if not recommended:
            problem = f"--web takes the recommended bundle, and '{run}' recommends none for LiteRT, which browsers run"
            raise UsageError(problem, valid=valid, fix=fix)
        name = str(recommended[0])
    elif name not in there:
        raise UsageError(f"--bundle is '{name}', which is no bundle for LiteRT of '{run}'", valid=valid, fix=fix)
    return read_bundle(run / name)


def write_app(bundle: Bundle, folder: Path, runtime_package: Path | None) -> None:
    """Write the page, the bundle without its golden samples, and the files of LiteRT.js to a new or empty folder.

    Raises OutputError if that fails, and the errors of `runtime_files`.
    """
    check_app_folder(folder)
    runtime = runtime_files(runtime_package)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder.absolute()) as building:
            _fill(building, bundle, runtime)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"--web can't write '{folder}': {reason}", fix="Choose another folder") from error


def _fill(folder: Path, bundle: Bundle, runtime: RuntimeFiles) -> None:
    with as_file(data_folder("docs/examples/web")) as example:
        shutil.copytree(example, folder)
    for name in ("bundle", "runtime"):
        (folder / name).mkdir()
    (folder / LICENCE).rename(folder / "runtime" / "LICENSE")
    for name in (MANIFEST, bundle.manifest.labels_file, bundle.manifest.model_file):
        shutil.copyfile(bundle.path / name, folder / "bundle" / name)
    for build in ("relaxed", "compat"):
        for file in (runtime.script(build), runtime.wasm(build)):
            shutil.copyfile(file, folder / "runtime" / file.name)
