"""Configs: all build, in every mode; each field is typed, described and read; mistakes are named."""

import functools
import importlib
import json
import pathlib
import re
import sys

import pytest

from configs import common
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.config import schema, semantics
from mpafer_jax.config.data_section import ColumnsSection, DataSection
from mpafer_jax.config.fields import FrozenModel, option, settings
from mpafer_jax.config.schema import Config
from mpafer_jax.data.registry import read_source
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.jobs import evaluate, predict, train
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.method.cafe import CafeMask
from mpafer_jax.method.lora import LoraUpdates
from mpafer_jax.runtime.errors import ConfigError
from tests import tiny
from tests.data import layouts
from tests.jobs import runs

FOLDER = pathlib.Path(common.__file__).parent
# Each belongs to the command that its name says; `common` is what the main command's share.
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))
PRETRAINING = [name for name in FILES if name.startswith("pretrain_")]
NAMES = [name for name in FILES if name not in PRETRAINING]


def build(name, **changes):
    values = importlib.import_module(f"configs.{name}").get_config()
    if name not in PRETRAINING:
        changes = {"data.dir": "somewhere", **changes}
    with values.unlocked():
        values.update_from_flattened_dict(changes)
    return values


@pytest.mark.parametrize("name", FILES)
def test_every_config_builds_is_locked_survives_json_and_starts_with_its_command(name):
    """Each with every argument: tests/golden/test_configs.py."""
    kind, command = Config, "python -m mpafer_jax.main"
    if name in PRETRAINING:
        kind, command = PretrainConfig, "mpafer-jax clip pretrain"
    module = importlib.import_module(f"configs.{name}")
    values = module.get_config()
    assert values.is_locked
    config = kind.from_config_dict(values)
    assert kind.from_json(config.to_json()) == config
    assert f"{command} --config=configs/{name}.py --workdir=" in module.__doc__


IMPOSSIBLE = [
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
    (
        {"loss.class_weights": "inverse_frequency", "loss.logit_adjustment": 1.0},
        "class_weights is 'inverse_frequency' and logit_adjustment 1.0: each corrects the class imbalance",
    ),
    (
        {"loss.class_weights": "effective_number", "data.sampler": "class_balanced"},
        r"sampler is 'class_balanced' and the loss has class weights \(effective number, beta 0.999\): each corr",
    ),
    (
        {"loss.logit_adjustment": 1.0, "loss.terms": ("prompt_alignment",)},
        r"logit adjustment \(tau 1\) changes the cross-entropy, which terms \('prompt_alignment',\) leaves out",
    ),
    ({"eval.select_on_test_split": True}, r"there is a validation split .*validation_fraction=0\.1\)"),
    (
        {"eval.select_on_test_split": True, "data.validation_fraction": 0.0, "data.test_split": ""},
        "select_on_test_split is True, but data names no test split",
    ),
    ({"data.class_names": ("a", "A")}, r"config\.data: .*class_names: 'a' and 'A' are the same class"),
    ({"data.class_names": ("a", " ")}, "class_names: ' ' is no name of a class"),
    ({"hard_prompts.bank": ()}, r"config\.hard_prompts: .*bank is empty, expected at least one"),
    ({"hard_prompts.bank": ("a", "a")}, r"config\.hard_prompts: .*bank holds a name twice: \('a', 'a'\)"),
    ({"hard_prompts.granularity": ("ears",)}, r"config\.hard_prompts\.granularity\.0: .*'chin' \(found 'ears'\)"),
    ({"hard_prompts.granularity": ("nose", "nose")}, "granularity holds a name twice"),
    ({"hard_prompts.paraphrases": -1}, r"config\.hard_prompts\.paraphrases: .*greater than or equal to 0"),
    ({"hard_prompts.combine": "sum"}, r"config\.hard_prompts\.combine: .*'mean' or 'separate'"),
    ({"optimizer.lr_scales": (("*", 1.0),)}, r"config\.optimizer\.lr_scales: .*'\*' is no regular expression"),
    (
        {"optimizer.lr_scales": (("ctx", 1.0), ("ctx", 0.0))},
        r"config\.optimizer\.lr_scales: .*'ctx' stands twice in .*give each pattern once",
    ),
    ({"optimizer.average_mean": float("nan")}, r"config\.optimizer\.average_mean: .*finite number"),
    (
        {"optimizer.average": 5},
        r"config\.optimizer: .*average_mean is 15, after the last of the 5 parts.*to at most 5, such as 3\.75 ",
    ),
    ({"data.augment.crop_scale": (0.9, 0.5)}, "low <= high"),
    ({"data.augment.erase_scale": (0.5, 1.5)}, "at most 1"),
]
IMPOSSIBLE_IN_PRETRAINING = [
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
    ({"data.source": "none"}, r"data\.source is none and data\.labelled\.dataset is empty"),
    ({"teacher.widths": ()}, r"config\.teacher: .*widths is empty; give the channels of at least one stage"),
    ({"train.kept_patches": 0.5, "loss.attributes_alone_steps": 0}, "there is no first stage to leave patches out in"),
    ({"train.kept_patches": 0.0}, r"config\.train\.kept_patches: .*greater than 0"),
    ({"train.num_steps": 0}, r"config\.train\.num_steps: .*greater than or equal to 1"),
]


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE)
def test_impossible_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        Config.from_config_dict(build("rafdb", **changes))


