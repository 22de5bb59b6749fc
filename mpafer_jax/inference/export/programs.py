"""The whole predictor as a StableHLO program: images to logits and patch scores, without Flax and without this package.

Texts are encoded before export, so that only CLIP's image tower remains.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from mpafer_jax.backbones.base import Outputs
from mpafer_jax.backbones.clip.rules import flatten, unflatten
from mpafer_jax.backbones.products import DEFAULT
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.inference.predictor import Predictor
from mpafer_jax.runtime import files

PROGRAM = "predictor.stablehlo"
WEIGHTS = "weights.safetensors"

Weights = dict[str, Any]  # by path, joined with '/'


@dataclasses.dataclass(frozen=True)
class Program:
    """A predictor as a pure function.

    Attributes:
      weights: all that it reads besides the images, by path.
      call: (weights, uint8[B, S, S, 3]) -> 'logits' [B, C], 'probabilities' [B, C], and with a local score
        'patch_scores' [B, N, C].
      image_size: S.
      layer_norm_eps: of all its layer normalisations.
    """

    weights: Weights
    call: Callable[[Weights, jax.Array], Outputs]
    image_size: int
    layer_norm_eps: float


def program(predictor: Predictor) -> Program:
    """Makes a pure function of a predictor, the same on all CPUs; evaluated prompts are arrays among its weights."""
    frozen, model = predictor.frozen, predictor.forward.model
    backbone: Any = cast(Any, model.backbone).clone(products=DEFAULT)
    forward = dataclasses.replace(predictor.forward, model=model.clone(backbone=backbone))
    arrays, structure = cast(tuple[list[jax.Array], Any], jax.tree.flatten(forward.image_prompts(predictor.params)))
    read = {
        "backbone": backbone.image_params(frozen.backbone),
        "visual_prompts": {str(number): array for number, array in enumerate(arrays)},
        "text_features": predictor.text_features,
        **({} if frozen.patch_weights is None else {"patch_weights": frozen.patch_weights}),
    }
    weights = {name: np.asarray(value, order="C") for name, value in flatten(read).items()}

    def call(weights: Weights, pixels: jax.Array) -> Outputs:
        values = unflatten({name: jnp.asarray(value) for name, value in weights.items()})
        prompts = structure.unflatten([values["visual_prompts"][str(number)] for number in range(len(arrays))])
        read = dataclasses.replace(frozen, backbone=values["backbone"], patch_weights=values.get("patch_weights"))
        predicted = forward.predict(prompts, read, pixels, values["text_features"])
        return {name: predicted[name] for name in ("logits", "probabilities", "patch_scores") if name in predicted}

    return Program(weights, call, backbone.spec.image_size, backbone.spec.layer_norm_eps)


def pixels_shape(found: Program, batch_size: int) -> jax.ShapeDtypeStruct:
    """uint8[B, S, S, 3], to trace a program with; B is symbolic, for any number, if `batch_size` is 0."""
    size = batch_size or jax.export.symbolic_shape("batch")[0]
    return jax.ShapeDtypeStruct((size, found.image_size, found.image_size, 3), np.uint8)


def outputs(found: Program) -> dict[str, tuple[str, str]]:
    """Output -> its type and what follows the number of images in its shape, as 'float32', '7'."""
    shapes = jax.eval_shape(found.call, found.weights, pixels_shape(found, 1))
    return {name: (str(value.dtype), ", ".join(map(str, value.shape[1:]))) for name, value in shapes.items()}


_SOURCE_FILES = "jax_hlo_source_file_canonicalization_regex"  # removed from source file names


@contextlib.contextmanager
def _without_source_files() -> Generator[None]:
    """Keeps this machine's source paths out of the exported operations."""
    before: str | None = getattr(jax.config, _SOURCE_FILES)
    jax.config.update(_SOURCE_FILES, "(?s).*")
    try:
        yield
    finally:
        jax.config.update(_SOURCE_FILES, before)


def default_platform() -> str:
    """This machine's, in the names of `jax.export`: cpu, cuda, rocm or tpu."""
    return jax.export.default_export_platform()


def save_stablehlo(
    folder: pathlib.Path, found: Program, *, batch_size: int, platforms: Sequence[str], weights_inside: bool
) -> list[pathlib.Path]:
    """Writes the program as serialized StableHLO (`jax.export`); returns the files. JAX promises to read it for years.

    Args:
      folder: created if missing.
      found: from `program`.
      batch_size: images of one call; 0 for any number.
      platforms: of cpu, cuda, rocm, tpu.
      weights_inside: whether the weights are constants of the program, or in a separate safetensors file.
    """
    import safetensors.numpy

    pixels = pixels_shape(found, batch_size)
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in found.weights.items()}
    function: Any = jax.jit(functools.partial(found.call, found.weights) if weights_inside else found.call)
    arguments = (pixels,) if weights_inside else (shapes, pixels)
    with _without_source_files():
        data = jax.export.export(function, platforms=tuple(platforms))(*arguments).serialize()
    written = [folder / PROGRAM]
    with files.replacing(written[0]) as temporary:
        temporary.write_bytes(data)
    if not weights_inside:
        written.append(folder / WEIGHTS)
        with files.replacing(written[1]) as temporary:
            temporary.write_bytes(safetensors.numpy.save(found.weights))
    return written


def load_stablehlo(folder: pathlib.Path) -> Callable[[Pixels], Mapping[str, npt.NDArray[Any]]]:
    """Reads `save_stablehlo`'s files: images uint8[B, S, S, 3] -> outputs by name. Needs only JAX and safetensors."""
    import safetensors.numpy

    exported = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    weights = (folder / WEIGHTS).is_file()
    before = (safetensors.numpy.load_file(folder / WEIGHTS),) if weights else ()
    call: Any = jax.jit(exported.call)

    def run(pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        return {name: np.asarray(value) for name, value in call(*before, pixels).items()}

    return run
