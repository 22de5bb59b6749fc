"""Searches: real trials of a few steps, failed, resumed, chosen on validation alone and measured once on the test."""

import json
import shlex

import numpy as np
import pytest

from configs import common
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.config.search_space import Factor
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.jobs import train
from mpafer_jax.jobs.sweeps import plan, search, sweep
from mpafer_jax.jobs.sweeps.collect import FinishedRun
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.runtime.errors import ConfigError
from tests.jobs import runs

TEXT = """
from mpafer_jax.config.search_space import Choice, Factor
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep

SPACE = {"optimizer.learning_rate": Factor(0.01, 0.1), "loss.beta": Factor(0.1, 10.0)}
TEXT_ONLY = {"visual_prompts.num_prompts": 0}


def get_sweep(argument):
    return Sweep(
        title="Two methods",
        base=argument,
        points=(
            Point("full", "MPA-FER", space=SPACE),
            Point("coop", "CoOp", TEXT_ONLY, space={"optimizer.learning_rate": Choice((1e38,))}),
            Point("coop", "CoOp", {**TEXT_ONLY, "data.train_per_class": 3}, table="few"),
        ),
        baselines=("majority",),
        seeds=(0,),
        trials=2,
        trial_length=0.5,
    )
"""
SPACE = {"optimizer.learning_rate": Factor(0.1, 10.0)}
FOLDER = "--config.data.dir=/data"


@pytest.fixture
def command(sample, tmp_path, monkeypatch):
    """Runs the command on the sample, in this process; the runs that it makes are others: flags -> how it ended."""
    monkeypatch.setenv("XLA_FLAGS", runs.environment()["XLA_FLAGS"])  # of the runs
    (tmp_path / "two.py").write_text(TEXT)
    changes = {**runs.CHANGES, "train.num_steps": 4, "train.eval_every": 2, "optimizer.warmup_steps": 1}
    del changes["eval.report"]
    changes |= {"data.dir": str(sample / "faces"), "clip.name": str(sample / "clip")}
    words = [
        f"--sweep={tmp_path / 'two.py'}:configs/sample.py",
        f"--workdir={tmp_path / 'search'}",
        *(f"--config.{name}={value}" for name, value in changes.items()),
    ]
    return lambda *flags: runs.call("study sweep", *words, *flags)


