"""Finds the files of a CLIP checkpoint: in the package, on this machine, in the Hub's cache, or on the Hub.

Layouts of a folder:

* the Hub's (transformers): config.json; weights as one file or as shards with an index; vocab.json and merges.txt, or
  tokenizer.json; preprocessor_config.json, or processor_config.json of transformers 5, with the images' mean and
  standard deviation;
* open_clip's, which timm's repositories have too: open_clip_config.json and the weights, perhaps a tokenizer.

A file of weights alone: OpenAI's, and what training programs save.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from mpafer_jax.runtime.errors import did_you_mean
from mpafer_jax.runtime.files import home_expanded

FileKind = Literal["safetensors", "flax", "pytorch"]

CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
CONVERTED = "converted_from"  # field of config.json, see `conversion_record`


class _Weights(NamedTuple):
    name: str
    kind: FileKind
    config: str = CONFIG  # of the same layout


# In order of preference: safetensors loads fastest, PyTorch's files need torch.
_WEIGHTS = (
    _Weights("model.safetensors", "safetensors"),
    _Weights("model.safetensors.index.json", "safetensors"),
    _Weights("flax_model.msgpack", "flax"),
    _Weights("flax_model.msgpack.index.json", "flax"),
    _Weights("open_clip_model.safetensors", "safetensors", OPEN_CLIP_CONFIG),
    _Weights("pytorch_model.bin", "pytorch"),
    _Weights("pytorch_model.bin.index.json", "pytorch"),
    _Weights("open_clip_pytorch_model.bin", "pytorch", OPEN_CLIP_CONFIG),
)
# Of files under any other name.
_SUFFIXES: dict[str, FileKind] = {
    ".safetensors": "safetensors",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".bin": "pytorch",
    ".ckpt": "pytorch",
}
WHOLE_TOKENIZER = "tokenizer.json"
TOKENIZER = ("vocab.json", "merges.txt", WHOLE_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")
PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")

_HERE = Path(__file__).resolve().parent
# OpenAI's vocabulary, which all its CLIPs share and most others took over; for checkpoints without a tokenizer.
CLIPS_TOKENIZER = _HERE / "clip" / "vocabulary"


class _Shipped(NamedTuple):
    folder: Path
    drawn_only: bool  # whether it was trained on drawn faces and nothing else
    terms: str = ""  # what limits its use, as what follows "it is"


# CLIPs shipped with the package, by name; without an owner, so no new Hub repository can have the same name.
SHIPPED = {
    "tiny-face-clip": _Shipped(_HERE / "tiny_face_clip", drawn_only=True),
    "small-face-clip": _Shipped(
        _HERE / "small_face_clip",
        drawn_only=False,
        terms="for research use, as it was trained on photographs of FERPlus, which were collected from the web and "
        "carry no clear licence",
    ),
}


class _OpenAIs(NamedTuple):
    file: str
    repository: str  # with the same weights


# By the names that OpenAI's `clip.load` takes, which it downloads into the folder below.
OPENAI = {
    "ViT-B/32": _OpenAIs("ViT-B-32.pt", "openai/clip-vit-base-patch32"),
    "ViT-B/16": _OpenAIs("ViT-B-16.pt", "openai/clip-vit-base-patch16"),
    "ViT-L/14": _OpenAIs("ViT-L-14.pt", "openai/clip-vit-large-patch14"),
    "ViT-L/14@336px": _OpenAIs("ViT-L-14-336px.pt", "openai/clip-vit-large-patch14-336"),
}
_OPENAIS_CACHE = "~/.cache/clip"
_OPENAIS_RESNETS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")

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
      folder: holds the files.
      revision: the Hub's commit, or '' for a local checkpoint.
      config: config.json or open_clip_config.json; None for weights alone.
      weights: one file, or the shards sorted by name.
      kind: format of the weights.
      tokenizer: folder of the tokenizer's files: `folder`, or `CLIPS_TOKENIZER` if it has none.
      normalization: file with the images' mean and standard deviation, or None without one.
      openais: whether it is OpenAI's, as its name says.
      activation: what the user says of weights whose files do not say; ''.
    """

    folder: Path
    revision: str
    config: Path | None
    weights: tuple[Path, ...]
    kind: FileKind
    tokenizer: Path
    normalization: Path | None
    openais: bool = False
    activation: str = ""

    @property
    def source(self) -> str:
        """The checkpoint in errors."""
        return str(self.weights[0] if len(self.weights) == 1 else self.folder)

    def content_hash(self) -> str:
        """SHA-256 over configuration and weights, and over the user's activation if it decides.

        An unchanged conversion has its source's hash: prompts trained on one fit the other.
        """
        if self.config is None:
            digest, told = hash_files(self.weights), "" if self.openais else self.activation
            return hashlib.sha256(f"{digest} {told}".encode()).hexdigest() if told else digest
        record = read_json(self.config).get(CONVERTED) if self.config.name == CONFIG else None
        if isinstance(record, dict):
            source = str(cast("dict[str, Any]", record).get("content_hash"))
            if record == conversion_record(self.config, self.weights, source):
                return source
        return hash_files((self.config, *self.weights))


