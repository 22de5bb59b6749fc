"""Loads a pretrained CLIP: configuration, parameters, image normalisation and tokenizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, cast

from absl import logging

from mpafer_jax.backbones.base import Color, Pretrained
from mpafer_jax.backbones.clip.model import CLIP, LARGEST_ID, ClipConfig, TextConfig, VisionConfig
from mpafer_jax.backbones.clip.openai import (
    HEAD_WIDTH,
    OPENAI_MEAN,
    OPENAI_STD,
    activation_in,
    infer_config,
    is_openais,
    open_clip_normalization,
    read_open_clip_config,
)
from mpafer_jax.backbones.clip.read import read_tensors, torchscript_code
from mpafer_jax.backbones.clip.rules import Array, Format, format_of, to_params
from mpafer_jax.backbones.clip.tokenizer import CLIPS_VOCABULARY, Tokenizer, load_tokenizer
from mpafer_jax.backbones.clip.transformer import ACTIVATIONS
from mpafer_jax.backbones.files import CLIPS_TOKENIZER, OPEN_CLIP_CONFIG, CheckpointFiles, read_json
from mpafer_jax.backbones.hub_library import import_transformers
from mpafer_jax.backbones.other_encoders import refuse_others

# What a config.json leaves out is as in transformers, which is not asked since it takes seconds to import.
_BOTH = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_VISION = {
    **_BOTH,
    **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    **{"num_channels": 3, "image_size": 224, "patch_size": 32},
}
_TEXT = {
    **_BOTH,
    **{"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    **{"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407},
}
_PROJECTION_DIM = 512


def load(files: CheckpointFiles, *, name: str, dtype: str) -> Pretrained:
    """Loads a CLIP; see `registry.load_backbone`.

    Raises:
      ModuleNotFoundError: the only weights are PyTorch's, and torch is not installed.
      ValueError: a file is invalid, or does not say the activation, which the user has to.
    """
    config = None if files.config is None else read_config(files.config)
    if config is not None:
        _check_activation(files, {config.vision.hidden_act, config.text.hidden_act})
    image_mean, image_std, grayscale = None, None, False
    if files.normalization is not None:
        image_mean, image_std, grayscale = read_normalization(files.normalization)
    with futures.ThreadPoolExecutor(1) as pool:
        content_hash = pool.submit(files.content_hash)  # takes as long as reading the weights
        if files.kind == "pytorch":
            import_transformers()  # before torch, which it would import too
        tensors = read_tensors(files.weights, files.kind)
        file_format: Format = "flax" if files.kind == "flax" else format_of(tensors)
        if config is None:
            refuse_others(tensors, files.source)
            config = infer_config(tensors, file_format, _activation(files, tensors), files.source)
            if files.openais or is_openais(tensors):
                image_mean, image_std = OPENAI_MEAN, OPENAI_STD
            else:
                logging.info(
                    "%s has no configuration: heads of %d numbers are assumed, as in OpenAI's CLIPs, %d in each layer "
                    "of the image tower and %d of the text tower; an open_clip_config.json or config.json beside the "
                    "file decides otherwise",
                    files.source,
                    HEAD_WIDTH,
                    config.vision.num_heads,
                    config.text.num_heads,
                )
        params = to_params(tensors, config, file_format, dtype=dtype, source=files.source)
    return Pretrained(
        name=name,
        revision=files.revision,
        content_hash=content_hash.result(),
        backbone=CLIP(config),
        params=params,
        image_mean=image_mean,
        image_std=image_std,
        load_tokenizer=functools.cache(functools.partial(_load_tokenizer, files, config.text)),
        grayscale=grayscale,
    )


def _activation(files: CheckpointFiles, tensors: Mapping[str, Array]) -> str:
    """The activation of weights without a configuration: as they show it, or as the user says."""
    known = "quick_gelu" if files.openais or is_openais(tensors) else activation_in(torchscript_code(files.weights[0]))
    if known:
        _check_activation(files, {known})
    if not (known or files.activation):
        raise ValueError(
            f"{files.source} does not say its activation, without which its features would be wrong: quick_gelu in "
            "CLIPs of OpenAI, MetaCLIP, DFN (not in its L/14 of 39 billion samples) and what was trained on from them, "
            "gelu in LAION's and DataComp's, except the ViT-B/32 of LAION-400M, whose file name says quickgelu. Set "
            "config.clip.activation (or --activation of `mpafer-jax clip convert`), or put an open_clip_config.json "
            "beside the file"
        )
    if not known and files.activation == "gelu" and "quickgelu" in files.weights[0].name.lower():
        raise ValueError(
            f"{files.source} is of a CLIP with quick_gelu, as its name says, and config.clip.activation says gelu; set "
            "that to quick_gelu, or rename the file if its name is wrong"
        )
    return known or files.activation


def _check_activation(files: CheckpointFiles, known: set[str]) -> None:
    if files.activation and known != {files.activation}:
        raise ValueError(
            f"{files.config or files.source} is of a CLIP with {' and '.join(sorted(known))}, "
            f"config.clip.activation says {files.activation}; leave that empty"
        )


def _load_tokenizer(files: CheckpointFiles, text: TextConfig) -> Tokenizer:
    vocab_size = text.vocab_size
    if files.tokenizer == CLIPS_TOKENIZER and vocab_size != CLIPS_VOCABULARY:
        raise FileNotFoundError(
            f"{files.folder} holds no tokenizer, and this CLIP with its {vocab_size} tokens does not have OpenAI's "
            f"vocabulary of {CLIPS_VOCABULARY}; expected vocab.json and merges.txt, or tokenizer.json, there"
        )
    tokenizer = load_tokenizer(files.tokenizer)
    # Ids of another vocabulary would give the embeddings of other words, or none, without an error.
    problems: list[str] = []
    if tokenizer.vocab_size > vocab_size:
        problems.append(f"has {tokenizer.vocab_size} tokens, the text tower only {vocab_size}")
    if text.eos_token_id not in (LARGEST_ID, tokenizer.eos_id):
        problems.append(f"ends a text with token {tokenizer.eos_id}, the configuration says {text.eos_token_id}")
    if problems:
        raise ValueError(
            f"the tokenizer in {files.tokenizer} {' and '.join(problems)}, so it is of another CLIP than "
            f"{files.source}; put this one's own vocab.json and merges.txt, or tokenizer.json, there"
        )
    return tokenizer


def read_config(path: Path) -> ClipConfig:
    """Reads the shape of a CLIP from config.json or open_clip_config.json, with defaults of transformers or open_clip.

    Raises:
      ValueError: it is no JSON, or the architecture is not supported.
    """
    if path.name == OPEN_CLIP_CONFIG:
        return read_open_clip_config(path)
    raw = read_json(path)
    vision, text = _tower(raw, "vision_config", _VISION, path), _tower(raw, "text_config", _TEXT, path)
    projection_dim = raw.get("projection_dim", _PROJECTION_DIM)
    problems = [*_problems("vision_config", vision), *_problems("text_config", text)]
    if not _is_count(projection_dim):
        problems.append(f"projection_dim is {projection_dim!r}, expected one positive integer")
    if problems:
        raise ValueError(f"{path} describes a CLIP that is not supported: {'; '.join(problems)}")
    return ClipConfig(VisionConfig(**_sizes(vision)), TextConfig(**_sizes(text)), projection_dim=projection_dim)


def _sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's fields by the names that they have in `VisionConfig` and `TextConfig`."""
    names = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
    return {names.get(field, field): value for field, value in fields.items() if field != "num_channels"}


