"""Checkpoints against datasets, on two drawn datasets of different classes, with runs of a few steps."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.jobs.studies import cross_dataset, cross_dataset_text
from mpafer_jax.runtime import signals
from mpafer_jax.runtime.errors import CheckpointError, ConfigError
from tests.jobs import runs

pytestmark = pytest.mark.training

# The sample has anger, happiness, neutral, sadness and surprise.
DRAWN = {
    "data.dataset": "synthface",
    "data.class_names": ("sad", "fear", "joy", "anger"),
    "data.synthface.train": 40,
    "data.synthface.validation": 8,
    "data.synthface.test": 40,
    "data.synthface.image_size": 32,
    "data.validation_split": "validation",
    "data.validation_fraction": 0.0,
}


@pytest.fixture(scope="session")
def trained(sample, finished, shared):
    """Two runs, in folders that their datasets are called by, and the drawn one's configuration."""

    def build(root):
        shutil.copytree(finished[0], root / "faces")
        train.train_and_evaluate(config(root), root / "drawn")

    def config(root):
        return runs.config(sample, **runs.SHORT, **{**DRAWN, "data.dir": str(root / "drawn_faces")})

    root = shared("two_datasets", build)
    return root, config(root)


@pytest.fixture(scope="module")
def loaded(trained):
    root, _ = trained
    rows = cross_dataset.load_checkpoints([str(root / "faces"), f"other={root / 'drawn'}"], "best")
    return rows, cross_dataset.load_targets(rows, [], own=True, batch_size=0)


@pytest.fixture
def matrix(loaded, shared, tmp_path):
    """The folder, the object that measured, and its four cells."""
    rows, targets = loaded

    def measure(folder):
        measuring = cross_dataset.Matrix(folder, "common")
        return measuring, [measuring.cell(row, target) for row in rows for target in targets]

    folder = shutil.copytree(shared("matrix", measure), tmp_path / "matrix_of_all")
    return folder, *measure(folder)


def test_a_checkpoint_on_its_own_dataset_is_as_its_run_measured_it(trained, matrix):
    root, _ = trained
    cells = {(cell["checkpoint"], cell["dataset"]): cell for cell in matrix[2]}
    assert list(cells) == [("faces", "faces"), ("faces", "other"), ("other", "faces"), ("other", "other")]
    for name, folder in (("faces", "faces"), ("other", "drawn")):
        best = runs.summary(root / folder)["best"]["test"]
        cell = cells[name, name]
        assert {field: cell[field] for field in best} == best
        assert (cell["dropped"], cell["unknown"], cell["new"]) == ({}, [], [])


def test_classes_are_matched_by_name_and_chosen_among_what_is_common(sample, trained, matrix, tmp_path):
    root, drawn = trained
    cell = next(cell for cell in matrix[2] if (cell["checkpoint"], cell["dataset"]) == ("faces", "other"))
    assert cell["class_names"] == ["anger", "happiness", "sadness"]
    fear = runs.summary(root / "drawn")["best"]["test"]["confusion"][1]
    assert cell["dropped"] == {"fear": sum(fear)}
    assert cell["count"] == 40 - sum(fear)
    assert cell["unknown"] == ["neutral", "surprise"]
    # By hand: the logits of all five classes, of which only the three common ones may win.
    changes = {"eval.checkpoint": str(root / "faces"), "eval.report": "numbers"}
    config = runs.config(sample, **{**DRAWN, "data.dir": drawn.data.dir, **changes})
    evaluate.evaluate_checkpoint(config, tmp_path)
    found = Predictions.load(tmp_path / "evaluation_predictions.npz")
    assert found.class_names == ("anger", "happiness", "neutral", "sadness", "surprise")
    common = [0, 1, 3]
    answers = np.array(common)[found.logits[:, common].argmax(axis=1)]
    assert cell["war"] == pytest.approx(np.mean(answers == found.labels))
    recalls = [np.mean(answers[found.labels == label] == label) for label in common]
    assert cell["uar"] == pytest.approx(np.mean(recalls))


