"""Finds the files of a CLIP checkpoint: in the package, a local folder, the Hub's cache, or on the Hub.

Layout as in transformers: config.json; weights as one file or as shards with an index; vocab.json and merges.txt, or
tokenizer.json; preprocessor_config.json, or processor_config.json of transformers 5, with the images' mean and
standard deviation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal, cast

from mpafer_jax.runtime.files import home_expanded

FileKind = Literal["safetensors", "flax", "pytorch"]

CONFIG = "config.json"
# In order of preference: safetensors loads fastest, pytorch_model.bin needs torch.
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

# CLIPs shipped with the package, by name; without an owner, so no new Hub repository can have the same name.
SHIPPED = {"tiny-face-clip": Path(__file__).resolve().parent / "tiny_face_clip"}

_CHUNK = 1 << 20
_REACHED_SECONDS = 3.0  # timeout for listing a repository's files

_HOW_TO_PROVIDE = (
    "Give a folder that holds the checkpoint, or on a computer with a network run `hf download {name}` and copy its "
    "cache here (environment variable HF_HOME, or the config's cache folder)."
)


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """Paths of a checkpoint's files.

    Attributes:
      folder: holds config.json and the tokenizer's files.
      revision: the Hub's commit, or '' for a local folder.
      config: config.json.
      weights: one file, or the shards sorted by name.
      kind: format of the weights.
      preprocessor: preprocessor_config.json or processor_config.json, or None without either.
    """

    folder: Path
    revision: str
    config: Path
    weights: tuple[Path, ...]
    kind: FileKind
    preprocessor: Path | None


def find_files(name: str, *, revision: str = "main", cache_dir: str = "") -> CheckpointFiles:
    """Finds a checkpoint; downloads it if it is neither a folder nor complete in the Hub's cache.

    A cached revision is used without checking the Hub. Weights of the first format in `WEIGHTS` that exists are used.

    Args:
      name: one of `SHIPPED`, a local folder, or a Hub repository such as 'openai/clip-vit-base-patch16'.
      revision: branch, tag or commit of a repository; ignored for folders.
      cache_dir: the Hub's cache; '' for the default (HF_HUB_CACHE, HF_HOME).

    Raises:
      FileNotFoundError: no such folder or repository, a file is missing, or the Hub is unreachable.
      ModuleNotFoundError: the only weights are PyTorch's, and torch is not installed.
      ValueError: the index of a sharded checkpoint is invalid.
    """
    local = find_local_files(name, revision=revision, cache_dir=cache_dir)
    return local or _download(name, revision, _cache(cache_dir))


def find_local_files(name: str, *, revision: str = "main", cache_dir: str = "") -> CheckpointFiles | None:
    """As `find_files`, without network: None for a repository that is not complete in the Hub's cache."""
    folder = SHIPPED.get(name) or home_expanded(name)
    if folder.is_dir():
        return _in_folder(folder, revision="")
    _check_repository_name(name)
    return _cached(name, revision, _cache(cache_dir))[0]


def _cache(cache_dir: str) -> str | None:
    return str(home_expanded(cache_dir)) if cache_dir else None


def file_names(folder: Path) -> set[str]:
    """Names of a folder's files, without broken links (as left in a cache that was cleaned by hand)."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def has_tokenizer(names: Collection[str]) -> bool:
    """Whether these file names include a tokenizer's."""
    return "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= set(names)


def _in_folder(folder: Path, *, revision: str) -> CheckpointFiles:
    names = file_names(folder)
    if CONFIG not in names:
        raise FileNotFoundError(f"{folder} holds no {CONFIG}; expected a CLIP in the Hub's layout there")
    weights, kind = _choose_weights(names, str(folder))
    paths = (folder / weights,)
    if weights.endswith(".index.json"):
        shards = read_index(folder / weights)
        _refuse_absent([shard for shard in shards if shard not in names], str(folder / weights))
        paths = tuple(folder / shard for shard in shards)
    preprocessor = next((folder / name for name in PREPROCESSOR if name in names), None)
    return CheckpointFiles(folder, revision, folder / CONFIG, paths, kind, preprocessor)


