"""Images a second of prediction: our predictor, and inference engines on our exported ONNX, on the same cores."""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import contextlib
import dataclasses
import importlib
import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging
from PIL import Image

from mpafer_jax.artifacts import checkpoints, shipped
from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.prompt_file import save_prompts
from mpafer_jax.backbones.clip.random_clip import write_random_clip
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.cli.parser import UsageError, at_least, whole_numbers
from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.data import preprocess
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.export import onnx, programs
from mpafer_jax.method import build
from mpafer_jax.runtime import devices, files, workers
from tests.bench import ferplus, measure, timing
from tests.bench.client import Worker
from tests.bench.engines import ENGINES, IMAGES, LARGEST_BATCH, why_not
from tests.bench.problem import CLIPS, Arrays
from tests.bench.sizes import SIZES
from tests.bench.timing import Spread
from tests.bench.worker import PREDICTING
from tests.data.layouts import FERPLUS

_INT8 = ("dynamic_int8.onnx", "static_int8.onnx")
_CALIBRATION = 10  # of so many photographs one calibrates static int8


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Predictions on photographs.

    Attributes:
      accuracy: share of the images whose class is right.
      same: share of the images with the class of ours in float32.
      difference: largest of a probability to ours in float32.
      bytes: size of the file of an engine; 0 for ours.
    """

    accuracy: float
    same: float
    difference: float
    bytes: int


def random_checkpoint(clip: str, folder: Path, seed: int) -> tuple[dict[str, Any], Description]:
    """Prompts and description of a model like the one that ships, but with random weights in the shape of `clip`."""
    _, description, _ = checkpoints.load(shipped.DEFAULT, "best")
    vision = SIZES[clip].vision
    write_random_clip(
        folder,
        hidden=vision.hidden_size,
        layers=vision.num_layers,
        heads=vision.num_heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        projection_dim=SIZES[clip].projection_dim,
        seed=seed,
    )
    loaded = load_backbone(str(folder))
    head = {**description.config["head"], "top_k": min(16, vision.num_patches)}
    config = {**description.config, "clip": {**description.config["clip"], "name": str(folder)}, "head": head}
    description = description.model_copy(
        update={"config": config, "clip_name": str(folder), "clip_hash": loaded.content_hash}
    )
    model = build.make_model(description.model_sections(), loaded.backbone, len(description.class_names))
    return devices.to_host(model.learner.initial_params(seed)), description


def _image_size(description: Description) -> int:
    return load_backbone(description.config["clip"]["name"]).backbone.spec.image_size


def write(
    folder: Path, params: dict[str, Any], description: Description, images: Pixels, calibration: Pixels, int8: bool
) -> None:
    """Writes all that the contenders read, see `engines`."""
    for dtype in ("float32", "bfloat16"):
        clip = {**description.config["clip"], "dtype": dtype, "residual_dtype": dtype}
        computed = description.model_copy(update={"config": {**description.config, "clip": clip}})
        (folder / dtype).mkdir()
        save_prompts(folder / dtype, params, computed.model_dump(mode="json"), 0)
    program = programs.program(Predictor.from_checkpoint(folder / "float32"))
    onnx.save_onnx(folder, program, batch_size=0)
    np.save(folder / IMAGES, images)
    if int8:
        _quantize(folder, calibration)


def _quantize(folder: Path, images: Pixels) -> None:
    """Writes both kinds of int8 (`_INT8`).

    Ranges of static weights are per column, and of 7 bits: without VNNI a processor's sums of products saturate with 8.
    With one range for a whole matrix, as dynamic int8 has it by default, few weights are large enough for that.
    """
    quantization: Any = importlib.import_module("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        """Images, one by one."""

        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Pixels] | None:
            image = next(self._left, None)
            return None if image is None else {"pixels": image[None]}

    dynamic, static = (folder / name for name in _INT8)
    weight_type = quantization.QuantType.QInt8
    quantization.quantize_dynamic(folder / onnx.PROGRAM, dynamic, weight_type=weight_type)
    quantization.quantize_static(
        folder / onnx.PROGRAM,
        static,
        Reader(),
        op_types_to_quantize=["MatMul"],
        activation_type=quantization.QuantType.QUInt8,
        weight_type=weight_type,
        per_channel=True,
        reduce_range=True,
        extra_options={"MatMulConstBOnly": True},
    )


@contextlib.contextmanager
def started(names: Sequence[str], folder: Path, threads: int, log: Path) -> Any:
    """The loaded contenders by name."""
    with contextlib.ExitStack() as stack:
        found = {
            name: stack.enter_context(Worker(PREDICTING + name, folder, remat="none", threads=threads, log=log))
            for name in names
        }
        for worker in found.values():
            worker.ask("load")
        yield found


def speed(
    arguments: argparse.Namespace, names: Sequence[str], log: Path
) -> tuple[dict[int, dict[str, list[float]]], dict[str, dict[str, float]]]:
    """Seconds of a batch by its size and contender, and the errors of outputs; refused where float32's are not ours."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.clip == shipped.DEFAULT:
            params, description, _ = checkpoints.load(shipped.DEFAULT, "best")
        else:
            params, description = random_checkpoint(arguments.clip, folder / "clip", arguments.seed)
        size = _image_size(description)
        shape = (max(arguments.batch_sizes), size, size, 3)
        images = np.random.default_rng(arguments.seed).integers(0, 256, shape).astype(np.uint8)
        write(folder, params, description, images, images[:8], any(ENGINES[name].file in _INT8 for name in names))
        with started(names, folder, arguments.threads, log) as found:
            outputs = {name: measure.outputs_of(worker, folder) for name, worker in found.items()}
            exact = {name: of for name, of in outputs.items() if ENGINES[name].precision == "float32"}
            measure.check_equal(exact, measure.TOLERANCES["float32"])
            errors = measure.check_equal(outputs, float("inf"))
            seconds = {
                batch: measure.time_in_turns(str(batch), found, arguments.repeats, arguments.block_seconds)
                for batch in arguments.batch_sizes
            }
    return seconds, errors