def find_files(name: str, *, revision: str = "main", cache_dir: str = "", activation: str = "") -> CheckpointFiles:
    """Finds a checkpoint; downloads it if it is neither on this machine nor complete in the Hub's cache.

    A cached revision is used without checking the Hub. The first weights of `_WEIGHTS` that exist are used.

    Args:
      name: one of `SHIPPED` or `OPENAI`, a local folder or file of weights, or a Hub repository such as
        'openai/clip-vit-base-patch16'.
      revision: branch, tag or commit of a repository; ignored otherwise.
      cache_dir: the Hub's cache; '' for the default (HF_HUB_CACHE, HF_HOME). OpenAI's files are looked for there too.
      activation: as of `CheckpointFiles`.

    Raises:
      FileNotFoundError: no such folder, file or repository, a file is missing, or the Hub is unreachable.
      ModuleNotFoundError: the only weights are PyTorch's, and torch is not installed.
      ValueError: the index of a sharded checkpoint is invalid, or the name is of a kind that is not read.
    """
    local = find_local_files(name, revision=revision, cache_dir=cache_dir, activation=activation)
    if local is not None:
        return local
    return dataclasses.replace(_download(name, revision, _cache(cache_dir)), activation=activation)


def find_local_files(
    name: str, *, revision: str = "main", cache_dir: str = "", activation: str = ""
) -> CheckpointFiles | None:
    """As `find_files`, without network: None for a repository that is not complete in the Hub's cache."""
    path = SHIPPED[name].folder if name in SHIPPED else home_expanded(name)
    if path.is_dir():
        files = _in_folder(path, revision="")
    elif path.is_file():
        files = _of_file(path)
    elif name in OPENAI:
        files = dataclasses.replace(_of_file(_openais_file(name, cache_dir)), openais=True)
    else:
        _refuse_names(name, path)
        files = _cached(name, revision, _cache(cache_dir))[0]
    return files and dataclasses.replace(files, activation=activation)


def looks_like_clip(path: Path) -> bool:
    """Whether a file or folder could be a CLIP's, by file names."""
    if not path.is_dir():
        return path.suffix.lower() in _SUFFIXES
    names = file_names(path)
    return any(weights.name in names and weights.config in names for weights in _WEIGHTS)


def _cache(cache_dir: str) -> str | None:
    return str(home_expanded(cache_dir)) if cache_dir else None


def _openais_file(name: str, cache_dir: str) -> Path:
    file, repository = OPENAI[name]
    folders = [home_expanded(folder) for folder in (cache_dir, _OPENAIS_CACHE) if folder]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise FileNotFoundError(
        f"CLIP {name!r} is {file} of OpenAI, which is not in {' nor in '.join(map(str, folders))}. Copy it there from "
        f"a computer that has it (`clip.load({name!r})` of OpenAI's Python package downloads it to {_OPENAIS_CACHE}), "
        f"give its path or its folder (config.clip.cache_dir), or take the same weights from the Hub: {repository}"
    )


def file_names(folder: Path) -> set[str]:
    """Names of a folder's files, without broken links (as left in a cache that was cleaned by hand)."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def has_tokenizer(names: Collection[str]) -> bool:
    """Whether these file names include a tokenizer's."""
    return WHOLE_TOKENIZER in names or {"vocab.json", "merges.txt"} <= set(names)