@pytest.mark.processes
def test_trials_on_validation_then_what_they_chose_on_the_test(command, tmp_path):
    root = tmp_path / "search"
    dry = command("--dry_run")
    assert dry.code == 0, dry.err
    assert [line.split("--workdir=")[1].split()[0].removeprefix(f"{root}/") for line in dry.out.splitlines()] == [
        f"trials/{method}/trial_0{number}/seed_100" for method in ("full", "coop") for number in (0, 1)
    ]
    assert all("--config.eval.measure_test=False" in line for line in dry.out.splitlines())
    assert not root.exists()

    # One trial cannot be, one diverges: nothing is chosen, so nothing is measured on the test.
    taken = root / "trials" / "full" / "trial_01" / "seed_100" / "checkpoints"
    taken.parent.mkdir(parents=True)
    taken.write_text("in the way")
    first = command("--retries=0", "--together=2")
    assert first.code == 1, first.err
    assert "failed: full/trial_01/seed_100" in first.err
    assert "failed: coop/" not in first.err
    assert sorted(path.name for path in root.iterdir()) == ["trials"]
    kept = {path: path.read_text() for path in (root / "trials").rglob("summary.json")}
    assert {str(path.relative_to(root)) for path in kept} == {
        f"trials/{method}/trial_00/seed_100/summary.json" for method in ("full", "coop")
    }

    # The same command goes on with what is missing, which is drawn as before.
    taken.unlink()
    second = command()
    assert second.code == 0, second.err
    assert "search: 4 trials, 3 of them have ended before" in second.err
    assert {path: path.read_text() for path in kept} == kept
    for summary in (root / "trials").rglob("summary.json"):
        found = runs.summary(summary.parent)
        assert "test" not in {*found["last"], *found["best"], *found["fingerprints"], *found["counts"]}
        assert Predictions.load(summary.parent / "predictions.npz").split == "validation"
        evaluated = [line["step"] for line in runs.metrics(summary.parent) if line["kind"] == "validation"]
        assert evaluated == [2]

    record = json.loads((root / search.JSON).read_text())
    assert (record["trials"], record["search_seed"], record["select_by"]) == (2, 100, "war")
    full, coop = (record["methods"][name] for name in ("full", "coop"))
    scores = [trial["validation"] for trial in full["trials"]]
    assert scores == [runs.summary(root / trial["folder"])["best"]["validation"]["war"] for trial in full["trials"]]
    assert [trial["curve"] for trial in full["trials"]] == [[[2, score]] for score in scores]
    assert full["chosen"] == int(np.argmax(scores))
    assert full["values"] == full["trials"][full["chosen"]]["values"]
    assert full["space"]["loss.beta"] == {"low": 0.1, "high": 10.0, "default": 1.0, "text": "0.1 to 10, log-uniform"}
    assert coop["chosen"] == 0
    assert [trial["validation"] is None for trial in coop["trials"]] == [False, True]
    text = (root / search.MARKDOWN).read_text()
    assert "| 2, 1 of them diverged |" in text
    assert "of seed 100, each with 50% of a run's updates; the first" in text
    times = [trial["seconds"] for trial in full["trials"] + coop["trials"]]
    whole = 4 - times.count(None)  # one diverged, and that of the first command can have been stopped and resumed
    assert f"\n{whole} trials took 0.0 hours of wall time together, on 1 x cpu" in text

    # What was chosen, for all points of its name, over another seed; on the test.
    for name, values in (("all/full", full["values"]), ("all/coop", coop["values"]), ("few/coop", coop["values"])):
        config = flatten(json.loads((root / name / "seed_0" / "config.json").read_text()))
        assert {field: config[field] for field in values} == values
        assert (config["seed"], config["train.num_steps"], config["eval.measure_test"]) == (0, 4, True)
        assert "test" in runs.summary(root / name / "seed_0")["best"]
    assert "| `loss.beta` |" in second.out.replace("  ", "")
    assert second.out == (root / "results.md").read_text() + "\n"

    # By hand, and once more: nothing is left.
    words = [word for word in shlex.split(full["command"])[3:] if not word.startswith("--workdir=")]
    again = runs.run([*shlex.split(full["command"])[:3], *words, f"--workdir={tmp_path / 'again'}"], cwd=runs.ROOT)
    assert again.returncode == 0, again.stderr
    assert runs.summary(tmp_path / "again")["best"]["validation"]["war"] == max(scores)
    third = command()
    assert third.code == 0
    assert "3 runs, 3 of them have ended before" in third.err

    # Another choice would be measured on the same test images again.
    other = command("--trials=1")
    assert (other.code == 2) == (full["chosen"] == 1)
    refused = command("--seeds=0,100")
    assert refused.code == 2
    assert "seed 100 is the search's" in refused.err


def test_a_run_without_test_has_the_other_images_it_has_with_it(sample, tmp_path):
    for changes in ({}, {"data.test_split": "", "data.test_fraction": 0.2}):
        whole = train.prepare(runs.config(sample, **changes), tmp_path / "a").dataset
        without = train.prepare(runs.config(sample, **changes, **{"eval.measure_test": False}), tmp_path / "b").dataset
        assert without.test is None
        assert [split.name for split in without.held_out] == ["validation"]
        for name in ("train", "validation"):
            assert getattr(without, name).fingerprint == getattr(whole, name).fingerprint


@pytest.mark.parametrize(("scores", "chosen"), [((0.5, 0.7, 0.7), 1), ((0.7, 0.5, 0.7), 0), ((0.1, 0.2, 0.3), 2)])
def test_of_equal_trials_the_first_is_chosen(tmp_path, monkeypatch, scores, chosen):
    monkeypatch.chdir(runs.ROOT)
    found = Sweep("title", "configs/sample.py", (Point("full", "", space=SPACE),), trials=3)
    made = search.trials(found, [FOLDER])
    ended = [
        FinishedRun(
            f"{row.key}/seed_100", {"eval": {"select_by": "uar"}}, {"best": {"validation": {"uar": score}}}, None
        )
        for row, score in zip(made.points, scores, strict=True)
    ]
    monkeypatch.setattr(search.collect, "read_runs", lambda folder, sweep: ended)
    monkeypatch.setattr(search.collect, "results", lambda sweep, runs, folder: [])
    (searched,) = search.read(found, made, [FOLDER], tmp_path)
    assert [trial.score for trial in searched.trials] == list(scores)
    assert searched.best.number == chosen
    for name, value in searched.best.values.items():
        assert f"--config.{name}={value}" in searched.command


