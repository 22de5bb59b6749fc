"""Checkpoints that are damaged, that find no room, and that carry metrics which wait for their line."""

import json
import logging
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.artifacts import checkpoints as checkpoints_lib
from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.jobs.pretraining.train import PretrainDescription
from mpafer_jax.method.state import TrainState
from mpafer_jax.runtime.errors import CheckpointError, NonFiniteError, UnreadableError

DESCRIPTION = Description(
    config={},
    class_names=("a", "b"),
    clip_name="c",
    clip_hash="h",
    hard_prompts={"groups": [{"name": "t", "texts": [["t"], ["u"]]}]},
    data={},
    versions={},
)


def state(step, size=100):
    noise = np.random.default_rng(step).normal(size=size).astype(np.float32)
    return TrainState(jnp.asarray(step, jnp.int32), {"ctx": jnp.asarray(noise)}, {"trace": jnp.asarray(-noise)})


@pytest.fixture
def opened(tmp_path):
    """Opens checkpoints, any number of times, and closes them."""
    all_opened = []

    def open_(workdir=tmp_path, keep=20):
        all_opened.append(Checkpoints(workdir, keep=keep, select_by="war"))
        return all_opened[-1]

    yield open_
    for checkpoints in all_opened:
        checkpoints.close()


def save(checkpoints, steps, **options):
    for step in steps:
        checkpoints.save(state(step, **options), DESCRIPTION, None)
    checkpoints.wait()


def truncate(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:10])


def test_damaged_checkpoints_are_passed_over_and_put_aside(opened, tmp_path, caplog):
    save(opened(), [2, 4, 6, 8])
    folder = tmp_path / "checkpoints"
    for step, part in ((8, "params"), (6, "opt_state"), (4, "description")):
        truncate(folder / f"step_{step}" / part)
    checkpoints = opened()
    with caplog.at_level(logging.WARNING):
        restored = checkpoints.restore_latest(state(0), DESCRIPTION)
    assert int(restored.step) == 2
    np.testing.assert_array_equal(restored.params["ctx"], state(2).params["ctx"])
    for step in (8, 6, 4):
        assert f"falling back from step {step}: {folder}/step_{step} cannot be read" in caplog.text
    save(checkpoints, [4, 6])  # the run goes on over the same steps
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_2",
        "step_4",
        "step_6",
        "unreadable-step_4",
        "unreadable-step_6",
        "unreadable-step_8",
    ]
    assert int(opened().restore_latest(state(0), DESCRIPTION).step) == 6


@pytest.mark.parametrize("select_by", ["war", "uar"])
def test_the_best_is_the_earliest_of_ties_and_stays(tmp_path, select_by):
    checkpoints = Checkpoints(tmp_path, keep=1, select_by=select_by)
    measured = {2: 0.5, 4: 0.7, 5: None, 6: 0.7, 8: 0.6, 9: None}
    for step, value in measured.items():
        other = {"war": step / 10, "uar": step / 10}
        checkpoints.save(state(step), DESCRIPTION, None if value is None else {**other, select_by: value})
    checkpoints.wait()
    assert checkpoints.best_step() == 4
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_4", "step_9"}
    for which, step in (("best", 4), ("last", 9)):
        params, _, found = checkpoints_lib.load(tmp_path, which)
        assert found == step
        np.testing.assert_array_equal(params["ctx"], state(step).params["ctx"])


