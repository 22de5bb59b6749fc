"""From a sweep to configurations and arguments; what has ended, here and elsewhere."""

import dataclasses
import json
import shutil

import pytest

from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.jobs.sweeps import plan
from mpafer_jax.jobs.sweeps.sweep import Point, Sweep
from mpafer_jax.runtime.errors import ConfigError
from tests.jobs import runs

SWEEP = Sweep(
    title="",
    base="configs/sample.py",
    baselines=("majority", "linear_probe"),
    points=(
        Point("full", ""),
        Point("no_local", "", {"head.local_weight": 0.0}),
        Point("parts", "", {"hard_prompts.granularity": ("brows", "eyes"), "ctx.init_text": "a photo of a"}),
        Point("full", "", {"data.train_per_class": 4}, table="4_per_class"),
    ),
)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(runs.ROOT)


def planned(*overrides, seeds=(0, 3), only=()):
    return {run.name: run for run in plan.plan(SWEEP, overrides, seeds, only)}


def differences(one, two):
    one, two = (flatten(run.config.model_dump()) for run in (one, two))
    return {name for name in one if one[name] != two[name]}


def test_every_run_once_seed_after_seed():
    found = planned("--config.loss.gamma=0.5")
    rows = ["all/full", "all/no_local", "all/parts", "4_per_class/full"]
    assert list(found) == [f"{row}/seed_{seed}" for seed in (0, 3) for row in rows]
    full = found["all/full/seed_0"]
    assert differences(full, found["all/full/seed_3"]) == {"seed", "data.few_shot_seed", "data.label_noise_seed"}
    assert differences(full, found["all/no_local/seed_0"]) == {"head.local_weight", "eval.baselines"}
    assert differences(full, found["4_per_class/full/seed_0"]) == {"data.train_per_class"}
    assert full.config.eval.baselines == ("majority", "linear_probe")
    assert found["all/parts/seed_3"].config.eval.baselines == ()
    assert found["all/parts/seed_3"].config.hard_prompts.granularity == ("brows", "eyes")
    assert found["all/parts/seed_3"].config.ctx.init_text == "a photo of a"
    assert {run.config.loss.gamma for run in found.values()} == {0.5}
    assert {run.config.eval.report for run in found.values()} == {"predictions"}
    assert list(planned(only=["no_local", "4_per_class"], seeds=[1])) == [
        "all/no_local/seed_1",
        "4_per_class/full/seed_1",
    ]


def test_groups_are_of_one_shape(tmp_path):
    points = (
        Point("full", ""),
        Point("half", "", {"loss.beta": 0.5}),
        Point("none", "", {"loss.beta": 0.0}),
        Point("fast", "", {"optimizer.learning_rate": 0.1}),
    )
    found = plan.plan(dataclasses.replace(SWEEP, points=points), [], (0, 3))
    names = [[f"{run.point.name} {run.seed}" for run in group] for group in plan.groups(found, tmp_path, 4)]
    assert names == [["full 0", "half 0", "fast 0", "full 3"], ["none 0", "none 3"], ["half 3", "fast 3"]]


def test_runs_of_a_group_stand_at_the_same_step(tmp_path):
    """The first group has ended but for one run, the second was stopped, the third has not begun."""
    points = tuple(Point(name, "", {"loss.beta": 0.5 + number}) for number, name in enumerate(("full", "b", "c", "d")))
    found = plan.plan(dataclasses.replace(SWEEP, points=points), [], (0, 1))
    for name, steps in (
        ("all/full/seed_0", ("step_2", "step_4", "step_6.orbax-checkpoint-tmp")),
        ("all/b/seed_0", ("step_9", "step_10")),
        ("all/c/seed_0", ("step_10",)),
    ):
        for step in steps:
            (tmp_path / name / "checkpoints" / step).mkdir(parents=True)
    names = [[f"{run.point.name} {run.seed}" for run in group] for group in plan.groups(found, tmp_path, 2)]
    assert names == [["full 0"], ["b 0", "c 0"], ["d 0", "full 1"], ["b 1", "c 1"], ["d 1"]]


def test_a_fold_takes_the_place_of_a_seed():
    over_folds = dataclasses.replace(SWEEP, base="configs/dfew.py", over="folds")
    found = {
        run.name: run for run in plan.plan(over_folds, ["--config.seed=3", "--config.data.dir=D"], (2, 5), ["full"])
    }
    assert list(found) == [f"{table}/full/fold_{fold}" for fold in (2, 5) for table in ("all", "4_per_class")]
    assert differences(found["all/full/fold_2"], found["all/full/fold_5"]) == {"data.clips.fold"}
    assert found["all/full/fold_5"].config.data.clips.fold == 5
    assert found["all/full/fold_5"].config.seed == 3
    with pytest.raises(ConfigError, match=r"--config\.data\.clips\.fold is what --folds sets"):
        plan.plan(over_folds, ["--config.data.clips.fold=1"], (2,))
    with pytest.raises(ConfigError, match=r"config\.data\.clips\.fold is 2, which dataset 'folder' does not read"):
        plan.plan(dataclasses.replace(SWEEP, over="folds"), [], (1, 2))


