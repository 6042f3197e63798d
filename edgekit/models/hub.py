"""Downloads from the hub into its cache; an error explains how to get the files another way."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import PretrainedCfg

from edgekit.errors import HubError
from edgekit.models.description import CONFIG, PREPROCESSOR

_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT_S = 5.0


def fetch(config: PretrainedCfg, names: tuple[str, ...] = ()) -> Path | None:
    """Download a model's published weights into the hub's cache, unless they are there already; return the file.

    `names` are those that the file may have, by default the configuration's or timm's. Returns None if the weights are
    published at a plain URL, from which timm downloads them through torch.hub, which fails at once without a network.
    Raises HubError if the hub can't be reached or doesn't have the file.
    """
    if not config.hf_hub_id:
        return None
    names = names or ((config.hf_hub_filename,) if config.hf_hub_filename else _FILES)
    try:
        return _cached_or_downloaded(config.hf_hub_id, names)
    # The client's transport errors have no base class in common with the hub's, and come from another package in each
    # version.
    except Exception as error:
        raise hub_error(config, error) from error


def hub_error(config: PretrainedCfg, error: Exception) -> HubError:
    """The HubError for a failed download: the cause, the file to download elsewhere, and the option that reads it."""
    model = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    if config.hf_hub_id:
        file = f"{config.hf_hub_filename or _FILES[0]} of the hub repository {config.hf_hub_id}"
    else:
        file = str(config.url)
    reason = str(error).strip().split("\n")[0][:200]
    return HubError(
        f"can't download the weights of {model} ({type(error).__name__}: {reason})",
        fix=f"Download {file} on a machine with a network, and deploy {model} with `--weights FILE`. To measure speed "
        "alone, use `--weights random`",
    )


def fetch_repository(repository: str, *, weights: bool) -> Path:
    """The folder with a saved model of the hub repository `USER/MODEL[@REVISION]`, which is downloaded if needed.

    It has the configuration and the preprocessing, and with `weights` the first of the files that the repository has.
    Raises HubError if the hub can't be reached or doesn't have the files.
    """
    for names in ((CONFIG,), _FILES) if weights else ((CONFIG,),):
        try:
            file = _cached_or_downloaded(repository, names)
        except Exception as error:  # as in `fetch`
            raise _repository_error(repository, names, error) from error
    with suppress(Exception):  # not every repository has it
        _cached_or_downloaded(repository, (PREPROCESSOR,))
    return file.parent


def _cached_or_downloaded(repository: str, names: Sequence[str]) -> Path:
    """The first of these files that a repository has. Raises anything if it can't be reached or has none.

    The file's metadata are requested first, because that request isn't retried: without a network the hub's download
    keeps trying for most of a minute, and timm then does so again for the other file name.
    """
    name, _, tag = repository.partition("@")
    revision = tag or None
    for file in names:
        if isinstance(cached := try_to_load_from_cache(name, file, revision=revision), str):
            return Path(cached)
    for file in names[:-1]:
        with suppress(EntryNotFoundError):
            return _downloaded(name, file, revision)
    return _downloaded(name, names[-1], revision)


def _downloaded(name: str, file: str, revision: str | None) -> Path:
    get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=_TIMEOUT_S)
    return Path(hf_hub_download(name, file, revision=revision))


def _repository_error(repository: str, files: Sequence[str], error: Exception) -> HubError:
    reason = str(error).strip().split("\n")[0][:200]
    return HubError(
        f"can't download {' or '.join(files)} of the hub repository {repository} ({type(error).__name__}: {reason})",
        valid="a repository USER/MODEL of timm's or transformers' models that this machine can reach",
        fix=f"Download {CONFIG}, {_FILES[0]} and, if it has one, {PREPROCESSOR} of {repository} into a folder on a "
        "machine with a network, and name the folder in place of the repository, or pass it with `--weights FOLDER`",
    )
