"""Maps tensors of a CLIP checkpoint to our parameters and back, by one table.

* ours: paths of `mpafer_jax.backbones.clip.model`, joined with '/'; a tower's K layers are stacked on a leading axis;
* 'pytorch': names of transformers' `CLIPModel` (model.safetensors, pytorch_model.bin); linear weights are [out, in],
  convolutions [out, in, rows, cols];
* 'flax': paths of transformers 4's `FlaxCLIPModel` (flax_model.msgpack), joined with '/'; layouts as ours.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from concurrent import futures
from typing import Any, Literal, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt
from flax import traverse_util

from mpafer_jax.backbones.clip.model import ClipConfig, TextConfig, VisionConfig
from mpafer_jax.runtime.workers import usable_cores

Format = Literal["pytorch", "flax"]
Array = npt.NDArray[Any]
Params = dict[str, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

# Constants 0, 1, 2, ... that old releases of transformers saved as buffers, in both formats.
IGNORED = ("*_model[./]embeddings[./]position_ids",)

_READABLE = ("float32", "float16", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A tensor of a module: its name in each naming, '' if it has the module's name.

    `axes` permutes our layout into PyTorch's; `only_last`: its shape is the last of the module's sizes.
    """

    ours: str
    pytorch: str
    flax: str
    axes: tuple[int, ...] | None = None
    only_last: bool = False


_BIAS = _Leaf("bias", "bias", "bias", only_last=True)
_KINDS: dict[str, tuple[_Leaf, ...]] = {
    "linear": (_Leaf("kernel", "weight", "kernel", axes=(1, 0)), _BIAS),
    "projection": (_Leaf("kernel", "weight", "kernel", axes=(1, 0)),),
    "conv": (_Leaf("kernel", "weight", "kernel", axes=(3, 2, 0, 1)),),
    "norm": (_Leaf("scale", "weight", "scale"), _BIAS),
    "embedding": (_Leaf("embedding", "weight", "embedding"),),
    "table": (_Leaf("", "weight", "embedding"),),
    "parameter": (_Leaf("", "", ""),),
}

# Rows: (kind, our module, the Hub's module, sizes in our layout). Sizes: W width, I width of the MLP, D joint space,
# P patch side, T positions (for images including the class position), V vocabulary.
_Row = tuple[str, str, str, tuple[str | int, ...]]
_LAYER: tuple[_Row, ...] = (
    ("norm", "ln_1", "layer_norm1", ("W",)),
    ("linear", "attn/q_proj", "self_attn.q_proj", ("W", "W")),
    ("linear", "attn/k_proj", "self_attn.k_proj", ("W", "W")),
    ("linear", "attn/v_proj", "self_attn.v_proj", ("W", "W")),
    ("linear", "attn/out_proj", "self_attn.out_proj", ("W", "W")),
    ("norm", "ln_2", "layer_norm2", ("W",)),
    ("linear", "mlp/fc1", "mlp.fc1", ("W", "I")),
    ("linear", "mlp/fc2", "mlp.fc2", ("I", "W")),
)
_TABLE: dict[str, tuple[_Row, ...]] = {
    "visual": (
        ("parameter", "visual/class_embedding", "vision_model.embeddings.class_embedding", ("W",)),
        ("conv", "visual/patch_embedding", "vision_model.embeddings.patch_embedding", ("P", "P", 3, "W")),
        ("table", "visual/position_embedding", "vision_model.embeddings.position_embedding", ("T", "W")),
        ("norm", "visual/ln_pre", "vision_model.pre_layrnorm", ("W",)),  # the Hub's spelling
        *((k, f"visual/blocks/{o}", f"vision_model.encoder.layers.{{layer}}.{h}", s) for k, o, h, s in _LAYER),
        ("norm", "visual/ln_post", "vision_model.post_layernorm", ("W",)),
        ("projection", "visual/projection", "visual_projection", ("W", "D")),
    ),
    "text": (
        ("embedding", "text/token_embedding", "text_model.embeddings.token_embedding", ("V", "W")),
        ("table", "text/position_embedding", "text_model.embeddings.position_embedding", ("T", "W")),
        *((k, f"text/blocks/{o}", f"text_model.encoder.layers.{{layer}}.{h}", s) for k, o, h, s in _LAYER),
        ("norm", "text/ln_final", "text_model.final_layer_norm", ("W",)),
        ("projection", "text/projection", "text_projection", ("W", "D")),
        ("parameter", "logit_scale", "logit_scale", ()),
    ),
}

