"""Folders of sweeps with results that were made up."""

import dataclasses
import json

import numpy as np

from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.jobs.sweeps.sweep import Point, Record, Sweep

SWEEP = Sweep(
    title="What it brings",
    base="configs/sample.py",
    points=(
        Point("full", "full method", value=4.0),
        Point("no_local", "without the local score", {"head.local_weight": 0.0}, value=1.0),
        Point("full", "full method", {"data.train_per_class": 16}, table="few"),
        Point(
            "no_local", "without", {"head.local_weight": 0.0, "data.train_per_class": 16}, table="few", reported=91.5
        ),
    ),
    tables={"all": "All training images"},
    axis="patches",
)
CONFIG = {"data": {"dataset": "folder", "label_rule": "owner", "dir": "/somewhere/here"}}


def record(root, sweep=SWEEP, source="configs/sweeps/mine.py:quickstart", overrides=()):
    Record(source, overrides, sweep).write(root)


def summary(
    war,
    uar,
    *,
    seed=0,
    clip="c",
    test="t",
    selected_by="validation war",
    baselines=None,
    minutes=1.0,
    parameters=5,
    gflop=2.0,
):
    """Of a run with ten test images; `selected_by` without a split's name: nothing was chosen."""
    hits = round(10 * war)
    measured = {
        "test": {
            "war": war,
            "uar": uar,
            "count": 10,
            "class_names": ["a", "b"],
            "confusion": [[hits, 5 - hits], [0, 5]] if hits <= 5 else [[5, 0], [10 - hits, hits - 5]],
        }
    }
    return {
        "last": {"step": 20, **measured},
        **({} if selected_by.startswith("nothing") else {"best": {"step": 10, **measured}}),
        "selected_by": selected_by,
        "class_names": ["a", "b"],
        "data": ["dataset folder, prepared in /somewhere/here/prepared"],
        "counts": {"train": {"a": 7, "b": 3}},
        "seed": seed,
        "num_steps": 20,
        "trained_parameters": {"ctx": parameters},
        **({} if gflop is None else {"gflop_per_update": gflop}),
        "baselines": baselines or {},
        "clip": {"name": "tiny", "hash": clip * 64},
        "fingerprints": {"train": "anything", "validation": "v", "test": test},
        "versions": {"jax": "1"},
        "devices": ["cpu", 1],
        "process": {"wall_seconds": 60 * (minutes or 1.0), "resumed_after_step": 0 if minutes else 7},
    }


def run(root, name, war, uar=0.5, *, correct=None, **values):
    """Leaves a finished run; `correct`: which of the test images were classified correctly."""
    folder = root / name
    folder.mkdir(parents=True)
    seed = int(name.rpartition("_")[2])
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if correct is not None:
        predictions(correct, values.get("test", "t")).save(folder / "predictions.npz")
    (folder / "summary.json").write_text(json.dumps(summary(war, uar, seed=seed, **values)))


def predictions(correct, fingerprint, step=10):
    number = len(correct)
    empty = {field.name: np.zeros((0,), np.float32) for field in dataclasses.fields(Predictions)}
    labels = np.arange(number, dtype=np.int32) % 2
    said = np.where(correct, labels, 1 - labels)
    values = {
        "split": "test",
        "attributes": {},
        "fingerprint": fingerprint,
        "step": step,
        "class_names": ("a", "b"),
        "names": np.array([f"{i}.png" for i in range(number)]),
        "labels": labels,
        "logits": np.eye(2, dtype=np.float32)[said],
    }
    return Predictions(**{**empty, **values})