def test_two_runs_of_one_shape_share_clip_and_compiled_steps(loaded, sample, tmp_path):
    measuring = cross_dataset.Matrix(tmp_path, "common")
    rows, targets = loaded
    for row in rows:
        measuring.cell(row, targets[0])
    assert len(measuring._clips) == 1
    config, (experiment, _) = runs.config(sample), next(iter(measuring._models.values()))
    other = dataclasses.replace(experiment, model=experiment.model.clone())
    assert make_evaluator(config, experiment).step is make_evaluator(config, other).step


def test_what_was_measured_is_not_measured_again(loaded, matrix, monkeypatch):
    folder, _, cells = matrix
    rows, targets = loaded
    measured = []
    measure = cross_dataset.Matrix._measure

    def counting(self, row, target, names):
        measured.append((row.name, target.name))
        return measure(self, row, target, names)

    monkeypatch.setattr(cross_dataset.Matrix, "_measure", counting)
    kept = folder / "cells" / "faces--other.json"
    again = cross_dataset.Matrix(folder, "common")
    assert [again.cell(row, target) for row in rows for target in targets] == cells
    assert measured == []
    with monkeypatch.context() as patch:  # another process does not see the file yet
        patch.setattr(cross_dataset.distributed, "all_agree", lambda _: False)
        assert again.cell(rows[0], targets[1])["confusion"] == cells[1]["confusion"]
    assert measured == [("faces", "other")]
    measured.clear()
    kept.unlink()
    assert again.cell(rows[0], targets[1])["confusion"] == cells[1]["confusion"]
    assert measured == [("faces", "other")]
    # Other prompts under the same name, or other classes, are another cell.
    changed = {**rows[0].params, "ctx": rows[0].params["ctx"] + 1}
    other = dataclasses.replace(rows[0], params=changed)
    again.cell(other, targets[1])
    cross_dataset.Matrix(folder, "checkpoint").cell(rows[0], targets[0])  # all five: the same classes
    assert measured == [("faces", "other")] * 2


def test_new_classes_are_chosen_among_on_purpose(loaded, tmp_path):
    rows, targets = loaded
    cell = cross_dataset.Matrix(tmp_path, "dataset").cell(rows[0], targets[1])
    assert cell["class_names"] == ["sadness", "fear", "happiness", "anger"]
    assert (cell["new"], cell["dropped"], cell["count"]) == (["fear"], {}, 40)


def test_a_dataset_without_common_classes_leaves_its_cell_empty(sample, loaded, tmp_path):
    for name in ("anger", "boredom", "pride"):
        shutil.copytree(sample / "faces" / "test" / "anger", tmp_path / "other" / name)
    texts = [f"other={runs.ROOT}/configs/folder.py:whole data.dir={tmp_path / 'other'}"]
    (target,) = cross_dataset.load_targets(loaded[0], texts, own=False, batch_size=8)
    assert target.config.eval.batch_size == 8
    for classes in ("common", "checkpoint"):
        assert cross_dataset.Matrix(tmp_path, classes).cell(loaded[0][0], target) is None
    found = cross_dataset.Matrix(tmp_path, "dataset").cell(loaded[0][0], target)
    assert found is not None
    assert found["new"] == ["boredom", "pride"]


def test_checkpoints_of_the_same_prompts_and_another_head_are_told_apart(loaded, tmp_path):
    rows, targets = loaded
    config = rows[0].description.config
    config = {**config, "head": {**config["head"], "local_weight": 0.0}}
    description = rows[0].description.model_copy(update={"config": config})
    other = dataclasses.replace(rows[0], name="no_local", row="no_local", description=description)
    assert other.digest == rows[0].digest
    alone = cross_dataset.Matrix(tmp_path / "alone", "common").cell(other, targets[0])
    together = cross_dataset.Matrix(tmp_path / "together", "common")
    first, second = together.cell(rows[0], targets[0]), together.cell(other, targets[0])
    assert alone is not None
    assert first is not None
    assert second is not None
    assert second["cross_entropy"] == alone["cross_entropy"] != first["cross_entropy"]


