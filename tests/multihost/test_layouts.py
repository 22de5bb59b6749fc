"""Several processes on this machine: the same numbers as one, in one folder, stopped, resumed, ended together."""

import os
import re
import shutil
import signal
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.data.records import PREPARED_FOLDER
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.jobs import predict, train
from mpafer_jax.runtime import signals
from tests.jobs import runs
from tests.multihost import layouts
from tests.multihost.layouts import Layout, wait_for

pytestmark = pytest.mark.processes

# Validation after every save, lines between the saves, and a stop between two lines.
RHYTHM = {"train.num_steps": 24, "train.eval_every": 8, "train.checkpoint_every": 8, "train.log_every": 3}
REPORTED = {**RHYTHM, "eval.report": "full"}
TWO = Layout(2, 2)


def logged(workdir, step):
    """Whether a line of metrics of this step or a later one is there."""
    path = workdir / "metrics.jsonl"
    steps = re.findall(r'^\{"step": (\d+),.*\}$', path.read_text(), re.M) if path.is_file() else []
    return any(int(found) >= step for found in steps)


@pytest.fixture(scope="module")
def one_process(sample, tmp_path_factory):
    """The reference: one process with the devices of these tests."""
    workdir = tmp_path_factory.mktemp("one_process")
    place = {"data.features_dir": str(workdir / "features")}
    train.train_and_evaluate(runs.config(sample, **layouts.SGD, **REPORTED, **place), workdir)
    return workdir


def test_two_processes_stopped_and_resumed_equal_one(one_process, sample, tmp_path):
    """SIGTERM to one of the two stops both after the same step; the command goes on; every number is the same."""
    workdir = tmp_path / "two"
    with layouts.running(TWO, sample, workdir, **layouts.SGD, **REPORTED) as process:
        wait_for(lambda: logged(workdir, 3), process)
        process.send_signal(signal.SIGTERM)
        code, errors = layouts.finish(process)
    assert code == signals.EXIT_CODE, errors
    stopped = int(errors.split("stopped by SIGTERM after step ")[1].split()[0])
    assert 3 <= stopped < 24  # the processes agree on a step, a few after the signal
    assert (workdir / "checkpoints" / f"step_{stopped}").is_dir()
    assert not (workdir / "summary.json").exists()

    errors = layouts.run(TWO, sample, workdir, **layouts.SGD, **REPORTED)
    assert f"resuming after step {stopped}" in errors
    assert errors.count("next, for example:") == 1  # of process 0 alone
    dated = [line for line in errors.splitlines() if re.match(r"\[1\] \d{4}-\d\d-\d\d ", line)]
    routine = [line for line in dated if " process 1: " not in line]
    assert all("waiting up to" in line for line in routine), routine  # until they have met, each speaks for itself
    assert [line["step"] for line in runs.metrics(workdir)] == [line["step"] for line in runs.metrics(one_process)]
    found = layouts.difference(one_process, workdir)
    assert found.pop("images evaluated") == found.pop("confusion") == 0
    assert max(found.values()) < 1e-4, found
    report_with_two_processes_what_one_reports(one_process, workdir, errors)
    predict_with_two_processes_what_one_predicts(sample, workdir)


