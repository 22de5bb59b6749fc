"""Datasets of the Hub, downloaded into its cache: hf://datasets/OWNER/NAME, with @REVISION for another than main."""

from __future__ import annotations

from pathlib import Path

from mpafer_jax.config.data_section import HUB_SCHEME
from mpafer_jax.runtime.errors import DataError


def fetch(url: str, pattern: str = "") -> Path:
    """The folder of a dataset in the Hub's cache, downloaded if it is not complete there.

    Args:
      pattern: of the files to download; '' for all.

    Raises:
      DataError: it is not on the Hub, may not be read, or is not in the cache and the Hub cannot be reached.
    """
    import huggingface_hub

    name, _, revision = url.removeprefix(f"{HUB_SCHEME}datasets/").partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=revision or None, allow_patterns=[pattern] if pattern else None
        )
    except Exception as error:  # of its HTTP client too, which differs by release
        reason = " ".join(str(error).split())
        raise DataError(
            f"config.data.dir is {url!r}, which was not received from the Hub ({type(error).__name__}: {reason}). See "
            "that the name is right, that you may read it (`hf auth login`; some ask you to accept terms on their "
            f"page), and that there is a network; or run `hf download {name} --repo-type=dataset --local-dir=FOLDER` "
            "elsewhere, copy that folder here and give it as config.data.dir"
        ) from error
    return Path(folder)
