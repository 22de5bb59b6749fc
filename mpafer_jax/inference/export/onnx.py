"""ONNX export by jax2onnx, which is not a dependency of this package: see docs/export.md."""

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
from mpafer_jax.runtime.errors import ExportError

PROGRAM = "predictor.onnx"
_INPUT = "pixels"
_OPSET = 18  # the oldest that has today's form of all operators used; more programs read older ones
_PACKAGES = ("jax2onnx", "onnxruntime")


def import_packages() -> tuple[Any, Any]:
    """Imports jax2onnx and onnxruntime.

    Raises:
      ModuleNotFoundError: one is not installed; says how to.
    """
    # They log a traceback for every plugin whose library is missing, and warn of every untyped intermediate value.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        converter, runtime = (importlib.import_module(name) for name in _PACKAGES)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ONNX needs {error.name}: pip install -e '.[onnx]' && pip install --no-deps jax2onnx==0.17.1 (without "
            "what it asks for, since that includes an older orbax-checkpoint, which it does not use)"
        ) from error
    return converter, runtime


def save_onnx(folder: pathlib.Path, program: Program, *, batch_size: int) -> pathlib.Path:
    """Writes the program with its weights as ONNX, for `batch_size` images a call (0: any number); returns the file.

    Products with weights are MatMul with a constant, so that quantizers find them; layer normalisation and softmax are
    the operators of that name.
    """
    converter, _ = import_packages()
    pixels = pixels_shape(program, batch_size)
    call = functools.partial(program.call, program.weights)
    names = list(jax.eval_shape(call, pixels))

    def outputs(pixels: jax.Array) -> tuple[jax.Array, ...]:
        results = call(pixels)
        return tuple(results[name] for name in names)

    # The converter patches JAX functions while it traces, which breaks Flax's scan: hence a function traced before.
    plain = flat(jax.make_jaxpr(outputs)(pixels), _operators(program.layer_norm_eps))
    options = {"model_name": "mpafer", "opset": _OPSET, "normalization_mode": "prefer_native", "return_mode": "ir"}

    def plain_outputs(pixels: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(plain(pixels))

    model = converter.to_onnx(plain_outputs, [pixels], input_names=[_INPUT], output_names=names, **options)
    # Removes unused nodes and duplicates, of which ONNX Runtime warns, and source locations.
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
    """Functions for which the converter has operators if they are called by these names while it traces."""

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


def device() -> Any:
    """JAX's CPU, for comparisons: ONNX Runtime computes there in float32, which JAX on a GPU rounds to TensorFloat-32.

    Raises:
      ExportError: JAX has no CPU here.
    """
    try:
        return cast(Any, jax.devices("cpu")[0])
    except RuntimeError as error:
        raise ExportError(
            f"ONNX is compared with the checkpoint on the CPU, which JAX does not have here ({error}); add cpu to the "
            "environment variable JAX_PLATFORMS, as in JAX_PLATFORMS=cuda,cpu, or unset it"
        ) from error


def load_onnx(folder: pathlib.Path) -> Callable[[Pixels], Mapping[str, npt.NDArray[Any]]]:
    """Reads `save_onnx`'s file into ONNX Runtime, on the CPU: images uint8[B, S, S, 3] -> outputs by name."""
    _, runtime = import_packages()
    session: Any = runtime.InferenceSession(str(folder / PROGRAM), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(names, session.run(names, {_INPUT: pixels}), strict=True))

    return run
