"""The command: what it leaves, resumed, killed, on several devices; what others read of its result."""

import itertools
import json
import pathlib
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from transformers import CLIPModel, CLIPTokenizer

from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.convert import convert_clip
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.fields import FrozenModel
from mpafer_jax.jobs.pretraining import teacher, train
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.runtime import signals
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, DataError, UserError
from tests.jobs import runs
from tests.jobs.pretraining import tiny

pytestmark = pytest.mark.training


def run_on(folder, **changes):
    """A run on `images` of the folder, and the names of the configuration's fields that it read."""
    read = set()

    def recording(self, name):
        if name in type(self).model_fields:
            read.add(f"{type(self).__name__}.{name}")
        return object.__getattribute__(self, name)

    tiny.write_folder(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenModel, "__getattribute__", recording)
        done = runs.call("clip pretrain", *tiny.words(folder / "images", folder / "run", **changes))
    assert done.code == 0, done.err
    assert "retrieval: " in done.out
    (folder / "read.json").write_text(json.dumps(sorted(read)))


@pytest.fixture(scope="session")
def root(shared):
    return shared("pretrained", run_on)


def with_labelled(folder):
    """Changes for a run with a teacher, on labelled images too."""
    labelled = tiny.write_labelled(folder / "labelled")
    return {**tiny.TAUGHT, **{f"data.labelled.{name}": value for name, value in labelled.items()}}


@pytest.fixture(scope="session")
def taught(shared):
    return shared("pretrained_with_a_teacher", lambda folder: run_on(folder, **with_labelled(folder)))


@pytest.fixture
def folder(root):
    return root / "images"


@pytest.fixture
def undisturbed(root):
    return root / "run"


def params(workdir):
    return flatten(load_backbone(str(workdir / "clip")).params)


def numbers(workdir):
    return [line for line in runs.metrics(workdir) if line["kind"] == "train"]


def test_what_a_run_leaves(undisturbed, folder):
    summary = runs.summary(undisturbed)
    assert (summary["images"], summary["held_out_images"]) == (24, 6)
    assert summary["hours"] > 0
    assert set(summary["held_out"]) == {"retrieval", "statement_auc", "local_statement_auc"}
    assert summary["parameters"] == sum(np.size(value) for value in params(undisturbed).values())
    assert PretrainConfig.from_json(json.dumps(summary["config"])) == tiny.config(folder)
    lines = numbers(undisturbed)
    assert [line["step"] for line in lines] == [2, 3, 4, 5, 6, 8, 10]  # 3: the end of the first stage; 5: an evaluation
    for line in lines:
        terms = {"attributes"} if line["step"] <= 3 else {"contrastive", "statements", "local_statements", "attributes"}
        weight = {"contrastive": 1.0}
        assert set(line) >= terms
        assert ("contrastive" in line) == (line["step"] > 3)
        assert line["loss"] == pytest.approx(sum(weight.get(name, 5.0) * line[name] for name in terms), rel=1e-4)
    assert [line["step"] for line in runs.metrics(undisturbed) if line["kind"] == "held_out"] == [5, 10]


def assert_same(one, other):
    expected = params(one)
    for path, value in params(other).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert runs.metrics(other) == runs.metrics(one)
    assert runs.summary(other)["held_out"] == runs.summary(one)["held_out"]


def test_resumed_it_equals_undisturbed(undisturbed, folder, tmp_path):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    for step in (6, 8, 10):
        shutil.rmtree(run / "checkpoints" / f"step_{step}")
    shutil.rmtree(run / "clip")
    (run / "summary.json").unlink()
    train.pretrain(tiny.config(folder), run)
    assert_same(undisturbed, run)


def test_a_clip_of_grey_photographs_asks_for_grey_images_also_once_converted(undisturbed, taught, tmp_path):
    """As launch/ship.sh converts it."""
    assert not load_backbone(str(undisturbed / "clip")).grayscale
    assert load_backbone(str(taught / "run" / "clip")).grayscale
    convert_clip(str(taught / "run" / "clip"), tmp_path / "half", dtype="float16")
    assert json.loads((tmp_path / "half" / "preprocessor_config.json").read_text())["do_grayscale"] is True


