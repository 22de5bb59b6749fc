"""The whole job on drawn faces and a random CLIP: what it leaves, resuming, refusing, stopping."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import get_common
from mpafer_jax.artifacts import checkpoints as checkpoints_lib
from mpafer_jax.artifacts import run_dir, warm_start
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation import protocol
from mpafer_jax.jobs import evaluate, fit, group, train
from mpafer_jax.runtime import preemption, signals
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, NonFiniteError
from tests import tiny
from tests.jobs import runs


def test_what_a_run_leaves(finished, sample):
    workdir, summary = finished
    assert summary == runs.summary(workdir)
    names = {path.name.split("-")[0] for path in workdir.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "predictions.npz",
        "report.html",
        "results.md",
        "summary.json",
        "tensorboard",
    }
    assert not list(workdir.rglob("*.tmp"))
    for name in ("summary.json", "config.json"):
        json.loads((workdir / name).read_text(), parse_constant=pytest.fail)
    lines = runs.metrics(workdir)
    train_steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert train_steps == [2, 3, 4, 6, 8, 9, 10, 12]  # every 3, and wherever the state is saved
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [4, 8, 12]
    terms = {"loss", "cross_entropy", "token_alignment", "prompt_alignment", "prototype_alignment"}
    assert lines[0].keys() >= terms | {"accuracy", "grad_norm", "learning_rate"}
    for line in lines:
        if line["kind"] == "train":
            total = sum(line[name] for name in terms - {"loss"})
            assert line["loss"] == pytest.approx(total, rel=1e-5)
    rates = {line["step"]: line["learning_rate"] for line in lines if line["kind"] == "train"}
    peak = runs.config(sample).optimizer.learning_rate  # of the third update, after two of the warm-up
    assert (rates[2], rates[3]) == pytest.approx((peak * 2 / 3, peak))
    assert rates[12] == pytest.approx(peak * (1 + np.cos(np.pi * 9 / 10)) / 2, rel=1e-4)


def test_summary_counts_every_held_out_image_once(finished):
    _, summary = finished
    for which in ("last", "best"):
        for split, count in (("validation", 15), ("test", 25)):
            found = summary[which][split]
            confusion = np.array(found["confusion"])
            assert found["count"] == confusion.sum() == count
            np.testing.assert_array_equal(confusion.sum(1), [count // 5] * 5)
            assert found["war"] == pytest.approx(np.trace(confusion) / count)
    assert summary["last"]["step"] == 12
    assert summary["selected_by"] == "validation war"
    by_step = {4: None, 8: None, 12: None}
    workdir = finished[0]
    for line in runs.metrics(workdir):
        if line["kind"] == "validation":
            by_step[line["step"]] = line["war"]
    best = max(by_step.values())
    assert summary["best"]["step"] == min(step for step, war in by_step.items() if war == best)


def test_summary_counts_the_operations_of_an_update(sample, tmp_path):
    def gflop(batch_size, **changes):
        changes |= {"train.batch_size": batch_size, **runs.SHORT}
        return train.train_and_evaluate(runs.config(sample, **changes), tmp_path / str(len(seen)))["gflop_per_update"]

    seen = []
    for changes in ({"visual_prompts.num_prompts": 0}, {}):
        seen.append(gflop(16, **changes))
        seen.append(gflop(32, **changes))
    tower = json.loads((sample / "clip" / "config.json").read_text())["vision_config"]
    tokens, width = (tower["image_size"] // tower["patch_size"]) ** 2 + 1, tower["hidden_size"]
    weights = 4 * width**2 + 2 * width * tower["intermediate_size"]  # queries, keys, values, output; MLP
    forward = tower["num_hidden_layers"] * 2 * (tokens * weights + 2 * tokens**2 * width)
    frozen, prompted = ((seen[at + 1] - seen[at]) * 1e9 / 16 for at in (0, 2))  # of an image
    assert forward < frozen < 1.1 * forward  # and the patches' embedding, the projections
    assert 1.9 * frozen < prompted < 3 * frozen  # backwards too, but to prompts and not to weights


def test_tensorboard_holds_the_same_numbers(finished):
    workdir, _ = finished
    from tensorboardX.proto.event_pb2 import Event

    (events,) = (workdir / "tensorboard").iterdir()
    data, found = events.read_bytes(), {}
    while data:  # TFRecord: length, its checksum, the record, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            found[(event.step, value.tag)] = value.simple_value
    lines = runs.metrics(workdir)
    expected = {
        (line["step"], f"{line['kind']}/{name}"): value
        for line in lines
        for name, value in line.items()
        if name not in ("step", "kind")
    }
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-5)


def test_checkpoint_describes_itself(finished, sample):
    workdir, summary = finished
    params, description, step = checkpoints_lib.load(workdir, "last")
    assert step == 12
    assert {name: value.shape for name, value in params.items()} == {"ctx": (10, 64), "visual_prompts": (3, 8, 64)}
    assert Config.from_json(json.dumps(description.config)) == runs.config(sample, **{"eval.report": "full"})
    assert description.class_names == ("anger", "happiness", "neutral", "sadness", "surprise")
    assert description.clip_hash == summary["clip"]["hash"]
    (text,) = description.hard_prompts.of_class(1)
    assert text.startswith("a photo of a person making a facial expression of happiness, with ")
    assert description.versions["jax"] == jax.__version__
    # One step's folder and the checkpoints' folder are found as well.
    again, _, four = checkpoints_lib.load(workdir / "checkpoints" / "step_4", "best")
    assert four == 4
    assert not np.array_equal(again["ctx"], params["ctx"])


def restored(workdir, step):
    params, _, _ = checkpoints_lib.load(pathlib.Path(workdir) / "checkpoints" / f"step_{step}", "last")
    return params


def copy_of_a_run_that_died_after_step_6(workdir, copy):
    shutil.copytree(workdir, copy)
    for step in (8, 10, 12):
        shutil.rmtree(copy / "checkpoints" / f"step_{step}")
    (copy / "summary.json").unlink()


def test_resuming_is_exact_to_the_bit(finished, sample, tmp_path):
    """A run that died after step 6 (its newest checkpoint) and had already logged more goes on to the same end."""
    workdir, _ = finished
    copy_of_a_run_that_died_after_step_6(workdir, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 99, "kind": "tr')  # killed in the middle of a line
    train.train_and_evaluate(runs.config(sample), tmp_path / "run")
    for name, value in restored(workdir, 12).items():
        np.testing.assert_array_equal(value, restored(tmp_path / "run", 12)[name])
    assert runs.metrics(tmp_path / "run") == runs.metrics(workdir)
    differing = {"finished", "process"}
    one, two = runs.summary(workdir), runs.summary(tmp_path / "run")
    assert {k: v for k, v in one.items() if k not in differing} == {k: v for k, v in two.items() if k not in differing}


@pytest.mark.training
def test_a_run_that_is_stopped_at_its_evaluations_makes_them_when_it_resumes(finished, sample, tmp_path, monkeypatch):
    """Before one, in the middle of one, and before that of the last step; none delays what is saved."""
    make_loop, evaluated = train.make_loop, []

    def stopping(step, *, evaluating):
        def make(run):
            loop = make_loop(run)

            def update(number, state, batch):
                if number == step and not evaluating:
                    signal.raise_signal(signal.SIGTERM)
                return loop.update(number, state, batch)

            def evaluate(params):
                evaluated.append(step)
                if evaluating and evaluated.count(step) == 2:  # after the one that the last start has left
                    signal.raise_signal(signal.SIGTERM)
                return loop.evaluate(params)

            return dataclasses.replace(loop, update=update, evaluate=evaluate)

        return make

    def logged():
        return [line["step"] for line in runs.metrics(tmp_path) if line["kind"] == "validation"]

    for step, evaluating, evaluations, lines in ((4, False, 0, []), (8, True, 2, [4]), (12, False, 1, [4, 8])):
        monkeypatch.setattr(train, "make_loop", stopping(step, evaluating=evaluating))
        with pytest.raises(signals.Preempted, match=f"stopped by SIGTERM after step {step} of 12"):
            train.train_and_evaluate(runs.config(sample), tmp_path)
        assert (tmp_path / "checkpoints" / f"step_{step}").is_dir()
        assert (evaluated.count(step), logged()) == (evaluations, lines)
    monkeypatch.setattr(train, "make_loop", make_loop)
    summary = train.train_and_evaluate(runs.config(sample), tmp_path)
    for name, value in restored(finished[0], 12).items():
        np.testing.assert_array_equal(value, restored(tmp_path, 12)[name])
    assert runs.metrics(tmp_path) == runs.metrics(finished[0])
    assert (summary["best"], summary["last"]) == (finished[1]["best"], finished[1]["last"])


@pytest.mark.training
def test_what_fits_a_run_to_other_devices_may_change_on_resume(finished, sample, tmp_path):
    workdir, summary = finished
    copy_of_a_run_that_died_after_step_6(workdir, tmp_path / "run")
    other = {"eval.batch_size": 12, "train.accumulate": 2, "train.text_chunk": 2, "clip.remat": "full"}
    resumed = train.train_and_evaluate(runs.config(sample, **other), tmp_path / "run")
    assert resumed["process"]["resumed_after_step"] == 6
    for name, value in restored(workdir, 12).items():
        np.testing.assert_allclose(restored(tmp_path / "run", 12)[name], value, rtol=0, atol=1e-5)
    assert resumed["last"]["test"]["war"] == summary["last"]["test"]["war"]


def test_a_finished_run_is_only_evaluated_again_and_keeps_its_folder_to_itself(finished, sample, tmp_path):
    workdir, summary = finished
    with pytest.raises(ConfigError, match=r"config\.head\.top_k: there 16, here 4\n.*give another --workdir"):
        train.train_and_evaluate(runs.config(sample, **{"head.top_k": 4}), workdir)
    # Where the data is, and how a run is carried out, may change.
    run = shutil.copytree(workdir, tmp_path / "run")
    shutil.copytree(sample / "faces", tmp_path / "faces", ignore=shutil.ignore_patterns("mpafer_tfds"))
    moved = {"data.dir": str(tmp_path / "faces"), "data.num_workers": 0, "train.keep": 19}
    again = train.train_and_evaluate(runs.config(sample, **moved), run)
    assert again["last"] == summary["last"]
    assert runs.summary(run)["process"] == again["process"] == summary["process"]  # how long training took
    assert runs.metrics(run) == runs.metrics(workdir)
    next((tmp_path / "faces" / "train" / "anger").iterdir()).unlink()
    with pytest.raises(CheckpointError, match="cannot resume after step 12: the training data changed"):
        train.train_and_evaluate(runs.config(sample, **moved), run)


def test_checkpoints_that_were_copied_alone_are_of_their_run(finished, sample, tmp_path):
    step_10 = shutil.copytree(finished[0] / "checkpoints" / "step_10", tmp_path / "run" / "checkpoints" / "step_10")
    with pytest.raises(
        CheckpointError, match=r"step_10 was saved by a run with .*\n  config\.loss\.beta: there 1\.0, here 0\.1\n"
    ):
        train.train_and_evaluate(runs.config(sample, **{"loss.beta": 0.1}), step_10.parents[1])
    assert not (step_10.parents[1] / "config.json").exists()


def test_a_state_beyond_the_last_step_is_refused(sample, tmp_path):
    run = train.prepare(runs.config(sample, **{"loss.gamma": 0.0}), tmp_path)
    with contextlib.closing(train.open_checkpoints(run)) as checkpoints, preemption.Notice() as notice:
        state = dataclasses.replace(train.start(run, checkpoints), step=jnp.asarray(13, jnp.int32))
        with pytest.raises(CheckpointError, match="has a checkpoint after step 13, and this run has 12 steps; give"):
            fit.fit(train.make_loop(run), state, checkpoints, notice)


def test_a_folder_that_another_run_claims_during_preparation_is_its(sample, tmp_path, monkeypatch):
    prepare = train.prepare

    def prepare_while_another_claims(config, workdir):
        run_dir.claim(workdir, runs.config(sample, seed=1))
        return prepare(config, workdir)

    monkeypatch.setattr(train, "prepare", prepare_while_another_claims)
    differing = r"config\.seed: there 1, here 0\n"
    with pytest.raises(ConfigError, match=differing):
        train.train_and_evaluate(runs.config(sample), tmp_path / "alone")
    with pytest.raises(ConfigError, match=differing) as raised:
        group.train_group([(runs.config(sample), tmp_path / "member")])
    assert raised.value.__notes__ == [f"This is of the run in {tmp_path / 'member'}."]


def test_a_folder_that_the_processes_do_not_share_is_refused_before_preparation(sample, tmp_path, monkeypatch):
    def refuse(workdir):
        raise ConfigError(f"--workdir={workdir} is not one folder")

    monkeypatch.setattr(run_dir, "check_shared", refuse)
    monkeypatch.setattr(train, "prepare", None)
    with pytest.raises(ConfigError, match="is not one folder"):
        train.train_and_evaluate(runs.config(sample), tmp_path)
    with pytest.raises(ConfigError, match="is not one folder"):
        group.train_group([(runs.config(sample), tmp_path)])


def test_a_file_is_no_workdir(sample, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match=r"above it, holds \[; checkpoints written there could not be read again"):
        train.train_and_evaluate(runs.config(sample), tmp_path / "set[1]" / "run")
    with pytest.raises(ConfigError, match="run is a file, expected a folder"):
        train.train_and_evaluate(runs.config(sample), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--workdir=/sys/run cannot be written: /sys: .*; give a folder that can"):
        train.train_and_evaluate(runs.config(sample, **{"data.dir": "absent"}), pathlib.Path("/sys/run"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"damaged/config.json is not JSON .*give another --workdir"):
        train.train_and_evaluate(runs.config(sample), tmp_path / "damaged")


def test_a_damaged_checkpoint_is_named_where_it_is_asked_for(finished, tmp_path):
    """A run that goes on falls back to an older one, see test_checkpoint.py; who names one gets it or an error."""
    newest = shutil.copytree(finished[0] / "checkpoints", tmp_path / "checkpoints") / "step_12"
    for file in (newest / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(CheckpointError, match=rf"{newest} cannot be read .*delete that folder .* 8, 10, 12"):
        checkpoints_lib.load(newest, "last")


@pytest.mark.training
def test_changed_hard_prompts_are_refused(sample, tmp_path):
    """A configuration holds only where a bank lies, so a run that goes on must look at what it says."""
    shipped = json.loads((runs.ROOT / "mpafer_jax" / "method" / "hard_prompts" / "expressions.json").read_text())
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps(shipped))
    config = runs.config(sample, **{**runs.SHORT, "hard_prompts.bank": (str(bank),)})
    train.train_and_evaluate(config, tmp_path / "run")
    shipped["classes"]["anger"] = {**shipped["classes"]["anger"], "holistic": ["a face that shouts"]}
    bank.write_text(json.dumps(shipped))
    with pytest.raises(CheckpointError, match=r"hard prompts of anger changed since it was saved .* that shouts"):
        train.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.training
def test_nan_stops_with_step_and_terms_and_saves_nothing(sample, tmp_path):
    changes = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e38, "train.checkpoint_every": 12}
    changes |= {"train.eval_every": 12, "train.log_every": 12}
    with pytest.raises(NonFiniteError, match=r"step [2-5]: not finite: .*'loss'"):
        train.train_and_evaluate(runs.config(sample, **changes), tmp_path)
    assert not list((tmp_path / "checkpoints").glob("step_*"))
    assert not (tmp_path / "summary.json").exists()
    assert re.match(r"step [2-5]: not finite: .*'loss'", (tmp_path / "diverged.txt").read_text())


@pytest.mark.training
def test_warm_start_takes_what_fits_and_warns_of_another_clip(finished, sample, tmp_path, caplog):
    workdir, _ = finished
    clip = runs.other_clip(sample, tmp_path / "clip")
    two = {"data.class_names": ("surprise", "anger"), "train.warm_start": str(workdir), "eval.which": "last"}
    still = {**runs.SHORT, "optimizer.learning_rate": 1e-12, "clip.name": str(clip)}
    with caplog.at_level("INFO"):
        train.train_and_evaluate(runs.config(sample, **two, **still), tmp_path / "run")
    assert "ctx: taken, shape (10, 64)" in caplog.text
    assert f"{workdir} was trained on another CLIP ({sample / 'clip'}, hash " in caplog.text
    for name, value in restored(tmp_path / "run", 1).items():
        np.testing.assert_allclose(value, restored(workdir, 12)[name], atol=1e-9)


def described(*class_names, layers=()) -> checkpoints_lib.Description:
    config = get_common()
    config.visual_prompts.layers = layers
    return checkpoints_lib.Description.model_construct(class_names=class_names, config=config.to_dict())


def test_warm_start_matches_classes_by_expression_and_says_what_does_not_fit():
    fresh = {"ctx": jnp.zeros((3, 4, 3)), "visual_prompts": jnp.zeros((1, 2, 3))}
    saved = {"ctx": np.arange(36.0).reshape(3, 4, 3), "visual_prompts": np.ones((2, 2, 3)), "old": np.ones(1)}
    names, saved_names = ("Fearful", "joy", "sad"), ("anger", "sadness", "fear")
    params, notes = warm_start.warm_start(tiny.learner(), fresh, described(*names), saved, described(*saved_names))
    np.testing.assert_array_equal(params["ctx"][0], saved["ctx"][2])
    np.testing.assert_array_equal(params["ctx"][1], 0)
    np.testing.assert_array_equal(params["ctx"][2], saved["ctx"][1])
    np.testing.assert_array_equal(params["visual_prompts"], 0)
    assert notes == [
        "ctx: taken for Fearful, sad; the others start fresh",
        "visual_prompts: shape (2, 2, 3) does not fit (1, 2, 3), starts fresh",
        "old: in the checkpoint, not used here",
    ]
    with pytest.raises(ConfigError, match=r"config\.train\.warm_start: .*'joy' and 'happy' are the same"):
        warm_start.warm_start(tiny.learner(), fresh, described("joy", "happy"), saved, described(*saved_names))
    with pytest.raises(ConfigError, match=r"of another method, holds mask, and this run trains ctx"):
        warm_start.warm_start(tiny.learner(), fresh, described(*names), {"mask": fresh["ctx"]}, described(*names))


def test_a_warm_start_that_would_take_nothing_is_an_error():
    """As prompts of a ViT-L/14 for a ViT-B/16, whose names are the same, or a context of other classes alone."""
    fresh = {"ctx": jnp.zeros((3, 4, 3)), "visual_prompts": jnp.zeros((2, 2, 3))}
    wider = {"ctx": np.ones((3, 4, 5)), "visual_prompts": np.ones((2, 2, 5))}
    here, there = described("fear", "joy", "sadness"), described("anger", "disgust", "contempt")
    with pytest.raises(ConfigError) as error:
        warm_start.warm_start(tiny.learner(), fresh, here, wider, here)
    assert str(error.value) == (
        "config.train.warm_start: nothing would be taken from the checkpoint: ctx: shape (3, 4, 5) does not fit "
        "(3, 4, 3), starts fresh; visual_prompts: shape (2, 2, 5) does not fit (2, 2, 3), starts fresh. Name one whose "
        "CLIP, prompts and classes fit this run, or leave the field empty"
    )
    with pytest.raises(ConfigError, match=r"nothing .*: ctx: of no class of this run, starts fresh\. Name one"):
        warm_start.warm_start(tiny.learner(), {"ctx": fresh["ctx"]}, here, {"ctx": np.ones((3, 4, 3))}, there)
    params, notes = warm_start.warm_start(tiny.learner(), fresh, here, {**wider, "ctx": np.ones((3, 4, 3))}, here)
    np.testing.assert_array_equal(params["ctx"], 1)
    np.testing.assert_array_equal(params["visual_prompts"], 0)
    assert notes[0] == "ctx: taken for fear, joy, sadness; the others start fresh"


@pytest.mark.parametrize(("layers", "saved_layers", "taken"), [((1, 2), (), 1), ((), (1, 2), 1), ((2, 3), (), 0)])
def test_warm_start_takes_visual_prompts_for_the_layers_that_they_were_trained_in(layers, saved_layers, taken):
    fresh = {"visual_prompts": jnp.zeros((2, 1, 3)), "ctx": jnp.zeros((1, 3))}
    saved = {"visual_prompts": np.ones((2, 1, 3)), "ctx": np.ones((1, 3))}
    here, there = described("joy", layers=layers), described("joy", layers=saved_layers)
    learner = tiny.learner(visual_layers=layers or (1, 2))
    params, notes = warm_start.warm_start(learner, fresh, here, saved, there)
    np.testing.assert_array_equal(params["visual_prompts"], taken)
    assert ("of the layers [1, 2], not [2, 3], starts fresh" in notes[0]) == (not taken)


@pytest.mark.training
def test_without_validation_only_the_last_step_is_reported(sample, tmp_path):
    changes = {**runs.SHORT, "data.validation_fraction": 0.0, "loss.gamma": 0.0}
    changes |= {"data.features_dir": str(tmp_path / "features")}
    summary = train.train_and_evaluate(runs.config(sample, **changes), tmp_path)
    assert "best" not in summary
    assert summary["selected_by"] == "nothing: last step only"
    assert summary["last"].keys() == {"step", "test"}
    assert not (tmp_path / "features").exists()  # gamma 0 and no baselines: nothing reads them
    assert "prototype_alignment" not in runs.metrics(tmp_path)[0]


@pytest.mark.training
def test_class_counts_of_train_reach_the_loss(sample, tmp_path):
    shutil.copytree(sample / "faces", tmp_path / "faces")
    for path in sorted((tmp_path / "faces" / "train" / "happiness").iterdir())[:30]:
        path.unlink()
    changes = {"data.dir": str(tmp_path / "faces"), "train.num_steps": 2, "optimizer.warmup_steps": 0}
    changes |= {"data.label_noise": 0.25, "loss.logit_adjustment": 1.0, "loss.gamma": 0.0, "loss.beta": 0.0}
    config = runs.config(sample, **changes)
    run = train.prepare(config, tmp_path / "run")
    counts = run.dataset.train.class_counts().tolist()
    assert len(set(counts)) > 1
    assert run.experiment.frozen.class_counts.tolist() == counts
    with pytest.raises(ConfigError, match=r"no training image shows anger, so logit adjustment \(tau 1\) has no count"):
        train.class_counts(config, run.dataset.train.take(np.flatnonzero(run.dataset.train.labels)))
    summary = train.train_and_evaluate(config, tmp_path / "run")
    assert summary["method"] == "tuned prompts + logit adjustment (tau 1)"
    written = (tmp_path / "run" / "results.md").read_text()
    assert "| tuned prompts + logit adjustment (tau 1), last step (2) " in written
    assert "- class imbalance: logit adjustment (tau 1)\n" in written


def test_epochs_are_rounded_to_whole_updates(sample, tmp_path):
    changes = {"train.num_steps": 0, "train.num_epochs": 2.5, "loss.gamma": 0.0, "optimizer.warmup_steps": 0}
    run = train.prepare(runs.config(sample, **changes), tmp_path)
    assert len(run.dataset.train) == 55
    assert run.num_steps == 9  # 137.5 images in batches of 16


def test_class_counts_are_of_votes_in_fractions():
    votes = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]], np.float32)
    split = types.SimpleNamespace(label_distributions=votes, class_names=("a", "b", "c"))
    found = train.class_counts(Config(), split)
    assert found.dtype == np.float32
    assert found.tolist() == [0.75, 1.75, 0.5]


@pytest.mark.training
def test_the_test_split_chooses_only_where_that_is_asked_for(chosen_on_test, sample, tmp_path, caplog):
    workdir, summary = chosen_on_test, runs.summary(chosen_on_test)
    assert summary["selected_by"] == "test war"
    measured = {line["step"]: line["war"] for line in runs.metrics(workdir) if line["kind"] == "test"}
    assert measured.keys() == {4, 8, 12}
    best = max(measured, key=lambda step: (measured[step], -step))
    assert (summary["best"]["step"], summary["best"]["test"]["war"]) == (best, pytest.approx(measured[best]))
    assert {path.name for path in (workdir / "checkpoints").glob("step_*")} == {f"step_{best}", "step_12"}  # keep is 1
    assert protocol.TEST_SELECTED in (workdir / "results.md").read_text()
    evaluated = evaluate.evaluate_checkpoint(runs.config(sample, **{"eval.checkpoint": str(workdir)}), tmp_path)
    assert evaluated["chosen_on_test"]
    assert protocol.TEST_SELECTED in caplog.text


@pytest.mark.training
def test_16_images_are_learnt_by_heart_by_prompts_alone(sample, tmp_path):
    still = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, "erase": 0.0}
    changes = {
        **{f"data.augment.{name}": value for name, value in still.items()},
        "data.class_names": ("anger", "happiness", "sadness", "surprise"),
        "data.train_per_class": 4,
        "data.validation_fraction": 0.0,
        "data.test_split": "",
        "train.num_steps": 120,
        "train.log_every": 20,
        "train.checkpoint_every": 120,
    }
    summary = train.train_and_evaluate(runs.config(sample, **changes), tmp_path)
    assert summary["trained_parameters"] == {"ctx": 10 * 64, "visual_prompts": 3 * 8 * 64}
    accuracy = [line["accuracy"] for line in runs.metrics(tmp_path)]
    assert accuracy[0] < 0.7
    assert accuracy[-1] > 0.95


@pytest.mark.training
def test_bfloat16_towers_train_like_float32_ones(sample, tmp_path):
    logged = {}
    for dtype in ("float32", "bfloat16"):
        changes = {"clip.dtype": dtype, "train.num_steps": 2, "optimizer.warmup_steps": 0, "train.log_every": 1}
        # CPUs compute bfloat16 slowly: no more than the two updates.
        changes |= {"data.validation_fraction": 0.0, "data.test_split": "", "loss.gamma": 0.0}
        train.train_and_evaluate(runs.config(sample, **changes), tmp_path / dtype)
        assert {value.dtype.name for value in restored(tmp_path / dtype, 2).values()} == {"float32"}
        logged[dtype] = [line["loss"] for line in runs.metrics(tmp_path / dtype)]
    np.testing.assert_allclose(logged["bfloat16"], logged["float32"], rtol=0.05)
    assert logged["bfloat16"] != logged["float32"]