def agreement(
    faces: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], names: Sequence[str], threads: int, log: Path
) -> dict[str, Agreement]:
    """The prompts that ship, on photographs uint8[n, 48, 48]; the first tenth only calibrates static int8."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params, description, _ = checkpoints.load(shipped.DEFAULT, "best")
        size = _image_size(description)
        images = np.stack([np.asarray(preprocess.resize(Image.fromarray(face).convert("RGB"), size)) for face in faces])
        calibration = len(faces) // _CALIBRATION
        write(folder, params, description, images[calibration:], images[:calibration], int8=True)
        outputs: dict[str, Arrays] = {}
        for name in names:
            with started([name], folder, threads, log) as loaded:
                outputs[name] = measure.outputs_of(loaded[name], folder)
        engine_files = {name: folder / ENGINES[name].file for name in names}
        ours = outputs["ours"]["probabilities"]
        found: dict[str, Agreement] = {}
        for name, of in outputs.items():
            classes: npt.NDArray[np.int64] = of["probabilities"].argmax(1)
            found[name] = Agreement(
                np.count_nonzero(classes == labels[calibration:]) / len(classes),
                np.count_nonzero(classes == ours.argmax(1)) / len(classes),
                float(np.abs(of["probabilities"] - ours).max()),
                engine_files[name].stat().st_size if engine_files[name].is_file() else 0,
            )
        return found


def render(
    seconds: Mapping[int, Mapping[str, Sequence[float]]],
    errors: Mapping[str, Mapping[str, float]],
    agreements: Mapping[str, Agreement],
) -> str:
    """Markdown: images a second, ours divided by each, and the agreement of classes."""
    parts: list[str] = []
    names = list(next(iter(seconds.values())))

    def shown(spread: Spread) -> str:
        return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"

    def rate(name: str, batch: int) -> str:
        return shown(Spread.of([batch / second for second in seconds[batch][name]]))

    def ratio(name: str, batch: int) -> str:
        return "" if name == "ours" else shown(timing.ratios(seconds[batch]["ours"], seconds[batch][name]))

    def table(corner: str, cell: Any) -> str:
        header = [corner, *(f"batch {batch}" for batch in seconds)]
        return markdown(header, [[ENGINES[name].title, *(cell(name, batch) for batch in seconds)] for name in names])

    parts.append(table("images a second, median (least to greatest)", rate))
    parts.append(table("its rate / that of ours in float32, within a turn", ratio))
    lines = [[ENGINES[name].title, *(f"{error:.1e}" for error in of.values())] for name, of in errors.items()]
    if lines:
        header = ["largest error against ours, of the largest entry", *next(iter(errors.values()))]
        parts.append(markdown(header, lines))
    if agreements:
        header = ["photographs", "accuracy, %", "same class, %", "a probability differs by at most", "bytes"]
        lines = [
            [
                *(ENGINES[name].title, f"{100 * of.accuracy:.2f}", f"{100 * of.same:.2f}", f"{of.difference:.1e}"),
                f"{of.bytes:,}" if of.bytes else "",
            ]
            for name, of in agreements.items()
        ]
        parts.append(markdown(header, lines))
    return "\n".join(parts)


@command(
    "bulk",
    path("--out", required=True, help="folder for bulk.md, bulk.json and the contenders' log"),
    argument(
        "--clip",
        choices=(*CLIPS, shipped.DEFAULT),
        default="vit_b16",
        help="shape of the CLIP that is timed, with random weights, or the model that ships",
    ),
    argument("--batch_sizes", type=whole_numbers, default=[1, 16, 32], help="images of a call"),
    argument("--contender", choices=tuple(ENGINES), action="append", help="who is measured beside ours (default: all)"),
    path("--ferplus", default=FERPLUS, help="folder with FERPlus for the agreement; default: MPAFER_FERPLUS_DIR"),
    number("--repeats", 1, default=5, help="turns"),
    argument("--block_seconds", type=at_least(0, float), default=1.0, help="how long a block of calls lasts at least"),
    number("--threads", 0, default=0, help="cores and threads of each contender (default: all)"),
    number("--seed", 0, default=0, help="of weights and images"),
    called="python -m tests.bench.bulk",
)
def bulk(arguments: argparse.Namespace) -> int:
    """Images a second of prediction: our predictor, and inference engines on our exported ONNX, on the same cores.

        pip install -e '.[bench,onnx]' && pip install --no-deps jax2onnx==0.17.1
        python -m tests.bench.bulk --out=bulk

    Every contender is a process of its own, and they are timed in turns, on random weights; nothing is timed before the
    outputs of those that compute in float32 are equal to 1e-4. The share of images that get the same class is measured
    with the prompts that ship, on FERPlus' PublicTest.
    """
    if max(arguments.batch_sizes) > LARGEST_BATCH:
        raise UsageError(f"--batch_sizes are at most {LARGEST_BATCH}, found {max(arguments.batch_sizes)}")
    onnx.import_packages()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    names = ["ours", *(name for name in ENGINES if name in (arguments.contender or ENGINES) and name != "ours")]
    missing = {name: reason for name in names if (reason := why_not(name))}
    names = [name for name in names if name not in missing]
    notes = [f"Not measured: {ENGINES[name].title}: {reason}." for name, reason in missing.items()]
    seconds, errors = speed(arguments, names, out / "contenders.log")
    agreements: dict[str, Agreement] = {}
    if arguments.ferplus.is_dir():
        faces, labels = ferplus.public_test(arguments.ferplus)
        agreements = agreement(faces, labels, names, arguments.threads, out / "contenders.log")
        notes.append(f"Photographs: {len(faces) - len(faces) // _CALIBRATION:,} of FERPlus' PublicTest.")
    else:
        notes.append(f"Agreement of classes not measured: no folder {arguments.ferplus} (--ferplus).")
    versions = {name: importlib.metadata.version(name) for name in sorted({ENGINES[name].package for name in names})}
    versions |= {"jaxlib": importlib.metadata.version("jaxlib")}
    notes.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    notes.append(f"{arguments.threads or workers.usable_cores()} cores; CLIP {arguments.clip}.")
    text = render(seconds, errors, agreements) + "\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    files.write_text(out / "bulk.md", text)
    files.write_json(
        out / "bulk.json",
        {
            "seconds": {str(batch): of for batch, of in seconds.items()},
            "errors": errors,
            "agreement": {name: dataclasses.asdict(of) for name, of in agreements.items()},
            "versions": versions,
        },
    )
    print(text)
    logging.info("written to %s", out)
    return 0


if __name__ == "__main__":
    bulk.start()
