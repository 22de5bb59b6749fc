"""The CLIP that ships with the package: whole, small, and what every other program takes for a CLIP."""

import pathlib

import numpy as np
import pytest
from transformers import CLIPModel, CLIPTokenizer

from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.files import SHIPPED, find_files
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.data.synthface import captioned, captions
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.templates import every_prompt
from mpafer_jax.method.prompts import tokenize
from mpafer_jax.runtime.texts import clean_text
from tests.backbones import torch_clip
from tests.backbones.test_parity import assert_same, ours

pytestmark = pytest.mark.torch

NAME = "tiny-face-clip"
PROMPTS = every_prompt(load_bank("expressions")) + every_prompt(load_bank("compound"))


@pytest.fixture(scope="module")
def clip():
    return load_backbone(NAME)


def test_it_is_found_by_name_before_anything_else(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_files(NAME).folder == SHIPPED[NAME]


def test_it_is_whole_small_and_has_a_card():
    files = {path.name: path.stat().st_size for path in SHIPPED[NAME].iterdir()}
    assert files.keys() >= {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "README.md",
    }
    assert sum(files.values()) <= 8e6


def test_every_class_name_and_word_of_the_bank_is_one_token(clip):
    """Else a description is split into pieces and becomes too long for what the text tower has seen."""
    tokenizer = clip.load_tokenizer()
    words = {word.strip(",.").lower() for text in PROMPTS for word in text.split()}
    split = {word: ids for word in words if len(ids := tokenizer.encode(word)) != 3 and "-" not in word}
    assert not split
    assert max(len(tokenizer.encode(text)) for text in PROMPTS) <= 64


def test_transformers_reads_it_to_the_same_features(clip):
    folder = SHIPPED[NAME]
    tokenizer, reference_tokenizer = load_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)
    for text in PROMPTS:
        assert tokenizer.encode(text) == reference_tokenizer(text)["input_ids"]
    ids = np.asarray(tokenize(PROMPTS, tokenizer.encode, clip.backbone.spec.tokens).ids)
    size = clip.backbone.spec.image_size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    expected = torch_clip.outputs(CLIPModel.from_pretrained(folder).eval(), images, ids)
    assert_same(ours(folder, images, ids), expected)


def test_cleaning_changes_nothing_that_ships():
    """Banks, templates, statements and captions of drawn faces: their tokens are those of the library alone."""
    jobs = captioned.sample_jobs(200, list(STYLES.values()), 0)
    said = [text for texts in captioned.describe(jobs, 100, 0) for text in texts]
    said += [text for phrases in captions.statements().values() for text in (*phrases.phrases, *phrases.held_out)]
    texts = PROMPTS + said
    assert [clean_text(text) for text in texts] == texts
    alone = CLIPTokenizer.from_pretrained(SHIPPED[NAME])
    assert load_tokenizer(SHIPPED[NAME]).encode_many(texts) == alone(texts)["input_ids"]


def test_the_paths_of_the_package_data_hold_it():
    """What setup.py packs is what lies there: an installed package has the CLIP too."""
    setup = (pathlib.Path(__file__).parents[2] / "setup.py").read_text()
    assert '"tiny_face_clip/*"' in setup
    assert not [path for path in SHIPPED[NAME].iterdir() if path.is_dir()]
