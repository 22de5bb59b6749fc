"""The program as ONNX, converted by jax2onnx, which is not among this package's requirements: see docs/export.md."""

from __future__ import annotations

import functools
import importlib
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.extend
import numpy.typing as npt

from mpafer_jax import files
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.export.programs import Program, pixels_shape

PROGRAM = "predictor.onnx"
_INPUT = "pixels"
_PACKAGES = ("jax2onnx", "onnxruntime")


def import_packages() -> tuple[Any, Any]:
    """jax2onnx and onnxruntime.

    Raises:
      ModuleNotFoundError: one of them, or what it needs, is not installed; says how to.
    """
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


def save_onnx(folder: pathlib.Path, found: Program, *, batch_size: int) -> pathlib.Path:
    """Writes the program with its weights as ONNX and returns the file.

    Args:
      folder: where; created if missing.
      found: what `programs.program` gave.
      batch_size: pictures of one call; 0 for any number.
    """
    converter, _ = import_packages()
    pixels = pixels_shape(found, batch_size)
    call = functools.partial(found.call, found.weights)
    names = list(jax.eval_shape(call, pixels))

    def outputs(pixels: jax.Array) -> tuple[jax.Array, ...]:
        found = call(pixels)
        return tuple(found[name] for name in names)

    # The converter puts functions of its own in the place of some of JAX's while it traces, which Flax's scan does not
    # survive; so it gets what was traced before, where nothing is left to replace.
    traced = cast(Any, jax.extend.core).jaxpr_as_fun(jax.make_jaxpr(outputs)(pixels))
    model = converter.to_onnx(traced, [pixels], model_name="mpafer", input_names=[_INPUT], output_names=names)
    with files.replacing(folder / PROGRAM) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return folder / PROGRAM


def load_onnx(folder: pathlib.Path) -> Callable[[Pixels], Mapping[str, npt.NDArray[Any]]]:
    """Reads what `save_onnx` wrote into ONNX Runtime, on the CPU: pictures uint8[B, S, S, 3] -> outputs by name."""
    _, runtime = import_packages()
    options: Any = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: what the converter left over is dropped, and needs no line each
    session: Any = runtime.InferenceSession(str(folder / PROGRAM), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: Pixels) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(names, session.run(names, {_INPUT: pixels}), strict=True))

    return run
