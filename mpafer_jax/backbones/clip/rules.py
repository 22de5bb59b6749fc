"""Maps tensors of a CLIP checkpoint to our parameters and back, by one table.

* ours: paths of `mpafer_jax.backbones.clip.model`, joined with '/'; a tower's K layers are stacked on a leading axis;
* 'pytorch': names of transformers' `CLIPModel` (model.safetensors, pytorch_model.bin); linear weights are [out, in],
  convolutions [out, in, rows, cols];
* 'openai': names of OpenAI's program and of open_clip; layouts as PyTorch's, but queries, keys and values are one
  tensor, and the projections into the joint space are plain matrices [W, D], as ours;
* 'flax': paths of transformers 4's `FlaxCLIPModel` (flax_model.msgpack), joined with '/'; layouts as ours.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
from collections.abc import Collection, Mapping
from concurrent import futures
from typing import Any, Literal, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt
from flax import traverse_util

from mpafer_jax.backbones.clip.model import ClipConfig, TextConfig, VisionConfig
from mpafer_jax.runtime.workers import usable_cores

Format = Literal["pytorch", "openai", "flax"]
WrittenFormat = Literal["pytorch", "flax"]
Array = npt.NDArray[Any]
Params = dict[str, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

# Constants 0, 1, 2, ... that old releases of transformers saved as buffers.
_POSITIONS = ("*_model[./]embeddings[./]position_ids",)
# Tensors that no CLIP needs, as patterns.
IGNORED: dict[Format, tuple[str, ...]] = {
    "pytorch": _POSITIONS,
    "flax": _POSITIONS,
    "openai": (
        *("input_resolution", "context_length", "vocab_size", "attn_mask"),  # constants of OpenAI's archives
        # FaRL's masked image modelling, beside its CLIP.
        *("visual.lm_transformer.*", "visual.ln_lm.*", "visual.lm_head*", "visual.mask_token"),
    ),
}

_READABLE = ("float32", "float16", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A tensor of a module: its name in each naming, '' if it has the module's name.

    `axes` permutes our layout into PyTorch's; `only_last`: its shape is the last of the module's sizes. OpenAI's name
    (`openai`, None for PyTorch's) may be of a tensor with three parts, of which this is number `third`; `plain`:
    OpenAI's layout is ours.
    """

    ours: str
    pytorch: str
    flax: str
    axes: tuple[int, ...] | None = None
    only_last: bool = False
    openai: str | None = None
    third: int | None = None
    plain: bool = False


_KERNEL = _Leaf("kernel", "weight", "kernel", axes=(1, 0))
_BIAS = _Leaf("bias", "bias", "bias", only_last=True)


def _in_one(third: int) -> tuple[_Leaf, ...]:
    return tuple(dataclasses.replace(leaf, openai=f"in_proj_{leaf.pytorch}", third=third) for leaf in (_KERNEL, _BIAS))


_KINDS: dict[str, tuple[_Leaf, ...]] = {
    "linear": (_KERNEL, _BIAS),
    "query": _in_one(0),
    "key": _in_one(1),
    "value": _in_one(2),
    "projection": (dataclasses.replace(_KERNEL, openai="", plain=True),),
    "conv": (_Leaf("kernel", "weight", "kernel", axes=(3, 2, 0, 1)),),
    "norm": (_Leaf("scale", "weight", "scale"), _BIAS),
    "embedding": (_Leaf("embedding", "weight", "embedding"),),
    "table": (_Leaf("", "weight", "embedding", openai=""),),
    "parameter": (_Leaf("", "", ""),),
}

# Rows: (kind, our module, the Hub's module, OpenAI's module, sizes in our layout). Sizes: W width, I width of the MLP,
# D joint space, P patch side, T positions (for images including the class position), V vocabulary.
_Row = tuple[str, str, str, str, tuple[str | int, ...]]
_LAYER: tuple[_Row, ...] = (
    ("norm", "ln_1", "layer_norm1", "ln_1", ("W",)),
    ("query", "attn/q_proj", "self_attn.q_proj", "attn", ("W", "W")),
    ("key", "attn/k_proj", "self_attn.k_proj", "attn", ("W", "W")),
    ("value", "attn/v_proj", "self_attn.v_proj", "attn", ("W", "W")),
    ("linear", "attn/out_proj", "self_attn.out_proj", "attn.out_proj", ("W", "W")),
    ("norm", "ln_2", "layer_norm2", "ln_2", ("W",)),
    ("linear", "mlp/fc1", "mlp.fc1", "mlp.c_fc", ("W", "I")),
    ("linear", "mlp/fc2", "mlp.fc2", "mlp.c_proj", ("I", "W")),
)


