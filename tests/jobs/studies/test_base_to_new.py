"""Base-to-new: halves and means by hand, and a real run of a few steps on drawn faces."""

import json
import shutil

import numpy as np
import pytest

from mpafer_jax.artifacts import checkpoints, run_dir
from mpafer_jax.artifacts.loaded import for_classes
from mpafer_jax.config.schema import Config
from mpafer_jax.config.semantics import free_fields
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.baselines import compute as baselines
from mpafer_jax.jobs import evaluate
from mpafer_jax.jobs.studies import base_to_new
from mpafer_jax.method import build
from mpafer_jax.runtime import signals
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, PromptError
from tests.jobs import runs

pytestmark = pytest.mark.training

NAMES = ("anger", "happiness", "neutral", "sadness", "surprise")  # the sample's


def test_each_half_has_its_own_classes_and_one_seed(sample):
    assert base_to_new.halve(NAMES[:4]) == (NAMES[:2], NAMES[2:4])
    configs = base_to_new.halved(runs.config(sample), 3)
    assert configs["base"].data.class_names == NAMES[:3]
    assert configs["new"].data.class_names == NAMES[3:]
    assert {(one.seed, one.data.few_shot_seed, one.eval.baselines) for one in configs.values()} == {
        (3, 3, ("zero_shot_type3",))
    }
    listed = runs.config(sample, **{"data.class_names": ("joy", "cheer=anger", "sad", "neutral")})
    assert base_to_new.halved(listed, 0)["base"].data.class_names == ("joy", "cheer=anger")


def test_mistakes_are_named(sample, tmp_path):
    for changes, message in (
        ({"ctx.class_specific": True}, "class_specific is True: every class learns a context of its own"),
        ({"data.class_names": NAMES[:3]}, r"3 classes \(anger, happiness, neutral\) do not make two halves"),
    ):
        with pytest.raises(ConfigError, match=message):
            base_to_new.halved(runs.config(sample, **changes), 0)
    nothing = {"data.test_split": "", "data.validation_fraction": 0.0}
    with pytest.raises(ConfigError, match="neither a validation nor a test split to measure on"):
        base_to_new.run_seed(base_to_new.halved(runs.config(sample, **nothing), 0), tmp_path)


def test_the_table_by_hand():
    def one(base, new):
        return {"base": {"war": base, "uar": 0.5}, "new": {"war": new, "uar": 0.5}}

    scores = {"zero-shot CLIP": [one(0.4, 0.4), one(0.4, 0.4)], "MPA-FER": [one(0.6, 0.3), one(0.8, 0.2)]}
    # H of 0.6 and 0.3 is 0.4, of 0.8 and 0.2 is 0.32.
    assert base_to_new.harmonic_mean(0.5, 0.0) == 0.0
    assert (
        base_to_new.render(scores, NAMES, {"base": 15, "new": 10}, "test", chosen_on_test=False)
        == """\
|                |      WAR base |      WAR new |        WAR H |     UAR base |      UAR new |        UAR H |
|----------------|--------------:|-------------:|-------------:|-------------:|-------------:|-------------:|
| zero-shot CLIP |  40.00 ± 0.00 | 40.00 ± 0.00 | 40.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 |
| MPA-FER        | 70.00 ± 14.14 | 25.00 ± 7.07 | 36.00 ± 5.66 | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 |

Percent; mean ± sample standard deviation over 2 seeds. H: harmonic mean of base and new.

- base: anger, happiness, neutral (15 test images)
- new: sadness, surprise (10 test images)
"""
    )
    shouted = base_to_new.render(scores, NAMES, {"base": 15, "new": 10}, "test", chosen_on_test=True)
    assert f"\n\n**{protocol.TEST_SELECTED}**\n\n- base: anger" in shouted


