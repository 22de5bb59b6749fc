"""The CLIPs that ship with the package: whole, small, and what every other program takes for a CLIP."""

import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import pretrain_small_clip, pretrain_tiny_clip
from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.convert import convert_clip
from mpafer_jax.backbones.files import SHIPPED, find_files
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.data.synthface import captioned, captions
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.templates import every_prompt
from mpafer_jax.method.prompts import tokenize
from mpafer_jax.runtime.errors import ConfigError
from mpafer_jax.runtime.texts import clean_text

LARGEST = {"tiny-face-clip": 8e6, "small-face-clip": 16e6}  # bytes
PROMPTS = every_prompt(load_bank("expressions")) + every_prompt(load_bank("compound"))


@pytest.fixture(scope="module", params=SHIPPED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def clip(name):
    return load_backbone(name)


def test_it_is_found_by_name_before_anything_else(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_files(name).folder == SHIPPED[name].folder


def test_it_is_whole_small_and_has_a_card(name):
    files = {path.name: path.stat().st_size for path in SHIPPED[name].folder.iterdir()}
    assert files.keys() >= {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "README.md",
    }
    assert sum(files.values()) <= LARGEST[name]


def test_it_is_computed_in_float32(clip):
    """Whatever the file holds: small-face-clip is stored in float16."""
    assert {leaf.dtype.name for leaf in jax.tree.leaves(clip.params)} == {"float32"}


def test_it_asks_for_grey_images_if_its_configuration_says_so(name, clip):
    """A new run of the configuration, put in its place by launch/ship.sh, asks for what this one does."""
    config = {"tiny-face-clip": pretrain_tiny_clip, "small-face-clip": pretrain_small_clip}[name].get_config()
    assert clip.grayscale == config.data.grayscale_at_use == (name == "small-face-clip")


def test_every_class_name_and_word_of_the_bank_is_one_token(clip):
    """Else a description is split into pieces and becomes too long for what the text tower has seen."""
    tokenizer = clip.load_tokenizer()
    words = {word.strip(",.").lower() for text in PROMPTS for word in text.split()}
    split = {word: ids for word in words if len(ids := tokenizer.encode(word)) != 3 and "-" not in word}
    assert not split
    assert max(len(tokenizer.encode(text)) for text in PROMPTS) <= 64


def test_a_copy_in_float16_has_half_the_size_and_is_another_clip(tmp_path):
    source = load_backbone("tiny-face-clip")
    result = convert_clip("tiny-face-clip", tmp_path / "half", dtype="float16")
    half = load_backbone(str(tmp_path / "half"))
    assert half.content_hash == result.content_hash != source.content_hash
    found = flatten(half.params)
    for path, value in flatten(source.params).items():
        rounded = value if path == "logit_scale" else value.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found[path], rounded, err_msg=path)
    whole = SHIPPED["tiny-face-clip"].folder / "model.safetensors"
    assert (tmp_path / "half" / whole.name).stat().st_size < 0.51 * whole.stat().st_size


def test_numbers_that_float16_does_not_hold_are_refused(tmp_path):
    folder = shutil.copytree(SHIPPED["tiny-face-clip"].folder, tmp_path / "large")
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"] *= 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"large cannot be written in float16: .*\n.*visual/projection/kernel"):
        convert_clip(str(folder), tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
def test_transformers_reads_it_to_the_same_features(name, clip):
    from transformers import CLIPModel, CLIPTokenizer

    from tests.backbones import torch_clip
    from tests.backbones.test_parity import assert_same, ours

    folder = SHIPPED[name].folder
    tokenizer, reference_tokenizer = load_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    for text in PROMPTS:
        assert tokenizer.encode(text) == reference_tokenizer(text)["input_ids"]
    ids = np.asarray(tokenize(PROMPTS, tokenizer.encode, clip.backbone.spec.tokens).ids)
    size = clip.backbone.spec.image_size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    expected = torch_clip.outputs(CLIPModel.from_pretrained(folder, dtype="float32").eval(), images, ids)
    assert_same(ours(folder, images, ids), expected)


@pytest.mark.torch
def test_cleaning_changes_nothing_that_ships(name):
    """Banks, templates, statements and captions of drawn faces: their tokens are those of the library alone."""
    from transformers import CLIPTokenizer

    jobs = captioned.sample_jobs(200, list(STYLES.values()), 0)
    said = [text for texts in captioned.describe(jobs, 100, 0) for text in texts]
    said += [text for phrases in captions.statements().values() for text in (*phrases.phrases, *phrases.held_out)]
    texts = PROMPTS + said
    assert [clean_text(text) for text in texts] == texts
    folder = SHIPPED[name].folder
    alone = CLIPTokenizer.from_pretrained(folder)
    assert load_tokenizer(folder).encode_many(texts) == alone(texts)["input_ids"]