def test_a_checkpoint_whose_evaluation_was_pending_is_as_one_that_was_evaluated_at_once(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(state(2), DESCRIPTION, {"war": 0.5, "uar": 0.4})
    checkpoints.save(state(4), DESCRIPTION, None, pending=True)
    checkpoints.wait()
    assert checkpoints.best_step() == 2
    again = opened()
    assert again.is_pending()
    again.complete({"war": 0.6, "uar": 0.4})
    for each in (again, opened()):
        assert not each.is_pending()
        assert each.best_step() == 4
    assert int(again.restore_latest(state(0), DESCRIPTION).step) == 4
    other = Checkpoints(tmp_path / "other", keep=20, select_by="war")
    other.save(state(4), DESCRIPTION, {"war": 0.6, "uar": 0.4})
    other.close()
    one, two = (folder / "checkpoints" / "step_4" / "metrics" / "metrics" for folder in (tmp_path, tmp_path / "other"))
    assert json.loads(one.read_text()) == json.loads(two.read_text())


def test_without_an_evaluation_there_is_no_best(opened, tmp_path):
    checkpoints = opened()
    save(checkpoints, [2, 4])
    assert checkpoints.best_step() is None
    assert checkpoints_lib.load(tmp_path, "best")[2] == 4  # the last stands for it


def test_an_array_of_another_shape_or_type_is_named(opened):
    save(opened(), [2], size=100)
    with pytest.raises(UnreadableError, match=r"params/ctx: found float32 \[100\], expected float32 \[99\]"):
        opened().restore_latest(state(0, size=99), DESCRIPTION)
    like = state(0)
    like = TrainState(like.step, {"ctx": like.params["ctx"].astype(jnp.bfloat16)}, like.opt_state)
    with pytest.raises(UnreadableError, match="not what was saved, by its SHA-256: params/ctx"):
        opened().restore_latest(like, DESCRIPTION)  # Orbax has made bfloat16 of it
    wrong = {"ctx": np.zeros(7, np.float32)}
    with pytest.raises(UnreadableError, match=r"params/ctx: found float32 \[100\], expected float32 \[7\]"):
        opened().restore_params(2, wrong)


def test_numbers_that_are_not_finite_are_not_saved(opened, tmp_path):
    checkpoints = opened()
    save(checkpoints, [2])
    good = state(4)
    for broken, name in (
        (TrainState(good.step, {"ctx": good.params["ctx"].at[3].set(jnp.nan)}, good.opt_state), "params/ctx"),
        (TrainState(good.step, good.params, {"trace": good.opt_state["trace"].at[3].set(jnp.inf)}), "opt_state/trace"),
    ):
        with pytest.raises(NonFiniteError, match=rf"after step 4 .*: {name} \(1 of 100\)"):
            checkpoints.save(broken, DESCRIPTION, None)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step_*")] == ["step_2"]


def damages(content, *, many):
    """A file's content after each kind of damage; None: the file is gone."""
    size = len(content)
    positions = range(0, size, max(1, size // 60)) if many else [size // 2]
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 0x11
        yield f"byte {position}", bytes(changed)
    yield "cut", content[: size // 2]
    if many:
        yield "emptied", b""
        yield "deleted", None


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_damage_to_any_file_is_taken_for_a_checkpoint(tmp_path, many, monkeypatch):
    """Whatever happens to a file of the newest checkpoint: its content comes back, or that of the one before it."""
    whole = tmp_path / "whole"
    saving = Checkpoints(whole, keep=5, select_by="war")
    interval = [{"loss": (0.5, 1.0)}]
    for step in (2, 4):
        saving.save(state(step), DESCRIPTION, {"war": 0.5 + step / 100}, interval)
    saving.wait()
    saving.close()
    warnings = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: warnings.append(text % values))
    folder = whole / "checkpoints" / "step_4"
    fell_back = set()
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        item = file.relative_to(folder).parts[0]
        every = list(damages(file.read_bytes(), many=many))
        for what, content in every if many else [every[number % 2]]:
            workdir = tmp_path / "damaged"
            shutil.rmtree(workdir, ignore_errors=True)
            shutil.copytree(whole, workdir)
            damaged = workdir / file.relative_to(whole)
            damaged.unlink() if content is None else damaged.write_bytes(content)
            case = f"{file.relative_to(folder)}: {what}"
            for which in ("last", "best"):
                warnings.clear()
                params, description, step = checkpoints_lib.load(workdir, which)
                np.testing.assert_array_equal(params["ctx"], state(step).params["ctx"], err_msg=case)
                assert description == DESCRIPTION, case
                if step != 4:
                    assert "step_4" in "".join(warnings) or "step 4" in "".join(warnings), case
                    fell_back.add(item)
            warnings.clear()
            resuming = Checkpoints(workdir, keep=5, select_by="war")
            try:
                restored = resuming.restore_latest(state(0), DESCRIPTION)
                expected = state(int(restored.step))
                np.testing.assert_array_equal(restored.params["ctx"], expected.params["ctx"], err_msg=case)
                np.testing.assert_array_equal(restored.opt_state["trace"], expected.opt_state["trace"], err_msg=case)
                assert [{"loss": tuple(one["loss"])} for one in resuming.latest_interval()] == interval, case
                if int(restored.step) != 4:
                    assert "falling back from step 4: " in "".join(warnings), case
                    assert (workdir / "checkpoints" / "unreadable-step_4").is_dir()
                    fell_back.add(item)
                resuming.save(state(6), DESCRIPTION, {"war": 0.1})
                resuming.wait()
                assert resuming.best_step() in (2, 4), case
            finally:
                resuming.close()
    assert fell_back == {"description", "interval", "metrics", "opt_state", "params"}


def test_if_none_can_be_read_all_stay_and_the_newest_is_named(opened, tmp_path):
    save(opened(), [2, 4])
    folder = tmp_path / "checkpoints"
    for step in (2, 4):
        truncate(folder / f"step_{step}" / "params")
    with pytest.raises(UnreadableError, match=rf"{folder}/step_4 cannot be read .* delete .* 2, 4"):
        opened().restore_latest(state(0), DESCRIPTION)
    assert sorted(path.name for path in folder.iterdir()) == ["step_2", "step_4"]


def test_metrics_between_two_lines_come_back_exactly(opened):
    third = float(np.float32(1 / 3))
    checkpoints = opened()
    checkpoints.save(state(1), DESCRIPTION, None, [{"loss": (third, 1.0)}, {"loss": (2.5, 16.0)}])
    checkpoints.wait()
    (one, two) = opened().latest_interval()
    assert one["loss"][0] == third
    assert tuple(two["loss"]) == (2.5, 16.0)
    save(checkpoints, [2])
    assert opened().latest_interval() == []


@pytest.mark.parametrize(
    ("kind", "values"),
    [(Description, DESCRIPTION.model_dump()), (PretrainDescription, {"data": "d", "vocab_size": 9, "versions": {}})],
)
def test_another_configuration_is_refused_also_without_the_runs_config_file(opened, kind, values):
    """As of checkpoints that were copied alone; what may change on resume is as free as in config.json."""

    def described(**changes):
        return kind(**{**values, "config": {"seed": 0, "train": {"keep": 3, "num_steps": 20}} | changes})

    checkpoints = opened()
    checkpoints.save(state(2), described(), None)
    checkpoints.wait()
    with pytest.raises(CheckpointError) as error:
        opened().restore_latest(state(0), described(seed=7, train={"keep": 5, "num_steps": 12}))
    assert str(error.value).partition(" was saved by a run with another configuration:\n")[2] == (
        "  config.seed: there 0, here 7\n  config.train.num_steps: there 20, here 12\n"
        "give another --workdir, or the same configuration to resume that run"
    )
    assert int(opened().restore_latest(state(0), described(train={"keep": 5, "num_steps": 20})).step) == 2


def test_a_step_that_would_not_be_saved_is_an_error(opened):
    checkpoints = opened()
    save(checkpoints, [4])
    with pytest.raises(CheckpointError, match="step 3 was to be saved, but step 4 is there"):
        checkpoints.save(state(3), DESCRIPTION, None)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


# TensorStore's answers to the writes that failed may come when Orbax has closed its event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_stops_with_an_error_and_the_older_checkpoints_intact(small_disk, opened):
    checkpoints = opened(small_disk)
    with pytest.raises(CheckpointError, match=r"cannot be written in .*before are intact: step_2.*make room"):
        save(checkpoints, range(2, 40, 2), size=50_000)
    finished = sorted(
        int(path.name[5:]) for path in (small_disk / "checkpoints").glob("step_*") if path.name[5:].isdigit()
    )
    assert finished
    for step in finished:
        params, _, _ = checkpoints_lib.load(small_disk / "checkpoints" / f"step_{step}", "last")
        np.testing.assert_array_equal(params["ctx"], state(step, size=50_000).params["ctx"])


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ((), "run", "there is no such folder. Expected a workdir"),
        ((), "clip-vit", "predicts with --zero_shot"),
        (("photo.jpg",), "photo.jpg", "it is a file: give its folder"),
        (("run/checkpoints/step_5/params/d",), "run/checkpoints/step_7", "no such folder, but step_5"),
        (("run/checkpoints/step_5/params/d",), "run/checkpoints/step_5/params", r"give .*run/checkpoints/step_5\."),
        (("c/config.json", "c/model.safetensors"), "c", "looks like a CLIP"),
        (("e/predictor.onnx",), "e", "exported program"),
        (("s/all/full/seed_0/checkpoints/step_5/x",), "s", r"such as .*s/all/full/seed_0\."),
        (("r/config.json", "r/metrics.jsonl"), "r", "a run that has saved none yet"),
        (("photos/a.JPG",), "photos", "there are images, which predict takes without a flag"),
        (("other/notes.txt",), "other", "there is no checkpoint in that folder"),
    ],
)
def test_where_no_checkpoint_is_the_message_says_what_is(tmp_path, files, place, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=message):
        checkpoints_lib.load(tmp_path / place, "best")


def test_a_checkpoint_of_pretraining_is_told_from_one_of_prompts(opened, tmp_path):
    checkpoints = opened()
    description = PretrainDescription(config={}, data="d", vocab_size=9, versions={}, hours=0.0)
    checkpoints.save(state(2), description, None)
    checkpoints.wait()
    with pytest.raises(CheckpointError, match=r"is of a CLIP's pretraining.*/clip once it has ended"):
        checkpoints_lib.load(tmp_path, "best")