def report_with_two_processes_what_one_reports(one_process, workdir, errors):
    """All 25 test images, each gathered from the process that had it, in one file and on one page."""
    assert errors.count("report: ") == 1
    one, two = (Predictions.load(path / "predictions.npz") for path in (one_process, workdir))
    for name in ("step", "fingerprint"):
        assert getattr(one, name) == getattr(two, name)
    for name in ("names", "labels", "mapped", "mistakes", "mistake_pixels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(two.names) == len(set(two.names)) == len(two.mapped) == 25
    for name in ("logits", "features_before", "features_after", "mistake_patch_scores"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=2e-3, err_msg=name)
    assert (workdir / "report.html").stat().st_size > 0.9 * (one_process / "report.html").stat().st_size
    # Nothing beside what one process leaves, as half-written files of a second writer would be.
    files, others = ({path.name for path in folder.iterdir()} for folder in (one_process, workdir))
    assert files == others


def predict_with_two_processes_what_one_predicts(sample, workdir):
    """25 test images in parts of 7; one part is there already, and one process has to be enough for the rest too."""
    parts = {"predict.images_per_part": 7}
    config = runs.config(sample, **parts)
    predict.predict_dataset(config, workdir)
    folder = workdir / "predictions"
    paths = sorted(folder.glob("test-*.parquet"))
    assert [path.name for path in paths] == [f"test-0000{part}-of-00004.parquet" for part in range(4)]
    alone = [pq.read_table(path) for path in paths]
    for path in paths[1:]:
        path.unlink()
    written = paths[0].stat().st_mtime_ns
    layouts.run(TWO, sample, workdir, mode="predict", **parts)
    assert sorted(folder.glob("test-*")) == paths
    assert paths[0].stat().st_mtime_ns == written
    for before, path in zip(alone, paths, strict=True):
        after = pq.read_table(path)
        assert before.select(["index", "file", "label"]) == after.select(["index", "file", "label"])
        for name in before.column_names[4:]:
            np.testing.assert_allclose(before[name].to_numpy(), after[name].to_numpy(), atol=1e-5)


def test_hosts_with_different_data_are_refused(sample, tmp_path):
    """An image that one host lacks; where the files are equal, the folders' names do not matter."""
    for index in range(2):
        shutil.copytree(sample / "faces", tmp_path / str(index), ignore=shutil.ignore_patterns(PREPARED_FOLDER))
        shutil.copytree(sample / "faces", tmp_path / f"same{index}", ignore=shutil.ignore_patterns(PREPARED_FOLDER))
    (tmp_path / "1" / "train" / "anger" / "000.png").unlink()
    said = layouts.program(
        f"""
        {layouts.JOIN}
        from mpafer_jax.data.splits import load_dataset
        from mpafer_jax.runtime.errors import DataError
        from tests.jobs import runs
        def load(name):
            return load_dataset(runs.config(pathlib.Path({str(sample)!r}), **{{"data.dir": str(folder / name)}}).data)
        load(f"same{{index}}")
        try:
            load(str(index))
        except DataError as error:
            say(error)
        """,
        tmp_path,
    )
    told = r"the processes of this run have read different data: process 0 has 55 train images \([0-9a-f]{16}\), .*"
    assert re.match("0 " + told + ", and another process something else. Give every host the same", said[0])
    assert re.match("1 " + told + r", this one 54 train images \([0-9a-f]{16}\), .*\. Give every host", said[1])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.seed=$JAX_PROCESS_ID", "different configurations:\n  config.seed: process 0 has 0, this one 1\n"),
        ("--config.clip.name=$0/$JAX_PROCESS_ID", "different models:\n  CLIP's content hash: process 0 has '"),
    ],
)
def test_hosts_that_would_train_different_prompts_are_refused(sample, tmp_path, flag, message):
    """As after another command or checkout on one of them, or with another CLIP under the same name."""
    shutil.copytree(sample / "clip", tmp_path / "0")
    runs.other_clip(sample, tmp_path / "1")
    words = ["bash", "-c", f'exec "$@" "{flag}"', tmp_path, *runs.command(sample, tmp_path / "run")]
    with layouts.started(Layout(2, 1), words) as process:
        code, errors = layouts.finish(process)
    assert code == 2, errors
    assert message in re.sub(r"^\[\d\] ", "", errors, flags=re.M), errors
    assert "another process differs from process 0" in errors
    assert not (tmp_path / "run" / "config.json").exists()


def test_parameters_that_differ_between_processes_are_told_of_when_they_are_saved(tmp_path):
    said = layouts.program(
        f"""
        {layouts.JOIN}
        from absl import logging
        from mpafer_jax.artifacts.run_checkpoints import Checkpoints
        from tests.artifacts.test_checkpoint import DESCRIPTION, save, state
        logging.warning = lambda text, *values: say(text % values)
        checkpoints = Checkpoints(folder, keep=3, select_by="war")
        save(checkpoints, [2])
        own = state(4)
        own.params["ctx"] = own.params["ctx"].at[3].add(index)
        checkpoints.save(own, DESCRIPTION, None)
        checkpoints.close()
        """,
        tmp_path,
    )
    assert [line.partition(", by their SHA-256")[0] for line in said] == [
        f"{index} after step 4 the processes of this run hold different parameters" for index in range(2)
    ]


