"""Configs: all build, in every mode; each field is typed, commented and read; mistakes are named."""

import ast
import importlib
import inspect
import pathlib
import re
import sys

import pytest

from configs import common, ferplus, jaffe, rafdb
from mpafer_jax.config import schema as config_lib
from mpafer_jax.config.schema import Config
from mpafer_jax.data.registry import read_source
from mpafer_jax.jobs import evaluate, predict, train
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.runtime.errors import ConfigError
from tests.jobs import runs

FOLDER = pathlib.Path(common.__file__).parent
# Each belongs to the command that its name says; `common` is what the main command's share.
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))
PRETRAINING = [name for name in FILES if name.startswith("pretrain_")]
NAMES = [name for name in FILES if name not in PRETRAINING]
ARGUMENTS = [
    None,
    "runlocal",
    "whole",
    "no_validation",
    "vit_l14,bf16",
    "vit_b32,runlocal,no_validation",
    "vit_l14_336",
    "tiny_clip",
    "tiny_clip,coop",
]
ARGUMENTS += list(common.METHODS)


def build(name, arg=None, **changes):
    values = importlib.import_module(f"configs.{name}").get_config(arg)
    with values.unlocked():
        values.update_from_flattened_dict({"data.dir": "somewhere", **changes})
    return values


def test_the_folder_holds_the_configs_of_the_documentation():
    assert set(NAMES) >= {"rafdb", "ferplus", "affectnet7", "affectnet8", "folder"}
    assert PRETRAINING == ["pretrain_tiny_clip"]


@pytest.mark.parametrize("arg", ARGUMENTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds_is_locked_and_survives_json(name, arg):
    values = build(name, arg)
    assert values.is_locked
    config = Config.from_config_dict(values)
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", NAMES)
def test_every_config_starts_with_its_command(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert f"python -m mpafer_jax.main --config=configs/{name}.py --workdir=" in ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("name", PRETRAINING)
def test_every_pretraining_config_builds_is_locked_and_names_its_command(name):
    module = importlib.import_module(f"configs.{name}")
    values = module.get_config()
    assert values.is_locked
    config = PretrainConfig.from_config_dict(values)
    assert PretrainConfig.from_json(config.to_json()) == config
    command = f"python -m mpafer_jax.cli.pretrain_clip --config=configs/{name}.py --workdir="
    assert command in inspect.getdoc(module)


def test_arguments_are_strict():
    for arg in ("vit_l15", "runlocal,fast"):
        with pytest.raises(ValueError, match=r"unknown config arguments .*[Kk]nown are vit_b32"):
            rafdb.get_config(arg)
    with pytest.raises(ValueError, match="name several CLIPs"):
        rafdb.get_config("vit_b32,vit_l14")


def test_whole_evaluates_on_all_of_a_dataset():
    data = jaffe.get_config("whole").data
    assert (data.train_splits, data.validation_split, data.test_split) == ((), "", "all")
    assert (data.validation_fraction, data.test_fraction) == (0.0, 0.0)


def test_no_validation_trains_on_the_literatures_ferplus_splits():
    data = ferplus.get_config("no_validation").data
    assert data.train_splits == ("train", "validation")
    assert (data.validation_split, data.validation_fraction) == ("", 0.0)


@pytest.mark.parametrize(("name", "least"), [("common", 50), *((name, 30) for name in PRETRAINING)])
def test_every_field_has_a_comment_above_it(name, least):
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    assignments = [i for i, line in enumerate(lines) if re.match(r"    \w+\.\w+ = (?!\w+ = ConfigDict)", line)]
    assert len(assignments) > least
    for i in assignments:
        above = i - 1
        while re.match(r"    \w+\.\w+ = ", lines[above]):  # fields that share a comment stand in one block
            above -= 1
        assert lines[above].startswith("    #"), f"configs/{name}.py:{i + 1} has no comment: {lines[i]}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.dir": ""}, "dir is empty"),
        (
            {"data.prepared_dir": "gs://bucket/x"},
            "prepared_dir is 'gs://bucket/x': expected a file or folder of this machine",
        ),
        ({"data.dir": "az://bucket/x"}, "dir is 'az://bucket/x': expected a folder, gs://BUCKET/NAME or s3://BUCKET/N"),
        ({"data.dir": "gs:///"}, "dir is 'gs:///': expected a folder"),
        ({"loss.beta": -1.0}, r"config\.loss\.beta: .*greater than or equal to 0 \(found -1\.0\)"),
        ({"clip.dtype": "float64"}, r"config\.clip\.dtype: .*'float32' or 'bfloat16'"),
        ({"clip.residual_dtype": "bfloat16"}, "residual_dtype is bfloat16, which saves nothing with dtype float32"),
        ({"clip.dtype": "float16"}, r"config\.clip\.dtype: .*float16 is not offered: .*gradients vanish.*Use bfloat16"),
        ({"train.num_steps": 5}, "exactly one of num_steps and num_epochs"),
        ({"train.accumulate": 3}, "batch_size 64 must be a multiple of accumulate 3"),
        ({"data.validation_split": "test", "data.validation_fraction": 0.0}, "the test split would select"),
        ({"data.validation_split": "train", "data.validation_fraction": 0.0}, "would also be evaluated on"),
        ({"data.validation_split": "validation"}, "validation_split or validation_fraction, not both"),
        ({"data.test_split": "all"}, r"test_split 'all' means every split .*train_splits has to be \(\), .*'train'"),
        ({"data.label_noise": 1.0}, r"config\.data\.label_noise: .*less than 1"),
        (
            {"prototypes.normalize": True, "loss.prototype_distance": "l1"},
            "normalize is True with .*'l1', which compares",
        ),
        ({"eval.select_on_test_split": True}, r"there is a validation split .*validation_fraction=0\.1\)"),
        (
            {"eval.select_on_test_split": True, "data.validation_fraction": 0.0, "data.test_split": ""},
            "select_on_test_split is True, but data names no test split",
        ),
        ({"data.label_rule": "argmax"}, "label_rule 'argmax' does not go with dataset 'rafdb'"),
        ({"data.class_names": ("a", "A")}, r"config\.data: .*class_names: 'a' and 'A' are the same class"),
        ({"data.class_names": ("a", " ")}, "class_names: ' ' is no name of a class"),
        ({"hard_prompts.bank": ()}, r"config\.hard_prompts: .*bank is empty, expected at least one"),
        ({"hard_prompts.bank": ("a", "a")}, r"config\.hard_prompts: .*bank holds a name twice: \('a', 'a'\)"),
        ({"hard_prompts.granularity": ("ears",)}, r"config\.hard_prompts\.granularity\.0: .*'chin' \(found 'ears'\)"),
        ({"hard_prompts.granularity": ("nose", "nose")}, "granularity holds a name twice"),
        ({"hard_prompts.paraphrases": -1}, r"config\.hard_prompts\.paraphrases: .*greater than or equal to 0"),
        ({"hard_prompts.combine": "sum"}, r"config\.hard_prompts\.combine: .*'mean' or 'separate'"),
        ({"data.augment.crop_scale": (0.9, 0.5)}, "low <= high"),
        ({"data.augment.erase_scale": (0.5, 1.5)}, "at most 1"),
    ],
)
def test_impossible_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        Config.from_config_dict(build("rafdb", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.patch_size": 13}, "image_size 96 must be a multiple of patch_size 13"),
        ({"model.text.num_heads": 5}, r"config\.model\.text: .*96 must be a multiple of num_heads 5"),
        ({"loss.top_k": 65}, "loss.top_k is 65, an image has 64 patches"),
        ({"loss.attributes": 0.0}, "attributes_alone_steps is 500 with attributes 0"),
        (
            {
                "loss.contrastive": 0.0,
                "loss.statements": 0.0,
                "loss.local_statements": 0.0,
                "loss.attributes": 0.0,
                "loss.attributes_alone_steps": 0,
            },
            "every weight is 0",
        ),
        ({"data.source": "photos"}, r"config\.data\.source: "),
        ({"train.num_steps": 0}, r"config\.train\.num_steps: .*greater than or equal to 1"),
    ],
)
def test_impossible_values_of_pretraining_are_named(changes, message):
    values = importlib.import_module("configs.pretrain_tiny_clip").get_config()
    with values.unlocked():
        values.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        PretrainConfig.from_config_dict(values)


