"""What is said of eight drawn faces by the checkpoint of version 0.1.0: every way to ask gives the same numbers."""

import json
import re

import jax.export
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from mpafer_jax.data.synthface.generate import face_of
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.inference import Predictor
from tests import needs
from tests.golden import store
from tests.golden.commands import without_versions
from tests.golden.store import EXPORTED, RUN_V1

# Between a CPU's instruction sets and between XLA and ONNX Runtime logits differ by 6e-5, probabilities by 2e-6.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="module")
def faces():
    """uint8[8, 96, 96, 3]: five styles, persons and expressions by seed."""
    styles = ("poster", "poster", "poster", "poster", "colour", "paint", "sketch", "grey")
    return np.stack([face_of(5, "golden", i, STYLES[style]).job.pixels(96) for i, style in enumerate(styles)])


@pytest.fixture(scope="module")
def files(faces, tmp_path_factory):
    """The same as a folder of PNG files."""
    folder = tmp_path_factory.mktemp("faces")
    for number, face in enumerate(faces):
        Image.fromarray(face).save(folder / f"face_{number}.png")
    return folder


def steady(row, files):
    """Without this machine's folder, and the best patches in the order of the image: near ones change places."""
    patches = {name: sorted(values) for name, values in row.get("top_patches", {}).items()}
    return {**row, "file": row["file"].replace(str(files), "FACES")} | ({"top_patches": patches} if patches else {})


def check_probabilities(values):
    store.check("inference/probabilities", np.asarray(values, np.float64).tolist(), **TOLERANCE)


def test_predictor(faces):
    predictor = Predictor.from_checkpoint(RUN_V1, batch_sizes=(8,))
    predictions = predictor.predict_batch(faces)
    check_probabilities([prediction.probabilities for prediction in predictions])
    about = {"class_names": predictor.class_names, "trained_on": str(predictor.trained_on), "grid": predictor.grid}
    store.check("inference/predictor", {**about, "warning": predictor.trained_on.warning, "repr": repr(predictor)})
    store.check("inference/text_features", np.asarray(predictor.text_features)[:, :8].tolist(), **TOLERANCE)
    store.check("inference/logits", [prediction.logits.tolist() for prediction in predictions], **TOLERANCE)
    # Of each class the patches with the highest scores, in the order of the image.
    patches = np.stack([prediction.top_patches for prediction in predictions])
    store.check("inference/top_patches", np.sort(patches, axis=-1).tolist())
    store.check("inference/patch_scores", predictions[0].patch_scores.tolist(), **TOLERANCE)


@pytest.mark.parametrize("path", [RUN_V1, EXPORTED], ids=["run", "exported"])
def test_command(commands, files, tmp_path, path):
    out = tmp_path / "out.jsonl"
    arguments = (files, f"--checkpoint={path}", "--faces=none", f"--out={out}", "--batch_size=8")
    done = commands.run("mpafer_jax.predict", *arguments, places={})
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    check_probabilities([list(row["probabilities"].values()) for row in rows])
    store.check("inference_command/rows", [steady(row, files) for row in rows], **TOLERANCE)


def test_explanations(commands, files, tmp_path):
    arguments = (files, f"--checkpoint={RUN_V1}", "--faces=none", f"--heatmaps={tmp_path}", "--batch_size=8")
    done = commands.run("mpafer_jax.predict", *arguments, places={"FACES": files})
    assert done.code == 0, done.err
    store.check("inference_command/shown", done.out.splitlines())
    store.check("inference_command/files", sorted(file.name for file in tmp_path.iterdir()))
    explained = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*.json"))]
    for explanation in explained:
        scores = [phrase["score"] for phrase in explanation["phrases"]]
        assert scores == sorted(scores, reverse=True)
        # Two phrases that are as near change places with the last digit.
        explanation["phrases"] = {phrase.pop("text"): phrase for phrase in explanation["phrases"]}
    store.check("inference_command/explanation", steady(explained[0], files), **TOLERANCE)
    others = [{name: explanation[name] for name in ("rollout", "prompt_share")} for explanation in explained[1:]]
    store.check("inference_command/rollouts", others, **TOLERANCE)


@pytest.fixture(scope="module")
def programs(commands, tmp_path_factory):
    needs.installed("jax2onnx", "docs/export.md")
    out = tmp_path_factory.mktemp("programs") / "out"
    places = {"RUN_V1": RUN_V1, "OUT": out}
    arguments = (RUN_V1, "--to=prompts,stablehlo,onnx", "--platforms=cpu", f"--out={out}")
    done = commands.run("mpafer_jax.cli", "export", *arguments, places=places)
    assert done.code == 0, done.err
    return out


@pytest.mark.onnx
def test_onnx(programs, faces):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(programs / "predictor.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = [[one.name, one.type, one.shape[1:]] for one in session.get_inputs()]
    store.check("inference/onnx", {"inputs": inputs, "outputs": names})
    found = dict(zip(names, session.run(names, {"pixels": faces}), strict=True))
    check_probabilities(found["probabilities"])
    store.check("inference/logits", found["logits"].tolist(), **TOLERANCE)


@pytest.mark.onnx
def test_stablehlo(programs, faces):
    program = jax.export.deserialize(bytearray((programs / "predictor.stablehlo").read_bytes()))
    weights = safetensors.numpy.load_file(programs / "weights.safetensors")
    found = program.call(weights, faces)
    check_probabilities(found["probabilities"])
    store.check("inference/logits", np.asarray(found["logits"], np.float64).tolist(), **TOLERANCE)
    described = {name: [list(value.shape[1:]), str(value.dtype)] for name, value in sorted(found.items())}
    store.check("inference/stablehlo", {"outputs": described, "weights": sorted(weights)})


@pytest.mark.onnx
def test_card(programs):
    """The text beside the files, without measured times, checksums and other packages' versions."""
    lines = without_versions((programs / "README.md").read_text()).splitlines()
    patterns = ((r"`[0-9a-f]{64}`", "SHA256"), (r"\d\.\d+e[-+]\d+", "DIFFERENCE"), (r"[\d.]+ ms", "TIME"))
    for pattern, name in patterns:
        lines = [re.sub(pattern, name, line) for line in lines]
    store.check("inference_card", lines)
