"""The measurement of bulk prediction: what is compared, and its tables. No times."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests import needs
from tests.bench import bulk
from tests.bench.engines import ENGINES
from tests.data import layouts
from tests.jobs import runs

pytestmark = [pytest.mark.bench, pytest.mark.onnx]


@pytest.fixture(autouse=True, scope="module")
def one_device():
    needs.installed("jax2onnx", "pip install --no-deps jax2onnx==0.17.1 (docs/export.md)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", runs.environment()["XLA_FLAGS"])
        yield


def test_engines_compute_the_same_and_int8_does_not(tmp_path):
    command = [sys.executable, "-m", "tests.bench.bulk", f"--out={tmp_path}", "--clip=tiny", "--batch_sizes=1,4"]
    command += ["--repeats=2", "--block_seconds=0", "--ferplus=/nowhere"]
    done = subprocess.run(command, env=runs.environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr + (tmp_path / "contenders.log").read_text()
    text, results = (tmp_path / "bulk.md").read_text(), json.loads((tmp_path / "bulk.json").read_text())
    assert text in done.stdout
    assert "Agreement of classes not measured: no folder /nowhere (--ferplus)." in text
    measured = results["errors"].keys() | {"ours"}
    assert {"onnxruntime", "onnxruntime:static_int8", "ours:bfloat16"} < measured
    for name in ENGINES.keys() - measured:
        assert f"Not measured: {ENGINES[name].title}: " in text
    assert results["seconds"].keys() == {"1", "4"}
    for by_name in results["seconds"].values():
        assert {name: len(values) for name, values in by_name.items()} == dict.fromkeys(measured, 2)
    for name, errors in results["errors"].items():
        assert errors.keys() == {"logits", "probabilities", "patch_scores"}
        if ENGINES[name].precision == "float32":
            assert max(errors.values()) <= 1e-4
        else:
            assert 1e-4 < errors["patch_scores"] < 1


def test_agreement_on_photographs(tmp_path):
    """A tenth of the images calibrates; the others are compared."""
    faces = np.stack([np.asarray(layouts.image(seed, 48, 48, "L")) for seed in range(20)])
    labels = np.zeros(20, np.int64)
    names = ["ours", "onnxruntime", "onnxruntime:static_int8"]
    found = bulk.agreement(faces, labels, names, 0, tmp_path / "log")
    ours, exact, quantized = (found[name] for name in names)
    assert (ours.same, ours.difference, ours.bytes) == (1, 0, 0)
    assert exact.same == 1
    assert exact.difference < 1e-4 < quantized.difference
    assert quantized.bytes < exact.bytes / 2
    assert 18 * quantized.same == pytest.approx(round(18 * quantized.same))


def test_rates_are_compared_within_turns():
    seconds = {16: {"ours": [4.0, 8.0, 8.0], "onnxruntime": [8.0, 8.0, 4.0]}}
    found = {"ours": bulk.Agreement(0.7, 1, 0, 0), "onnxruntime": bulk.Agreement(0.6, 0.995, 1e-3, 1000)}
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in bulk.render(seconds, {"onnxruntime": {"logits": 2e-6}}, found).splitlines()
        if line.startswith("| ")
    ]
    assert rows == [
        ["images a second, median (least to greatest)", "batch 16"],
        ["ours, float32", "2.00 (2.00 to 4.00)"],
        ["ONNX Runtime, float32", "2.00 (2.00 to 4.00)"],
        ["its rate / that of ours in float32, within a turn", "batch 16"],
        ["ours, float32", ""],
        ["ONNX Runtime, float32", "1.00 (0.50 to 2.00)"],
        ["largest error against ours, of the largest entry", "logits"],
        ["ONNX Runtime, float32", "2.0e-06"],
        ["photographs", "accuracy, %", "same class, %", "a probability differs by at most", "bytes"],
        ["ours, float32", "70.00", "100.00", "0.0e+00", ""],
        ["ONNX Runtime, float32", "60.00", "99.50", "1.0e-03", "1,000"],
    ]