def test_a_teacher_labelled_images_and_left_out_patches(taught):
    run = taught / "run"
    summary = runs.summary(run)
    assert (summary["images"], summary["held_out_images"]) == (24 + 12, 6 + 4)
    assert set(summary["held_out"]) == {"retrieval", "statement_auc", "local_statement_auc", "war", "uar"}
    lines = numbers(run)
    assert [line["step"] for line in lines] == [2, 3, 4, 5, 6, 8, 10]
    for line in lines:
        terms = {"attributes", "guidance"}
        terms |= {"contrastive", "statements", "local_statements"} if line["step"] > 3 else set()
        weight = {"contrastive": 1.0, "guidance": 1.0}
        assert ("contrastive" in line) == (line["step"] > 3)
        assert line["loss"] == pytest.approx(sum(weight.get(name, 5.0) * line[name] for name in terms), rel=1e-4)
    learned = runs.metrics(run / "teacher")
    assert [(line["step"], line["kind"]) for line in learned] == [(2, "train"), (4, "train"), (4, "held_out")]
    assert set(learned[-1]) == {"step", "kind", "war", "uar"}


def test_stopped_while_the_teacher_learns_it_goes_on(taught, tmp_path, monkeypatch):
    run, changes = tmp_path / "run", with_labelled(taught)
    make, steps = teacher.make_train_step, itertools.count(1)

    def make_stopping(*arguments):
        step = make(*arguments)

        def stopping(state, batch):
            if next(steps) == 3:
                signal.raise_signal(signal.SIGTERM)
            return step(state, batch)

        return stopping

    with monkeypatch.context() as patch:
        patch.setattr(teacher, "make_train_step", make_stopping)
        with pytest.raises(signals.Preempted, match="after step 3 of 4"):
            train.pretrain(tiny.config(taught / "images", **changes), run)
    assert not (run / "checkpoints").exists()
    with pytest.raises(ConfigError, match=r"config\.teacher\.learning_rate: there 0\.003, here 0\.1"):
        train.pretrain(tiny.config(taught / "images", **changes, **{"teacher.learning_rate": 0.1}), run)
    train.pretrain(tiny.config(taught / "images", **changes), run)
    assert_same(taught / "run", run)
    assert runs.metrics(run / "teacher") == runs.metrics(taught / "run" / "teacher")


def test_only_process_0_writes_the_vocabulary(folder, tmp_path, monkeypatch):
    data, _ = train.open_images(tiny.config(folder), tmp_path)
    expected = train.make_vocabulary(data, tiny.config(folder), tmp_path / "tokenizer")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokenizer").iterdir()}
    monkeypatch.setattr(train.distributed, "is_first", lambda: False)
    found = train.make_vocabulary(data, tiny.config(folder), tmp_path / "tokenizer")
    assert found.encode("a red image") == expected.encode("a red image")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tokenizer").iterdir()} == before


def test_processes_that_share_no_folder_or_data_are_refused(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(train.distributed, "disagreement", lambda here: f"process 0 has 9 images, this one {here}")
        with pytest.raises(DataError, match=r"different images or captions: process 0 has 9 .*, this one 24 images"):
            train.prepare(tiny.config(folder), tmp_path)

    with monkeypatch.context() as patch:
        patch.setattr(train.distributed, "differences", lambda here: [name for name in here if name.endswith("seed")])
        with pytest.raises(ConfigError, match=r"have different configurations:\n  config\.seed\n"):
            train.pretrain(tiny.config(folder), tmp_path)
        patch.setattr(
            train.distributed, "differences", lambda here: [name for name in here if name.startswith("the voc")]
        )
        with pytest.raises(ConfigError, match=r"different models:\n  the vocabulary's size\n  the vocabulary\n"):
            train.pretrain(tiny.config(folder), tmp_path / "run")
        shutil.rmtree(tmp_path / "run")

    def refuse(workdir):
        raise ConfigError(f"--workdir={workdir} is not one folder")

    monkeypatch.setattr(train.workdir_lib, "check_shared", refuse)
    with pytest.raises(ConfigError, match="is not one folder"):
        train.pretrain(tiny.config(folder), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(undisturbed, folder, tmp_path):
    arguments = tiny.command(folder, tmp_path / "killed")
    options = {"env": runs.environment(devices=jax.local_device_count()), "stderr": subprocess.DEVNULL}
    with subprocess.Popen(arguments, **options) as process:
        deadline = time.monotonic() + 240
        while not list((tmp_path / "killed" / "checkpoints").glob("step_[4-8]")):
            assert time.monotonic() < deadline
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "clip").exists()
    subprocess.run(arguments, check=True, **options)
    assert_same(undisturbed, tmp_path / "killed")


def test_a_finished_run_stays_and_a_changed_dataset_is_refused(undisturbed, folder, tmp_path, caplog):
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.copytree(folder, tmp_path / "images")
    config = tiny.config(tmp_path / "images")  # moved, not changed
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "clip").iterdir()}
    hours = runs.summary(tmp_path / "run")["hours"]
    assert train.pretrain(config, tmp_path / "run")["hours"] == hours
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "clip").iterdir()} == before
    assert runs.metrics(tmp_path / "run") == runs.metrics(undisturbed)

    metadata = tmp_path / "images" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a red image", "a ruby image"))
    with pytest.raises(CheckpointError, match="the training data changed since it was saved"):
        train.pretrain(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"config\.loss\.top_k: there 4, here 3"):
        train.pretrain(tiny.config(folder, **{"loss.top_k": 3}), tmp_path / "run")


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.devices
def test_several_devices_give_the_losses_of_one(undisturbed, folder, tmp_path):
    assert jax.local_device_count() > 1
    subprocess.run(tiny.command(folder, tmp_path), env=runs.environment(), check=True)
    for one, several in zip(numbers(tmp_path), numbers(undisturbed), strict=True):
        assert one.keys() == several.keys()
        for name in one.keys() - {"kind", "grad_norm", "caption_accuracy"}:
            assert several[name] == pytest.approx(one[name], rel=2e-3, abs=1e-6), (one["step"], name)