def _layers(ours: str, hub: str, openai: str) -> tuple[_Row, ...]:
    return tuple(
        (kind, f"{ours}/blocks/{o}", f"{hub}.encoder.layers.{{layer}}.{h}", f"{openai}.resblocks.{{layer}}.{a}", sizes)
        for kind, o, h, a, sizes in _LAYER
    )


_V, _T = "vision_model.embeddings", "text_model.embeddings"
_TABLE: dict[str, tuple[_Row, ...]] = {
    "visual": (
        ("parameter", "visual/class_embedding", f"{_V}.class_embedding", "visual.class_embedding", ("W",)),
        ("conv", "visual/patch_embedding", f"{_V}.patch_embedding", "visual.conv1", ("P", "P", 3, "W")),
        ("table", "visual/position_embedding", f"{_V}.position_embedding", "visual.positional_embedding", ("T", "W")),
        ("norm", "visual/ln_pre", "vision_model.pre_layrnorm", "visual.ln_pre", ("W",)),  # the Hub's spelling
        *_layers("visual", "vision_model", "visual.transformer"),
        ("norm", "visual/ln_post", "vision_model.post_layernorm", "visual.ln_post", ("W",)),
        ("projection", "visual/projection", "visual_projection", "visual.proj", ("W", "D")),
    ),
    "text": (
        ("embedding", "text/token_embedding", f"{_T}.token_embedding", "token_embedding", ("V", "W")),
        ("table", "text/position_embedding", f"{_T}.position_embedding", "positional_embedding", ("T", "W")),
        *_layers("text", "text_model", "transformer"),
        ("norm", "text/ln_final", "text_model.final_layer_norm", "ln_final", ("W",)),
        ("projection", "text/projection", "text_projection", "text_projection", ("W", "D")),
        ("parameter", "logit_scale", "logit_scale", "logit_scale", ()),
    ),
}

_BAND = 32  # columns
_SHOWN = 5  # tensor names in an error


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of our parameters and its tensors in a checkpoint.

    Attributes:
      path: ours, e.g. 'visual/blocks/mlp/fc1/kernel'.
      tower: 'visual' or 'text'.
      pytorch, openai, flax: names in a checkpoint, with '{layer}' if K layers are stacked in ours.
      axes: permutation from our layout (of one layer) to PyTorch's; None for the same layout.
      openai_axes: the same to OpenAI's.
      third: which third of OpenAI's tensor it is, along its first axis; None for all of it.
      sizes: symbolic sizes in our layout, without the layer axis.
    """

    path: str
    tower: str
    pytorch: str
    openai: str
    flax: str
    axes: tuple[int, ...] | None
    openai_axes: tuple[int, ...] | None
    third: int | None
    sizes: tuple[str | int, ...]

    @property
    def stacked(self) -> bool:
        """Whether ours stacks the tensors of all layers."""
        return "{layer}" in self.pytorch

    def names(self, file_format: Format, num_layers: int) -> list[str]:
        """Names in a checkpoint, one per layer if stacked."""
        template = {"pytorch": self.pytorch, "openai": self.openai, "flax": self.flax}[file_format]
        return [template.format(layer=layer) for layer in range(num_layers)] if self.stacked else [template]

    def shape(self, config: ClipConfig) -> tuple[int, ...]:
        """Our shape, without the layer axis."""
        sizes = _sizes(config.vision if self.tower == "visual" else config.text, config.projection_dim)
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.sizes)

    def file_shape(self, config: ClipConfig, file_format: Format) -> tuple[int, ...]:
        """Shape of one layer's tensor in a checkpoint."""
        shape, axes = self.shape(config), self._axes(file_format)
        shape = tuple(shape[axis] for axis in axes) if axes else shape
        return (3 * shape[0], *shape[1:]) if file_format == "openai" and self.third is not None else shape

    def to_file(self, array: Array, file_format: WrittenFormat) -> Array:
        """Converts one layer's array to the layout of `file_format`."""
        axes = self._axes(file_format)
        return array.transpose(axes) if axes else array

    def from_file(self, array: Array, file_format: Format) -> Array:
        """Takes one layer's array from a checkpoint's tensor, as a view."""
        if file_format == "openai" and self.third is not None:
            size = len(array) // 3
            array = array[self.third * size : (self.third + 1) * size]
        if not self.sizes:
            array = array.reshape(())  # open_clip's logit scale may be a vector of one number
        axes = self._axes(file_format)
        return array.transpose([int(axis) for axis in np.argsort(axes)]) if axes else array

    def _axes(self, file_format: Format) -> tuple[int, ...] | None:
        return {"pytorch": self.axes, "openai": self.openai_axes, "flax": None}[file_format]