def test_unknown_fields_of_pretraining_are_errors():
    values = importlib.import_module("configs.pretrain_tiny_clip").get_config().to_dict()
    values["los"] = {}
    values["model"]["vision"]["depth"] = 3
    with pytest.raises(ConfigError) as error:
        PretrainConfig.from_config_dict(values)
    for expected in ("config.los: Extra", "config.model.vision.depth: Extra", "configs/pretrain_tiny_clip.py"):
        assert expected in str(error.value)


def test_unknown_missing_and_mistyped_fields_are_all_listed_at_once():
    values = build("rafdb").to_dict()
    values["extra"] = 1
    del values["head"]["top_k"]
    values["ctx"]["num_ctx"] = "ten"
    with pytest.raises(ConfigError) as error:
        Config.from_config_dict(values)
    for expected in ("config.extra: Extra", "config.head.top_k: Field required", "config.ctx.num_ctx: ", "'ten'"):
        assert expected in str(error.value)


def test_every_field_is_read(sample, tmp_path, monkeypatch):
    """Records which fields a training run and an evaluation read; a field that neither reads has no business here.

    What config.py reads to check a value does not count.
    """
    # What is read only where another field asks for it.
    others = {"head.motion_prior": "features", "data.label_noise": 0.1, "train.num_steps": 0, "train.num_epochs": 0.5}
    config = runs.config(sample, **{"optimizer.warmup_steps": 0, **others})
    section = config_lib._Section
    read = set()

    def recording(self, name):
        if name in type(self).model_fields and sys._getframe(1).f_code.co_filename != config_lib.__file__:
            read.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(section, "__getattribute__", recording)
    train.train_and_evaluate(config, tmp_path)
    evaluate.evaluate_checkpoint(config, tmp_path)
    predict.predict_dataset(config, tmp_path)
    read_source(config.data.model_copy(update={"dataset": "synthface"}))
    monkeypatch.undo()
    fields = {(kind.__name__, name) for kind in (Config, *section.__subclasses__()) for name in kind.model_fields}
    assert fields - read == set()
