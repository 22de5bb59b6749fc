"""Places on a machine: every field that may name one is known, and what is left of each when they are taken out."""

import pytest

from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.config import redaction
from tests.jobs import runs


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
        ("clip.name", "ViT-L/14@336px", "ViT-L/14@336px"),
        ("clip.name", "/home/alice/.cache/clip/ViT-B-16.pt", "ViT-B-16.pt"),
        ("clip.name", "/home/alice/clip", "clip"),
        ("clip.name", "~/clip", "clip"),
        ("clip.name", "../clip", "clip"),
        ("clip.name", "alice/models/clip", "clip"),
    ],
)
def test_what_is_left_of_a_place(field, value, left):
    assert redaction.redact_value(field, value) == left
    section, name = field.split(".")
    assert redaction.redact({section: {name: value, "other": value}}) == {section: {name: left, "other": value}}
    assert redaction.redact({field: value, "seed": 3}) == {field: left, "seed": 3}


def test_folders_that_tell_configurations_apart_keep_their_name():
    assert redaction.redact({"data.dir": "/home/alice/faces"}, told_apart=True) == {"data.dir": "faces"}


def test_a_configuration_keeps_all_else(sample):
    before = runs.config(sample).model_dump(mode="json")
    after = redaction.redact(before)
    assert after["clip"]["name"] == "clip"
    changed = {name for name, value in flatten(after).items() if flatten(before)[name] != value}
    assert changed == {"clip.name", "data.dir"}