def _in_folder(folder: Path, *, revision: str) -> CheckpointFiles:
    names = file_names(folder)
    if not names & {CONFIG, OPEN_CLIP_CONFIG}:
        return _of_file(_only_weights(folder, names))
    weights = _choose_weights(names, str(folder), folder)
    paths = (folder / weights.name,)
    if weights.name.endswith(".index.json"):
        shards = read_index(paths[0])
        _refuse_absent([shard for shard in shards if shard not in names], str(paths[0]))
        paths = tuple(folder / shard for shard in shards)
    return _with_folder(folder, names, revision, weights.config, paths, weights.kind)


def _with_folder(
    folder: Path, names: Collection[str], revision: str, config: str, weights: tuple[Path, ...], kind: FileKind
) -> CheckpointFiles:
    """Weights with the configuration, tokenizer and normalisation of their folder."""
    sources = (config,) if config == OPEN_CLIP_CONFIG else PREPROCESSOR
    normalization = next((folder / name for name in sources if name in names), None)
    tokenizer = folder if has_tokenizer(names) else CLIPS_TOKENIZER
    return CheckpointFiles(folder, revision, folder / config, weights, kind, tokenizer, normalization)


def _only_weights(folder: Path, names: Collection[str]) -> Path:
    """The only file of weights in a folder without configuration."""
    found = sorted(name for name in names if Path(name).suffix.lower() in _SUFFIXES)
    if len(found) == 1:
        return folder / found[0]
    below = [path for path in sorted([*folder.glob("*/"), *folder.glob("snapshots/*/")]) if looks_like_clip(path)]
    several = f"; of its files of weights give the path of one: {', '.join(found)}" if found else ""
    several += f"; a CLIP is in {' and in '.join(map(str, below))}" if below else ""
    raise FileNotFoundError(
        f"{folder} holds no {CONFIG} and no {OPEN_CLIP_CONFIG}; expected a CLIP in the layout of the Hub or of "
        f"open_clip, or one file of weights ({', '.join(_SUFFIXES)}){several}"
    )


def _of_file(path: Path) -> CheckpointFiles:
    """One file of weights, with the configuration beside it if that is a CLIP's."""
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise FileNotFoundError(
            f"{path} is no file of weights; expected {', '.join(_SUFFIXES)}, or a folder that holds a CLIP"
        )
    if kind == "pytorch" and not _has_torch():
        raise ModuleNotFoundError(_needs_torch(f"{path} is a file of PyTorch's"))
    folder, names = path.parent, file_names(path.parent)
    layouts = {weights.name: weights.config for weights in _WEIGHTS}
    for config in (layouts[path.name],) if path.name in layouts else (OPEN_CLIP_CONFIG, CONFIG):
        if config in names and (config == OPEN_CLIP_CONFIG or read_json(folder / config).get("model_type") == "clip"):
            return _with_folder(folder, names, "", config, (path,), kind)
    return CheckpointFiles(folder, "", None, (path,), kind, CLIPS_TOKENIZER, None)


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _needs_torch(reason: str) -> str:
    return (
        f"{reason}, which needs PyTorch to read: `pip install torch`, or convert it once where PyTorch is installed "
        "(`mpafer-jax clip convert`) and use the folder that this writes"
    )


def _choose_weights(names: Collection[str], owner: str, configs: Path) -> _Weights:
    """The first of `_WEIGHTS` that exists with its configuration.

    Args:
      names: of all files.
      owner: the folder or repository in errors.
      configs: folder of the configurations among `names`.
    """
    # A repository of timm has a config.json of the image tower alone, beside open_clip's files of both towers.
    timms = {CONFIG, OPEN_CLIP_CONFIG} <= set(names) and "model_type" not in read_json(configs / CONFIG)
    usable = [w for w in _WEIGHTS if w.config in names and not (timms and w.config == CONFIG)]
    for weights in usable:
        if weights.name not in names:
            continue
        if weights.kind == "pytorch" and not _has_torch():
            raise ModuleNotFoundError(_needs_torch(f"{owner} holds its weights only as {weights.name}"))
        return weights
    raise FileNotFoundError(f"{owner} holds no weights; expected one of {', '.join(w.name for w in usable)}")


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


