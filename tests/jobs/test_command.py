"""The command as a user runs it: in processes of its own, killed, resumed, misused, on several devices.

Its help and most of its mistakes: tests/golden/test_commands.py.
"""

import json
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest

from mpafer_jax.artifacts import checkpoints as checkpoints_lib
from mpafer_jax.runtime import signals
from tests import needs
from tests.jobs import runs


@pytest.mark.processes
def test_stopped_killed_and_resumed_equals_undisturbed(finished, sample, tmp_path):
    environment = runs.environment(devices=jax.local_device_count())
    workdir, arguments = tmp_path, runs.command(sample, tmp_path)
    metrics, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
    # Lines of metrics come between the checkpoints, so that a stop comes between two lines.
    code, errors = runs.stop(
        arguments, environment, signal.SIGTERM, lambda: metrics.is_file() and '"step": 3,' in metrics.read_text()
    )
    assert code == signals.EXIT_CODE == 75
    saved = int(errors.split("stopped by SIGTERM after step ")[1].split()[0])
    assert f"of 12, which is saved in {workdir}; the same command resumes from there (exit code 75)" in errors
    assert max(int(path.name.removeprefix("step_")) for path in checkpoints.glob("step_*")) == saved
    assert not (workdir / "summary.json").exists()
    later = {f"step_{step}" for step in (4, 6, 8, 10) if step > saved}
    code, errors = runs.stop(
        arguments, environment, signal.SIGKILL, lambda: any((checkpoints / name).exists() for name in later)
    )
    assert f"resuming after step {saved}" in errors
    assert code == -signal.SIGKILL
    assert not (workdir / "summary.json").exists()
    resumed = subprocess.run(arguments, env=environment, stderr=subprocess.PIPE, text=True, check=True)
    assert "resuming after step" in resumed.stderr
    one, two = (checkpoints_lib.load(folder, "last")[0] for folder in (finished[0], workdir))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert runs.metrics(finished[0]) == runs.metrics(workdir)


@pytest.mark.processes
@pytest.mark.devices
@pytest.mark.torch
def test_several_devices_train_as_one_that_imports_neither_tensorflow_nor_torch(finished, sample, tmp_path):
    """One device, beside a TensorFlow that breaks whoever imports it, and a PyTorch that could be imported."""
    needs.installed("torch", "pip install -e '.[test]'")
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    program = (
        "import atexit, runpy, sys\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "sys.argv = sys.argv[1:]\n"
        "atexit.register(lambda: print('torch:', sys.modules.get('torch')))\n"
        "runpy.run_module('mpafer_jax.main', run_name='__main__', alter_sys=True)\n"
    )
    # A dataset of its own, so that it is prepared here too.
    arguments = runs.command(sample, tmp_path / "run", **{"data.prepared_dir": tmp_path / "prepared"})
    alone = runs.run([arguments[0], "-c", program, *arguments[2:]])
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.endswith("torch: None\n")
    one, several = (checkpoints_lib.load(folder, "last")[0] for folder in (tmp_path / "run", finished[0]))
    for name, value in one.items():
        # AdamW divides by the gradient's size, so rounding grows over the steps.
        np.testing.assert_allclose(value, several[name], atol=2e-3)
    for a, b in zip(runs.metrics(tmp_path / "run"), runs.metrics(finished[0]), strict=True):
        if a["kind"] == "train":
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


def test_a_dataset_of_other_classes_is_evaluated_and_a_report_that_fails_is_said(finished, sample, tmp_path):
    """--mode=eval on a dataset with other names, another order, one class more and two fewer."""
    for folder, name in (("happiness", "Happy"), ("anger", "angry"), ("sadness", "sad")):
        shutil.copytree(sample / "faces" / "test" / folder, tmp_path / "other" / name)
    shutil.copytree(sample / "faces" / "test" / "neutral", tmp_path / "other" / "confusion")
    changes = {
        "data.dir": str(tmp_path / "other"),
        "data.test_split": "",
        "data.test_fraction": 0.5,
        "data.validation_fraction": 0.0,
        "eval.checkpoint": str(finished[0]),
        "eval.report": "numbers",
    }
    (tmp_path / "elsewhere" / "report.html").mkdir(parents=True)  # so that the report alone fails
    words = [*runs.words(sample, **changes), f"--workdir={tmp_path / 'elsewhere'}", "--mode=eval"]
    done = runs.call("train", *words)
    assert done.code == 2, done.err
    assert "the numbers are written, but not the report: IsADirectoryError" in done.err
    assert "2 images of 'confusion' are left out" in done.err
    result = json.loads((tmp_path / "elsewhere" / "evaluation.json").read_text())
    assert result["test"]["class_names"] == ["anger", "happiness", "neutral", "sadness", "surprise"]
    np.testing.assert_array_equal(np.sum(result["test"]["confusion"], axis=1), [2, 2, 0, 2, 0])
    assert result["test"]["recall"]["neutral"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head.top_k": 65}, "config.head.top_k is 65, this CLIP has 64 patches"),
        ({"data.class_names": "('anger',)"}, "one class ('anger',) leaves nothing to tell apart"),
    ],
)
def test_mistakes_end_with_a_message_and_leave_the_folder_free(sample, tmp_path, changes, message):
    done = runs.call("train", *runs.words(sample, **changes), f"--workdir={tmp_path / 'run'}")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run" / "config.json").exists()  # corrected, the same folder can be used


@pytest.mark.parametrize("config", ["rafdb", "~/configs/rafdbb.py"])  # a shell leaves the tilde of --config=~ alone
def test_a_near_config_is_named_in_two_lines(config, monkeypatch):
    monkeypatch.setenv("HOME", str(runs.ROOT))
    done = runs.call("train", f"--config={config}", "--workdir=/nowhere")
    found = config.replace("~", str(runs.ROOT))
    assert done.code == 2
    assert f"--config={found}: there is no such file; did you mean configs/rafdb.py?" in done.err
    assert len(done.err.splitlines()) == 2
