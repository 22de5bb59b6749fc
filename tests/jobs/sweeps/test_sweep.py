"""Sweeps: those of the project, what a sweep file may not do, and the record in a sweep's folder."""

import ast
import dataclasses
import json
import pathlib
import re

import pytest

from configs import quickstart, rafdb
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.backbones.files import SHIPPED
from mpafer_jax.config.flags import own_files
from mpafer_jax.config.schema import Config
from mpafer_jax.config.semantics import SEED_FIELDS
from mpafer_jax.jobs.idle_fields import idle_fields
from mpafer_jax.jobs.sweeps import plan, sweep
from mpafer_jax.jobs.sweeps.sweep import Point, Record, Sweep
from mpafer_jax.method import losses, optim
from mpafer_jax.runtime.errors import ConfigError
from tests.jobs import runs
from tests.jobs.sweeps import made

FOLDER = runs.ROOT / "configs" / "sweeps"
OF_FOLDERS = "alignment"  # its points are folders, which its argument names
OWN = [path.stem for path in own_files(FOLDER) if path.stem != OF_FOLDERS]
ONLY_PHOTOGRAPHS, ONLY_DRAWN = {"backbones"}, {"styles"}  # the first with OpenAI's CLIP


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(runs.ROOT)


def load(name, argument):
    return sweep.load(f"configs/sweeps/{name}.py:{argument}")


@pytest.mark.parametrize("name", OWN)
def test_every_sweep_plans_for_drawn_faces_and_for_photographs(name):
    planned: list[int] = []
    for argument, absent, flags in (
        ("quickstart", ONLY_PHOTOGRAPHS, []),
        ("", ONLY_DRAWN, ["--config.data.dir=/data"]),
        ("affectnet7", ONLY_DRAWN, ["--config.data.dir=/data"]),
        ("ferplus_prompts", ONLY_DRAWN | ONLY_PHOTOGRAPHS, ["--config.data.dir=/data"]),
    ):
        if name in absent:
            with pytest.raises(ConfigError):
                load(name, argument)
            continue
        found = load(name, argument)
        configs = plan.plan(found, flags, found.seeds)
        planned.append(len(configs))
        base = flatten(plan.parse(found.base, flags).model_dump())
        distinct: dict[str, str] = {}
        for run in configs:
            config = flatten(run.config.model_dump())
            differing = {field for field in base if base[field] != config[field]}
            assert differing - {"eval.report", "eval.baselines", *SEED_FIELDS} <= set(run.point.changes)
            assert not idle_fields(run.config)
            config["eval.baselines"] = run.point.table  # each table holds what its rows are compared with
            assert distinct.setdefault(json.dumps(config), run.name) == run.name
        assert len(distinct) == len(configs) == len(found.points) * len(found.seeds)
        assert all(found.baseline in {point.name for point in found.rows(table)} for table in found.table_names())
    stated = re.search(r"^(\d+) runs:", ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())), re.MULTILINE)
    assert stated is None or int(stated[1]) == planned[0]


@pytest.mark.parametrize("argument", ["quickstart", "ferplus_prompts", "ferplus_prompts,tiny_clip"])
def test_visual_prompts_go_as_deep_as_the_tower_of_the_clip_that_ships(argument):
    found = load("visual_prompt_depth", argument)
    clip = plan.parse(found.base, ["--config.data.dir=/data"] if "ferplus" in argument else []).clip.name
    tower = json.loads((SHIPPED[clip].folder / "config.json").read_text())["vision_config"]
    assert found.points[-1].value == tower["num_hidden_layers"]


def test_a_clip_of_the_argument_brings_its_own_settings():
    for argument in ("quickstart,vit_b32", "ferplus_prompts,vit_l14"):
        top_k = [run.config for run in plan.plan(load("top_k", argument), ["--config.data.dir=/data"], [0])]
        assert {config.clip.name.partition("/")[0] for config in top_k} == {"openai"}
        assert [config.head.top_k for config in top_k] == [1, 4, 16, 49, 98, 196]
        assert {(config.optimizer.name, config.train.num_epochs, config.ctx.class_specific) for config in top_k} == {
            ("sgd", 30.0, False)
        }