def _rules() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for tower, rows in _TABLE.items():
        for kind, ours, hub, openai, sizes in rows:
            for leaf in _KINDS[kind]:
                rules.append(
                    Rule(
                        path=f"{ours}/{leaf.ours}".strip("/"),
                        tower=tower,
                        pytorch=f"{hub}.{leaf.pytorch}".strip("."),
                        openai=f"{openai}.{leaf.pytorch if leaf.openai is None else leaf.openai}".strip("."),
                        flax=f"{hub}.{leaf.flax}".strip(".").replace(".", "/"),
                        axes=leaf.axes,
                        openai_axes=None if leaf.plain else leaf.axes,
                        third=leaf.third,
                        sizes=sizes[-1:] if leaf.only_last else sizes,
                    )
                )
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


def format_of(names: Collection[str]) -> Format:
    """Whose names a checkpoint's tensors have, if it is not 'flax'."""
    return "openai" if any(name.startswith(("visual.", "token_embedding.")) for name in names) else "pytorch"


def is_ignored(name: str, file_format: Format) -> bool:
    """Whether a tensor is one of `IGNORED`."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in IGNORED[file_format])


def param_type(path: str, dtype: str) -> np.dtype[Any]:
    """Type of a parameter if the image tower is loaded as `dtype`, one of `DTYPES`.

    The text tower and `logit_scale` stay float32: exp(logit_scale) is about 100, of which bfloat16 keeps three digits.
    """
    return DTYPES["float32" if path == "logit_scale" or path.startswith("text/") else dtype]


def param_shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of our parameters by path, with the layer axis."""
    return {rule.path: ((_num_layers(rule, config),) if rule.stacked else ()) + rule.shape(config) for rule in RULES}


def to_params(
    tensors: dict[str, Array],
    config: ClipConfig,
    source_format: Format,
    *,
    dtype: str = "float32",
    source: str = "the checkpoint",
) -> Params:
    """Converts a checkpoint's tensors to our parameters.

    Names follow transformers' modeling_clip.py and modeling_flax_clip.py, and model.py of OpenAI's CLIP.

    Args:
      tensors: all tensors by name; float32, float16, bfloat16 or float64. Each is removed once it is copied, so that a
        large model is not in memory twice.
      config: shape of the CLIP.
      source_format: naming and layout of the tensors.
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
    broken: list[str] = []
    names = {rule.path: rule.names(source_format, _num_layers(rule, config)) for rule in RULES}
    readers = collections.Counter(name for rule in RULES for name in names[rule.path])
    with futures.ThreadPoolExecutor(usable_cores()) as pool:  # NumPy releases the GIL while copying
        for rule in RULES:
            stack = np.empty((len(names[rule.path]), *rule.shape(config)), param_type(rule.path, dtype))
            targets = [stack[i, ...] for i in range(len(stack))]
            sources = (rule.from_file(tensors[name], source_format) for name in names[rule.path])
            for name, is_finite in zip(names[rule.path], pool.map(_copy, targets, sources), strict=True):
                broken += [] if is_finite else [name]
                readers[name] -= 1
                if not readers[name]:
                    del tensors[name]
            flat[rule.path] = stack if rule.stacked else stack[0, ...]
    if broken := list(dict.fromkeys(broken)):
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
    expected: dict[str, tuple[int, ...]] = {}
    for rule in RULES:
        shape = rule.file_shape(config, source_format)
        expected.update(dict.fromkeys(rule.names(source_format, _num_layers(rule, config)), shape))
    unknown = [name for name in tensors if name not in expected and not is_ignored(name, source_format)]
    problems = [f"missing: {name} {list(expected[name])}" for name in expected if name not in tensors]
    problems += [f"unknown: {name} {list(tensors[name].shape)}" for name in unknown]
    for name, shape in expected.items():
        if name not in tensors:
            continue
        if tensors[name].shape != shape and (shape or tensors[name].size != 1):
            problems.append(f"{name}: found {list(tensors[name].shape)}, expected {list(shape)}")
        if tensors[name].dtype.name not in _READABLE:
            problems.append(f"{name}: found type {tensors[name].dtype.name}, expected one of {', '.join(_READABLE)}")
    if problems:
        raise ValueError(
            f"{source} does not hold the CLIP that its configuration describes; {len(problems)} tensor(s) differ:\n  "
            + "\n  ".join(problems)
            + "\nCheck that configuration and weights belong together, or download both again."
        )


def to_tensors(params: Params, target_format: WrittenFormat = "pytorch") -> dict[str, Array]:
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