def test_what_a_sweep_sets_can_be_set_otherwise():
    found = planned("--config.eval.report=none", "--config.eval.baselines=('majority',)", seeds=[0])
    assert {run.config.eval.report for run in found.values()} == {"none"}
    assert found["all/full/seed_0"].config.eval.baselines == ("majority",)
    assert found["all/no_local/seed_0"].config.eval.baselines == ()


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ([], {"only": ["no_loca"]}, "--only names no_loca; the sweep has full, all, no_local, parts, 4_per_class"),
        ([], {"only": ["full", "full"]}, "--only holds a value twice: full, full"),
        ([], {"seeds": [1, 1]}, "--seeds holds a value twice: 1, 1"),
        (["--config.seed=3"], {}, r"--config\.seed is what --seeds sets"),
        (
            ["--config.head.local_weight=2.0"],
            {},
            r"head\.local_weight is what this sweep varies \(point all/no_local\)",
        ),
        (["--jbos=3"], {}, "--jbos=3 is no flag of this command, and no --config.field=value"),
        (["--config.loss.bata=3"], {}, "bata"),
        (["--config.loss.beta=-1.0"], {}, r"config\.loss\.beta: .*greater than or equal to 0"),
        (["--config.loss.beta=much"], {}, "much"),
    ],
)
def test_mistakes_are_refused(overrides, options, message):
    with pytest.raises(ConfigError, match=message):
        planned(*overrides, **options)


def test_a_run_shorter_than_its_warm_up_is_refused_by_name():
    points = (Point("full", ""), Point("long", "", {"optimizer.warmup_steps": 900}))
    found = dataclasses.replace(SWEEP, points=points)
    with pytest.raises(ConfigError, match=r"optimizer\.warmup_steps is 900, which must be less") as raised:
        plan.plan(found, [], (0,))
    assert raised.value.__notes__ == ["This is of the sweep's point all/long."]
    # Counted in epochs the length depends on the data.
    assert len(plan.plan(found, ["--config.train.num_epochs=1.0", "--config.train.num_steps=0"], (0,))) == 2


def test_away_from_the_checkout_the_base_is_missed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"configs/sample\.py: there is no such file; .*; run this from the root"):
        planned()


def test_only_what_changes_results_is_recorded():
    flags = ["--config.data.dir=/fast", "--config.train.num_steps=3", "--config.loss.beta=0.5", "--config.clip.name=/c"]
    assert plan.recorded(flags) == ("--config.loss.beta=0.5", "--config.train.num_steps=3")


def finish(folder, run, baselines=None, **changes):
    """Leaves what a finished run leaves, as far as it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(run.config.to_json())
    for field, value in changes.items():
        section, name = field.split("__")
        config[section][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    names = run.config.eval.baselines if baselines is None else baselines
    (folder / "summary.json").write_text(json.dumps({"baselines": {name: {} for name in names}}))


def test_what_has_ended(tmp_path):
    found = planned()
    full, no_local = found["all/full/seed_0"], found["all/no_local/seed_0"]
    assert not plan.has_ended(full, tmp_path / "absent")
    finish(tmp_path, full)
    assert plan.has_ended(full, tmp_path)
    with pytest.raises(ConfigError, match=r"config\.head\.local_weight: there 1\.0, here 0\.0"):
        plan.has_ended(no_local, tmp_path)
    # One baseline is missing, or more were measured than are asked for.
    finish(tmp_path, full, baselines=["majority"])
    assert not plan.has_ended(full, tmp_path)
    finish(tmp_path, full, baselines=["majority", "linear_probe", "zero_shot_type1"])
    assert plan.has_ended(full, tmp_path)
    (tmp_path / "summary.json").write_text('{"baselines": ')
    with pytest.raises(ConfigError, match=r"summary\.json cannot be read \(JSONDecodeError.* remove the folder"):
        plan.has_ended(full, tmp_path)
    (tmp_path / "summary.json").unlink()
    assert not plan.has_ended(full, tmp_path)


def test_a_clip_of_another_name_is_told_by_its_content(sample, tmp_path):
    shutil.copytree(sample / "clip", tmp_path / "moved")
    runs.other_clip(sample, tmp_path / "other")
    own = load_backbone(str(sample / "clip")).content_hash

    def ended(name):
        run = planned(f"--config.clip.name={name}")["all/full/seed_0"]
        return plan.has_ended(run, tmp_path / "run")

    finish(tmp_path / "run", planned(f"--config.clip.name={sample / 'clip'}")["all/full/seed_0"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps({**summary, "clip": {"hash": own}}))
    assert ended(sample / "clip")
    assert ended(tmp_path / "moved")
    with pytest.raises(ConfigError, match=rf"run on another CLIP: there '{sample / 'clip'}', .*hash {own[:16]}, here"):
        ended(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"now 'nobody/nothing', .* cannot be told, as it is not on this machine"):
        ended("nobody/nothing")
    with pytest.raises(ConfigError, match=r"config\.clip\.name is '/no/such/clip': .*there is no such file or folder"):
        ended("/no/such/clip")


def test_an_equal_run_of_another_sweep_is_found_and_taken(tmp_path):
    found = planned()
    full, other = found["all/full/seed_3"], tmp_path / "other"
    finish(other / "t" / "a" / "seed_3", found["all/no_local/seed_3"])
    finish(other / "t" / "b" / "seed_3", full, clip__name="another")  # free in a workdir, but another CLIP
    finish(other / "t" / "c" / "seed_0", found["all/full/seed_0"])
    finish(other / "t" / "e" / "seed_3", full, data__dir="/another")  # another dataset of the same kind
    finish(other / "t" / "f" / "seed_3", full, clip__revision="another")
    assert plan.find_equal(full, [other]) is None
    finish(other / "t" / "d" / "seed_3", full, data__prepared_dir="/moved")
    (other / "t" / "d" / "seed_3" / "checkpoints").mkdir()
    assert plan.find_equal(full, [tmp_path / "absent", other]) == other / "t" / "d" / "seed_3"
    plan.take(other / "t" / "d" / "seed_3", tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"config.json", "summary.json"}
    assert plan.has_ended(full, tmp_path / "new")