def test_what_was_measured_before_is_read(sample, tmp_path, monkeypatch):
    configs = base_to_new.halved(runs.config(sample), 0)
    run_dir.claim(tmp_path, configs["base"])
    fingerprint = load_dataset(configs["new"].data).test.fingerprint
    base = load_dataset(configs["base"].data)
    of_base = {split.name: split.fingerprint for split in (base.train, *base.held_out)}
    before = {"scores": {}, "identity": {"new": fingerprint, "base": of_base, "which": "best"}}
    (tmp_path / "base_to_new.json").write_text(json.dumps(before))
    assert base_to_new.run_seed(configs, tmp_path) == before
    assert sorted(of_base) == ["test", "train", "validation"]

    # Of other images of the base, or damaged: then it is measured.
    def trains(config, folder):
        raise ZeroDivisionError

    monkeypatch.setattr(base_to_new.train, "train_and_evaluate", trains)
    with monkeypatch.context() as patch:  # another process does not see the file yet
        patch.setattr(base_to_new.distributed, "all_agree", lambda _: False)
        with pytest.raises(ZeroDivisionError):
            base_to_new.run_seed(configs, tmp_path)
    of_base["train"] = "another"
    for text in (json.dumps(before), json.dumps(before)[:20], "{}"):
        (tmp_path / "base_to_new.json").write_text(text)
        with pytest.raises(ZeroDivisionError):
            base_to_new.run_seed(configs, tmp_path)