def _refuse_names(name: str, path: Path) -> None:
    """Raises for a name that is neither on this machine nor can be a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name in _OPENAIS_RESNETS:
        raise ValueError(
            f"CLIP {name!r} of OpenAI has a ResNet as image tower; only vision transformers are read: "
            f"{', '.join(OPENAI)}"
        )
    if path.suffix.lower() in _SUFFIXES:
        raise FileNotFoundError(f"CLIP {name!r}: there is no such file")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(
            f"CLIP {name!r}: there is no such file or folder, and it cannot be a repository of the Hub either ({error})"
        ) from None


def _cached(name: str, revision: str, cache_dir: str | None) -> tuple[CheckpointFiles | None, str]:
    """The checkpoint in the Hub's cache; or None and the name of a missing file."""
    from huggingface_hub import try_to_load_from_cache

    def look_up(file: str) -> object:
        return try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)

    configs = [Path(found) for file in (OPEN_CLIP_CONFIG, CONFIG) if isinstance(found := look_up(file), str)]
    if not configs:
        return None, CONFIG
    # Another program may have cached a part of the repository: require each file, or the cache's record that the
    # repository has none.
    if configs[0].name == CONFIG:
        if "model_type" not in read_json(configs[0]):  # of timm's image tower; the repository may have both towers
            return None, OPEN_CLIP_CONFIG
        if all(look_up(file) is None for file in PREPROCESSOR):
            return None, PREPROCESSOR[0]
    snapshot = configs[0].parent
    if not has_tokenizer(file_names(snapshot)) and look_up(WHOLE_TOKENIZER) is None:
        return None, TOKENIZER[0]
    try:
        return _in_folder(snapshot, revision=snapshot.name), ""
    except (FileNotFoundError, ModuleNotFoundError):  # the Hub may have the rest, or weights in another format
        return None, _WEIGHTS[0].name


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
            f"{label}: there is no such file or folder here and no such repository on the Hub ({constants.ENDPOINT}), "
            f"or it is private and you are not logged in (`hf auth login`). Check the name, or give a folder."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{label}: the Hub has the repository but not this revision") from error
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of its HTTP client, which differs by release
    ) as error:
        raise FileNotFoundError(
            f"{label}: there is no such file or folder here; {_cached(name, revision, cache_dir)[1]} is not in the "
            f"Hub's cache ({cache_dir or constants.HF_HUB_CACHE}) and was not received from {constants.ENDPOINT}: "
            f"{error}{did_you_mean(name, (*OPENAI, *SHIPPED))}\n{_HOW_TO_PROVIDE.format(name=name)}"
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
    configs = names & {CONFIG, OPEN_CLIP_CONFIG}
    if not configs:
        raise FileNotFoundError(f"{owner} holds no {CONFIG} and no {OPEN_CLIP_CONFIG}; expected a CLIP")

    def download(revision: str, *files: str) -> Path:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=list(files))
        )

    snapshot = download(revision, *configs, *TOKENIZER, *PREPROCESSOR)
    commit = snapshot.name  # pins later downloads if the branch moves meanwhile
    weights = _choose_weights(names, owner, snapshot)
    download(commit, weights.name)
    for file, absent in ((PREPROCESSOR[0], not names & {*PREPROCESSOR}), (WHOLE_TOKENIZER, not has_tokenizer(names))):
        if absent:
            with contextlib.suppress(EntryNotFoundError):  # records in the cache that it does not exist
                huggingface_hub.hf_hub_download(name, file, revision=commit, cache_dir=cache_dir)
    if weights.name.endswith(".index.json"):
        shards = read_index(snapshot / weights.name)
        _refuse_absent([shard for shard in shards if shard not in names], f"{weights.name} of {owner}")
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


def conversion_record(config: Path, weights: Iterable[Path], content_hash: str) -> dict[str, str]:
    """What config.json of a converted CLIP says under `CONVERTED`: its source's hash, and a hash of the result."""
    fields = {name: value for name, value in read_json(config).items() if name != CONVERTED}
    result = f"{json.dumps(fields, sort_keys=True)} {hash_files(weights)}"
    return {"content_hash": content_hash, "result": hashlib.sha256(result.encode()).hexdigest()}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      ValueError: the file holds no JSON object.
    """
    try:
        value: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return cast("dict[str, Any]", value)
