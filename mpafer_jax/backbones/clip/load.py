"""Loads a pretrained CLIP: configuration, parameters, and what its images and texts must look like."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, cast

from mpafer_jax.backbones.clip.model import ClipConfig, TextConfig, VisionConfig
from mpafer_jax.backbones.clip.read import hash_files, read_tensors
from mpafer_jax.backbones.clip.rules import DTYPES, Params, to_params
from mpafer_jax.backbones.clip.transformer import ACTIVATIONS
from mpafer_jax.backbones.files import find_files, find_local_files
from mpafer_jax.backbones.hub_library import import_transformers

Color = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class PretrainedClip:
    """A CLIP as it was published.

    Attributes:
      name: as asked for, a folder or a repository of the Hub.
      revision: the Hub's commit, or '' for a folder.
      content_hash: SHA-256 over config.json and the weights' files.
      config: the shape.
      params: nested dictionary of NumPy arrays, for `CLIP(config).apply({'params': params}, ...)`.
      image_mean: mean of the images' R, G, B, of values in 0..1; None where the checkpoint does not say.
      image_std: their standard deviation, likewise.
      tokenizer_folder: where `tokenizer.load_tokenizer` finds the tokenizer.
    """

    name: str
    revision: str
    content_hash: str
    config: ClipConfig
    params: Params = dataclasses.field(repr=False)
    image_mean: Color | None
    image_std: Color | None
    tokenizer_folder: Path


def load_clip(name: str, *, revision: str = "main", cache_dir: str = "", dtype: str = "float32") -> PretrainedClip:
    """Loads a CLIP that ships with the package, from a local folder, or from a repository on the Hub.

    No network is used where the Hub's cache holds the repository; see `files.find_files`.

    Args:
      name: 'tiny-face-clip', a folder in the Hub's layout, or a repository such as 'openai/clip-vit-base-patch16'.
      revision: branch, tag or commit of a repository.
      cache_dir: the Hub's cache; '' for the environment's.
      dtype: type of the image tower's parameters, 'float32', 'bfloat16' or 'float16'; all others are float32.

    Raises:
      FileNotFoundError: something of the checkpoint is nowhere to be found.
      ModuleNotFoundError: the only weights are PyTorch's, and torch is not installed.
      ValueError: a file is not what it should be, or `dtype` is unknown; the error names the file and what it found.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype of CLIP's weights is {dtype!r}, expected one of {', '.join(DTYPES)}")
    files = find_files(name, revision=revision, cache_dir=cache_dir)
    config = read_config(files.config)
    image_mean, image_std = read_normalization(files.preprocessor) if files.preprocessor else (None, None)
    with futures.ThreadPoolExecutor(1) as pool:
        content_hash = pool.submit(hash_files, [files.config, *files.weights])  # as long as all the rest
        params = to_params(
            read_tensors(files.weights, files.kind),
            config,
            "flax" if files.kind == "flax" else "pytorch",
            dtype=dtype,
            source=str(files.weights[0] if len(files.weights) == 1 else files.folder),
        )
    return PretrainedClip(
        name=name,
        revision=files.revision,
        content_hash=content_hash.result(),
        config=config,
        params=params,
        image_mean=image_mean,
        image_std=image_std,
        tokenizer_folder=files.folder,
    )


@functools.cache  # a sweep asks of every one of its runs, and large files take seconds
def local_content_hash(name: str, *, revision: str, cache_dir: str) -> str | None:
    """A CLIP's `PretrainedClip.content_hash` without loading it, or None where it is not on this machine.

    Raises:
      FileNotFoundError, ModuleNotFoundError, ValueError: as for `load_clip`.
    """
    files = find_local_files(name, revision=revision, cache_dir=cache_dir)
    return None if files is None else hash_files([files.config, *files.weights])


def read_config(path: Path) -> ClipConfig:
    """Reads the shape of a CLIP from config.json; fields that it leaves out get transformers' defaults.

    Raises:
      ValueError: it is no JSON, of another model type, or says what our towers cannot do.
    """
    raw = _read_json(path)
    if raw.get("model_type") != "clip":
        raise ValueError(
            f"{path}: model_type is {raw.get('model_type')!r}, supported is 'clip' "
            "(OpenAI's CLIP ViT-B/32, B/16, L/14, L/14@336 and others of that architecture, such as LAION's)"
        )
    transformers = import_transformers()
    from huggingface_hub.errors import StrictDataclassError

    try:
        full = transformers.CLIPConfig.from_dict(raw)
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no valid configuration of a CLIP: {error}") from error
    problems = list(_unsupported(full))
    if problems:
        raise ValueError(f"{path} describes a CLIP that is not supported: {'; '.join(problems)}")
    vision, text = full.vision_config, full.text_config
    return ClipConfig(
        vision=VisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_layers=vision.num_hidden_layers,
            num_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_act=vision.hidden_act,
            layer_norm_eps=vision.layer_norm_eps,
        ),
        text=TextConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_layers=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            max_position_embeddings=text.max_position_embeddings,
            eos_token_id=text.eos_token_id,
            hidden_act=text.hidden_act,
            layer_norm_eps=text.layer_norm_eps,
        ),
        projection_dim=full.projection_dim,
    )


def _unsupported(config: Any) -> Iterator[str]:
    """What a valid configuration says that our towers cannot do."""
    for tower in ("vision_config", "text_config"):
        activation = getattr(config, tower).hidden_act
        if activation not in ACTIVATIONS:
            yield f"{tower}.hidden_act is {activation!r}, expected one of {', '.join(sorted(ACTIVATIONS))}"
    integers = {
        "projection_dim": config.projection_dim,
        "vision_config.image_size": config.vision_config.image_size,
        "vision_config.patch_size": config.vision_config.patch_size,
        "text_config.eos_token_id": config.text_config.eos_token_id,
    }
    for field, value in integers.items():
        if not isinstance(value, int):
            yield f"{field} is {value!r}, expected one integer"
    if config.vision_config.num_channels != 3:
        yield f"vision_config.num_channels is {config.vision_config.num_channels}, expected 3"


def read_normalization(path: Path) -> tuple[Color, Color]:
    """Reads the images' mean and standard deviation.

    Args:
      path: preprocessor_config.json, or transformers 5's processor_config.json.

    Returns:
      Mean and standard deviation of R, G, B, of values in 0..1.

    Raises:
      ValueError: the file does not hold three numbers for each, or a standard deviation is not positive.
    """
    raw = _read_json(path)
    nested = raw.get("image_processor")
    fields = cast("dict[str, Any]", nested) if isinstance(nested, dict) else raw
    mean, std = _color(fields, "image_mean", path), _color(fields, "image_std", path)
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(
            f"{path}: image_mean is {list(mean)}, image_std {list(std)}; expected finite numbers, the latter positive"
        )
    return mean, std


def _color(fields: dict[str, Any], field: str, path: Path) -> Color:
    value = fields.get(field)
    if isinstance(value, list):
        numbers = [float(x) for x in cast("list[Any]", value) if isinstance(x, int | float)]
        if len(numbers) == len(cast("list[Any]", value)) == 3:
            return (numbers[0], numbers[1], numbers[2])
    raise ValueError(f"{path}: {field} is {value!r}, expected three numbers (for R, G, B)")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return cast("dict[str, Any]", value)