@pytest.mark.torch
def test_the_clip_is_read_by_transformers(undisturbed):
    """That numbers are the same: tests/backbones/test_export.py."""
    folder = undisturbed / "clip"
    _, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert {key: list(value) for key, value in report.items() if value} == {}
    texts = ["a red image", "green with a bar at the left", "words that nobody said"]
    own, theirs = load_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    assert [own.encode(text) for text in texts] == theirs(texts)["input_ids"]


def test_images_without_attributes_train_by_the_contrast_alone(tmp_path):
    """And from the first update on: a stage without a loss would waste it."""
    folder = tiny.write_folder(tmp_path / "images", attributes=False)
    changes = {"train.num_steps": 2, "train.log_every": 1, "optimizer.warmup_steps": 0}
    summary = train.pretrain(tiny.config(folder, **changes), tmp_path / "run")
    assert set(summary["held_out"]) == {"retrieval"}
    for line in numbers(tmp_path / "run"):
        assert line["contrastive"] > 0
        assert line["loss"] == pytest.approx(line["contrastive"])
        assert line["grad_norm"] > 0
        assert "attributes" not in line
    with pytest.raises(ConfigError, match=r"config\.loss\.contrastive is 0 and the images come without"):
        train.pretrain(tiny.config(folder, **changes, **{"loss.contrastive": 0.0}), tmp_path / "other")
    with pytest.raises(ConfigError, match=r"config\.teacher\.num_steps is 1 and the images come without attributes"):
        train.pretrain(tiny.config(folder, **changes, **{"teacher.num_steps": 1}), tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()


def test_a_run_in_which_the_text_tower_would_not_be_trained_is_refused(folder, tmp_path):
    changes = {"train.num_steps": 3, "optimizer.warmup_steps": 0}
    with pytest.raises(
        ConfigError, match=r"num_steps is 3 and config\.loss\.attributes_alone_steps is 3: the text tower"
    ):
        train.pretrain(tiny.config(folder, **changes), tmp_path / "run")


def test_every_field_is_read(root, taught):
    config = tiny.config(root / "images")
    sections = [type(getattr(config, name)) for name in PretrainConfig.model_fields if name != "seed"]
    sections += [PretrainConfig, type(config.model.vision), type(config.data.augment), type(config.data.labelled)]
    others = {  # of drawn faces and of a TFDS dataset: test_sources.py
        f"DataSection.{name}" for name in ("images", "styles", "seed", "name", "image_feature", "text_feature")
    }
    fields = {f"{kind.__name__}.{name}" for kind in sections for name in kind.model_fields}
    read = {name for folder in (root, taught) for name in json.loads((folder / "read.json").read_text())}
    assert fields - others - read == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.held_out": 30}, "config.data.held_out is 30 of 30 images"),
        ({"model.vocab_size": 100}, "config.model.vocab_size is 100, expected at least 514"),
        ({"model.vocabulary_banks": ("poems",)}, "'poems'"),
        ({"model.max_position_embeddings": 4}, "raise model.max_position_embeddings"),
        ({"optimizer.warmup_steps": 10}, "optimizer.warmup_steps is 10, which must be less"),
        ({"train.batch_size": 13}, "config.train.batch_size is 13, which 2 devices"),
    ],
)
def test_mistakes_are_named_and_leave_the_folder_free(folder, tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        train.pretrain(tiny.config(folder, **changes), tmp_path / "run")
    assert message in str(error.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_mistake_ends_the_command_with_a_message(tmp_path):
    done = runs.call("clip pretrain", *tiny.words(tmp_path / "nowhere", tmp_path / "run"))
    assert done.code == 2
    assert f"{pathlib.Path('nowhere') / 'metadata.jsonl'} does not exist" in done.err
