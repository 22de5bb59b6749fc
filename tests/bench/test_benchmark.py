"""The benchmark in its shortest form: contenders compute the same, and the tables have their shape. No times."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.bench import measure, measures, problem, report
from tests.bench.client import BenchmarkError, Worker
from tests.bench.timing import Spread
from tests.jobs import runs

pytestmark = pytest.mark.bench

SETTING = problem.Setting(clip="tiny", batch_size=4, num_classes=3, top_k=5)
ALL_MEASURES = list(measures.TITLES)


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", runs.environment()["XLA_FLAGS"])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("problem") / "problem"
    problem.write(path, SETTING)
    return path


def run_command(out, *arguments):
    command = [sys.executable, "-m", "tests.bench.benchmark", f"--out={out}", "--clip=tiny", "--top_k=5"]
    small = ["--num_classes=3", "--batch_sizes=4", "--repeats=2", "--block_seconds=0"]
    return subprocess.run(
        [*command, *small, *arguments], env=runs.environment(), capture_output=True, text=True, timeout=600, check=False
    )


def checked(tmp_path, *arguments):
    """(results, table rows) of the benchmark of ours and the plain way, which compute the same."""
    done = run_command(tmp_path, "--contender=ours", "--contender=plain", *arguments)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "benchmark.md").read_text()
    assert text in done.stdout
    (results,) = json.loads((tmp_path / "benchmark.json").read_text())
    assert results["setting"]["batch_size"] == 4
    errors = results["errors"]["plain"]
    assert {"logits", "losses", "gradient_ctx", "gradient_visual_prompts"} < errors.keys()
    assert max(errors.values()) <= 1e-4
    return results, [line for line in text.splitlines() if line.startswith("| ")]


def test_plain_pytorch_computes_the_same(tmp_path):
    results, rows = checked(tmp_path, "--starts=0", "--measure=eval_step")
    assert {name: len(values) for name, values in results["seconds"]["eval_step"].items()} == {"ours": 2, "plain": 2}
    # A header and a line each of times and of rates.
    assert len(rows) == 4
    assert [cell.strip() for cell in rows[0].split("|")[2:]] == ["ours", "plain PyTorch", "plain PyTorch / ours", ""]


@pytest.mark.slow
def test_the_tables_have_every_line(tmp_path):
    results, rows = checked(tmp_path)
    assert list(results["seconds"]) == ALL_MEASURES
    for kinds in results["starts"].values():
        (cold,), (warm,) = kinds["cold"], kinds["warm"]
        assert 0 < cold["imported"] < cold["ready"] < cold["first_step"]
        assert warm["peak_memory"] > 100e6
    # Three tables with a header: times, rates of ours, and starts of both, cold and warm.
    assert len(rows) == (1 + len(ALL_MEASURES)) + (1 + 3) + (1 + 4)


@pytest.mark.slow
def test_torch_compile_computes_the_same(tmp_path):
    done = run_command(tmp_path, "--contender=ours", "--contender=compiled", "--measure=eval_step", "--starts=0")
    assert done.returncode == 0, done.stderr


def check(name, folder, path):
    with Worker(name, folder, remat="dots", threads=0) as worker:
        worker.ask("load")
        worker.ask("check", path=str(path))
    return dict(np.load(path))


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    return check("ours", folder, tmp_path_factory.mktemp("ours") / "outputs.npz")


@pytest.mark.slow
def test_other_numbers_are_refused(tmp_path, folder, ours):
    """A temperature that one of them has wrong changes losses and gradients, and not the logits."""
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    (wrong / "setting.json").write_text(json.dumps(dataclasses.asdict(SETTING) | {"temperature": 0.0102}))
    outputs = {"ours": ours, "plain": check("plain", wrong, tmp_path / "plain.npz")}
    with pytest.raises(BenchmarkError, match=r"nothing was timed.*: plain's losses by \S+, plain's gradient_ctx by"):
        measure.check_equal(outputs, 1e-4)
    outputs["plain"] |= {name: ours[name] for name in ("losses", "gradient_ctx")}
    assert max(measure.check_equal(outputs, 1e-4)["plain"].values()) <= 1e-4
    outputs["plain"]["logits"] = outputs["plain"]["logits"] * np.nan
    with pytest.raises(BenchmarkError, match=r": plain's logits by nan\."):
        measure.check_equal(outputs, 1e-4)


@pytest.mark.slow
def test_in_bfloat16_both_round_and_agree(tmp_path, ours):
    """Products are rounded by both, which the same weights in float32 show, and not so much that they disagree."""
    problem.write(tmp_path / "rounded", dataclasses.replace(SETTING, precision="bfloat16"))
    rounded = {name: check(name, tmp_path / "rounded", tmp_path / f"{name}.npz") for name in ("ours", "plain")}
    measure.check_equal(rounded, measure.TOLERANCES["bfloat16"])
    for name, outputs in rounded.items():
        (errors,) = measure.check_equal({"exact": ours, name: outputs}, measure.TOLERANCES["bfloat16"]).values()
        assert errors["patch_features"] > 1e-3, name


def test_different_devices_are_not_compared():
    assert measure.same_device({"ours": "cpu", "plain": "cpu"}) == "cpu"
    with pytest.raises(BenchmarkError, match="not all compute on the same device: ours on cpu, plain on a GPU"):
        measure.same_device({"ours": "cpu", "plain": "a GPU"})


def test_a_contender_that_fails_says_why(tmp_path, folder):
    log = tmp_path / "log"
    with Worker("plain", folder, remat="dots", threads=1, log=log) as worker:
        with pytest.raises(BenchmarkError, match="plain: ValueError: unknown question 'dance'"):
            worker.ask("dance")
        with pytest.raises(BenchmarkError, match="plain ended with exit code 1"):
            worker.ask("load")
    assert "unknown question 'dance'" in log.read_text()


def test_numbers_of_a_table():
    assert report.seconds(Spread(1.234, 1.2, 12.0)) == "1.23 (1.20 to 12.00)"
    assert report.seconds(Spread(0.01234, 0.01, 0.02)) == "0.0123 (0.0100 to 0.0200)"
    assert report.seconds(Spread(123.4, 99.0, 200.0)) == "123 (99 to 200)"
