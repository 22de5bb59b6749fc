"""How the tensors of a CLIP checkpoint correspond to our parameters: one table, read in both directions.

Three namings of the same tensors:

* ours: paths with '/', see `mpafer_jax.backbones.clip.model`; the K layers of a tower are stacked on a leading axis;
* 'pytorch': the names of transformers' `CLIPModel`, in model.safetensors and pytorch_model.bin; linear weights are
  [out, in], convolutions [out, in, rows, cols];
* 'flax': the paths of transformers 4's `FlaxCLIPModel` in flax_model.msgpack, joined with '/'; layouts as ours.
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

# Constants that old releases of transformers saved as buffers, in both formats: 0, 1, 2, ...
IGNORED = ("*_model[./]embeddings[./]position_ids",)

_READABLE = ("float32", "float16", "bfloat16", "float64")


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One tensor of a kind of module: its name in each naming, '' where the module's own name is the tensor's.

    `axes` permutes our layout into PyTorch's; with `only_last` the tensor has only the last of the module's sizes.
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

# A row is (kind, our module, the Hub's module, sizes in our layout). Sizes: W width, I width inside the MLP, D joint
# space, P patch side, T positions (for images with the class position), V vocabulary.
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
        ("norm", "visual/ln_pre", "vision_model.pre_layrnorm", ("W",)),  # the Hub's own spelling
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
_OPENAIS = "visual.class_embedding"  # a name of OpenAI's form, which open_clip shares
_SHOWN = 5  # names of tensors in a message


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of ours and where it is in a checkpoint.

    Attributes:
      path: ours, e.g. 'visual/blocks/mlp/fc1/kernel'.
      tower: whose sizes its shape has, 'visual' or 'text'.
      pytorch: its name in PyTorch's naming, with '{layer}' where the tensors of K layers are stacked.
      flax: the same in Flax's naming.
      axes: the permutation that turns our layout (of one layer) into PyTorch's; None for the same layout.
      sizes: symbolic sizes in our layout, without the axis of layers.
    """

    path: str
    tower: str
    pytorch: str
    flax: str
    axes: tuple[int, ...] | None
    sizes: tuple[str | int, ...]

    @property
    def stacked(self) -> bool:
        """Whether the tensors of all layers are stacked in ours."""
        return "{layer}" in self.pytorch

    def names(self, file_format: Format, num_layers: int) -> list[str]:
        """The names in a checkpoint, one per layer, or one."""
        template = self.pytorch if file_format == "pytorch" else self.flax
        return [template.format(layer=layer) for layer in range(num_layers)] if self.stacked else [template]

    def shape(self, config: ClipConfig) -> tuple[int, ...]:
        """Our shape, without the axis of layers."""
        sizes = _sizes(config.vision if self.tower == "visual" else config.text, config.projection_dim)
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.sizes)

    def to_file(self, array: Array, file_format: Format) -> Array:
        """One layer's tensor of ours in the layout of `file_format`."""
        return array.transpose(self.axes) if self.axes and file_format == "pytorch" else array

    def from_file(self, array: Array, file_format: Format) -> Array:
        """The inverse of `to_file`."""
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
    """The leaves of a nested dictionary by their paths, joined with '/'."""
    return cast("dict[str, Any]", traverse_util.flatten_dict(tree, sep="/"))


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    return cast("Params", traverse_util.unflatten_dict(flat, sep="/"))


def param_type(path: str, dtype: str) -> np.dtype[Any]:
    """The type of one of our parameters where `dtype`, one of `DTYPES`, is asked for.

    The text tower stays float32, as `CLIP` computes it. So does the temperature, which is no weight: exp(logit_scale)
    is about 100 and bfloat16 keeps three digits of it.
    """
    return DTYPES["float32" if path == "logit_scale" or path.startswith("text/") else dtype]


def param_shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each of our parameters by its path, with the axis of layers where they are stacked."""
    return {rule.path: ((_num_layers(rule, config),) if rule.stacked else ()) + rule.shape(config) for rule in RULES}


def to_params(
    tensors: Mapping[str, Array],
    config: ClipConfig,
    source_format: Format,
    *,
    dtype: str = "float32",
    source: str = "the checkpoint",
) -> Params:
    """Turns a checkpoint's tensors into our parameters.

    Args:
      tensors: every tensor of the checkpoint by its name in `source_format`; float32, float16, bfloat16 or float64.
      config: the shape that the checkpoint's config.json gives.
      source_format: 'pytorch' or 'flax', see the module's description.
      dtype: of the image tower, one of `DTYPES`; all else is float32, see `param_type`.
      source: what the tensors are called in errors, such as the file's path.

    Returns:
      Nested dictionary of NumPy arrays, as `CLIP.init` gives under 'params'. Source of the names: transformers'
      modeling_clip.py and modeling_flax_clip.py.

    Raises:
      ValueError: tensors are missing, unknown, of another shape than the config's or not of a floating type; the one
        error names them all, with the shapes found and expected. Or some hold numbers that are NaN or infinite.
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
    with futures.ThreadPoolExecutor(usable_cores()) as pool:  # NumPy copies without holding Python's lock
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
    return f" as {dtype}" if dtype == "float16" else ""  # the one type that cannot hold what the others can


def _copy(target: Array, source: Array) -> bool:
    """target[...] = source, and whether all of it is finite. A transposed matrix goes in bands that fit the processor's
    cache, which takes half the time."""
    with np.errstate(over="ignore"):  # what a smaller type cannot hold becomes infinite, which is reported
        if target.ndim != 2 or source.flags.c_contiguous:
            target[...] = source
        else:
            for start in range(0, target.shape[1], _BAND):
                target[:, start : start + _BAND] = source[:, start : start + _BAND]
    return bool(np.isfinite(target).all())


def _check(tensors: Mapping[str, Array], config: ClipConfig, source_format: Format, source: str) -> None:
    """Raises the one error of `to_params`."""
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
    """Turns our parameters into a checkpoint's tensors; the inverse of `to_params`.

    Args:
      params: nested dictionary of arrays, as `to_params` gives.
      target_format: 'pytorch' or 'flax'.

    Returns:
      Contiguous arrays by their names in `target_format`, of the parameters' types.

    Raises:
      ValueError: parameters are missing or unknown; the error names them.
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
            # `ascontiguousarray` would turn the scalar into a vector.
            tensors[name] = np.array(rule.to_file(layer, target_format), order="C")
    return tensors
