"""Options that do nothing beside the others are refused by every command that has such."""

import importlib

import pytest

from mpafer_jax.jobs.sweeps.sweep import load_module
from tests.jobs import runs


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (
            "cli.predict",
            ["run", "in", "--which_faces=all", "--margin=0.2"],
            "--margin does nothing without --faces=detect",
        ),
        ("cli.predict", ["run", "in", "--no_align"], "--no_align does nothing without --faces=detect"),
        ("cli.predict", ["run", "in", "--class_names=a,b"], "--class_names does nothing without --zero_shot"),
        ("cli.predict", ["run", "in", "--bank=x"], "--bank does nothing without --heatmaps or --zero_shot"),
        ("cli.predict", ["run", "in", "--zero_shot", "--which=best"], "--which does nothing without a checkpoint"),
        ("cli.predict", ["run", "in", "--zero_shot", "--clip=x"], "--clip does nothing without a checkpoint"),
        ("cli.export", ["run", "--out=o", "--weights=inside"], "--weights does nothing without --to=stablehlo"),
        ("cli.export", ["run", "--out=o", "--to=onnx", "--platforms=cpu"], "--platforms does nothing without"),
        ("cli.export", ["run", "--out=o", "--batch_size=0"], "--batch_size does nothing without --to=stablehlo or"),
        (
            "cli.predict",
            ["step_5", "in", "--which=last"],
            "--which does nothing without a folder of several checkpoints",
        ),
        ("cli.export", ["step_5", "--out=o", "--which=last"], "--which does nothing without a folder of several"),
        ("cli.demo", ["step_5", "--which=last"], "--which does nothing without a folder of several checkpoints"),
        ("cli.report", ["a", "b", "--noimages"], "--noimages is of one run's report"),
    ],
)
def test_options_that_would_do_nothing_are_refused(command, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step_5").mkdir()
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"mpafer_jax.{command}").main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "idle"), [(["--sbatch=-x"], "--sbatch"), (["--slurm", "--gpus=0"], "--gpus")])
def test_options_of_a_sweep_for_another_place_are_refused(arguments, idle, capsys):
    main = load_module(runs.ROOT / "launch" / "sweep.py").main
    with pytest.raises(SystemExit, match="2"):
        main(["--sweep=s", "--workdir=w", *arguments])
    assert f"{idle} does nothing without" in capsys.readouterr().err