def _choose_weights(names: Collection[str], owner: str) -> tuple[str, FileKind]:
    """Name and format of the first weights in `WEIGHTS` that exist."""
    has_torch = importlib.util.find_spec("torch") is not None
    for name, kind in WEIGHTS:
        if name not in names:
            continue
        if kind == "pytorch" and not has_torch:
            raise ModuleNotFoundError(
                f"{owner} holds its weights only as {name}, which needs PyTorch to read: `pip install torch`, or "
                "convert it to model.safetensors where PyTorch is installed "
                "(`transformers.CLIPModel.from_pretrained(...).save_pretrained(folder)`)"
            )
        return name, kind
    raise FileNotFoundError(f"{owner} holds no weights; expected one of {', '.join(name for name, _ in WEIGHTS)}")


def _refuse_absent(shards: Collection[str], index: str) -> None:
    if shards:
        raise FileNotFoundError(f"{index} names shards that do not exist: {', '.join(shards)}")


def read_index(path: Path) -> list[str]:
    """Sorted names of the shards in a *.index.json.

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


def _cached(name: str, revision: str, cache_dir: str | None) -> tuple[CheckpointFiles | None, str]:
    """The checkpoint in the Hub's cache; or None and the name of a missing file."""
    from huggingface_hub import try_to_load_from_cache

    def look_up(file: str) -> object:
        return try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)

    config = look_up(CONFIG)
    if not isinstance(config, str):
        return None, CONFIG
    snapshot = Path(config).parent
    # Another program may have cached the repository without its preprocessor: require one, or the cache's record that
    # the repository has none.
    if all(look_up(file) is None for file in PREPROCESSOR):
        return None, PREPROCESSOR[0]
    if not has_tokenizer(file_names(snapshot)):
        return None, TOKENIZER[0]
    try:
        return _in_folder(snapshot, revision=snapshot.name), ""
    except (FileNotFoundError, ModuleNotFoundError):  # the Hub may have the rest, or weights in another format
        return None, WEIGHTS[0][0]


def _download(name: str, revision: str, cache_dir: str | None) -> CheckpointFiles:
    from huggingface_hub import constants, errors

    label = f"CLIP {name!r} (revision {revision})"
    try:
        snapshot = _snapshot(name, revision, cache_dir)
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"{label}: the Hub asks you to accept this repository's terms on its page and to log in (`hf auth login`)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{label}: there is no such folder here and no such repository on the Hub ({constants.ENDPOINT}), or it is "
            f"private and you are not logged in (`hf auth login`). Check the name, or give a folder."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{label}: the Hub has the repository but not this revision") from error
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of its HTTP client, which differs by release
    ) as error:
        raise FileNotFoundError(
            f"{label}: there is no such folder here; {_cached(name, revision, cache_dir)[1]} is not in the Hub's cache "
            f"({cache_dir or constants.HF_HUB_CACHE}) and was not received from {constants.ENDPOINT}: {error}\n"
            f"{_HOW_TO_PROVIDE.format(name=name)}"
        ) from error
    return _in_folder(snapshot, revision=snapshot.name)


def _snapshot(name: str, revision: str, cache_dir: str | None) -> Path:
    """Downloads a revision with weights of one format into the cache; returns its folder."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    owner = f"{name} (revision {revision}) on the Hub"
    # One request with a short timeout first: downloads retry an unreachable Hub six times per file.
    listing = huggingface_hub.model_info(name, revision=revision, timeout=_REACHED_SECONDS).siblings or []
    names = {file.rfilename for file in listing}
    if CONFIG not in names:
        raise FileNotFoundError(f"{owner} holds no {CONFIG}; expected a CLIP")
    if not has_tokenizer(names):
        raise FileNotFoundError(f"{owner} holds no tokenizer; expected {TOKENIZER[:3]}")
    weights, _ = _choose_weights(names, owner)

    def download(revision: str, *files: str) -> Path:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=list(files))
        )

    snapshot = download(revision, CONFIG, *TOKENIZER, *PREPROCESSOR, weights)
    commit = snapshot.name  # pins later downloads if the branch moves meanwhile
    if not names & {*PREPROCESSOR}:
        with contextlib.suppress(EntryNotFoundError):  # records in the cache that it does not exist
            huggingface_hub.hf_hub_download(name, PREPROCESSOR[0], revision=commit, cache_dir=cache_dir)
    if weights.endswith(".index.json"):
        shards = read_index(snapshot / weights)
        _refuse_absent([shard for shard in shards if shard not in names], f"{weights} of {owner}")
        download(commit, *shards)
    return snapshot


def hash_files(paths: Iterable[Path]) -> str:
    """Hexadecimal SHA-256 over sizes and contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      ValueError: the file holds no JSON object.
    """
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return cast("dict[str, Any]", value)