@pytest.mark.parametrize("word", ["16_per_class", "kgcoop"])
@pytest.mark.parametrize("name", ["components", "losses", "top_k"])
def test_methods_and_numbers_of_images_are_those_of_the_points(name, word):
    with pytest.raises(ConfigError, match=f"{word}: the points of a sweep decide the method and the number of images"):
        load(name, f"rafdb,{word}")


def test_crops_are_folders_of_the_argument():
    found = load(OF_FOLDERS, "kdef,tiny_clip,owner=/data/KDEF,aligned=/data/KDEF-aligned,wide=../wide")
    assert found.baseline == "owner"
    configs = {run.point.name: run.config for run in plan.plan(found, [], [0])}
    assert {name: config.data.dir for name, config in configs.items()} == {
        "owner": "/data/KDEF",
        "aligned": "/data/KDEF-aligned",
        "wide": "../wide",
    }
    assert {(config.data.dataset, config.clip.name) for config in configs.values()} == {("kdef", "tiny-face-clip")}
    with pytest.raises(ConfigError, match="name the folders of at least two crops"):
        load(OF_FOLDERS, "kdef,owner=/data/KDEF")


@pytest.mark.parametrize("name", ["few_shot", "losses"])
def test_runs_on_few_photographs_are_longer_than_their_warm_up(name):
    found = load(name, "rafdb")
    few = [run.config for run in plan.plan(found, ["--config.data.dir=/data"], [0])]
    few = [config for config in few if config.data.train_per_class]
    assert few
    for config in few:
        steps = config.train.num_steps
        schedule = optim.make_schedule(learning_rate=1.0, warmup_steps=config.optimizer.warmup_steps, num_steps=steps)
        assert schedule(config.optimizer.warmup_steps) == 1.0
        assert config.train.eval_every < steps


def test_settings_that_a_search_chose(tmp_path):
    values = {"full": {"loss.beta": 0.02, "head.local_weight": 0.3}, "coop": {"optimizer.learning_rate": 0.9}}
    methods = {name: {"values": chosen} for name, chosen in values.items()}
    (tmp_path / "search.json").write_text(json.dumps({"methods": methods}))
    for name in ("components", "label_noise", "losses", "styles"):
        found = load(name, f"quickstart,tuned={tmp_path}")
        usual = load(name, "quickstart")
        assert found.base == usual.base
        for point, before in zip(found.points, usual.points, strict=True):
            own = values["coop" if point.name == "text_only" else "full"]
            assert point == dataclasses.replace(before, changes={**own, **before.changes})
    changes = {point.key: point.changes for point in load("components", f"quickstart,tuned={tmp_path}").points}
    assert changes["all/no_hard_soft"] == {"loss.beta": 0.0, "head.local_weight": 0.3}
    few = {point.key: point.changes for point in load("losses", f"quickstart,tuned={tmp_path}").points}
    assert few["16_per_class/full"]["loss.beta"] == 12.5
    (tmp_path / "search.json").write_text(json.dumps({"methods": {"full": methods["full"]}}))
    with pytest.raises(
        ConfigError, match="no method 'coop', whose settings the point noise_0/text_only takes; it has full"
    ):
        load("label_noise", f"quickstart,tuned={tmp_path}")
    with pytest.raises(ConfigError, match=r"nothing/search.json cannot be read .*whose trials have ended"):
        load("components", f"quickstart,tuned={tmp_path / 'nothing'}")


def test_a_published_search_is_that_of_the_same_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs" / "results" / "methods_ferplus_prompts"
    folder.mkdir(parents=True)
    values = {"full": {"values": {"loss.gamma": 0.7}}, "coop": {"values": {}}}
    (folder / "search.json").write_text(json.dumps({"methods": values}))
    components = f"{runs.ROOT}/configs/sweeps/components.py"
    points = {point.key: point for point in sweep.load(f"{components}:ferplus_prompts,tuned").points}
    assert points["all/full"].changes["loss.gamma"] == 0.7
    with pytest.raises(ConfigError, match=r"docs/results/methods_quickstart/search.json cannot be read"):
        sweep.load(f"{components}:quickstart,tuned")
    with pytest.raises(ConfigError, match=r"docs/results/methods_rafdb/search.json cannot be read"):
        sweep.load(f"{components}:tuned")


