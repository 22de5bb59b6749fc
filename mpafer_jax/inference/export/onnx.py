"""The program as ONNX, converted by jax2onnx, which is not among this package's requirements: see docs/export.md."""

from __future__ import annotations

import functools
import importlib
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy.typing as npt
from flax import linen as nn

from mpafer_jax.backbones.clip.transformer import LayerNorm
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.inference.export.flat import Known, flat
from mpafer_jax.inference.export.programs import Program, pixels_shape
from mpafer_jax.runtime import files

PROGRAM = "predictor.onnx"
_INPUT = "pixels"
_OPSET = 18  # the first in which all of its operators are as they are today; the older, the more programs read it
_PACKAGES = ("jax2onnx", "onnxruntime")


def import_packages() -> tuple[Any, Any]:
    """jax2onnx and onnxruntime."""
    # It imports a plugin for each library that it knows, and shows a traceback for each that is not there; and warns of
    # every intermediate value whose type it leaves for the reader to infer.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        converter, runtime = (importlib.import_module(name) for name in _PACKAGES)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ONNX needs {error.name}: pip install -e '.[onnx]' && pip install --no-deps jax2onnx (without what "
            "it asks for, since that includes an older orbax-checkpoint, which it does not use)"
        ) from error
    return converter, runtime


def save_onnx(folder: pathlib.Path, program: Program, *, batch_size: int) -> pathlib.Path:
    """Writes the program with its weights as ONNX and returns the file.

    Its products by weights are MatMul with a constant, so that quantizers find them; layer normalisation and softmax
    are the operators of that name.

    Args:
      folder: where; created if missing.
      program: what `programs.program` gave.
      batch_size: images of one call; 0 for any number.
    """
    converter, _ = import_packages()
    pixels = pixels_shape(program, batch_size)
    call = functools.partial(program.call, program.weights)
    names = list(jax.eval_shape(call, pixels))

    def outputs(pixels: jax.Array) -> tuple[jax.Array, ...]:
        results = call(pixels)
        return tuple(results[name] for name in names)

    # The converter puts functions of its own in the place of some of JAX's while it traces, which Flax's scan does not
    # survive; so it gets what was traced before.
    plain = flat(jax.make_jaxpr(outputs)(pixels), _operators(program.layer_norm_eps))
    options = {"model_name": "mpafer", "opset": _OPSET, "normalization_mode": "prefer_native", "return_mode": "ir"}

    def plain_outputs(pixels: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(plain(pixels))

    model = converter.to_onnx(plain_outputs, [pixels], input_names=[_INPUT], output_names=names, **options)
    # What the converter leaves over, of which ONNX Runtime would warn, and its notes of where in the sources it was.
    ir, passes = (importlib.import_module(name) for name in ("onnx_ir", "onnx_ir.passes.common"))
    for tidy in (
        passes.RemoveUnusedNodesPass,
        passes.DeduplicateInitializersPass,
        passes.ClearMetadataAndDocStringPass,
    ):
        tidy()(model)
    with files.replacing(folder / PROGRAM) as temporary:
        temporary.write_bytes(ir.to_proto(model).SerializeToString())
    return folder / PROGRAM


def _operators(epsilon: float) -> tuple[Known, ...]:
    """The functions that the converter has operators for, when it sees them called by these names while it traces."""

    def softmax(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x, axis=-1)

    def layer_norm(module: nn.Module, x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return cast(jax.Array, module.apply({"params": {"scale": scale, "bias": bias}}, x))

    def itself(shape: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return [shape]

    def with_scale_and_bias(shape: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return [shape, shape[-1:], shape[-1:]]

    ours, converters = LayerNorm(epsilon, jnp.dtype(jnp.float32)), nn.LayerNorm(epsilon)
    return (
        Known(softmax, itself, softmax),
        Known(functools.partial(layer_norm, ours), with_scale_and_bias, functools.partial(layer_norm, converters)),
    )


def load_onnx(folder: pathlib.Path) -> Callable[[Pixels], Mapping[str, npt.NDArray[Any]]]:
    """Reads what `save_onnx` wrote into ONNX Runtime, on the CPU: images uint8[B, S, S, 3] -> outputs by name."""
    _, runtime = import_packages()
    session: Any = runtime.InferenceSession(str(folder / PROGRAM), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(names, session.run(names, {_INPUT: pixels}), strict=True))

    return run
