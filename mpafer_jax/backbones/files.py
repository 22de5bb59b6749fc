"""Finds the files of a CLIP checkpoint: in the package, in a local folder, in the Hub's cache, or on the Hub.

Layout of a checkpoint (that of transformers): config.json; the weights as one file or as shards with an index; the
tokenizer as vocab.json and merges.txt or as tokenizer.json; preprocessor_config.json for the images' mean and
standard deviation, which transformers 5 may write into processor_config.json instead.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, cast

from mpafer_jax.runtime.files import home_expanded

FileKind = Literal["safetensors", "flax", "pytorch"]

CONFIG = "config.json"
# In order of preference: safetensors reads fastest, and pytorch_model.bin needs torch.
WEIGHTS: tuple[tuple[str, FileKind], ...] = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors.index.json", "safetensors"),
    ("flax_model.msgpack", "flax"),
    ("flax_model.msgpack.index.json", "flax"),
    ("pytorch_model.bin", "pytorch"),
    ("pytorch_model.bin.index.json", "pytorch"),
)
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")

# CLIPs that ship with the package, by name; the Hub gives no new repository a name without its owner's.
SHIPPED = {"tiny-face-clip": Path(__file__).resolve().parent / "tiny_face_clip"}

_REACHED_SECONDS = 3.0  # within which the Hub has to answer

_HOW_TO_PROVIDE = (
    "Give a folder that holds the checkpoint, or on a computer with a network run `hf download {name}` and copy its "
    "cache here (environment variable HF_HOME, or the config's cache folder)."
)


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """Where the files of one checkpoint are.

    Attributes:
      folder: holds config.json and the tokenizer's files.
      revision: the Hub's commit, or '' for a local folder.
      config: config.json.
      weights: the weights' files; several for a checkpoint in shards, in the order of their names.
      kind: what the weights' files are.
      preprocessor: preprocessor_config.json or processor_config.json, or None where there is neither.
    """

    folder: Path
    revision: str
    config: Path
    weights: tuple[Path, ...]
    kind: FileKind
    preprocessor: Path | None


def find_files(name: str, *, revision: str = "main", cache_dir: str = "") -> CheckpointFiles:
    """Finds a checkpoint, and downloads it only if it is no folder and not whole in the Hub's cache.

    A revision that is cached is taken as it is: whether the Hub's branch has moved since is not asked.

    Args:
      name: one of `SHIPPED`, a local folder, or a repository on the Hub such as 'openai/clip-vit-base-patch16'.
      revision: branch, tag or commit of a repository; a folder has none.
      cache_dir: the Hub's cache; '' for the environment's (HF_HUB_CACHE, HF_HOME, else the Hub's default).

    Returns:
      The files of the first kind of weights in `WEIGHTS` that is there.

    Raises:
      FileNotFoundError: there is no such folder or repository, a file is missing, or the Hub cannot be reached.
      ModuleNotFoundError: the only weights are PyTorch's, and torch is not installed.
      ValueError: the index of a checkpoint in shards cannot be read.
    """
    here = find_local_files(name, revision=revision, cache_dir=cache_dir)
    if here is not None:
        return here
    snapshot = _download(name, revision, _cache(cache_dir))
    return _in_folder(snapshot, revision=snapshot.name)


def find_local_files(name: str, *, revision: str = "main", cache_dir: str = "") -> CheckpointFiles | None:
    """As `find_files`, without the network: None for a repository that is not whole in the Hub's cache."""
    cache_dir = _cache(cache_dir)
    folder = SHIPPED.get(name) or home_expanded(name)
    if folder.is_dir():
        return _in_folder(folder, revision="")
    _check_repository_name(name)
    cached = _cached_snapshot(name, revision, cache_dir)
    return None if cached is None else _in_folder(cached, revision=cached.name)


def _cache(cache_dir: str) -> str:
    return str(home_expanded(cache_dir)) if cache_dir else ""


def file_names(folder: Path) -> set[str]:
    """The names of a folder's files; a link whose target is gone (in a cache that was cleaned by hand) is no file."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def has_tokenizer(names: Collection[str]) -> bool:
    """Whether a tokenizer can be made of the files with these names."""
    return "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= set(names)


def _in_folder(folder: Path, *, revision: str) -> CheckpointFiles:
    """The checkpoint whose files lie in one folder."""
    names = file_names(folder)
    if CONFIG not in names:
        raise FileNotFoundError(f"{folder} holds no {CONFIG}; expected a CLIP in the Hub's layout there")
    weights, kind = _choose_weights(lambda name: name in names, str(folder))
    paths = [folder / weights]
    if weights.endswith(".index.json"):
        shards = read_index(folder / weights)
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        if absent:
            raise FileNotFoundError(f"{folder / weights} names shards that are not there: {', '.join(absent)}")
        paths = [folder / shard for shard in shards]
    preprocessor = next((folder / name for name in PREPROCESSOR if name in names), None)
    return CheckpointFiles(folder, revision, folder / CONFIG, tuple(paths), kind, preprocessor)


def _choose_weights(exists: Callable[[str], bool], place: str) -> tuple[str, FileKind]:
    """The name and kind of the first weights in `WEIGHTS` that exist and can be read here."""
    has_torch = importlib.util.find_spec("torch") is not None
    for name, kind in WEIGHTS:
        if not exists(name):
            continue
        if kind == "pytorch" and not has_torch:
            raise ModuleNotFoundError(
                f"{place} holds its weights only as {name}, which needs PyTorch to read: `pip install torch`, or "
                "convert it to model.safetensors where PyTorch is installed "
                "(`transformers.CLIPModel.from_pretrained(...).save_pretrained(folder)`)"
            )
        return name, kind
    raise FileNotFoundError(f"{place} holds no weights; expected one of {', '.join(name for name, _ in WEIGHTS)}")


def read_index(path: Path) -> list[str]:
    """The names of the shards in a *.index.json, sorted.

    Raises:
      ValueError: the file is no index, or names a shard outside its folder.
    """
    try:
        weight_map = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))["weight_map"]
        shards = sorted({str(shard) for shard in cast("dict[str, Any]", weight_map).values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of shards; expected JSON with a 'weight_map' ({error})") from error
    if not shards:
        raise ValueError(f"{path} names no shards")
    if outside := [shard for shard in shards if Path(shard).name != shard]:
        raise ValueError(f"{path} names shards outside its folder: {', '.join(outside)}")
    return shards


def _check_repository_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(
            f"CLIP {name!r}: there is no such folder, and it cannot be a repository of the Hub either ({error})"
        ) from None


def _cached_snapshot(name: str, revision: str, cache_dir: str) -> Path | None:
    """The folder of a revision in the Hub's cache, or None unless everything needed is there."""
    from huggingface_hub import try_to_load_from_cache

    def look_up(file: str) -> object:
        return try_to_load_from_cache(name, file, cache_dir=cache_dir or None, revision=revision)

    config = look_up(CONFIG)
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parent
    # Mean and standard deviation must not depend on what another program left out of the cache: unless the cache
    # knows that the repository has no such file, it is asked for.
    if all(look_up(file) is None for file in PREPROCESSOR) or not has_tokenizer(file_names(snapshot)):
        return None
    try:
        _in_folder(snapshot, revision=snapshot.name)
    except (FileNotFoundError, ModuleNotFoundError):  # the Hub may have the rest, or another kind of weights
        return None
    return snapshot


def _download(name: str, revision: str, cache_dir: str) -> Path:
    """Downloads what is needed of a repository into the Hub's cache and returns the revision's folder there."""
    config = _fetch(name, CONFIG, revision, cache_dir)
    if config is None:
        raise FileNotFoundError(f"{name} (revision {revision}) on the Hub holds no {CONFIG}; expected a CLIP")
    # The commit, not the branch, from here on: all files are of one state even if the branch moves meanwhile.
    commit = config.parent.name

    def fetch(file: str) -> Path | None:
        return _fetch(name, file, commit, cache_dir)

    for file in PREPROCESSOR:
        if fetch(file) is not None:
            break
    if not has_tokenizer([file for file in TOKENIZER if fetch(file) is not None]):
        raise FileNotFoundError(f"{name} (revision {revision}) on the Hub holds no tokenizer; expected {TOKENIZER[:3]}")
    weights, _ = _choose_weights(
        lambda file: _fetch(name, file, commit, cache_dir, only_ask=True) is not None,
        f"{name} (revision {revision}) on the Hub",
    )
    path = fetch(weights)
    shards = read_index(path) if path is not None and weights.endswith(".index.json") else []
    if absent := [shard for shard in shards if fetch(shard) is None]:
        raise FileNotFoundError(
            f"{weights} of {name} (revision {revision}) on the Hub names shards that are not there: {', '.join(absent)}"
        )
    return config.parent


@functools.cache  # of several files that are asked for, the first shows it
def _reach(endpoint: str) -> None:
    """Raises what the HTTP client raises where the Hub cannot be reached, at once.

    The Hub's own library tries six times, which on a machine without a network takes 24 s for each file.
    """
    import huggingface_hub

    huggingface_hub.get_session().head(endpoint, timeout=_REACHED_SECONDS)


def _fetch(name: str, file: str, revision: str, cache_dir: str, *, only_ask: bool = False) -> Path | None:
    """The path of a repository's file in the cache, downloaded if need be; None if the repository has none.

    With `only_ask` nothing is downloaded, and the path may not exist yet. What the cache knows is not asked of the Hub.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of its HTTP client, which differs by release
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"CLIP {name!r} (revision {revision})"
    cache = cache_dir or None
    constants = huggingface_hub.constants
    help_text = _HOW_TO_PROVIDE.format(name=name)
    cached = huggingface_hub.try_to_load_from_cache(name, file, cache_dir=cache, revision=revision)
    if cached is not None:  # else a path, or the library's mark of a file that the repository has not
        return Path(cached) if isinstance(cached, str) else None
    try:
        if constants.is_offline_mode():
            raise OfflineModeIsEnabled("the environment variable HF_HUB_OFFLINE says that it is not to be asked")
        _reach(constants.ENDPOINT)
        if only_ask:
            return Path(
                huggingface_hub.hf_hub_download(name, file, revision=revision, cache_dir=cache, dry_run=True).local_path
            )
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision, cache_dir=cache))
    except RemoteEntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{where}: the Hub asks you to accept this repository's terms on its page and to log in (`hf auth login`)"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{where}: there is no such folder here and no such repository on the Hub ({constants.ENDPOINT}), or it is "
            f"private and you are not logged in (`hf auth login`). Check the name, or give a folder."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{where}: the Hub has the repository but not this revision") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError) as error:
        raise FileNotFoundError(
            f"{where}: there is no such folder here; {file} is not in the Hub's cache "
            f"({cache or constants.HF_HUB_CACHE}) and could not be had from {constants.ENDPOINT}: {error}\n{help_text}"
        ) from error