def test_without_validation_nothing_can_be_chosen(sample):
    with pytest.raises(ConfigError, match=r"eval\.measure_test is False.*set data\.validation_split"):
        runs.config(sample, **{"eval.measure_test": False, "data.validation_fraction": 0.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": (1, 100)}, "seed 100 is the search's"),
        ({"over": "folds"}, "give --trials=0 for folds"),
        (
            {"points": (Point("a", "", space=SPACE), Point("a", "", table="b", space=SPACE))},
            "two points a with a space",
        ),
    ],
)
def test_a_search_that_says_nothing_is_refused(values, message):
    values = {"points": (Point("a", "", space=SPACE),), "baseline": "a", "trials": 3, **values}
    with pytest.raises(ConfigError, match=message):
        Sweep("title", "configs/sample.py", **values)
    Sweep("title", "configs/sample.py", **{**values, "trials": 0})


def test_every_method_has_a_space_within_its_configuration(monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    assert common.SPACES.keys() == {"full", *common.METHODS}
    for argument in ("quickstart", "ferplus_prompts,16_per_class,2_per_class"):
        flags = ["--config.data.dir=/data"] if "ferplus" in argument else []
        found = sweep.load(f"configs/sweeps/methods.py:{argument}")
        made = search.trials(found, flags)
        assert len(made.points) == found.trials * len(common.SPACES)
        few = {run.config.data.train_per_class for run in plan.plan(made, flags, made.seeds)}
        assert few == ({16} if flags else {0})
        for point in found.searched:
            first, *others = made.rows(point.name)
            rates = {
                row.changes["optimizer.learning_rate"] / first.changes["optimizer.learning_rate"] for row in others
            }
            assert len(rates) >= 14
            assert all(0.01 <= rate <= 10 for rate in rates)


def test_a_choice_made_with_16_images_scales_with_the_defaults_for_2(monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    found = sweep.load("configs/sweeps/methods.py:quickstart,16_per_class,2_per_class")
    made = search.trials(found, [])
    searched = next(point for point in found.searched if point.name == "full")
    tried = [
        search.Trial(n, {f: row.changes[f] for f in searched.space}, None, 0.0)
        for n, row in enumerate(made.rows("full"))
    ]
    for number in (0, 5):
        chosen = search.settled(found, [search.Searched(searched, tried, tried[number], "")], [])
        changes = {point.key: point.changes for point in chosen.points}
        assert {f: changes["16_per_class/full"][f] for f in searched.space} == tried[number].values
        of_two = changes["2_per_class/full"]
        assert of_two["loss.beta"] == pytest.approx(8 * tried[number].values["loss.beta"], rel=0.01)
        assert of_two["optimizer.learning_rate"] == tried[number].values["optimizer.learning_rate"]
        assert changes["2_per_class/coop"] == {point.key: point for point in found.points}["2_per_class/coop"].changes


@pytest.mark.parametrize(
    ("base", "flags", "length"),
    [
        ("configs/quickstart.py", [], (200, 0.0)),
        ("configs/quickstart.py", ["--config.train.num_steps=301"], (100, 0.0)),
        ("configs/rafdb.py", [FOLDER, "--config.train.num_epochs=6"], (0, 2.0)),
        ("configs/rafdb.py", [FOLDER, "--config.train.num_steps=300", "--config.train.num_epochs=0"], (100, 0.0)),
    ],
)
def test_the_length_of_trials_follows_that_of_runs(monkeypatch, base, flags, length):
    monkeypatch.chdir(runs.ROOT)
    found = Sweep("title", base, (Point("full", "", space=SPACE),), trials=2, trial_length=1 / 3)
    made = plan.plan(search.trials(found, flags), search.of_trials(found, flags), (100,))
    assert {(run.config.train.num_steps, run.config.train.num_epochs) for run in made} == {length}
