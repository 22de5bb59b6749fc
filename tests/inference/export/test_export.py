"""Exports: read back to the same numbers, described truly, refused when they are not what they say."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import tempfile
import types

import jax
import numpy as np
import pytest

import mpafer_jax
from configs.common import METHODS
from mpafer_jax.artifacts import checkpoints, prompt_file
from mpafer_jax.cli import export as cli
from mpafer_jax.config import redaction
from mpafer_jax.data.splits import CLIPS
from mpafer_jax.evaluation import protocol
from mpafer_jax.faces import alignment
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.export import card, check, whole
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.method.forward import Forward
from mpafer_jax.runtime.errors import CheckpointError, ExportError
from tests import needs, tiny
from tests.jobs import runs


@pytest.fixture(autouse=True)
def converter(request):
    """What writes ONNX, which the extras cannot bring."""
    if request.node.get_closest_marker("onnx"):
        needs.installed("jax2onnx", "pip install --no-deps jax2onnx==0.17.1 (docs/export.md)")


def places_of_this_machine():
    """Folders whose names no exported file may hold."""
    folders = [pathlib.Path(mpafer_jax.__file__).parent, pathlib.Path.cwd(), pathlib.Path.home()]
    folders += [pathlib.Path(path) for path in (*site.getsitepackages(), sys.prefix, tempfile.gettempdir())]
    return {str(folder).encode() for folder in folders if len(folder.parts) > 1}


@pytest.fixture(scope="module")
def expected(finished):
    """Images, and what the predictor says of them."""
    predictor = Predictor.from_checkpoint(finished[0], batch_sizes=(5,))
    pixels = check.drawn_faces(5, predictor.image_size)
    return pixels, predictor.logits(pixels)


@pytest.fixture(scope="session")
def exported(finished, shared):
    """Prompts and a program for any number of images, its weights beside it."""

    def build(folder):
        folder.mkdir()
        assert cli.export([str(finished[0]), "--to=prompts,stablehlo", f"--out={folder / 'model'}"]) == 0

    return shared("exported", build) / "model"


def test_what_is_written_and_its_checksums(exported, finished):
    names = {file.name for file in exported.iterdir()}
    assert names == {
        "README.md",
        "confidence.npz",
        "predictor.stablehlo",
        "prompts.safetensors",
        "prompts.safetensors.sha256",
        "weights.safetensors",
    }
    text = (exported / "README.md").read_text()
    for name in names - {"README.md"}:
        assert f"| {name} | `{hashlib.sha256((exported / name).read_bytes()).hexdigest()}` |" in text
    best = finished[1]["best"]
    assert f"step {best['step']}" in text
    assert re.search(
        rf"\| test +\| +{100 * best['test']['war']:.2f} \| +{100 * best['test']['uar']:.2f} \| +25 \|", text
    )
    assert "bit for bit" in text
    assert "differed by at most" in text


def test_prompts_are_a_checkpoint(exported, finished):
    params, description, step = checkpoints.load(exported, "last")
    own, own_description, own_step = checkpoints.load(finished[0], "best")
    assert step == own_step
    assert params.keys() == own.keys()
    for name, value in own.items():
        np.testing.assert_array_equal(params[name], value)
    assert description == whole.redacted(own_description)
    assert own_description.config["data"]["dir"] not in (exported / "prompts.safetensors").read_bytes().decode(
        "latin-1"
    )
    description.model_sections()


def test_no_place_of_the_machine_is_in_any_file(sample, finished, tmp_path):
    params, description, step = checkpoints.load(finished[0], "best")
    config = json.loads(json.dumps(description.config))
    for field in redaction.LOCAL_PATHS:
        *sections, name = field.split(".")
        section = functools.reduce(dict.__getitem__, sections, config)
        place = f"/home/alice/{name}"
        section[name] = [place] if isinstance(section[name], list) else place
    changed = description.model_copy(update={"config": config, "clip_name": "/home/alice/clip"})
    prompt_file.save_prompts(tmp_path / "trained", params, changed.model_dump(mode="json"), step)
    out, forms = tmp_path / "out", "--to=prompts,stablehlo"
    clip = f"--clip={sample / 'clip'}"
    assert cli.export([str(tmp_path / "trained"), forms, "--platforms=cpu", clip, f"--out={out}"]) == 0
    assert b"alice" in (tmp_path / "trained" / prompt_file.PROMPTS).read_bytes()
    for file in out.iterdir():
        data = file.read_bytes()
        assert not [place for place in {b"alice", str(sample).encode(), *places_of_this_machine()} if place in data], (
            file
        )
    # What says something elsewhere too is there.
    _, left, _ = checkpoints.load(out, "best")
    assert (left.clip_name, left.config["train"]["warm_start"]) == ("clip", "warm_start")
    assert left.config["hard_prompts"]["bank"] == ["bank"]


def test_the_card_says_that_the_test_split_chose(chosen_on_test, tmp_path):
    for which, shouted in (("best", 1), ("last", 0)):
        out = tmp_path / which
        assert cli.export([str(chosen_on_test), f"--which={which}", "--to=prompts", f"--out={out}"]) == 0
        results = (out / "README.md").read_text().split("## Results\n")[1].split("\n## ")[0]
        assert results.count(f"**{protocol.TEST_SELECTED}**") == shouted


def test_of_a_single_checkpoint_it_is_known_which_it_was(chosen_on_test, sample, tmp_path):
    """Whatever `eval.which` says; a step of a run that the test split may have chosen counts as chosen."""
    step = chosen_on_test / "checkpoints" / "step_12"
    for which in ("best", "last"):
        assert cli.export([str(chosen_on_test), f"--which={which}", f"--out={tmp_path / which}"]) == 0
        assert cli.export([str(tmp_path / which), "--to=prompts", f"--out={tmp_path / f'{which}_again'}"]) == 0
    known = {"best": True, "last": False, "best_again": True, "last_again": False, str(step): True}
    for place, on_test in known.items():
        _, description, _ = checkpoints.load(tmp_path / place, "best")
        for which in ("best", "last"):
            assert checkpoints.chosen_on_test(tmp_path / place, which, description) is on_test, (place, which)
    again = (tmp_path / "last_again" / "README.md").read_text()
    assert protocol.TEST_SELECTED not in again
    config = runs.config(sample, **{"eval.checkpoint": str(tmp_path / "last")})
    result = evaluate.evaluate_checkpoint(config, tmp_path / "evaluated", clip=str(sample / "clip"))
    assert result["chosen_on_test"] is False


def test_the_card_counts_clips_as_clips(finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    (run / "summary.json").write_text(json.dumps({**finished[1], "data": [CLIPS]}))
    assert cli.export([str(run), "--to=prompts", f"--out={tmp_path / 'model'}"]) == 0
    assert re.search(r"\| split +\| accuracy, % \| +UAR, % \| clips \|", (tmp_path / "model" / card.CARD).read_text())


def test_the_card_says_what_the_model_has_seen(exported, tmp_path):
    _, description, step = checkpoints.load(exported, "best")
    written = {
        "step": step,
        "confidence": None,
        "results": None,
        "unit": "images",
        "chosen_on_test": False,
        "checks": {},
        "checksums": {},
        "program": {},
    }
    drawn = description.model_copy(update={"data": {**description.data, "dataset": "synthface"}})
    card.write_card(tmp_path, folder_name="x", description=drawn, **written)
    text = (tmp_path / card.CARD).read_text()
    assert "drawn faces of synthface; CLIP clip |" in text
    assert "**It knows drawn faces only and cannot read photographs" in text
    text = (exported / card.CARD).read_text()
    assert "photographs" not in text
    assert re.search(r"trained on \d+ images of folder; CLIP clip \|", text)


def test_the_card_says_how_faces_are_cropped(finished, exported, tmp_path):
    """With the margin of the training data; for prompts alone the package knows it."""
    assert alignment.describe_targets(64) in (exported / card.CARD).read_text()
    params, description, step = checkpoints.load(finished[0], "best")
    data = {**description.config["data"], "face_margin": -0.12}
    changed = description.model_copy(update={"config": {**description.config, "data": data}})
    prompt_file.save_prompts(tmp_path / "trained", params, changed.model_dump(mode="json"), step)
    forms = ("--to=stablehlo", "--platforms=cpu")
    assert cli.export([str(tmp_path / "trained"), *forms, f"--out={tmp_path / 'model'}"]) == 0
    text = (tmp_path / "model" / card.CARD).read_text()
    assert "64x64 pixels from five landmarks" in text
    assert "the fractions (0.3289, 0.3947), (0.6711, 0.3947), (0.5, 0.5921)" in text


def test_the_card_tells_how_to_run_the_program(exported, expected, monkeypatch):
    """Its lines, run as they stand."""
    section = (exported / "README.md").read_text().split("## Program (StableHLO)")[1]
    snippet = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    monkeypatch.chdir(exported)
    pixels, logits = expected
    for number in (5, 2):  # any number of images
        names = {"pixels": pixels[:number]}
        exec(snippet, names)
        np.testing.assert_allclose(names["outputs"]["logits"], logits[:number], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.sum(names["outputs"]["probabilities"], axis=1), 1.0, rtol=1e-5)
        assert names["outputs"]["patch_scores"].shape == (number, 64, 5)


def test_weights_inside_and_a_fixed_number_of_images(finished, expected, tmp_path):
    from mpafer_jax.inference.export import programs

    out = tmp_path / "model"
    arguments = ["--to=stablehlo", "--weights=inside", "--batch_size=5", "--platforms=cpu", f"--out={out}"]
    assert cli.export([str(finished[0]), *arguments]) == 0
    assert {file.name for file in out.iterdir()} == {"README.md", "predictor.stablehlo"}
    run = programs.load_stablehlo(out)
    np.testing.assert_allclose(run(expected[0])["logits"], expected[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected same constant"):
        run(expected[0][:2])


@pytest.mark.onnx
def test_onnx_for_a_fixed_number_of_images(finished, expected, tmp_path, capfd):
    from mpafer_jax.inference.export import onnx

    out = tmp_path / "five"
    assert cli.export([str(finished[0]), "--to=onnx", "--batch_size=5", f"--out={out}"]) == 0
    pixels, logits = expected
    run = onnx.load_onnx(out)
    outputs = run(pixels)
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-4, atol=1e-4)
    assert outputs["patch_scores"].shape == (5, 64, 5)
    data = (out / onnx.PROGRAM).read_bytes()
    assert not [place for place in places_of_this_machine() if place in data]
    output = capfd.readouterr()  # the converter's and ONNX Runtime's, which has warned until now of what is left over
    assert not re.search("warn|W:onnxruntime", output.err + output.out, re.IGNORECASE)
    import onnxruntime

    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Got: 2 Expected: 5"):
        run(pixels[:2])


@pytest.mark.onnx
def test_a_quantizer_finds_the_weights_of_onnx(tmp_path):
    """Of the CLIP that ships, with 97% of its constants in products."""
    import onnx as onnx_lib
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from mpafer_jax.inference.export import onnx, programs

    predictor = Predictor.zero_shot("tiny-face-clip", ("happiness", "neutral"), paraphrases=1)
    layers = predictor.model.backbone.spec.vision.num_layers
    written = onnx.save_onnx(tmp_path, programs.program(predictor), batch_size=0)
    model = onnx_lib.load(written)
    onnx_lib.checker.check_model(model, full_check=True)
    operators = collections.Counter(node.op_type for node in model.graph.node)
    assert not operators.keys() & {"Einsum", "Gemm", "Loop", "Scan", "Conv"}
    assert operators["MatMul"] == 1 + 8 * layers + 1 + 2  # patches, layers, projection, scores of image and patches
    assert operators["LayerNormalization"] == 2 + 2 * layers
    assert operators["Softmax"] == layers + 1
    assert not model.doc_string
    assert not [node.name for node in model.graph.node if node.doc_string or node.metadata_props]
    weights = sum(int(np.prod(constant.dims)) for constant in model.graph.initializer)
    assert written.stat().st_size < 4.2 * weights
    quantize_dynamic(written, tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    quantized = onnx_lib.load(tmp_path / "int8.onnx").graph.initializer
    int8 = [int(np.prod(constant.dims)) for constant in quantized if constant.data_type == onnx_lib.TensorProto.INT8]
    assert sum(int8) > 0.95 * weights


WEIGHTS = tuple(tuple(0.5 + (i + c) % 3 / 2 for i in range(16)) for c in range(3))
GELU = dataclasses.replace(tiny.CLIP, vision=dataclasses.replace(tiny.CLIP.vision, hidden_act="gelu"))


@pytest.mark.onnx
@pytest.mark.parametrize(
    ("changes", "layers", "batch_size"),
    [
        ({"center_patch_scores": True}, (1, 3), 0),
        ({"clip": GELU, "center_patch_scores": True}, (1, 2, 3), 3),
    ],
)
def test_programs_of_every_kind_of_model(tmp_path, changes, layers, batch_size):
    from mpafer_jax.inference.export import onnx, programs

    every = len(layers) == 3
    weights = None if every else np.array(WEIGHTS, np.float32)
    model = tiny.model(**changes, learner=tiny.learner(visual_layers=layers, before_norm=not every))
    params = model.learner.initial_params(3)
    params = jax.tree.map(lambda value: value + 0.3 * jax.random.normal(jax.random.key(4), value.shape), params)
    predictor = types.SimpleNamespace(  # what is read of a `Predictor`
        forward=Forward(model, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), grayscale=every),
        frozen=tiny.frozen(model).replace(patch_weights=weights),
        params=params,
        text_features=jax.random.normal(jax.random.key(5), (3, 20)),
    )
    found = programs.program(predictor)
    programs.save_stablehlo(tmp_path, found, batch_size=0, platforms=("cpu",), weights_inside=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = jax.jit(found.call)(found.weights, pixels)
    onnx.save_onnx(tmp_path, found, batch_size=batch_size)
    for run in (programs.load_stablehlo(tmp_path), onnx.load_onnx(tmp_path)):
        for name, value in run(pixels).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.onnx
def test_a_model_without_visual_prompts_and_local_score_has_every_form(sample, tmp_path):
    from mpafer_jax.inference.export import onnx, programs

    workdir, out = tmp_path / "run", tmp_path / "model"
    train.train_and_evaluate(runs.config(sample, **METHODS["coop"], **runs.SHORT), workdir)
    assert cli.export([str(workdir), "--to=prompts,stablehlo,onnx", "--platforms=cpu", f"--out={out}"]) == 0
    assert checkpoints.load(out, "best")[0].keys() == {"ctx"}
    predictor, again = (
        Predictor.from_checkpoint(folder, batch_sizes=(5,), clip=str(sample / "clip")) for folder in (workdir, out)
    )
    pixels = check.drawn_faces(5, predictor.image_size)
    logits = predictor.logits(pixels)
    np.testing.assert_array_equal(again.logits(pixels), logits)
    for load in (programs.load_stablehlo, onnx.load_onnx):
        for number in (5, 2):
            outputs = load(out)(pixels[:number])
            assert outputs.keys() == {"logits", "probabilities"}
            np.testing.assert_allclose(outputs["logits"], logits[:number], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--to=torch"], "'torch' is none of prompts, stablehlo, onnx"),
        (["{run}", "--to="], "expected some of prompts, stablehlo, onnx, found none"),
        (["{run}", "--to=stablehlo", "--platforms=tpu,cuda"], "compared on this machine; add cpu"),
        (["/no/such/run"], "no checkpoint at /no/such/run"),
        (["{run}", "--batch_size=-1"], "expected a number from 0 on"),
        (["{run}", "--to=stablehlo", "--clip=/no/such/clip"], "its CLIP, '/no/such/clip', cannot be loaded"),
    ],
)
def test_mistakes_end_with_a_message(finished, tmp_path, capsys, arguments, message):
    arguments = [argument.format(run=finished[0]) for argument in arguments]
    with contextlib.suppress(SystemExit):  # argparse's, of status 2 too
        assert cli.export([*arguments, f"--out={tmp_path / 'model'}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_current_folder_may_be_the_one(finished, tmp_path, monkeypatch):
    """The card calls it by its name, of which "." says nothing."""
    (tmp_path / "model").mkdir()
    run = str(finished[0].absolute())
    monkeypatch.chdir(tmp_path / "model")
    assert cli.export([run, "--out=."]) == 0
    assert 'Predictor.from_checkpoint("model")' in (tmp_path / "model" / "README.md").read_text()


def test_a_folder_that_holds_something_is_left_alone(finished, exported, capsys):
    before = {file: file.stat().st_mtime_ns for file in exported.iterdir()}
    assert cli.export([str(finished[0]), f"--out={exported}"]) == 2
    assert "a new or empty folder only" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in exported.iterdir()} == before


def test_of_an_export_that_fails_nothing_is_left(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(check.TOLERANCES, "float32", -1.0)
    out = tmp_path / "model"
    assert cli.export([str(finished[0]), "--to=prompts,stablehlo", "--platforms=cpu", f"--out={out}"]) == 1
    assert "differ by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # so that the same command can be given again


def test_prompts_and_program_are_of_one_step_though_the_run_goes_on(finished, tmp_path, monkeypatch):
    first = min((finished[0] / "checkpoints").glob("step_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))
    load, calls = checkpoints.load, []

    def best(path, which):
        """The first step, until it has been asked for once."""
        calls.append(path)
        return load(first if len(calls) == 1 else path, which)

    predictor = Predictor.from_checkpoint(first, batch_sizes=(5,))
    pixels = check.drawn_faces(5, predictor.image_size)
    expected = predictor.logits(pixels)
    assert not np.allclose(Predictor.from_checkpoint(finished[0], batch_sizes=(5,)).logits(pixels), expected)
    from mpafer_jax.inference.export import programs

    monkeypatch.setattr(checkpoints, "load", best)
    out = tmp_path / "model"
    assert cli.export([str(finished[0]), "--to=prompts,stablehlo", "--platforms=cpu", f"--out={out}"]) == 0
    np.testing.assert_allclose(programs.load_stablehlo(out)(pixels)["logits"], expected, rtol=1e-3, atol=1e-3)


def test_a_damaged_summary_is_named(finished, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "summary.json").write_text("{")
    assert cli.export([str(run), "--to=prompts", f"--out={tmp_path / 'model'}"]) == 1
    assert "summary.json, whose results the model card shows, is not JSON" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_prompts_that_are_not_what_they_say_are_refused(exported, tmp_path):
    data = (exported / prompt_file.PROMPTS).read_bytes()
    changed = tmp_path / prompt_file.PROMPTS

    def refuses(content, message, checksum=None):
        changed.write_bytes(content)
        (tmp_path / prompt_file.CHECKSUM).unlink(missing_ok=True)
        if checksum is not None:
            (tmp_path / prompt_file.CHECKSUM).write_text(checksum)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(tmp_path, "best")

    own = (exported / prompt_file.CHECKSUM).read_text()
    refuses(data[:-4] + b"\0\0\0\1", r"has the SHA-256 .* beside it says", own)
    refuses(data, r"beside it says nothing", "")
    refuses(data[: len(data) // 2], "is no file of prompts of this program")
    refuses(b"", "is no file of prompts of this program")
    import safetensors.numpy

    refuses(safetensors.numpy.save({"ctx": np.zeros(3)}), "is no file of prompts of this program")
    header = json.dumps({"format": "mpafer-prompts-9", "step": 1, "description": {}})
    refuses(safetensors.numpy.save({"ctx": np.zeros(3)}, {"mpafer": header}), "has the format 'mpafer-prompts-9'")
    header = json.dumps({"format": "mpafer-prompts-1", "step": 1, "description": {}})
    refuses(safetensors.numpy.save({"ctx": np.zeros(3)}, {"mpafer": header}), "was written by another version")
    header = json.dumps({"format": "mpafer-prompts-1", "step": 1, "description": {}})
    broken = safetensors.numpy.save({"ctx": np.array([0, np.nan])}, {"mpafer": header})
    refuses(broken, r"holds numbers that are NaN or infinite: ctx \(1 of 2\)")
    changed.write_bytes(data)  # without a checksum beside it, it is taken as it is
    assert checkpoints.load(tmp_path, "best")[1].class_names == checkpoints.load(exported, "best")[1].class_names


def test_a_form_is_compared_on_the_device_that_it_is_to_be_compared_on(finished):
    """As ONNX is on the CPU, wherever JAX computes otherwise."""
    from mpafer_jax.inference.export import onnx, programs

    predictor = Predictor.from_checkpoint(finished[0], batch_sizes=(2,))
    found, pixels = programs.program(predictor), check.drawn_faces(2, predictor.image_size)
    cpu, usual = jax.devices("cpu")[:2]
    with jax.default_device(usual):
        assert onnx.device() == cpu
        before = {id(array) for array in jax.live_arrays()}
        run = whole._compiled(found, cpu)
        placed = [array for array in jax.live_arrays() if id(array) not in before]
        assert len(placed) == len(found.weights)
        assert {device for array in placed for device in array.devices()} == {cpu}
        np.testing.assert_allclose(run(pixels)["logits"], predictor.logits(pixels), rtol=1e-4, atol=1e-4)


def test_without_a_cpu_there_is_no_comparison_of_onnx():
    program = "from mpafer_jax.inference.export import onnx; onnx.device()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "JAX_PLATFORMS": "tpu"}, capture_output=True, text=True
    )
    assert "which JAX does not have here" in done.stderr
    assert "as in JAX_PLATFORMS=cuda,cpu, or unset it" in done.stderr


def test_a_program_that_says_something_else_is_an_error():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)

    def says(first):
        return lambda pixels: {"probabilities": np.array([[first, 1 - first], [0.5, 0.5]], np.float32)}

    found = check.compare(says(0.7), says(0.7001), pixels, dtype="float32", device="cpu")
    assert found.difference == pytest.approx(1e-4, rel=0.01)
    assert found.milliseconds > 0
    with pytest.raises(ExportError, match="differ by"):
        check.compare(says(0.702), says(0.7), pixels, dtype="float32", device="cpu")
    for exported, predictor, whose in ((np.nan, 0.7, "the exported program's"), (0.7, np.inf, "the predictor's")):
        with pytest.raises(ExportError, match=rf"NaN or infinite: {whose} \(2 of 4\)"):
            check.compare(says(exported), says(predictor), pixels, dtype="float32", device="cpu")
    check.compare(says(0.702), says(0.7), pixels, dtype="bfloat16", device="cpu")
