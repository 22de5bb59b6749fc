"""What quantizing an exported predictor.onnx to int8 costs and saves, on the test faces of a run of the quickstart.

    python -m tests.measurements.onnx_int8 RUN FOLDER

RUN is a workdir of configs/quickstart.py, FOLDER a new one for the files.
"""

import pathlib
import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.config.data_section import SynthfaceSection
from mpafer_jax.data.readers import synthface
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.export import check
from mpafer_jax.inference.export import onnx as export
from mpafer_jax.inference.export.programs import program

_BATCH = 50
_REPEATS = 20


def int8_share(path: pathlib.Path) -> float:
    """Of the numbers in a file's constants, how many are int8."""
    sizes = {True: 0, False: 0}
    for constant in onnx.load(path).graph.initializer:
        sizes[constant.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)] += int(np.prod(constant.dims))
    return sizes[True] / sum(sizes.values())


def main(run: str, out: str) -> None:
    """Exports, quantizes, and prints one line for each form."""
    folder = pathlib.Path(out)
    _, description, _ = checkpoints.load(run, "best")
    section = SynthfaceSection.model_validate(description.config["data"]["synthface"])
    index = synthface.read(section, ())
    assert index.class_names == description.class_names
    predictor = Predictor.from_checkpoint(run, batch_sizes=(_BATCH,))
    found = program(predictor)
    exported = export.save_onnx(folder, found, batch_size=0)
    quantized = folder / "predictor_int8.onnx"
    quantize_dynamic(exported, quantized, weight_type=QuantType.QInt8)
    sessions = {
        path: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (exported, quantized)
    }
    ways = {"jax": predictor.logits}
    ways |= {
        path.name: lambda pixels, session=session: session.run(["logits"], {"pixels": pixels})[0]
        for path, session in sessions.items()
    }
    records = index.splits["test"]
    images = list(predictor_pixels(predictor, records))
    labels = np.array([record.label for record in records])
    probes = check.drawn_faces(8, found.image_size)
    logits = {}
    for name, way in ways.items():
        logits[name] = np.concatenate([way(np.stack(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)])
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(_REPEATS):  # taking turns, so that what else the machine does slows all alike
        for name, way in ways.items():
            if name != "jax":
                started = time.perf_counter()
                way(probes)
                best[name] = min(best[name], (time.perf_counter() - started) / len(probes))
    for name, values in logits.items():
        agree = np.mean(values.argmax(1) == logits["jax"].argmax(1))
        right = np.mean(values.argmax(1) == labels)
        line = f"{name}: right on {100 * right:.2f}% of {len(labels)}, as jax on {100 * agree:.2f}%"
        if name != "jax":
            path = folder / name
            line += f"; {path.stat().st_size:,} bytes, {100 * int8_share(path):.1f}% int8"
            line += f", {1000 * best[name]:.2f} ms an image"
        print(line)


def predictor_pixels(predictor: Predictor, records):
    """The images as the model sees them, uint8[S, S, 3]."""
    import io

    from PIL import Image

    for result in predictor.stream(
        (Image.open(io.BytesIO(record.image.read())) for record in records), batch_size=_BATCH, keep_pixels=True
    ):
        yield result.pixels


if __name__ == "__main__":
    main(*sys.argv[1:])