def test_an_average_may_have_its_peak_at_the_end_of_training():
    config = Config.from_config_dict(build("rafdb", **{"optimizer.average": 15}))
    assert config.optimizer.average_mean == config.optimizer.average


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE_IN_PRETRAINING)
def test_impossible_values_of_pretraining_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        PretrainConfig.from_config_dict(build("pretrain_tiny_clip", **changes))


@pytest.mark.parametrize(
    ("kind", "name", "changes", "messages"),
    [
        (
            Config,
            "rafdb",
            {"extra": 1, "ctx.num_ctx": "ten"},
            ("config.extra: Extra", "config.ctx.num_ctx: ", "'ten'", "mpafer-jax config"),
        ),
        (
            PretrainConfig,
            "pretrain_tiny_clip",
            {"los": 1, "model.vision.depth": 3},
            (
                "config.los: Extra inputs are not permitted; did you mean loss?",
                "config.model.vision.depth: Extra",
                "mpafer-jax config --pretraining",
            ),
        ),
    ],
)
def test_unknown_and_mistyped_fields_are_all_listed_at_once(kind, name, changes, messages):
    values = build(name).to_dict()
    for field, value in changes.items():
        *sections, last = field.split(".")
        functools.reduce(dict.__getitem__, sections, values)[last] = value
    with pytest.raises(ConfigError) as error:
        kind.from_config_dict(values)
    assert all(message in str(error.value) for message in messages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.dir": ""},
            r"config\.data\.dir is empty; give the folder that holds rafdb, --config\.data\.dir=\.\.\. \(",
        ),
        (
            {"data.label_rule": "argmax"},
            "label_rule is 'argmax', which does not go with dataset 'rafdb'; expected 'owner'",
        ),
        (
            {"data.dataset": "ferplus"},
            "label_rule is 'owner', which does not go with dataset 'ferplus'; expected 'majority_l",
        ),
        ({"data.dataset": "raf-db"}, r"config\.data\.dataset is 'raf-db'; did you mean rafdb\?; known are "),
    ],
)
def test_what_does_not_go_with_the_dataset_is_named_before_anything_is_read(changes, message, tmp_path):
    config = Config.from_config_dict(build("rafdb", **changes))
    for job in (train.train_and_evaluate, evaluate.evaluate_checkpoint, predict.predict_dataset):
        with pytest.raises(ConfigError, match=message):
            job(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_was_written_down_has_to_be_complete():
    values = json.loads(Config().to_json())
    del values["head"]["top_k"], values["data"]["synthface"]["seed"]
    with pytest.raises(ConfigError, match=r"config\.head\.top_k: Field required\n  config\.data\.synthface\.seed: Fi"):
        Config.from_json(json.dumps(values))


def test_a_configuration_needs_no_file():
    config = Config(data=DataSection(dir="faces"))
    assert config == Config.from_config_dict({"data": {"dir": "faces"}})
    assert Config.from_config_dict(common.get_common()) == Config()


@pytest.mark.parametrize("kind", [Config, PretrainConfig])
def test_every_field_is_described_and_its_default_is_of_its_type(kind):
    assert all(setting.description for setting in settings(kind).values())
    assert kind.model_validate(kind().model_dump(), strict=True).to_json() == kind().to_json()
    for name, setting in settings(kind).items():  # else a flag of ml_collections would take whole numbers only
        field = functools.reduce(lambda model, part: model.model_fields[part].annotation, name.split(".")[:-1], kind)
        kinds = re.findall(r"\b(?:bool|int|float|str)\b", str(field.model_fields[name.split(".")[-1]].annotation))
        assert type(setting.default).__name__ in [*kinds, "tuple"] or not kinds, name


def test_a_text_has_to_be_declared_as_a_path_or_none():
    with pytest.raises(TypeError, match=r"Section\.folder holds text: annotate it as Text, or as a kind of path"):

        class Section(FrozenModel):
            folder: str = option("")


def test_what_depends_on_a_field_is_declared_with_it():
    assert semantics.SEED_FIELDS == ("seed", "data.few_shot_seed", "data.label_noise_seed")
    lists = [f"data.list.{name}" for name in ("file", "train", "validation", "test", "images")]
    assert ("clip.name", "clip.revision", "clip.activation", "data.dir", *lists) == semantics.CONTENT_FIELDS
    assert semantics.MODEL_SECTIONS == ("ctx", "visual_prompts", "lora", "head", "learner", "mask_width")
    assert semantics.NORMALIZATION == ("mean", "std", "grayscale")
    assert {"train.keep", "predict.split", "clip.name"} <= semantics.free_fields(Config)
    assert not {"seed", "train.num_steps", "loss.beta", "data.mean"} & semantics.free_fields(Config)
    rounding = {"clip.remat", "train.accumulate", "train.text_chunk", "eval.batch_size"}
    assert rounding <= semantics.free_fields(Config)
    assert not rounding & semantics.unrecorded_fields(Config)
    assert {"data.sampler", "data.augment.flip", "data.label_noise_seed"} <= semantics.TRAINING_ONLY
    assert not {"data.split_seed", "data.test_fraction", "data.synthface.style"} & semantics.TRAINING_ONLY


@pytest.mark.training
def test_every_field_is_read(sample, tmp_path, monkeypatch):
    """Records which fields a training run and an evaluation read; a field that neither reads has no business here.

    What the configuration reads to check a value does not count.
    """
    # What is read only where another field asks for it.
    others = {"head.motion_prior": "features", "data.label_noise": 0.1, "train.num_steps": 0, "train.num_epochs": 0.5}
    others |= {"loss.class_weights": "effective_number"}
    others |= {"optimizer.average": 2, "optimizer.average_mean": 1.5}
    config = runs.config(sample, **{"optimizer.warmup_steps": 0, **others})
    package = pathlib.Path(schema.__file__).parent
    read = set()

    def recording(self, name):
        if name in type(self).model_fields and pathlib.Path(sys._getframe(1).f_code.co_filename).parent != package:
            read.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(FrozenModel, "__getattribute__", recording)
    train.train_and_evaluate(config, tmp_path)
    evaluate.evaluate_checkpoint(config, tmp_path)
    predict.predict_dataset(config, tmp_path)
    read_source(config.data.model_copy(update={"dataset": "synthface"}))
    for name in ("train", "test"):
        layouts.write_clip_list(
            tmp_path / "clips", f"{name}.txt", [(f"{name}/{i}", 2, ("joy", "sad")[i % 2]) for i in range(3)]
        )
    of_clips = {"dataset": "clips", "dir": str(tmp_path / "clips"), "label_noise": 0.0}
    load_dataset(config.data.model_copy(update=of_clips))
    layouts.write_images(tmp_path / "listed", ["a.png", "b.png"])
    rows = [("a.png", "sad", "1 1 5 5"), ("b.png", "happy", "1 1 5 5")]
    layouts.write_table(tmp_path / "listed" / "labels.csv", rows, ("image", "label", "box"))
    columns = ColumnsSection(box=("box",))
    read_source(config.data.model_copy(update={"dataset": "list", "dir": str(tmp_path / "listed"), "columns": columns}))
    without = config.visual_prompts.model_copy(update={"num_prompts": 0})
    for learner in (CafeMask, LoraUpdates):
        learner.configured(config.model_copy(update={"visual_prompts": without}), CLIP(tiny.CLIP).spec, 2)
    monkeypatch.undo()

    def fields(model):
        for name in type(model).model_fields:
            yield type(model).__name__, name
            if isinstance(section := getattr(model, name), FrozenModel):
                yield from fields(section)

    read.add(("DataSection", "face_margin"))  # by prediction on photographs, from the checkpoint's description
    assert set(fields(config)) - read == set()