def test_processes_resume_and_read_the_same_step(tmp_path):
    """Process 1 sees the newest step late, as on a network file system; then never; then it reads another one."""
    said = layouts.program(
        f"""
        {layouts.JOIN}
        from mpafer_jax.artifacts import checkpoints, run_checkpoints, storage
        from mpafer_jax.runtime.errors import CheckpointError
        from tests.artifacts.test_checkpoint import DESCRIPTION, save, state
        run_checkpoints.VISIBLE_SECONDS = run_checkpoints._POLL_SECONDS = 0.5
        def opened(workdir):
            return run_checkpoints.Checkpoints(workdir, keep=3, select_by="war")
        first = opened(folder)
        save(first, [2, 4])
        first.close()
        listed, late = storage._Manager._load_checkpoint_infos, []
        def stale(self, **options):
            late.append(len(late) < limit)
            return [info for info in listed(self, **options) if info.step < 4 or not (index and late[-1])]
        storage._Manager._load_checkpoint_infos = stale
        for limit in (1, 1000):
            late.clear()
            again = opened(folder)
            try:
                say("resumes after", int(again.restore_latest(state(0), DESCRIPTION).step))
            except CheckpointError as error:
                say(error)
            again.close()
        try:
            checkpoints.load(folder, "last")
        except CheckpointError as error:
            say(error)
        storage._Manager._load_checkpoint_infos = listed
        say("reads", checkpoints.load(folder, "last")[2])
        """,
        tmp_path,
    )
    of_first = ("process 0 has the steps [4, 2], and another process something else", "process 0 has step 4 (SHA-256 ")
    of_other = ("process 0 has the steps [4, 2], this one the steps [2]", "this one step 2 (SHA-256 ")
    for number, words in enumerate((of_first, of_other)):
        lines = [line for line in said if line.startswith(f"{number} ")]
        assert len(lines) == 4, said
        for expected in (*words, "resumes after 4", "reads 4"):
            assert any(expected in line for line in lines), said


def test_a_command_ends_where_process_0_writes_for_longer_than_the_others_wait(tmp_path):
    said = layouts.program(
        """
        distributed.SHUTDOWN_SECONDS = 2
        from mpafer_jax.cli.runner import command
        @command("slow", processes=True)
        def slow(arguments):
            distributed.wait_for_all("its work")
            if index == 0:
                time.sleep(8)
        try:
            sys.exit(slow([]))
        finally:
            say("has ended")
        """,
        tmp_path,
    )
    assert said == ["0 has ended", "1 has ended"]


@pytest.mark.slow
def test_all_layouts_give_the_same_numbers(sample, tmp_path):
    changes = {**layouts.SGD, **layouts.EVERY_STEP, "train.num_steps": 20}
    for layout in (Layout(1, 1), Layout(1, 8), Layout(2, 4), Layout(4, 2)):
        layouts.run(layout, sample, tmp_path / str(layout), **changes)
        found = layouts.difference(tmp_path / "1 device", tmp_path / str(layout))
        assert found.pop("images evaluated") == found.pop("confusion") == 0
        assert max(found.values()) < 1e-4, (str(layout), found)


@pytest.mark.slow
def test_two_processes_resume_to_the_bit_and_go_on_as_one(sample, tmp_path):
    """Undisturbed; stopped in the middle; and begun by two processes, ended by one of another number of devices."""
    undisturbed = tmp_path / "undisturbed"
    layouts.run(TWO, sample, undisturbed, **RHYTHM)
    half = tmp_path / "half"
    with layouts.running(TWO, sample, half, **RHYTHM) as process:
        wait_for(lambda: logged(half, 9), process)
        process.send_signal(signal.SIGTERM)
        assert layouts.finish(process)[0] == signals.EXIT_CODE
    shutil.copytree(half, tmp_path / "other")
    layouts.run(TWO, sample, half, **RHYTHM)
    for name, value in checkpoints.load(undisturbed, "last")[0].items():
        np.testing.assert_array_equal(value, checkpoints.load(half, "last")[0][name])
    assert runs.metrics(undisturbed) == runs.metrics(half)
    layouts.run(Layout(1, 2), sample, tmp_path / "other", **RHYTHM)
    for a, b in zip(runs.metrics(undisturbed), runs.metrics(tmp_path / "other"), strict=True):
        assert a["kind"] != "train" or a["loss"] == pytest.approx(b["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_dies_the_other_ends_within_a_minute(sample, tmp_path, victim):
    endless = {"train.num_steps": 100_000, "train.eval_every": 100_000, "train.checkpoint_every": 1000}
    with layouts.running(Layout(2, 1), sample, tmp_path / "run", **endless) as process:
        wait_for(lambda: logged(tmp_path / "run", 3), process)
        pids = layouts.processes_of(process.pid)
        assert len(pids) == 2
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        code, errors = layouts.finish(process, timeout=90)
    assert time.monotonic() - killed < 60
    assert code not in (0, signals.EXIT_CODE), errors