def test_the_table_by_hand():
    def cell(checkpoint, step, dataset, war, uar, dropped, unknown):
        names = {"checkpoint": checkpoint, "row": checkpoint[0], "dataset": dataset, "class_names": ["a", "b", "c"]}
        return {**names, "step": step, "war": war, "uar": uar, "count": 12, "dropped": dropped, "unknown": unknown}

    cells = [
        cell("A.1", 50, "A", 0.5, 0.25, {}, []),
        cell("A.1", 50, "C", 0.70, 0.25, {}, ["neutral"]),
        cell("A.2", 50, "C", 0.74, 0.25, {}, ["neutral"]),
        cell("B.1", 300, "C", 0.75, 1 / 3, {"fear": 2}, ["neutral", "contempt"]),
        cell("B.2", 200, "C", 0.77, 1 / 3, {"fear": 2}, ["neutral", "contempt"]),
    ]
    expected = """\
## Accuracy (WAR), %

| trained on \\ tested on |     A |            C |
|------------------------|------:|-------------:|
| A                      | 50.00 | 72.00 ± 2.83 |
| B                      |       | 76.00 ± 1.41 |

## Mean recall (UAR), %

| trained on \\ tested on |     A |            C |
|------------------------|------:|-------------:|
| A                      | 25.00 | 25.00 ± 0.00 |
| B                      |       | 33.33 ± 0.00 |

## Accuracy, difference to A

Paired by run. In brackets: p of a paired t-test over the runs, not corrected for the number of cells.

| trained on \\ tested on |   A |                    C |
|------------------------|----:|---------------------:|
| B                      |     | +4.00 ± 1.41 (0.156) |

## What was measured

| trained on | runs | after updates |
|------------|-----:|--------------:|
| A          |    2 |            50 |
| B          |    2 |      200, 300 |

| tested on | images | classes | images left out, by class | classes that the dataset has not |
|-----------|-------:|--------:|--------------------------:|---------------------------------:|
| A         |     12 |       3 |                         - |                                - |
| C, by A   |     12 |       3 |                         - |                          neutral |
| C, by B   |     12 |       3 |                    fear 2 |                neutral, contempt |

Chosen among the classes that checkpoint and dataset share.
"""
    assert cross_dataset_text.render(cells, "common") == expected
    deeper = cross_dataset_text.render(cells, "dataset", level=4)
    assert deeper.startswith("#### Accuracy")
    assert deeper.endswith("Chosen among all of the dataset's classes, trained on or not.\n")
    ferplus_on_rafdb = [{**cell, "between": ["ferplus", "rafdb"]} for cell in cells]
    assert "trained on ferplus and tested on rafdb: 72.91%" in cross_dataset_text.render(ferplus_on_rafdb, "common")
    rows, columns, war = cross_dataset_text.arrays(cells, "war")
    assert (rows, columns) == (["A", "B"], ["A", "C"])
    np.testing.assert_allclose(war, [[50, 72], [np.nan, 76]])


def test_rows_whose_checkpoint_the_test_split_chose_are_named(loaded, matrix):
    _, _, cells = matrix
    assert protocol.TEST_SELECTED not in cross_dataset_text.render(cells, "common")
    assert not any(cell["chosen_on_test"] for cell in cells)
    # As of a run with that field; the prompts are the same, and what was measured of them before is read.
    rows, targets = loaded
    config = rows[1].description.config
    config = {**config, "eval": {**config["eval"], "select_on_test_split": True}}
    description = rows[1].description.model_copy(update={"config": config})
    on_test = [checkpoints.chosen_on_test(rows[1].path, which, description) for which in ("best", "last")]
    assert on_test == [True, False]
    chosen = dataclasses.replace(rows[1], description=description, chosen_on_test=True)
    measuring = cross_dataset.Matrix(matrix[0], "common")
    again = [measuring.cell(row, target) for row in (rows[0], chosen) for target in targets]
    # The rows and the columns are of folders and of drawn faces.
    both = ["folder", "synthface"]
    assert [cell["between"] for cell in again] == [[trained, tested] for trained in both for tested in both]
    assert [cell["chosen_on_test"] for cell in again] == [False, False, True, True]
    text = cross_dataset_text.write(again, matrix[0], "common", [])
    assert text.startswith(f"**Trained on other: {protocol.TEST_SELECTED}**\n\n## Accuracy")
    assert json.loads((matrix[0] / "matrix.json").read_text())["cells"] == again
    # And a cell that is measured now.
    (matrix[0] / "cells" / "other--other.json").unlink()
    assert measuring.cell(chosen, targets[1])["chosen_on_test"]


