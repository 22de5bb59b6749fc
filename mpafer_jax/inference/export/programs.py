"""The whole predictor as a program: images in, logits and explanations out, without Flax and without this package.

The text side is folded away: texts were encoded before, and of CLIP only the image tower stays.
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
from mpafer_jax.inference.loading import ReadyModel
from mpafer_jax.method.forward import Forward
from mpafer_jax.runtime import files

PROGRAM = "predictor.stablehlo"
WEIGHTS = "weights.safetensors"

Weights = dict[str, Any]  # by their paths, joined with '/'
Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Program:
    """A predictor as a pure function.

    Attributes:
      weights: everything it reads besides the images, by their paths.
      call: (weights, uint8[B, S, S, 3]) -> 'logits' [B, C], 'probabilities' [B, C], and of a model with local score
        'patch_scores' [B, N, C].
      image_size: S.
      layer_norm_eps: of every layer normalisation in it.
    """

    weights: Weights
    call: Callable[[Weights, jax.Array], Outputs]
    image_size: int
    layer_norm_eps: float


def program(ready: ReadyModel) -> Program:
    """Takes a model apart into a function and what it reads; whatever learned the prompts, they are arrays in it."""
    model, frozen = ready.experiment.model, ready.experiment.frozen
    forward = Forward(model, ready.mean, ready.std)
    arrays, structure = cast(tuple[list[jax.Array], Any], jax.tree.flatten(forward.visual_prompts(ready.params)))
    read = {
        "backbone": model.backbone.image_params(frozen.backbone),
        "visual_prompts": {str(number): array for number, array in enumerate(arrays)},
        "text_features": ready.text_features,
        **({} if frozen.patch_weights is None else {"patch_weights": frozen.patch_weights}),
    }
    weights = {name: np.asarray(value) for name, value in flatten(read).items()}

    def call(weights: Weights, pixels: jax.Array) -> Outputs:
        values = unflatten({name: jnp.asarray(value) for name, value in weights.items()})
        visual = structure.unflatten([values["visual_prompts"][str(number)] for number in range(len(arrays))])
        read = dataclasses.replace(frozen, backbone=values["backbone"], patch_weights=values.get("patch_weights"))
        predicted = forward.predict(visual, read, pixels, values["text_features"])
        return {name: predicted[name] for name in ("logits", "probabilities", "patch_scores") if name in predicted}

    spec = model.backbone.spec
    return Program(weights, call, spec.image_size, spec.layer_norm_eps)


def pixels_shape(found: Program, batch_size: int) -> jax.ShapeDtypeStruct:
    """uint8[B, S, S, 3], what a program is traced with; B is a symbol where `batch_size` is 0, for any number."""
    size = batch_size or jax.export.symbolic_shape("batch")[0]
    return jax.ShapeDtypeStruct((size, found.image_size, found.image_size, 3), np.uint8)


_SOURCE_FILES = "jax_hlo_source_file_canonicalization_regex"  # what of the names of source files JAX leaves out


@contextlib.contextmanager
def _without_source_files() -> Generator[None]:
    """JAX notes for every operation where in which source file it was called, with the folders of this machine."""
    before: str | None = getattr(jax.config, _SOURCE_FILES)
    jax.config.update(_SOURCE_FILES, "(?s).*")
    try:
        yield
    finally:
        jax.config.update(_SOURCE_FILES, before)


def save_stablehlo(
    folder: pathlib.Path, found: Program, *, batch_size: int, platforms: Sequence[str], weights_inside: bool
) -> list[pathlib.Path]:
    """Writes the program as serialized StableHLO (`jax.export`), which JAX promises to read for years.

    Args:
      folder: where; created if missing.
      found: what `program` gave.
      batch_size: images of one call; 0 for any number.
      platforms: for which it is lowered, of cpu, cuda, rocm, tpu.
      weights_inside: whether the weights are constants of the program (one file), or a safetensors file beside it.

    Returns:
      The files.
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
    """Reads what `save_stablehlo` wrote: images uint8[B, S, S, 3] -> outputs by name. Needs JAX alone."""
    import safetensors.numpy

    exported = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    weights = (folder / WEIGHTS).is_file()
    before = (safetensors.numpy.load_file(folder / WEIGHTS),) if weights else ()
    call: Any = jax.jit(exported.call)

    def run(pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        return {name: np.asarray(value) for name, value in call(*before, pixels).items()}

    return run