def _tower(raw: dict[str, Any], name: str, defaults: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a tower. OpenAI's repositories have them twice; where NAME_dict is given, it counts alone."""
    fields: object = raw.get(name) if raw.get(f"{name}_dict") is None else raw[f"{name}_dict"]
    fields = {} if fields is None else fields
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: {name} is {fields!r}, expected a JSON object")
    return {
        **defaults,
        **{field: value for field, value in cast("dict[str, Any]", fields).items() if field in defaults},
    }


def _problems(tower: str, fields: dict[str, Any]) -> Iterator[str]:
    for field, value in fields.items():
        expected = ""
        if field == "hidden_act":
            expected = "" if value in [*ACTIVATIONS] else f"one of {', '.join(sorted(ACTIVATIONS))}"
        elif field == "layer_norm_eps":
            expected = "" if isinstance(value, float) and 0 < value < 1 else "a number between 0 and 1"
        elif field == "num_channels":
            expected = "" if value == 3 else "3"
        elif not (_is_count(value) or (field == "eos_token_id" and value == 0)):
            expected = "one positive integer"
        if expected:
            yield f"{tower}.{field} is {value!r}, expected {expected}"
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if _is_count(width) and _is_count(heads) and width % heads:
        yield f"{tower}.hidden_size is {width}, not a multiple of the number of attention heads, {heads}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def read_normalization(path: Path) -> tuple[Color, Color, bool]:
    """Reads the images' mean and standard deviation of R, G, B in 0..1, and whether they are made grey before.

    Args:
      path: preprocessor_config.json, transformers 5's processor_config.json, or open_clip_config.json.

    Raises:
      ValueError: not three numbers for each, a standard deviation is not positive, or `do_grayscale` is no truth value.
    """
    raw = open_clip_normalization(path) if path.name == OPEN_CLIP_CONFIG else read_json(path)
    nested = raw.get("image_processor")
    fields = cast("dict[str, Any]", nested) if isinstance(nested, dict) else raw
    mean, std = _color(fields, "image_mean", path), _color(fields, "image_std", path)
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(
            f"{path}: image_mean is {list(mean)}, image_std {list(std)}; expected finite numbers, the latter positive"
        )
    grayscale = fields.get("do_grayscale", False)
    if not isinstance(grayscale, bool):
        raise ValueError(f"{path}: do_grayscale is {grayscale!r}, expected true or false")
    return mean, std, grayscale


def _color(fields: dict[str, Any], field: str, path: Path) -> Color:
    value = fields.get(field)
    if isinstance(value, list):
        numbers = [float(x) for x in cast("list[Any]", value) if isinstance(x, int | float)]
        if len(numbers) == len(cast("list[Any]", value)) == 3:
            return (numbers[0], numbers[1], numbers[2])
    raise ValueError(f"{path}: {field} is {value!r}, expected three numbers (for R, G, B)")
