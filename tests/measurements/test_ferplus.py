"""The measurements of a checkpoint of FERPlus: which images are in training too, and that each command ends."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import ImageEnhance, ImageOps

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.data.readers import ferplus
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.jobs import train
from mpafer_jax.runtime.errors import UserError
from tests.data import layouts
from tests.golden import cases
from tests.measurements import card, explanations, photographs

CLEAR, UNKNOWN = (9, 0, 0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0, 9, 0)
CARVED = {"data.validation_split": "", "data.validation_fraction": 0.1, "data.test_split": "validation"}


def test_images_that_are_in_training_too(tmp_path):
    layouts.write_label_csv(tmp_path / "FER2013Train", {"fer0000000.png": CLEAR, "fer0000001.png": UNKNOWN})
    names = [f"fer000001{number}.png" for number in range(4)]
    layouts.write_label_csv(tmp_path / "FER2013Valid", dict.fromkeys(names, CLEAR), first_seed=1)
    # The first is the image of Training without a label, the second a mirrored and darker one of the other.
    other = ImageOps.mirror(layouts.image(0, 48, 48, "L"))
    ImageEnhance.Brightness(other).enhance(0.9).save(tmp_path / "FER2013Valid" / names[1])
    equal, near = card.seen_in_training(ferplus.read(tmp_path, "majority_labelcsv"))
    assert (equal, near) == ({names[0]}, {names[1]})
    logits = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    fields = {field.name: None for field in dataclasses.fields(Predictions)}
    fields |= {"class_names": ("a", "b"), "names": np.array(names), "labels": np.array([0, 1, 1, 0]), "logits": logits}
    whole, fewer, fewest = card.groups(Predictions(**fields), equal, near)
    assert [group.count for group in (whole, fewer, fewest)] == [4, 3, 2]
    assert [group.war for group in (whole, fewer, fewest)] == [2 / 4, 1 / 3, 1 / 2]
    assert fewer.value == "without 1 whose pixels equal an image of Training"


def test_faces_of_all_classes_are_chosen():
    labels = np.repeat(np.arange(8), 10)
    right = np.tile([True] * 5 + [False] * 5, 8)
    right[70:] = False  # the last class
    chosen = explanations.choose(labels, right, 12, seed=0)
    assert len(set(chosen)) == 12
    counts = np.bincount(labels[chosen])
    assert set(counts) == {1, 2}
    assert set(labels[chosen][right[chosen]]) == set(range(7))
    assert chosen == explanations.choose(labels, right, 12, seed=0) != explanations.choose(labels, right, 12, seed=1)


@pytest.mark.training
@pytest.mark.skipif(not (layouts.FERPLUS / "unpack.py").is_file(), reason="needs FERPlus; set MPAFER_FERPLUS_DIR")
def test_every_command_ends(tmp_path, capsys):
    faces, run, out = tmp_path / "ferplus", tmp_path / "run", tmp_path / "out"
    unpack = [sys.executable, str(layouts.FERPLUS / "unpack.py"), str(faces), "--limit=600"]
    subprocess.run(unpack, check=True, stdout=subprocess.DEVNULL)
    steps = {f"train.{name}": 1 for name in ("num_steps", "eval_every", "checkpoint_every")}
    settings = {"data.dir": str(faces), "eval.report": "none", "optimizer.warmup_steps": 0, **steps}
    train.train_and_evaluate(cases.build("ferplus", "tiny_clip,runlocal", **settings, **CARVED), run)
    flags = [f"--ferplus={faces}", f"--checkpoint={run}", f"--out={out}"]

    assert card.card([*flags, "--per_class=4", "--explained=2"]) == 0
    measured = json.loads((out / "card.json").read_text())
    assert measured["groups"][0]["war"] == measured["test"]["war"]
    assert measured["faithfulness"]["images"] == 2
    assert [part["parameters"] for part in measured["sizes"]][2:] == [None]
    assert " whose pixels equal an image of Training |" in capsys.readouterr().out
    assert explanations.explanations([*flags, "--images=20", "--faces=3"]) == 0
    assert len(list(out.glob("*.json"))) == 1 + 3
    assert (out / "index.png").is_file()
    assert photographs.photographs([*flags, "--images=4"]) == 0
    measured = json.loads((out / "photographs.json").read_text())
    assert [group["count"] for group in measured["groups"][-2:]] == [4, 4]
    assert measured["iou"] <= 4

    with pytest.raises(UserError, match="error: CheckpointError: no checkpoint at"):
        photographs.predict(str(tmp_path / "none"), faces, tmp_path / "results.jsonl")
    _, description, _ = checkpoints.load(run, "best")
    chosen_by = {**description.config["data"], "validation_split": "validation"}
    chosen = description.model_copy(update={"config": {**description.config, "data": chosen_by}})
    with pytest.raises(UserError, match="chosen on validation; expected one of FERPlus' Training that PublicTest"):
        card.data_of(chosen, faces, out, 0)