def test_runs_of_several_seeds_are_one_row(trained, tmp_path, caplog):
    root, _ = trained
    for seed in (0, 1):
        shutil.copytree(root / "faces", tmp_path / f"seed_{seed}")
    rows = cross_dataset.load_checkpoints([f"faces={tmp_path}/seed_*", str(root / "drawn")], "best")
    assert [(row.name, row.row) for row in rows] == [
        ("faces.seed_0", "faces"),
        ("faces.seed_1", "faces"),
        ("drawn", "drawn"),
    ]
    assert [target.name for target in cross_dataset.load_targets(rows, [], own=True, batch_size=0)] == [
        "faces",
        "drawn",
    ]
    # What has not ended is no run of a row, and is measured where it is named.
    (tmp_path / "seed_1" / "summary.json").unlink()
    rows = cross_dataset.load_checkpoints([f"faces={tmp_path}/seed_*"], "best")
    assert [row.name for row in rows] == ["faces.seed_0"]
    assert f"left out, as they have not ended: {tmp_path}/seed_1" in caplog.text
    assert [row.name for row in cross_dataset.load_checkpoints([f"{tmp_path}/seed_1"], "best")] == ["seed_1"]
    (tmp_path / "seed_0" / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"none of the runs .*/seed_\* has ended"):
        cross_dataset.load_checkpoints([f"faces={tmp_path}/seed_*"], "best")
    (tmp_path / "run[v2]").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*run\[v2\]: the folder is empty"):
        cross_dataset.load_checkpoints([f"a={tmp_path}/run[v2]"], "best")
    with pytest.raises(ConfigError, match=r"--checkpoint: there is no folder .*/none_\*"):
        cross_dataset.load_checkpoints([f"faces={tmp_path}/none_*"], "best")


def test_names():
    for text, flag, expected in (
        ("runs/rafdb/", "checkpoint", ("rafdb", "runs/rafdb/")),
        ("raf=runs/a=b", "checkpoint", ("raf", "runs/a=b")),
        ("runs/beta_0.5", "checkpoint", ("beta_0.5", "runs/beta_0.5")),
        ("gs://b/runs/rafdb/", "checkpoint", ("rafdb", "gs://b/runs/rafdb/")),
        ("beta=my runs/a b", "checkpoint", ("beta", "my runs/a b")),
        ("my runs/rafdb", "checkpoint", ("rafdb", "my runs/rafdb")),
        ("configs/jaffe.v2.py", "dataset", ("jaffe.v2", "configs/jaffe.v2.py")),
        ("configs/jaffe.py:whole data.dir=/d", "dataset", ("jaffe", "configs/jaffe.py:whole data.dir=/d")),
    ):
        assert cross_dataset.parse_named(text, flag) == expected
    for text in ("runs/a b", "a:b=c"):
        with pytest.raises(ConfigError, match=f"--checkpoint={text}: expected name="):
            cross_dataset.parse_named(text, "checkpoint")


def test_mistakes_are_named(trained, loaded):
    root, _ = trained
    rows, _ = loaded
    with pytest.raises(ConfigError, match="give at least one --checkpoint"):
        cross_dataset.load_checkpoints([], "best")
    with pytest.raises(ConfigError, match="--checkpoint: faces is the name of more than one"):
        cross_dataset.load_checkpoints([str(root / "faces"), str(root / "faces")], "best")
    folder, faces = f"a={runs.ROOT}/configs/folder.py", rows[0].description.config["data"]["dir"]
    for texts, message in (
        ([], "no dataset to evaluate on"),
        (["a=configs/nothing.py"], r"nothing\.py"),
        (["a=configs/folder.py 'data.dir=x"], "No closing quotation"),
        (["a="], "found no file"),
        ([f"{folder} clip.name=/moved"], "--dataset: clip.name=/moved does nothing, as the CLIP is the checkpoint's"),
        ([f"{folder} data.dirr=x"], r"data\.dirr"),
        ([f"{folder} data.dir={faces} data.test_split="], "dataset a: its configuration gives no test split"),
    ):
        with pytest.raises(ConfigError, match=message):
            cross_dataset.load_targets(rows, texts, own=False, batch_size=0)