_BAND = 32  # columns
_OPENAIS = "visual.class_embedding"  # in OpenAI's and open_clip's format
_SHOWN = 5  # tensor names in an error


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of our parameters and its tensors in a checkpoint.

    Attributes:
      path: ours, e.g. 'visual/blocks/mlp/fc1/kernel'.
      tower: 'visual' or 'text'.
      pytorch, flax: names in a checkpoint, with '{layer}' if K layers are stacked in ours.
      axes: permutation from our layout (of one layer) to PyTorch's; None for the same layout.
      sizes: symbolic sizes in our layout, without the layer axis.
    """

    path: str
    tower: str
    pytorch: str
    flax: str
    axes: tuple[int, ...] | None
    sizes: tuple[str | int, ...]

    @property
    def stacked(self) -> bool:
        """Whether ours stacks the tensors of all layers."""
        return "{layer}" in self.pytorch

    def names(self, file_format: Format, num_layers: int) -> list[str]:
        """Names in a checkpoint, one per layer if stacked."""
        template = self.pytorch if file_format == "pytorch" else self.flax
        return [template.format(layer=layer) for layer in range(num_layers)] if self.stacked else [template]

    def shape(self, config: ClipConfig) -> tuple[int, ...]:
        """Our shape, without the layer axis."""
        sizes = _sizes(config.vision if self.tower == "visual" else config.text, config.projection_dim)
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.sizes)

    def to_file(self, array: Array, file_format: Format) -> Array:
        """Converts one layer's array to the layout of `file_format`."""
        return array.transpose(self.axes) if self.axes and file_format == "pytorch" else array

    def from_file(self, array: Array, file_format: Format) -> Array:
        """Inverse of `to_file`."""
        if not self.axes or file_format == "flax":
            return array
        return array.transpose([int(axis) for axis in np.argsort(self.axes)])


def _rules() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for tower, rows in _TABLE.items():
        for kind, ours, hub, sizes in rows:
            for leaf in _KINDS[kind]:
                path = f"{ours}/{leaf.ours}" if leaf.ours else ours
                pytorch = f"{hub}.{leaf.pytorch}" if leaf.pytorch else hub
                flax = f"{hub}.{leaf.flax}".strip(".").replace(".", "/")
                rules.append(Rule(path, tower, pytorch, flax, leaf.axes, sizes[-1:] if leaf.only_last else sizes))
    return tuple(rules)


RULES = _rules()


def _sizes(tower: VisionConfig | TextConfig, projection_dim: int) -> dict[str, int]:
    sizes = {"W": tower.hidden_size, "I": tower.intermediate_size, "D": projection_dim}
    if isinstance(tower, VisionConfig):
        return {**sizes, "P": tower.patch_size, "T": 1 + tower.num_patches}
    return {**sizes, "V": tower.vocab_size, "T": tower.max_position_embeddings}


def _num_layers(rule: Rule, config: ClipConfig) -> int:
    return (config.vision if rule.tower == "visual" else config.text).num_layers


def flatten(tree: Params) -> dict[str, Any]:
    """Flattens a nested dictionary to paths joined with '/'."""
    return cast("dict[str, Any]", traverse_util.flatten_dict(tree, sep="/"))


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return cast("Params", traverse_util.unflatten_dict(flat, sep="/"))


def param_type(path: str, dtype: str) -> np.dtype[Any]:
    """Type of a parameter if the image tower is loaded as `dtype`, one of `DTYPES`.

    The text tower and `logit_scale` stay float32: exp(logit_scale) is about 100, of which bfloat16 keeps three digits.
    """
    return DTYPES["float32" if path == "logit_scale" or path.startswith("text/") else dtype]


