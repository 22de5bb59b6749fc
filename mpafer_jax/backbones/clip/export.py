"""Writes a CLIP in the Hub's layout, readable by transformers."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpafer_jax.backbones.clip.model import ClipConfig
from mpafer_jax.backbones.clip.rules import Params, flatten, param_shapes, to_tensors
from mpafer_jax.backbones.clip.tokenizer import copy_tokenizer, load_tokenizer
from mpafer_jax.backbones.files import CONFIG, CONVERTED, PREPROCESSOR, conversion_record, read_json
from mpafer_jax.backbones.hub_library import import_transformers
from mpafer_jax.runtime.arrays import mismatches
from mpafer_jax.runtime.files import write_json
from mpafer_jax.runtime.finite import not_finite


def save_clip(
    folder: Path | str,
    *,
    config: ClipConfig,
    params: Params,
    tokenizer_folder: Path | str,
    image_mean: Sequence[float] | None,
    image_std: Sequence[float] | None,
    grayscale: bool = False,
    converted_from: str = "",
) -> Path:
    """Writes config.json, model.safetensors, preprocessor_config.json and the tokenizer's files.

    `registry.load_backbone` reads back identical parameters; transformers' `CLIPModel.from_pretrained` finds exactly
    the tensors it expects.

    Args:
      folder: new or empty; created atomically.
      params: as `CLIP.init` gives under 'params', float32, bfloat16 or float16.
      tokenizer_folder: as for `tokenizer.load_tokenizer`.
      image_mean, image_std: mean and standard deviation of R, G, B in 0..1; None, if unknown, leaves out
        preprocessor_config.json.
      grayscale: whether images are to be made grey before, also there.
      converted_from: content hash of the CLIP that this is a conversion of, which becomes its own; ''.

    Returns:
      The folder.

    Raises:
      FileExistsError: the folder is not empty.
      FileNotFoundError: the tokenizer is missing.
      ValueError: parameters do not fit the configuration or are not finite, or the tokenizer has more tokens than the
        text tower.
    """
    import safetensors.numpy

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already; a CLIP is written into a new or empty folder only")
    tokenizer = load_tokenizer(tokenizer_folder)
    if tokenizer.vocab_size > config.text.vocab_size:
        raise ValueError(
            f"the tokenizer in {tokenizer_folder} has {tokenizer.vocab_size} tokens, "
            f"the text tower only {config.text.vocab_size}"
        )
    tensors = to_tensors(params)
    _check_shapes(params, config)
    preprocessor = _hub_preprocessor(config, image_mean, image_std) if image_mean and image_std else None
    if preprocessor and grayscale:
        preprocessor["do_grayscale"] = True
    folder = folder.absolute()  # "." has no name
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        write_json(temporary / CONFIG, _hub_config(config, tokenizer.sos_id, tokenizer.eos_id))
        if preprocessor:
            write_json(temporary / PREPROCESSOR[0], preprocessor)
        # transformers refuses a file without the metadata "format".
        weights = temporary / "model.safetensors"
        safetensors.numpy.save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod((temporary / CONFIG).stat().st_mode)  # safetensors writes with mode 0600
        if converted_from:
            record = conversion_record(temporary / CONFIG, [weights], converted_from)
            write_json(temporary / CONFIG, {**read_json(temporary / CONFIG), CONVERTED: record})
        copy_tokenizer(Path(tokenizer_folder), temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _check_shapes(params: Params, config: ClipConfig) -> None:
    flat = flatten(params)
    problems = mismatches(
        {path: list(np.shape(array)) for path, array in flat.items()},
        {path: list(shape) for path, shape in param_shapes(config).items()},
    )
    problems += [f"NaN or infinite numbers: {name}" for name in not_finite(flat)]
    if problems:
        raise ValueError("parameters do not fit the configuration:\n  " + "\n  ".join(problems))


def _hub_config(config: ClipConfig, sos_id: int, eos_id: int) -> dict[str, Any]:
    """config.json in transformers' format."""
    vision, text = config.vision, config.text
    hub = import_transformers().CLIPConfig(
        architectures=["CLIPModel"],
        projection_dim=config.projection_dim,
        vision_config={
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_act": vision.hidden_act,
            "layer_norm_eps": vision.layer_norm_eps,
            "projection_dim": config.projection_dim,
        },
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "max_position_embeddings": text.max_position_embeddings,
            "eos_token_id": text.eos_token_id,
            "bos_token_id": sos_id,
            "pad_token_id": eos_id,
            "hidden_act": text.hidden_act,
            "layer_norm_eps": text.layer_norm_eps,
            "projection_dim": config.projection_dim,
        },
    )
    return json.loads(hub.to_json_string())


def _hub_preprocessor(config: ClipConfig, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """preprocessor_config.json in the format of transformers' CLIPImageProcessor."""
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"image_mean {list(mean)} and image_std {list(std)} must be three numbers each")
    size = config.vision.image_size
    return {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [float(x) for x in mean],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [float(x) for x in std],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }
