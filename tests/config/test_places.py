"""Places on a machine: every field that may name one is known, and what is left of each when they are taken out."""

import re

import pytest

from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.config import redaction
from mpafer_jax.config.schema import Config
from tests.jobs import runs

# Texts that name no place. A new field of text has to stand here, or be marked as a place in config.py.
WORDS = {
    "clip.revision",
    "ctx.init_text",
    "optimizer.lr_scales",
    "data.class_names",
    "data.train_splits",
    "data.validation_split",
    "data.test_split",
    "data.synthface.style",
}


def texts(model, prefix=""):
    """Dotted names of the fields that hold texts, those left out whose texts are a choice among few."""
    found = set()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
            found |= texts(field.annotation, f"{prefix}{name}.")
        elif re.search(r"\bstr\b", str(field.annotation)):
            found.add(prefix + name)
    return found


def test_every_field_of_text_is_a_place_or_is_known_to_be_none():
    assert texts(Config) == redaction.PLACES.keys() | WORDS
    assert not redaction.PLACES.keys() & WORDS


@pytest.mark.parametrize(
    ("field", "value", "left"),
    [
        ("data.dir", "/home/alice/RAF-DB", ""),
        ("clip.cache_dir", "~/hub", ""),
        ("train.warm_start", "/home/alice/runs/rafdb/", "rafdb"),
        ("eval.checkpoint", "gs://alice/runs/rafdb", "rafdb"),
        ("data.test_subset", "", ""),
        ("hard_prompts.bank", ("expressions", "/home/alice/mine.json"), ("expressions", "mine.json")),
        ("hard_prompts.bank", ["../mine.json"], ["mine.json"]),
        ("clip.name", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16"),
        ("clip.name", "tiny-face-clip", "tiny-face-clip"),
        ("clip.name", "/home/alice/clip", "clip"),
        ("clip.name", "~/clip", "clip"),
        ("clip.name", "../clip", "clip"),
        ("clip.name", "alice/models/clip", "clip"),
    ],
)
def test_what_is_left_of_a_place(field, value, left):
    assert redaction.without_place(field, value) == left
    section, name = field.split(".")
    assert redaction.without_places({section: {name: value, "other": value}}) == {section: {name: left, "other": value}}
    assert redaction.without_places({field: value, "seed": 3}) == {field: left, "seed": 3}


def test_folders_that_tell_configurations_apart_keep_their_name():
    assert redaction.without_places({"data.dir": "/home/alice/faces"}, told_apart=True) == {"data.dir": "faces"}


def test_a_configuration_keeps_all_else(sample):
    before = runs.config(sample).model_dump(mode="json")
    after = redaction.without_places(before)
    assert after["clip"]["name"] == "clip"
    changed = {name for name, value in flatten(after).items() if flatten(before)[name] != value}
    assert changed == {"clip.name", "data.dir"}
