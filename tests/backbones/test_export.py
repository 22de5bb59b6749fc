"""What we write is what transformers reads, and what we read back."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer

from mpafer_jax.backbones.clip.export import save_clip
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.random_clip import write_random_clip
from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.backbones.clip.tokenizer import copy_tokenizer, load_tokenizer
from mpafer_jax.backbones.registry import load_backbone
from tests.backbones import torch_clip

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_clip(tmp_path_factory.mktemp("random") / "clip", image_size=16, eos_token_id=None, layers=3)


def save_again(clip, target, **changes):
    arguments = {
        "config": clip.backbone.config,
        "params": clip.params,
        "tokenizer_folder": clip.name,
        "image_mean": clip.image_mean,
        "image_std": clip.image_std,
    }
    return save_clip(target, **{**arguments, **changes})


def test_pytorch_loads_every_tensor_and_computes_the_same(folder):
    clip = load_backbone(str(folder))
    reference, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert {key: list(value) for key, value in report.items() if value} == {}
    tokenizer = load_tokenizer(folder)
    texts = [tokenizer.encode("a happy face"), tokenizer.encode("sad")]
    ids = np.full((2, 16), tokenizer.eos_id, np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    logits, out = jax.jit(CLIP(clip.backbone.config).apply)({"params": clip.params}, images, ids)
    expected = torch_clip.outputs(reference.eval(), images, ids)
    for name, value in {**out, "logits": logits}.items():
        if name in expected:
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_saved_and_loaded_again_is_the_same(folder, tmp_path, dtype):
    clip = load_backbone(str(folder), dtype=dtype)
    again = load_backbone(str(save_again(clip, tmp_path / "again", grayscale=dtype == "float32")), dtype=dtype)
    assert not clip.grayscale
    assert again.grayscale == (dtype == "float32")
    assert (again.backbone.config, again.image_mean, again.image_std) == (
        clip.backbone.config,
        clip.image_mean,
        clip.image_std,
    )
    expected = flatten(clip.params)
    for path, value in flatten(again.params).items():
        assert value.dtype == expected[path].dtype
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    if dtype == "float32":
        assert again.content_hash == clip.content_hash


def test_the_hubs_layout(folder):
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "vocab.json", "merges.txt"}
    names |= {"tokenizer_config.json", "special_tokens_map.json"}
    assert {path.name for path in folder.iterdir()} == names
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("clip", ["CLIPModel"])
    assert config["text_config"]["eos_token_id"] == load_tokenizer(folder).eos_id
    with safe_open(folder / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    assert CLIPTokenizer.from_pretrained(folder)("happy")["input_ids"] == load_tokenizer(folder).encode("happy")
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1  # all as readable as the process' umask says


def test_random_clips_differ_by_seed_only(tmp_path):
    hashes = [
        load_backbone(str(write_random_clip(tmp_path / str(i), seed=seed))).content_hash
        for i, seed in enumerate([0, 0, 1])
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_jax_arrays_can_be_saved(folder, tmp_path):
    clip = load_backbone(str(folder))
    save_again(clip, tmp_path / "again", params=jax.tree.map(jax.numpy.asarray, clip.params))
    assert load_backbone(str(tmp_path / "again")).content_hash == clip.content_hash


def test_nothing_is_overwritten(folder, tmp_path):
    clip = load_backbone(str(folder))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="a CLIP is written into a new or empty folder only"):
        save_again(clip, tmp_path)
    with pytest.raises(FileExistsError, match="exists already"):
        save_again(clip, tmp_path / "file")


def test_a_failure_leaves_nothing_behind(folder, tmp_path):
    clip = load_backbone(str(folder))
    kernel = clip.params["text"]["projection"]["kernel"]
    params = {**clip.params, "text": {**clip.params["text"], "projection": {"kernel": kernel.T}}}
    with pytest.raises(ValueError, match=r"text/projection/kernel: found \[16, 32\], expected \[32, 16\]"):
        save_again(clip, tmp_path / "clip", params=params)
    with pytest.raises(ValueError, match="must be three numbers each"):
        save_again(clip, tmp_path / "clip", image_std=(1.0,))
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        save_again(clip, tmp_path / "clip", tokenizer_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_larger_than_the_text_tower_is_refused(folder, tmp_path):
    other = write_random_clip(tmp_path / "small", vocab_size=520)
    with pytest.raises(ValueError, match="has 600 tokens, the text tower only 520"):
        save_again(load_backbone(str(other)), tmp_path / "clip", tokenizer_folder=folder)


def test_the_tokenizer_of_another_clip_is_refused(tmp_path):
    large, small = (
        write_random_clip(tmp_path / str(number), image_size=16, vocab_size=number, eos_token_id=None, texts=texts)
        for number, texts in ((600, ["a photo of a person making a facial expression of surprise"] * 2), (520, ["a b"]))
    )
    load_backbone(str(large)).load_tokenizer()
    for folder, other, message in (
        (
            small,
            large,
            r"has \d+ tokens, the text tower only \d+ and ends a text with token \d+, the config",
        ),
        (
            large,
            small,
            r"the tokenizer in .* ends a text with token \d+, the configuration says \d+, so it",
        ),
    ):
        copy = tmp_path / f"{folder.name}_of_{other.name}"
        shutil.copytree(folder, copy)
        copy_tokenizer(other, copy)
        with pytest.raises(ValueError, match=message):
            load_backbone(str(copy)).load_tokenizer()