def test_the_command(sample, trained, tmp_path):
    root, _ = trained
    (tmp_path / "two words").mkdir()
    (tmp_path / "two words" / "faces").symlink_to(sample / "faces" / "test")
    dataset = f"whole={runs.ROOT}/configs/folder.py:whole 'data.dir={tmp_path}/two words/faces' eval.batch_size=10"
    workdir = f"--workdir={tmp_path / 'matrix'}"
    words = [workdir, f"--checkpoint={root / 'faces'}", f"--checkpoint={root / 'drawn'}", f"--dataset={dataset}"]
    done = runs.call("study cross-dataset", *words[:1], "--log=plain", *words[1:], "-v")
    assert done.code == 0, done.err
    assert done.out.strip() == (tmp_path / "matrix" / "matrix.md").read_text().strip()
    written = json.loads((tmp_path / "matrix" / "matrix.json").read_text())
    assert written["flags"] == words
    assert [(cell["checkpoint"], cell["dataset"]) for cell in written["cells"]] == [
        (row, column) for row in ("faces", "drawn") for column in ("faces", "drawn", "whole")
    ]
    by_place = {(cell["checkpoint"], cell["dataset"]): cell for cell in written["cells"]}
    # All of that folder is the sample's test split.
    assert by_place["faces", "whole"]["confusion"] == by_place["faces", "faces"]["confusion"]
    with Image.open(tmp_path / "matrix" / "matrix.png") as image:
        assert min(image.size) > 200
    failed = runs.call("study cross-dataset", workdir, f"--checkpoint={tmp_path}")
    assert failed.code == 2
    assert "no checkpoint at" in failed.err
    single = f"--checkpoint=one={next((root / 'faces' / 'checkpoints').glob('step_*'))}"
    bad = runs.call("study cross-dataset", workdir, single, "--which=last")
    assert bad.code == 2
    assert "--which does nothing without a folder of several checkpoints, which" in bad.err


def test_a_folder_that_the_processes_do_not_share_is_refused(loaded, tmp_path, monkeypatch):
    def refuse(workdir):
        raise ConfigError(f"--workdir={workdir} is not one folder")

    monkeypatch.setattr(cross_dataset.run_dir, "check_shared", refuse)
    with pytest.raises(ConfigError, match="is not one folder"):
        cross_dataset.measure(*loaded, tmp_path, "common")
    assert not list(tmp_path.iterdir())


def test_it_stops_when_asked(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_dataset.Matrix, "_measure", runs.preempted)
    with pytest.raises(signals.Preempted):
        cross_dataset.measure(*loaded, tmp_path, "common")
    assert not list(tmp_path.iterdir())


def test_a_clip_that_has_moved_and_a_damaged_cell(sample, trained, tmp_path):
    shutil.copytree(sample / "clip", tmp_path / "moved")
    (row,) = cross_dataset.load_checkpoints([f"faces={trained[0]}/faces"], "best")
    gone = {**row.description.config, "clip": {**row.description.config["clip"], "name": "/gone/clip"}}
    rows = [dataclasses.replace(row, description=row.description.model_copy(update={"config": gone}))]
    targets = cross_dataset.load_targets(rows, [], own=True, batch_size=0)
    with pytest.raises(ConfigError, match=r"checkpoint faces was trained on the CLIP '/gone/clip'.* \(--clip\)"):
        cross_dataset.measure(rows, targets, tmp_path / "matrix", "common")
    moved = ["tiny-face-clip", str(tmp_path / "moved")]
    text = cross_dataset.measure(rows, targets, tmp_path / "matrix", "common", moved=moved)
    (cell,) = (tmp_path / "matrix" / "cells").iterdir()
    whole = cell.read_text()
    cell.write_text(whole[:100])
    assert cross_dataset.measure(rows, targets, tmp_path / "matrix", "common", moved=moved) == text
    assert json.loads(cell.read_text())["confusion"] == json.loads(whole)["confusion"]
