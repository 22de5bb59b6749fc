"""Contenders of bulk prediction: our predictor, and inference engines that run our exported ONNX on the CPU.

A contender is named by who computes, and behind a colon in what, where that is not float32. The folder of a problem has

    float32/, bfloat16/      exported prompts, which differ in `clip.dtype`
    predictor.onnx           the first's export
    dynamic_int8.onnx        it with weights in int8; activations are quantized image by image
    static_int8.onnx         it with weights and activations in int8, their ranges from calibration images
    images.npy               uint8[n, S, S, 3]
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.inference.export.onnx import PROGRAM
from mpafer_jax.runtime import workers
from tests.bench import measures
from tests.bench.problem import Arrays

IMAGES = "images.npy"
LARGEST_BATCH = 64
OUTPUTS = ("logits", "probabilities", "patch_scores")
Run = Callable[[Pixels], Mapping[str, npt.NDArray[Any]]]
_PART = 16  # images of one call, where all are compared


@dataclasses.dataclass(frozen=True)
class Engine:
    """Who computes, in what.

    Attributes:
      package: "mpafer-jax", "onnxruntime" or "openvino".
      precision: "float32", "bfloat16", or a kind of int8.
      file: what it reads from the folder of a problem.
    """

    package: str
    precision: str
    file: str

    @property
    def title(self) -> str:
        """Its name in tables."""
        package = {"mpafer-jax": "ours", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[self.package]
        return f"{package}, {self.precision}"


ENGINES = {
    "ours": Engine("mpafer-jax", "float32", "float32"),
    "onnxruntime": Engine("onnxruntime", "float32", PROGRAM),
    "openvino": Engine("openvino", "float32", PROGRAM),
    "ours:bfloat16": Engine("mpafer-jax", "bfloat16", "bfloat16"),
    "openvino:bfloat16": Engine("openvino", "bfloat16", PROGRAM),
    "onnxruntime:dynamic_int8": Engine("onnxruntime", "int8, dynamic", "dynamic_int8.onnx"),
    "onnxruntime:static_int8": Engine("onnxruntime", "int8, static", "static_int8.onnx"),
    "openvino:static_int8": Engine("openvino", "int8, static", "static_int8.onnx"),
}


def import_openvino() -> Any:
    """OpenVINO without its telemetry: its import alone sends usage statistics, from a process that it forks."""
    sys.modules["openvino_telemetry"] = cast(Any, None)  # cannot be imported, which OpenVINO is prepared for
    return importlib.import_module("openvino")


def why_not(name: str) -> str:
    """Why a contender cannot run here; '' if it can."""
    engine = ENGINES[name]
    if engine.package != "mpafer-jax" and importlib.util.find_spec(engine.package) is None:
        return f"{engine.package} is not installed: pip install -e '.[bench]'"
    if name == "openvino:bfloat16":
        able = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            return "OpenVINO computes in bfloat16 on processors with AVX-512 only, and this is none"
    return ""


class Predicting:
    """A contender of bulk prediction, loaded; see `JaxContender`.

    Attributes:
      device: "cpu".
    """

    device = "cpu"

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        """Loads the contender `name` of ENGINES, for the problem in the folder."""
        engine = ENGINES[name]
        load = {"mpafer-jax": _ours, "onnxruntime": _onnxruntime, "openvino": _openvino}[engine.package]
        self._images: Pixels = np.load(folder / IMAGES)
        self._run = load(folder / engine.file, engine.precision)

    def check(self) -> Arrays:
        """OUTPUTS for all images."""
        starts = range(0, len(self._images), _PART)
        parts = [self._run(self._images[start : start + _PART]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}

    def calls(self) -> measures.Calls:
        """Prediction on the first n images, by n as text."""
        return {str(n): functools.partial(self._run, self._images[:n]) for n in range(1, 1 + len(self._images))}


def _ours(folder: pathlib.Path, precision: str) -> Run:
    from mpafer_jax.inference import Predictor

    predictor = Predictor.from_checkpoint(folder, batch_sizes=range(1, 1 + LARGEST_BATCH))  # nothing is padded

    def run(pixels: Pixels) -> Mapping[str, npt.NDArray[Any]]:
        found = predictor.predict_batch(pixels)
        return {name: np.stack([getattr(prediction, name) for prediction in found]) for name in OUTPUTS}

    return run


def _onnxruntime(file: pathlib.Path, precision: str) -> Run:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = workers.usable_cores()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixels: dict(zip(OUTPUTS, session.run(OUTPUTS, {"pixels": pixels}), strict=True))


def _openvino(file: pathlib.Path, precision: str) -> Run:
    compiled = (
        import_openvino()
        .Core()
        .compile_model(
            str(file),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
                "INFERENCE_NUM_THREADS": workers.usable_cores(),
                "PERFORMANCE_HINT": "LATENCY",  # all threads compute one batch
            },
        )
    )

    def run(pixels: Pixels) -> Mapping[str, npt.NDArray[Any]]:
        found = compiled(pixels)
        return {name: np.array(found[name]) for name in OUTPUTS}

    return run
