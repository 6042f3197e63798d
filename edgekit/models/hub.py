"""timm's published weights: fetched into the hub's own cache, or an error that says how to bring them."""

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import PretrainedCfg

from edgekit.errors import HubError

_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT_S = 5.0


def fetch(config: PretrainedCfg) -> None:
    """Bring a model's published weights into the cache that timm reads; does nothing when they are there.

    Asks for the file's metadata first, which isn't retried: without a network the hub's download tries for most of a
    minute, and timm then does so again for the other file name. Raises HubError when the hub can't be reached or
    doesn't give the file.
    """
    if not config.hf_hub_id:
        return  # published under a plain address: timm fetches it through torch.hub, which fails at once
    repository, _, revision = config.hf_hub_id.partition("@")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    if any(isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str) for name in names):
        return
    for name in names:
        try:
            get_hf_file_metadata(hf_hub_url(repository, name, revision=revision or None), timeout=_TIMEOUT_S)
            hf_hub_download(repository, name, revision=revision or None)
            return
        except EntryNotFoundError as error:
            if name == names[-1]:
                raise hub_error(config, error) from error
        # The client's transport errors share no base with the hub's own, and their package changes between versions.
        except Exception as error:
            raise hub_error(config, error) from error


def hub_error(config: PretrainedCfg, error: Exception) -> HubError:
    """The HubError for weights that couldn't be fetched: what happened, which file to bring, and the option."""
    model = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    if config.hf_hub_id:
        file = f"{config.hf_hub_filename or _FILES[0]} of the hub repository {config.hf_hub_id}"
    else:
        file = str(config.url)
    reason = str(error).strip().split("\n")[0][:200]
    return HubError(
        f"can't fetch the weights of {model} ({type(error).__name__}: {reason}): where there is a network, download "
        f"{file}, then give the file with --weights FILE (--weights random measures speed without accuracy)"
    )
