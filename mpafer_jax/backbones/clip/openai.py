"""What files of OpenAI's program and of open_clip say of a CLIP, and what is known of those that say less."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mpafer_jax.backbones.base import Color
from mpafer_jax.backbones.clip.model import LARGEST_ID, ClipConfig, TextConfig, VisionConfig
from mpafer_jax.backbones.clip.rules import RULES, Array, Format
from mpafer_jax.backbones.files import read_json
from mpafer_jax.backbones.other_encoders import fields as marks
from mpafer_jax.backbones.other_encoders import refuse_others

OPENAI_MEAN: Color = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Color = (0.26862954, 0.26130258, 0.27577711)

HEAD_WIDTH = 64  # in all of OpenAI's

_EPS = 1e-5
# Wider image towers, which are not OpenAI's, have wider heads: ViT-H/14 80, ViT-g/14 88.
_WIDEST = 1024

# Tensors that only OpenAI's archives have, or only FaRL's, which keeps OpenAI's activation and normalisation.
_OPENAIS = ("input_resolution", "visual.mask_token")
_ACTIVATIONS = {True: "quick_gelu", False: "gelu"}

# Fields of open_clip's model_cfg: those that are read, and those that do not change what a trained model computes.
_READ = {
    "": ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu"),
    "vision_cfg": ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"),
    "text_cfg": ("context_length", "vocab_size", "width", "layers", "heads", "mlp_ratio"),
}
_OF_TRAINING = {
    "": ("init_logit_scale", "nonscalar_logit_scale", "cast_dtype", "output_dict", "custom_text"),
    "vision_cfg": ("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"),
    "text_cfg": ("tokenizer_kwargs", "tokenizer_mode", "tokenizer_type", "output_tokens", "pad_id"),
}
_OF_OTHERS = ("timm_", "hf_")  # starts of fields of towers that are none of CLIP's, which `refuse_others` has refused
# The others as in CLIP; a field that is not here has to be absent, false or empty.
_AS_IN_CLIP = {
    ("vision_cfg", "pool_type"): "tok",
    ("vision_cfg", "pos_embed_type"): "learnable",
    ("text_cfg", "pool_type"): "argmax",
    ("text_cfg", "proj_type"): "linear",
    ("text_cfg", "text_arch"): "clip",
}


def is_openais(tensors: Mapping[str, Array]) -> bool:
    """Whether the tensors are of an archive of OpenAI's or of FaRL, both with QuickGELU and OpenAI's normalisation."""
    return any(name in tensors for name in _OPENAIS)


def activation_in(code: str) -> str:
    """The activation that a TorchScript archive's code defines, 'quick_gelu' or 'gelu'; '' if neither or both."""
    found = [name for name, module in (("quick_gelu", "QuickGELU"), ("gelu", "GELU")) if f"class {module}(" in code]
    return found[0] if len(found) == 1 else ""


def infer_config(tensors: Mapping[str, Array], file_format: Format, activation: str, source: str) -> ClipConfig:
    """The shape of a CLIP from its tensors' shapes, with OpenAI's number of heads, a 64th of the width.

    Args:
      tensors: by name; those of `RULES` that the shape needs.
      file_format: of their names.
      activation: of both towers.
      source: the checkpoint in errors.

    Raises:
      ValueError: tensors are missing, or the number of heads cannot be known.
    """
    rules = {rule.path: rule for rule in RULES}

    def shape(path: str) -> tuple[int, ...]:
        name = rules[path].names(file_format, 1)[0]
        if name not in tensors:
            raise ValueError(
                f"{source} has no tensor {name}, so it holds no whole CLIP; it has "
                f"{', '.join(list(tensors)[:5]) or 'none'}{', ..' if len(tensors) > 5 else ''}"
            )
        return rules[path].from_file(tensors[name], file_format).shape

    def layers(tower: str) -> int:
        rule, number = rules[f"{tower}/blocks/ln_1/scale"], 0
        while rule.names(file_format, number + 1)[number] in tensors:
            number += 1
        return number

    patch, _, _, width = shape("visual/patch_embedding/kernel")
    positions = shape("visual/position_embedding")[0]
    side = math.isqrt(positions - 1)
    if side**2 != positions - 1:
        raise ValueError(f"{source} has {positions} positions in its image tower, expected 1 and a square number")
    if width > _WIDEST:
        raise ValueError(
            f"{source} has an image tower {width} wide, whose number of heads the file alone does not say; put its "
            "open_clip_config.json beside it, or take the checkpoint from the Hub"
        )
    vocabulary, text_width = shape("text/token_embedding/embedding")
    heads: dict[str, int] = {}
    for tower, size in (("image", width), ("text", text_width)):
        if size % HEAD_WIDTH:
            raise ValueError(
                f"{source} has a {tower} tower {size} wide, which is no multiple of the {HEAD_WIDTH} of OpenAI's "
                "heads; put an open_clip_config.json or config.json beside it that says the number of heads"
            )
        heads[tower] = size // HEAD_WIDTH
    return ClipConfig(
        vision=VisionConfig(
            hidden_size=width,
            intermediate_size=shape("visual/blocks/mlp/fc1/kernel")[1],
            num_layers=layers("visual"),
            num_heads=heads["image"],
            image_size=side * patch,
            patch_size=patch,
            hidden_act=activation,
            layer_norm_eps=_EPS,
        ),
        text=TextConfig(
            vocab_size=vocabulary,
            hidden_size=text_width,
            intermediate_size=shape("text/blocks/mlp/fc1/kernel")[1],
            num_layers=layers("text"),
            num_heads=heads["text"],
            max_position_embeddings=shape("text/position_embedding")[0],
            eos_token_id=LARGEST_ID,  # in OpenAI's program and open_clip
            hidden_act=activation,
            layer_norm_eps=_EPS,
        ),
        projection_dim=shape("visual/projection/kernel")[1],
    )