def test_the_fewer_images_the_more_the_full_method_is_held_near_the_frozen_clip():
    found = {run.name: run.config for run in plan.plan(load("few_shot", "quickstart"), [], [0])}
    for images, weight in ((16, 12.5), (2, 100.0)):
        full, usual, coop = (
            found[f"{images}_per_class/{name}/seed_0"] for name in ("full", "usual_settings", "text_only")
        )
        argument = Config.from_config_dict(quickstart.get_config(f"{images}_per_class"))
        assert (full.loss, full.ctx) == (argument.loss, argument.ctx)
        assert (full.ctx.words, coop.ctx.words, usual.ctx.words) == ("hard_prompt", "name", "name")
        assert (full.loss.beta, full.loss.image_consistency, full.loss.prompt_distance) == (weight, weight, "cosine")
        assert usual.loss == Config.from_config_dict(quickstart.get_config()).loss
        assert str(losses.Objective.of(coop.loss)) == "cross_entropy"
        assert {config.data.train_per_class for config in (full, usual, coop)} == {images}
        assert argument.data.train_per_class == images
    # A method keeps its own settings, and photographs get updates in place of epochs.
    assert quickstart.get_config("4_per_class,coop").ctx.words == "name"
    kgcoop = rafdb.get_config("4_per_class,kgcoop")
    assert kgcoop.loss.image_consistency == 0
    assert (kgcoop.loss.beta, kgcoop.train.num_steps, kgcoop.train.num_epochs) == (8.0, 600, 0.0)
    for wrong, message in (("0_per_class", "unknown config arguments 0_per_class"), ("1_per_class,2_per_class", "one")):
        with pytest.raises(ValueError, match=message):
            quickstart.get_config(wrong)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), "the sweep has no points"),
        ((Point("a/b", ""),), "its name is 'a/b', expected letters"),
        ((Point("a", "", table=".."),), r"its table is '\.\.', expected letters"),
        ((Point("a", ""), Point("a", "")), "two points all/a"),
        ((Point("a", "", {"seed": 3}),), "point all/a changes seed, which a run's seed decides"),
        ((Point("a", ""), Point("b", "")), "baseline, .*, is 'full', but its points are a, b; give"),
        (
            (Point("a", ""), Point("b", "", {"data.synthface.style": "neon"})),
            "points all/a and all/b stand in one table but change differently what is held out",
        ),
    ],
)
def test_a_sweep_that_makes_no_table_is_refused(points, message):
    with pytest.raises(ConfigError, match=message):
        Sweep("title", "configs/sample.py", points)


def test_changes_to_training_images_leave_one_table():
    changes = {"data.train_per_class": 3, "data.label_noise": 0.1, "data.augment.flip": 0.0, "data.sampler": "shuffle"}
    assert Sweep("title", "base", (Point("full", ""), Point("b", "", changes))).points[1].held_out_changes == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no function get_sweep\(argument\)"),
        ("def get_sweep(argument): return 3", "get_sweep returned int, expected a Sweep"),
        ("from mpafer_jax.jobs.sweeps.sweep import Sweep\ndef get_sweep(a): return Sweep('', '', ())", "has no points"),
    ],
)
def test_a_file_that_gives_no_sweep_is_named(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"--sweep={path}:x: .*{message}"):
        sweep.load(f"{path}:x")


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"there is no file configs/sweeps/topk\.py; .*configs/sweeps/top_k\.py"):
        sweep.load("configs/sweeps/topk.py")


def test_a_record_comes_back_and_keeps_its_folder(tmp_path):
    record = Record("configs/sweeps/a.py:quickstart", ("--config.loss.beta=0.5",), made.SWEEP)
    record.write(tmp_path)
    record.write(tmp_path)
    assert Record.read(tmp_path) == record
    assert sweep.name_of(record.source) == "a_quickstart"
    with pytest.raises(ConfigError, match=r"holds a sweep: there configs/sweeps/a.*here b\.py; give another --workdir"):
        dataclasses.replace(record, source="b.py").write(tmp_path)
    with pytest.raises(ConfigError, match=r"a sweep with other settings: there \['--config.loss.beta=0.5'\], here"):
        dataclasses.replace(record, overrides=()).write(tmp_path)
    assert pathlib.Path(tmp_path / "sweep.json").is_file()
