"""The command as a user runs it: in processes of its own, killed, resumed, misused, on several devices."""

import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import mpafer_jax
from mpafer_jax.artifacts import checkpoints as checkpoints_lib
from mpafer_jax.runtime import signals
from tests import needs
from tests.jobs import runs


def stop(arguments, number, condition):
    """Starts a run, sends it a signal when the condition holds, and returns (exit code, logs)."""
    with subprocess.Popen(arguments, env=runs.environment(), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 900
        while not condition():
            assert time.monotonic() < deadline
            assert process.poll() is None, "ended before it could be stopped"
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate()
        return process.returncode, errors


@pytest.mark.processes
def test_stopped_killed_and_resumed_equals_undisturbed(sample, tmp_path):
    # Lines of metrics between the checkpoints, so that a stop comes between two lines.
    steps = {"train.num_steps": 24, "train.log_every": 5, "train.eval_every": 8, "train.checkpoint_every": 8}
    undisturbed = runs.run(runs.command(sample, tmp_path / "undisturbed", **steps))
    assert undisturbed.returncode == 0, undisturbed.stderr

    workdir = tmp_path / "killed"
    arguments = runs.command(sample, workdir, **steps)
    metrics, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
    code, errors = stop(arguments, signal.SIGTERM, lambda: metrics.is_file() and '"step": 5,' in metrics.read_text())
    assert code == signals.EXIT_CODE == 75
    saved = int(errors.split("stopped by SIGTERM after step ")[1].split()[0])
    assert f"of 24, which is saved in {workdir}; the same command resumes from there (exit code 75)" in errors
    assert max(int(path.name.removeprefix("step_")) for path in checkpoints.glob("step_*")) == saved
    assert not (workdir / "summary.json").exists()
    later = {f"step_{step}" for step in (8, 16) if step > saved}
    code, errors = stop(arguments, signal.SIGKILL, lambda: any((checkpoints / name).exists() for name in later))
    assert f"resuming after step {saved}" in errors
    assert code == -signal.SIGKILL
    assert not (workdir / "summary.json").exists()
    resumed = runs.run(arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step" in resumed.stderr

    one, _, _ = checkpoints_lib.load(tmp_path / "undisturbed", "last")
    two, _, _ = checkpoints_lib.load(tmp_path / "killed", "last")
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert runs.metrics(tmp_path / "undisturbed") == runs.metrics(tmp_path / "killed")


@pytest.mark.processes
@pytest.mark.devices
def test_several_devices_train_as_one(finished, sample, tmp_path):
    alone = runs.run(runs.command(sample, tmp_path / "run"))
    assert alone.returncode == 0, alone.stderr
    one, _, _ = checkpoints_lib.load(tmp_path / "run", "last")
    several, _, _ = checkpoints_lib.load(finished[0], "last")
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


@pytest.mark.processes
@pytest.mark.torch
def test_neither_tensorflow_nor_torch_is_imported(sample, tmp_path):
    """The whole job beside a TensorFlow that breaks whoever imports it, and a PyTorch that could be imported."""
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
    changes = {"train.num_steps": 2, "optimizer.warmup_steps": 0, "data.prepared_dir": str(tmp_path / "prepared")}
    arguments = runs.command(sample, tmp_path / "run", **changes)
    done = runs.run([arguments[0], "-c", program, *arguments[2:]])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()
    assert done.stdout.endswith("torch: None\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.dir": "/nowhere"}, "/nowhere"),
        ({"head.top_k": 65}, "config.head.top_k is 65, this CLIP has 64 patches"),
        ({"loss.temperature": 0.0}, "config.loss.temperature: Input should be greater than 0"),
        ({"clip.name": "/no/such/clip"}, "config.clip.name is '/no/such/clip': "),
        ({"optimizer.warmup_steps": 12}, "optimizer.warmup_steps is 12, which must be less"),
        ({"hard_prompts.bank": "poems"}, "hard_prompts.bank 'poems' is neither"),
        ({"visual_prompts.layers": "(4,)"}, "must ascend within 1..3"),
        ({"data.mean": "(0.5,0.5,0.5)"}, "was trained with"),
        ({"train.warm_start": "/no/such/run"}, "no checkpoint at /no/such/run"),
        ({"data.class_names": "('anger',)"}, "one class ('anger',) leaves nothing to tell apart"),
    ],
)
def test_mistakes_end_with_a_message_and_leave_the_folder_free(sample, tmp_path, changes, message):
    done = runs.call("train", *runs.words(sample, **changes), f"--workdir={tmp_path / 'run'}")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run" / "config.json").exists()  # corrected, the same folder can be used


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.los.beta=0", "--config.los.beta: there is no such field; did you mean --config.loss.beta?"),
        ("--config.loss.xyz=0", "--config.loss.xyz: there is no such field; loss has beta, gamma, "),
        ("--config.loss.beta=much", "could not convert string to float: 'much'"),
        ("--made=eval", "unknown arguments: --made=eval; did you mean --mode?"),
        (
            "--config=configs/sample.py:vit_l12",
            "unknown config arguments vit_l12; did you mean vit_l14? Known are vit_b32, ",
        ),
        (
            "--config=configs/rafbd.py",
            "--config=configs/rafbd.py: there is no such file; did you mean configs/rafdb.py?",
        ),
        ("--config=rafdb", "--config=rafdb: there is no such file; did you mean configs/rafdb.py?"),
        # A shell leaves the tilde of --config=~ alone.
        ("--config=~/configs/rafbd.py", f"--config={runs.ROOT}/configs/rafbd.py: there is no such file; did you"),
    ],
)
def test_unknown_fields_and_arguments_are_refused_in_two_lines(sample, monkeypatch, flag, message):
    monkeypatch.setenv("HOME", str(runs.ROOT))
    words = [flag] if flag.startswith("--config=") else [*runs.words(sample), flag]
    done = runs.call("train", *words, "--workdir=/nowhere")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 2


def test_help_and_version():
    for name, called, own in (
        ("train", "python -m mpafer_jax.main", "--mode={train,eval,predict}"),
        ("prompts report", "mpafer-jax prompts report", "--split={validation,test}"),
    ):
        shown = runs.call(name, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.startswith(f"usage: {called} --config=FILE[:ARGUMENTS] ")
        flags = [line.split()[0].rstrip(",") for line in shown.out.splitlines() if line.startswith("  -")]
        assert flags[:2] == ["--config=FILE[:ARGUMENTS]", "--config.FIELD=VALUE"]
        assert own in flags
        assert flags[-5:] == ["--log={auto,plain}", "-v", "--verbosity=N", "-h", "--version"]
        assert len(flags) < 15
    assert "  --noown_datasets  " in runs.call("study cross-dataset", "--help").out
    version = runs.call("train", "--version")
    assert (version.code, version.out.split()[:2]) == (0, ["mpafer-jax", mpafer_jax.__version__])