def read_open_clip_config(path: Path) -> ClipConfig:
    """Shape of a CLIP from open_clip_config.json; absent fields have open_clip's defaults.

    Raises:
      ValueError: it is no such file, or describes another architecture than CLIP's.
    """
    raw = read_json(path)
    model = raw.get("model_cfg")
    if not isinstance(model, dict):
        raise ValueError(f"{path} has no model_cfg; expected open_clip's configuration of a model")
    fields = cast("dict[str, Any]", model)
    sections = {"": fields, **{name: _section(fields, name, path) for name in ("vision_cfg", "text_cfg")}}
    refuse_others(marks(*sections.values()), str(path))
    if problems := list(_unsupported(sections)):
        raise ValueError(
            f"{path} describes a CLIP that is not supported; it sets {', '.join(problems)}. Read are CLIPs of OpenAI's "
            "architecture"
        )

    def number(section: str, name: str, default: float | None = None) -> Any:
        value = sections[section].get(name, default)
        if name == "image_size" and isinstance(value, list) and len(set(cast("list[int]", value))) == 1:
            value = cast("list[Any]", value)[0]
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{path}: {section}.{name} is {value!r}, expected a number".replace(": .", ": "))
        return value

    activation = _ACTIVATIONS[bool(fields.get("quick_gelu"))]
    width, text_width = number("vision_cfg", "width", 768), number("text_cfg", "width", 512)
    head_width = number("vision_cfg", "head_width", HEAD_WIDTH)
    heads, text_heads = width // head_width, number("text_cfg", "heads", 8)
    if not heads or width % heads or text_width % text_heads:
        raise ValueError(
            f"{path}: the towers' widths {width} and {text_width} are no multiples of their heads, {heads} and "
            f"{text_heads}"
        )
    return ClipConfig(
        vision=VisionConfig(
            hidden_size=width,
            intermediate_size=int(width * number("vision_cfg", "mlp_ratio", 4)),
            num_layers=number("vision_cfg", "layers", 12),
            num_heads=heads,
            image_size=number("vision_cfg", "image_size", 224),
            patch_size=number("vision_cfg", "patch_size", 16),
            hidden_act=activation,
            layer_norm_eps=_EPS,
        ),
        text=TextConfig(
            vocab_size=number("text_cfg", "vocab_size", 49408),
            hidden_size=text_width,
            intermediate_size=int(text_width * number("text_cfg", "mlp_ratio", 4)),
            num_layers=number("text_cfg", "layers", 12),
            num_heads=text_heads,
            max_position_embeddings=number("text_cfg", "context_length", 77),
            eos_token_id=LARGEST_ID,  # in OpenAI's program and open_clip
            hidden_act=activation,
            layer_norm_eps=_EPS,
        ),
        projection_dim=number("", "embed_dim"),
    )


def open_clip_normalization(path: Path) -> dict[str, Any]:
    """'image_mean' and 'image_std' in open_clip_config.json, not checked; OpenAI's where it has none."""
    fields = _section(read_json(path), "preprocess_cfg", path)
    return {
        "image_mean": fields.get("mean") or list(OPENAI_MEAN),
        "image_std": fields.get("std") or list(OPENAI_STD),
    }


def _section(fields: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value: object = fields.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {name} is {value!r}, expected an object")
    return cast("dict[str, Any]", value)


def _unsupported(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for section, fields in sections.items():
        for name, value in fields.items():
            known = name in (*_READ[section], *_OF_TRAINING[section]) or name.startswith(_OF_OTHERS)
            if not known and value and value != _AS_IN_CLIP.get((section, name)):
                yield f"{section}.{name} = {value!r}".lstrip(".")