def param_shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of our parameters by path, with the layer axis."""
    return {rule.path: ((_num_layers(rule, config),) if rule.stacked else ()) + rule.shape(config) for rule in RULES}


def to_params(
    tensors: Mapping[str, Array],
    config: ClipConfig,
    source_format: Format,
    *,
    dtype: str = "float32",
    source: str = "the checkpoint",
) -> Params:
    """Converts a checkpoint's tensors to our parameters.

    Names follow transformers' modeling_clip.py and modeling_flax_clip.py.

    Args:
      tensors: all tensors by name; float32, float16, bfloat16 or float64.
      config: shape from config.json.
      source_format: 'pytorch' or 'flax'.
      dtype: of the image tower, one of `DTYPES`; the rest is float32, see `param_type`.
      source: name of the checkpoint in errors, such as its path.

    Returns:
      Nested dictionary of NumPy arrays, as `CLIP.init` gives under 'params'.

    Raises:
      ValueError: lists all tensors that are missing, unknown, of another shape or type, or not finite.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    _check(tensors, config, source_format, source)
    flat: dict[str, Array] = {}
    copies: list[tuple[Array, Array]] = []
    copied: list[str] = []
    for rule in RULES:
        names = rule.names(source_format, _num_layers(rule, config))
        stack = np.empty((len(names), *rule.shape(config)), param_type(rule.path, dtype))
        copies += [(stack[i, ...], rule.from_file(tensors[name], source_format)) for i, name in enumerate(names)]
        copied += names
        flat[rule.path] = stack if rule.stacked else stack[0, ...]
    with futures.ThreadPoolExecutor(usable_cores()) as pool:  # NumPy releases the GIL while copying
        finite = list(pool.map(_copy, *zip(*copies, strict=True)))
    if not all(finite):
        broken = [name for name, is_finite in zip(copied, finite, strict=True) if not is_finite]
        raise ValueError(
            f"{source} holds numbers that are NaN or infinite{_as(dtype)}, in {len(broken)} tensor(s): "
            f"{', '.join(broken[:_SHOWN])}{', ..' if len(broken) > _SHOWN else ''}. What made the file went wrong; "
            "make, download or copy it again"
        )
    return unflatten(flat)


def _as(dtype: str) -> str:
    return f" as {dtype}" if dtype == "float16" else ""  # the only type that overflows where others do not


def _copy(target: Array, source: Array) -> bool:
    """Copies and returns whether all values are finite; transposed matrices in cache-sized bands, twice as fast."""
    with np.errstate(over="ignore"):  # overflow becomes infinite, which is reported
        if target.ndim != 2 or source.flags.c_contiguous:
            target[...] = source
        else:
            for start in range(0, target.shape[1], _BAND):
                target[:, start : start + _BAND] = source[:, start : start + _BAND]
    return bool(np.isfinite(target).all())


def _check(tensors: Mapping[str, Array], config: ClipConfig, source_format: Format, source: str) -> None:
    """Raises ValueError with all tensors that do not fit."""
    if any(name.endswith(_OPENAIS) for name in tensors):
        raise ValueError(
            f"{source} names its tensors as OpenAI's own program and open_clip do ({_OPENAIS}), which is not read; "
            "expected are transformers' names (vision_model.., text_model..). The same CLIP in that form is on the Hub "
            "(as openai/clip-vit-base-patch16 is), or transformers' convert_clip_original_pytorch_to_hf.py makes it"
        )
    expected: dict[str, tuple[int, ...]] = {}
    for rule in RULES:
        shape = rule.to_file(np.broadcast_to(np.float32(0), rule.shape(config)), source_format).shape
        expected.update(dict.fromkeys(rule.names(source_format, _num_layers(rule, config)), shape))
    unknown = [n for n in tensors if n not in expected and not any(fnmatch.fnmatchcase(n, p) for p in IGNORED)]
    problems = [f"missing: {name} {list(expected[name])}" for name in expected if name not in tensors]
    problems += [f"unknown: {name} {list(tensors[name].shape)}" for name in unknown]
    for name, shape in expected.items():
        if name not in tensors:
            continue
        if tensors[name].shape != shape:
            problems.append(f"{name}: found {list(tensors[name].shape)}, expected {list(shape)}")
        if tensors[name].dtype.name not in _READABLE:
            problems.append(f"{name}: found type {tensors[name].dtype.name}, expected one of {', '.join(_READABLE)}")
    if problems:
        raise ValueError(
            f"{source} does not hold the CLIP that its config.json describes; {len(problems)} tensor(s) differ:\n  "
            + "\n  ".join(problems)
            + "\nCheck that config.json and the weights belong together, or download both again."
        )


def to_tensors(params: Params, target_format: Format = "pytorch") -> dict[str, Array]:
    """Converts our parameters to a checkpoint's tensors: the inverse of `to_params`.

    Returns:
      Contiguous arrays by their names in `target_format`, of the parameters' types.

    Raises:
      ValueError: parameters are missing or unknown.
    """
    flat = flatten(params)
    paths = [rule.path for rule in RULES]
    problems = [f"missing: {path}" for path in paths if path not in flat]
    problems += [f"unknown: {path}" for path in flat if path not in paths]
    if problems:
        raise ValueError("these are not the parameters of a CLIP:\n  " + "\n  ".join(problems))
    tensors: dict[str, Array] = {}
    for rule in RULES:
        array = np.asarray(flat[rule.path])
        layers = list(array) if rule.stacked else [array]
        for name, layer in zip(rule.names(target_format, len(layers)), layers, strict=True):
            # Not `ascontiguousarray`, which turns a scalar into a vector.
            tensors[name] = np.array(rule.to_file(layer, target_format), order="C")
    return tensors
