"""Models by hub name: hf://OWNER/NAME[@REVISION] stands where a directory does, until a load fetches it.

    path_of("hf://gpt2@607a30d")                 Path("hf:/gpt2@607a30d"), a name; no directory begins so
    fetched(Path("hf:/gpt2@607a30d"))            the directory of that snapshot in the hub's cache
    fetched(Path("/models/gpt2"))                as it is

A snapshot is named by its commit, so a run that names none still knows which one it trained.
"""

from __future__ import annotations

from pathlib import Path

from services.weights import HUB, WeightsError

# What a model is loaded from. Pickled weights are not even fetched.
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
UNWANTED = ["*/*"]  # folders hold other formats of the same weights


def fetched(path: Path) -> Path:
    """The directory that a path or a hub name stands for. Raises WeightsError that says what to do.

    Downloads what the cache lacks: it belongs on a thread.
    """
    if path.parts[:1] != (HUB,):
        return path
    name, _, revision = "/".join(path.parts[1:]).partition("@")
    from huggingface_hub import snapshot_download  # imports half the web; most models are directories

    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=WANTED, ignore_patterns=UNWANTED
            )
        )
    except Exception as error:  # its own errors, those of HTTP and of the disk have no common parent
        said = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"hf://{name}{'@' + revision if revision else ''}",
            f"cannot be fetched ({type(error).__name__}: {said}); give a directory instead, or fetch "
            "it into this machine's cache where there is a network: hf download NAME",
        ) from None