def test_it_stops_when_asked_also_after_training(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(base_to_new.train, "train_and_evaluate", lambda *_: {"last": {"test": {}}})
    monkeypatch.setattr(base_to_new, "_measure_new", runs.preempted)
    with pytest.raises(signals.Preempted):
        base_to_new.run_seed(base_to_new.halved(runs.config(sample), 0), tmp_path)


def test_what_the_new_classes_lack_is_said_before_training(sample, tmp_path, monkeypatch):
    shutil.copytree(sample / "faces", tmp_path / "faces")
    for split in ("train", "test"):
        (tmp_path / "faces" / split / "surprise").rename(tmp_path / "faces" / split / "zzz")
    configs = base_to_new.halved(runs.config(sample, **{"data.dir": str(tmp_path / "faces")}), 0)
    with pytest.raises(PromptError, match="has no class 'zzz'"):
        base_to_new.run_seed(configs, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_seed_is_that_of_all_draws(sample):
    configs = base_to_new.halved(runs.config(sample, **{"data.label_noise": 0.2}), 3)
    for config in configs.values():
        assert (config.seed, config.data.few_shot_seed, config.data.label_noise_seed) == (3, 3, 3)


@pytest.fixture
def measured(sample, shared, tmp_path):
    """The configurations of a seed, its folder, and its result."""
    configs = base_to_new.halved(runs.config(sample, **runs.SHORT), 0)
    whole = shared("base_to_new", lambda folder: base_to_new.run_seed(configs, folder / "seed_0"))
    folder = shutil.copytree(whole / "seed_0", tmp_path / "base_to_new" / "seed_0")
    return configs, folder, json.loads((folder / "base_to_new.json").read_text())


def test_base_is_the_runs_own_number_and_new_that_of_an_evaluation(measured, tmp_path):
    configs, folder, result = measured
    best = runs.summary(folder)["best"]["test"]
    assert (result["class_names"], result["counts"]) == (list(NAMES), {"base": 15, "new": 10})
    assert result["scores"]["MPA-FER"]["base"] == {name: best[name] for name in ("war", "uar")}
    asked = configs["new"].eval.model_copy(update={"checkpoint": str(folder), "baselines": ()})
    config = configs["new"].model_copy(update={"eval": asked})
    evaluated = evaluate.evaluate_checkpoint(config, tmp_path)
    assert evaluated["trained_classes"] == list(NAMES[:3])
    assert evaluated["test"]["class_names"] == list(NAMES[3:])
    np.testing.assert_array_equal(np.sum(evaluated["test"]["confusion"], axis=1), [5, 5])
    assert result["scores"]["MPA-FER"]["new"] == {name: evaluated["test"][name] for name in ("war", "uar")}
    # As without the field: the classes are not those of the checkpoint.
    usual = config.model_copy(update={"eval": asked.model_copy(update={"classes": "checkpoint"})})
    with pytest.raises(ConfigError, match="nothing to evaluate in validation: its classes are sadness, surprise"):
        evaluate.evaluate_checkpoint(usual, tmp_path)
    common = config.model_copy(update={"eval": asked.model_copy(update={"classes": "common"})})
    with pytest.raises(ConfigError, match=r"eval\.classes='common' leaves no class to choose among"):
        evaluate.evaluate_checkpoint(common, tmp_path)


def test_what_was_measured_is_not_measured_again(sample, measured, tmp_path, monkeypatch):
    configs, folder, result = measured

    def never(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(base_to_new.train, "train_and_evaluate", never)
    monkeypatch.setattr(baselines, "compute", never)
    assert base_to_new.run_seed(configs, folder) == result
    other = configs["base"].model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match="holds a run with another configuration"):
        base_to_new.run_seed({**configs, "base": other}, folder)
    assert "eval.classes" in free_fields(Config)
    # The same CLIP in another folder, and another CLIP.
    clip = configs["base"].clip.name
    shutil.copytree(clip, tmp_path / "moved")

    def on(name):
        section = configs["base"].clip.model_copy(update={"name": str(name)})
        return {half: config.model_copy(update={"clip": section}) for half, config in configs.items()}

    assert base_to_new.run_seed(on(tmp_path / "moved"), folder) == result
    other = on(runs.other_clip(sample, tmp_path / "other"))
    with pytest.raises(ConfigError, match=rf"result of a run on another CLIP: there '{clip}'.* here '.*other'"):
        base_to_new.run_seed(other, folder)


def test_the_command(sample, measured):
    _, folder, result = measured
    words = [*runs.words(sample, **runs.SHORT), f"--workdir={folder.parent}"]
    done = runs.call("study base-to-new", *words)  # its only seed was measured before
    assert done.code == 0, done.err
    assert "- new: sadness, surprise (10 test images)" in done.out
    written = json.loads((folder.parent / "base_to_new.json").read_text())
    assert written == {"0": result}
    bad = runs.call("study base-to-new", *words, "--seeds=a")
    assert bad.code == 2
    assert "argument --seeds: expected whole numbers from 0" in bad.err
    for word, message in (
        ("--seeds=0,0", "--seeds holds a value twice: 0, 0"),
        ("--config.seed=5", "--config.seed is what --seeds sets"),
        ("--config.eval.baselines=('linear_probe',)", "--config.eval.baselines is set by this command"),
    ):
        bad = runs.call("study base-to-new", *words, word)
        assert bad.code == 2
        assert message in bad.err


def test_what_each_class_has_goes_with_it_and_new_ones_have_none(measured, caplog):
    configs, folder, _ = measured
    params, description, _ = checkpoints.load(folder, "best")
    prior = tuple(tuple(1 + 0.1 * row + 0.01 * patch for patch in range(4)) for row in range(3))
    clip = build.load_frozen_clip(configs["new"])
    shared = description.model_copy(update={"patch_weights": prior})

    def of(described, params, *names):
        return for_classes(described.applied_to(configs["new"]), params, described, clip, names)

    def weights(*names):
        return np.array(of(shared, params, *names)[0].frozen.patch_weights)

    np.testing.assert_allclose(weights(*NAMES[:3]), prior)
    np.testing.assert_allclose(weights("neutral", "anger"), (prior[2], prior[0]))
    assert "no motion prior" not in caplog.text
    np.testing.assert_allclose(weights("sadness", "anger"), ((1.0,) * 4, prior[0]))
    assert "no motion prior is known for sadness" in caplog.text

    ctx = {**description.config["ctx"], "class_specific": True}
    of_each = description.model_copy(update={"config": {**description.config, "ctx": ctx}})
    contexts = {**params, "ctx": np.stack([params["ctx"] + row for row in range(3)])}
    np.testing.assert_array_equal(of(of_each, contexts, "neutral", "anger")[1]["ctx"], contexts["ctx"][[2, 0]])
    with pytest.raises(CheckpointError, match=r"ctx\.class_specific\), and none for sadness, surprise; only"):
        of(of_each, contexts, *NAMES[1:])
