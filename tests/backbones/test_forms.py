"""Every form in which people have a CLIP: the same numbers as an independent PyTorch module, and clear refusals."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.openai import OPENAI_MEAN, OPENAI_STD
from mpafer_jax.backbones.clip.rules import flatten
from mpafer_jax.backbones.convert import convert_clip
from mpafer_jax.backbones.files import CLIPS_TOKENIZER, find_files
from mpafer_jax.backbones.registry import load_backbone, local_content_hash
from mpafer_jax.runtime.errors import ConfigError
from tests import needs
from tests.backbones import openai_clip, torch_clip
from tests.backbones.openai_clip import Shape

pytestmark = pytest.mark.torch

torch = needs.module("torch")

SHAPE, GELU = Shape(), Shape(activation="gelu")
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"


def ours(clip, images, ids):
    logits, out = jax.jit(CLIP(clip.backbone.config).apply)({"params": clip.params}, images, ids)
    return {"logits": logits, **out}


def assert_equals(clip, reference, shape):
    inputs = openai_clip.inputs(shape)
    found, expected = ours(clip, *inputs), openai_clip.outputs(reference, *inputs)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A home with OpenAI's cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / ".cache" / "clip"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("half", [True, False])
def test_openais_archive_by_path(tmp_path, half):
    reference = openai_clip.model(SHAPE, half=half)
    path = openai_clip.save_torchscript(reference, SHAPE, tmp_path / "any.pt", half=half)
    clip = load_backbone(str(path))
    assert_equals(clip, reference, SHAPE)
    assert (clip.image_mean, clip.image_std, clip.revision) == (OPENAI_MEAN, OPENAI_STD, "")
    assert {value.dtype.name for value in flatten(clip.params).values()} == {"float32"}


@pytest.mark.slow
def test_an_archive_of_the_full_shape(tmp_path):
    reference = openai_clip.model(openai_clip.VIT_B16, half=True)
    path = openai_clip.save_torchscript(reference, openai_clip.VIT_B16, tmp_path / "ViT-B-16.pt")
    assert_equals(load_backbone(str(path)), reference, openai_clip.VIT_B16)


def test_openais_archive_by_name(tmp_path, cache):
    reference = openai_clip.model(SHAPE, half=True)
    path = openai_clip.save_torchscript(reference, SHAPE, cache / "ViT-B-16.pt")
    clip = load_backbone("ViT-B/16")
    assert_equals(clip, reference, SHAPE)
    assert (clip.name, clip.image_mean) == ("ViT-B/16", OPENAI_MEAN)
    assert clip.content_hash == load_backbone(str(path)).content_hash == load_backbone(str(cache)).content_hash
    with pytest.raises(
        FileNotFoundError, match=r"ViT-L-14-336px.pt of OpenAI, which is not in .*elsewhere nor in .*clip\."
    ):
        load_backbone("ViT-L/14@336px", cache_dir=str(tmp_path / "elsewhere"))
    shutil.move(path, tmp_path / "ViT-L-14-336px.pt")
    assert load_backbone("ViT-L/14@336px", cache_dir=str(tmp_path)).content_hash == clip.content_hash


def test_a_name_without_its_file_says_where_it_is_had(cache):
    with pytest.raises(FileNotFoundError) as error:
        load_backbone("ViT-B/16")
    for words in (str(cache), "clip.load('ViT-B/16')", "config.clip.cache_dir", "openai/clip-vit-base-patch16"):
        assert words in str(error.value)
    with pytest.raises(ValueError, match=r"CLIP 'RN50' of OpenAI has a ResNet .*: ViT-B/32, "):
        load_backbone("RN50")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_another_archives_activation_is_read_from_its_code(tmp_path, activation):
    shape = Shape(activation=activation)
    reference = openai_clip.model(shape, half=True)
    path = openai_clip.save_torchscript(reference, shape, tmp_path / "own.pt", constants=False)
    clip = load_backbone(str(path))
    assert_equals(clip, reference, shape)
    assert clip.image_mean is None
    other = "gelu" if activation == "quick_gelu" else "quick_gelu"
    with pytest.raises(
        ValueError, match=rf"own.pt is of a CLIP with {activation}, config.clip.activation says {other}"
    ):
        load_backbone(str(path), activation=other)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(SHAPE, id="quick_gelu"),
        pytest.param(GELU, id="gelu"),
        pytest.param(Shape(240, 16, 896, 14, 1, 640, 10, 1, embedding=640, activation="gelu"), id="plus-240"),
        pytest.param(Shape(22, 5, 72, 3, 2, 40, 5, 3, embedding=7), id="odd-widths"),
    ],
)
@pytest.mark.parametrize("binary", [True, False], ids=["bin", "safetensors"])
def test_open_clips_folder(tmp_path, shape, binary):
    reference = openai_clip.model(shape, half=binary)
    folder = openai_clip.save_open_clip(
        reference, shape, tmp_path / "clip", binary=binary, half=binary, mean=[0.5] * 3, std=[0.25] * 3
    )
    clip = load_backbone(str(folder))
    assert_equals(clip, reference, shape)
    assert (clip.image_mean, clip.image_std) == ((0.5,) * 3, (0.25,) * 3)
    weights = next(path for path in folder.iterdir() if path.suffix in (".bin", ".safetensors"))
    assert load_backbone(str(weights)).content_hash == clip.content_hash
    config = folder / "open_clip_config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())  # saved by an editor
    assert_equals(load_backbone(str(folder)), reference, shape)


def test_open_clips_files_beside_timms_and_transformers(tmp_path):
    """As timm's repositories, whose config.json is the image tower's, and LAION's, which have both forms."""
    reference = openai_clip.model(SHAPE)
    folder = openai_clip.save_open_clip(reference, SHAPE, tmp_path / "clip")
    (folder / "config.json").write_text('{"architecture": "vit_base_patch16_clip_224", "pretrained_cfg": {}}')
    (folder / "model.safetensors").write_bytes(b"of the image tower")
    clip = load_backbone(str(folder))
    assert_equals(clip, reference, SHAPE)
    assert clip.image_mean == OPENAI_MEAN  # open_clip's default
    torch_clip.model(torch_clip.config()).save_pretrained(folder)
    assert load_backbone(str(folder)).backbone.config.vision.hidden_size == 24
    (folder / "model.safetensors").unlink()
    assert load_backbone(str(folder)).content_hash == clip.content_hash


def test_timms_image_tower_alone_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "vit_base_patch16_clip_224", "pretrained_cfg": {}}')
    save_file({"blocks.0.norm1.weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="an image tower of timm alone, which is not read"):
        load_backbone(str(tmp_path))


def test_farl(tmp_path):
    reference = openai_clip.model(SHAPE, half=True)
    path = tmp_path / "FaRL-Base-Patch16-LAIONFace20M-ep64.pth"
    torch.save(openai_clip.farl(reference, SHAPE), path)
    clip = load_backbone(str(path))
    assert_equals(clip, reference, SHAPE)
    assert clip.image_mean == OPENAI_MEAN


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "clip_model.", "module.clip_model."])
def test_training_dumps(tmp_path, prefix):
    reference = openai_clip.model(GELU)
    state = {prefix + name: value for name, value in reference.state_dict().items()}
    path = tmp_path / "epoch_3.pt"
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}, "name": "ours"}, path)
    with pytest.raises(ValueError, match=r"epoch_3.pt does not say its activation.*config.clip.activation"):
        load_backbone(str(path))
    clip = load_backbone(str(path), activation="gelu")
    assert_equals(clip, reference, GELU)
    assert clip.image_mean is None


def test_a_file_whose_name_says_quickgelu_is_not_read_with_gelu(tmp_path):
    """As LAION-400M's ViT-B/32 is named, an exception among LAION's."""
    reference, path = openai_clip.model(SHAPE), tmp_path / "vit_b_32-QuickGELU-laion400m_e32-46683a32.pt"
    torch.save(reference.state_dict(), path)
    with pytest.raises(ValueError, match=r"except the ViT-B/32 of LAION-400M, whose file name says quickgelu\. Set"):
        load_backbone(str(path))
    with pytest.raises(ValueError, match=r"46683a32\.pt is of a CLIP with quick_gelu, as its name says.* says gelu;"):
        load_backbone(str(path), activation="gelu")
    assert_equals(load_backbone(str(path), activation="quick_gelu"), reference, SHAPE)


def test_a_logit_scale_that_is_a_vector_of_one_number(tmp_path):
    """open_clip's `nonscalar_logit_scale`."""
    reference = openai_clip.model(SHAPE)
    folder = openai_clip.save_open_clip(reference, SHAPE, tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["nonscalar_logit_scale"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "open_clip_model.safetensors")
    save_file({**tensors, "logit_scale": tensors["logit_scale"].reshape(1)}, folder / "open_clip_model.safetensors")
    clip = load_backbone(str(folder))
    assert np.shape(clip.params["logit_scale"]) == ()
    assert_equals(clip, reference, SHAPE)
    save_file({**tensors, "logit_scale": np.ones(2, np.float32)}, folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"logit_scale: found \[2\], expected \[\]"):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    "held",
    [
        *(lambda state, name=name: {name: state} for name in ("net", "weights", "model_state", "params", "CLIP")),
        lambda state: {"model": state, "state_dict": {}, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        lambda state: {"checkpoint": {"module": {f"module.{name}": value for name, value in state.items()}}},
        lambda state: {"model": state, "model_ema": {name: value + 1 for name, value in state.items()}},
        lambda state: {"net": state, "logs": {"logit_scale": 4.6}, "epoch": 3},
    ],
)
def test_the_clip_is_found_under_any_name(tmp_path, held):
    reference, path = openai_clip.model(GELU), tmp_path / "epoch_3.pt"
    torch.save(held(reference.state_dict()), path)
    assert_equals(load_backbone(str(path), activation="gelu"), reference, GELU)


def test_a_training_programs_file_without_a_clip_or_with_several_says_what_it_holds(tmp_path):
    state, path = openai_clip.model(GELU).state_dict(), tmp_path / "epoch_3.pt"
    alone = {name: value for name, value in state.items() if name.startswith("visual.")}
    for content, message in [
        (
            {"net": alone, "epoch": 3},
            r"no tensor .* logit_scale, .* but net \(dict of visual.\S+, .*\), epoch \(int\); give",
        ),
        (
            {"student": state, "teacher": state},
            r"2 models with a logit_scale \(student, teacher\); save the tensors",
        ),
        ({"state_dict": {}}, r"no tensor .* but state_dict \(dict of nothing\);"),
    ]:
        torch.save(content, path)
        with pytest.raises(
            ValueError, match=rf"epoch_3\.pt cannot be read as pytorch weights: it holds {message}"
        ) as error:
            load_backbone(str(path), activation="gelu")
        assert "download or copy" not in str(error.value)


TEXT_TOWER = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")


def with_custom_text(state) -> dict:
    """As open_clip names the tensors with `custom_text`."""
    return {f"text.{name}" if name.startswith(TEXT_TOWER) else name: value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_clips_text_tower_under_a_name_of_its_own(tmp_path, prefix):
    reference, path = openai_clip.model(GELU), tmp_path / "epoch_1.pt"
    state = with_custom_text(reference.state_dict())
    assert "text.transformer.resblocks.0.ln_1.weight" in state
    torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, path)
    assert_equals(load_backbone(str(path), activation="gelu"), reference, GELU)
    model = GELU.open_clip()
    model["model_cfg"]["custom_text"] = True
    (tmp_path / "open_clip_config.json").write_text(json.dumps(model))
    assert_equals(load_backbone(str(path)), reference, GELU)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"text.cls_emb": torch.ones(64)}, "It looks like CLIP with CoCa's text tower, which is not read: its texts"),
        ({"text.text_projection.bias": torch.ones(20)}, r"1 tensor\(s\) differ:\n  unknown: text_projection.bias \[20"),
        ({"text.ln_final.weight": None}, r"1 tensor\(s\) differ:\n  missing: ln_final.weight \[64\]"),
    ],
)
def test_other_text_towers_under_such_a_name_are_refused(tmp_path, more, message):
    state = {**with_custom_text(openai_clip.model(GELU).state_dict()), **more}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        load_backbone(str(tmp_path / "a.pt"), activation="gelu")


def test_a_text_tower_of_transformers_is_named(tmp_path):
    state = {name: value for name, value in openai_clip.model(GELU).state_dict().items() if "visual" in name}
    theirs = {"text.transformer.embeddings.word_embeddings.weight": torch.ones(30, 64), "logit_scale": torch.ones(())}
    torch.save({**state, **theirs}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"It looks like CLIP with a text tower of transformers, which is not read"):
        load_backbone(str(tmp_path / "a.pt"), activation="gelu")


def test_what_training_programs_note_beside_the_tensors_is_no_obstacle(tmp_path):
    state, path = openai_clip.model(SHAPE).state_dict(), tmp_path / "checkpoint.pth"
    notes = {"args": argparse.Namespace(lr=0.1), "best_acc": np.float64(91.5), "epoch": np.int64(3)}
    torch.save({"model": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, **notes}, path)
    load_backbone(str(path), activation="gelu")
    torch.save(openai_clip.model(SHAPE), path)
    with pytest.raises(ValueError, match=r"holds Python objects \(tests.backbones.openai_clip.CLIP.*model.state_dict"):
        load_backbone(str(path), activation="gelu")


def test_the_users_activation_is_part_of_the_content_hash(tmp_path):
    path = tmp_path / "dump.safetensors"
    save_file({name: value.numpy() for name, value in openai_clip.model(GELU).state_dict().items()}, path)
    hashes = [load_backbone(str(path), activation=activation).content_hash for activation in ("gelu", "quick_gelu")]
    assert hashes[0] != hashes[1]
    assert local_content_hash(str(path), revision="main", cache_dir="", activation="gelu") == hashes[0]


def test_a_dump_of_transformers_model(tmp_path):
    config = torch_clip.config(
        vision={"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 96},
        text={"hidden_size": 64, "num_attention_heads": 1},
    )
    reference = torch_clip.model(config)
    torch.save({"model": reference.state_dict()}, tmp_path / "dump.pt")
    clip = load_backbone(str(tmp_path / "dump.pt"), activation="quick_gelu")
    images, ids = torch_clip.inputs(config)
    found = ours(clip, images, ids)
    for name, value in torch_clip.outputs(reference, images, ids).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)


def test_the_log_says_how_many_heads_are_assumed_where_no_file_says_it(tmp_path, caplog):
    path = tmp_path / "epoch_1.pt"
    torch.save(openai_clip.model(SHAPE).state_dict(), path)
    with caplog.at_level("INFO"):
        load_backbone(str(path), activation="gelu")
        openai_clip.save_torchscript(openai_clip.model(SHAPE), SHAPE, tmp_path / "ViT-B-16.pt")
        load_backbone(str(tmp_path / "ViT-B-16.pt"))
        (tmp_path / "open_clip_config.json").write_text(json.dumps(SHAPE.open_clip()))
        load_backbone(str(path))
    said = [message for message in caplog.messages if "heads" in message]
    assert said == [
        f"{path} has no configuration: heads of 64 numbers are assumed, as in OpenAI's CLIPs, 2 in each layer of the "
        "image tower and 1 of the text tower; an open_clip_config.json or config.json beside the file decides otherwise"
    ]


def test_the_configuration_beside_a_dump_is_its(tmp_path):
    shape = Shape(22, 5, 72, 3, activation="gelu")
    reference = openai_clip.model(shape)
    torch.save(reference.state_dict(), tmp_path / "epoch_1.pt")
    with pytest.raises(ValueError, match="does not say its activation"):
        load_backbone(str(tmp_path))
    with pytest.raises(ValueError, match=r"image tower 72 wide, which is no multiple of .* open_clip_config.json"):
        load_backbone(str(tmp_path), activation="gelu")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(shape.open_clip()))
    clip = load_backbone(str(tmp_path / "epoch_1.pt"))
    assert_equals(clip, reference, shape)
    (tmp_path / "config.json").write_text('{"model_type": "something else"}')
    assert load_backbone(str(tmp_path / "epoch_1.pt")).content_hash == clip.content_hash


def test_a_wide_tower_alone_does_not_say_its_heads(tmp_path):
    """ViT-H/14's heads are 80 wide: a 64th of the width would be wrong without a word."""
    shape = Shape(16, 8, 1280, 16, 1, activation="gelu")
    path = tmp_path / "ViT-H-14.pt"
    torch.save(openai_clip.model(shape).state_dict(), path)
    with pytest.raises(ValueError, match=r"1280 wide, whose number of heads the file alone does not say"):
        load_backbone(str(path), activation="gelu")


def test_a_folder_of_several_files_and_none_is_said(tmp_path):
    for name in ("ViT-B-16.pt", "ViT-B-32.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"give the path of one: ViT-B-16.pt, ViT-B-32.pt"):
        load_backbone(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"CLIP '.*ViT-L-14.pt': there is no such file"):
        load_backbone(str(tmp_path / "ViT-L-14.pt"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"notes.txt is no file of weights; expected .safetensors, .pt, "):
        load_backbone(str(tmp_path / "notes.txt"))


def test_all_that_a_dump_has_too_much_is_listed(tmp_path):
    state = {f"clip_model.{name}": value for name, value in openai_clip.model(SHAPE).state_dict().items()}
    torch.save(
        {**state, "prompt_learner.ctx": torch.zeros(4, 64), "head.weight": torch.zeros(7, 20)}, tmp_path / "a.pt"
    )
    with pytest.raises(ValueError, match=r"2 tensor\(s\) differ") as error:
        load_backbone(str(tmp_path / "a.pt"), activation="gelu")
    assert "unknown: prompt_learner.ctx [4, 64]\n  unknown: head.weight [7, 20]\n" in str(error.value)


def test_missing_and_misshapen_tensors_have_their_own_names(tmp_path):
    folder = openai_clip.save_open_clip(openai_clip.model(SHAPE), SHAPE, tmp_path / "clip")
    path = folder / "open_clip_model.safetensors"
    tensors = load_file(path)
    del tensors["visual.proj"]
    tensors["transformer.resblocks.1.attn.in_proj_weight"] = np.ones((64, 64), np.float32)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"2 tensor\(s\) differ") as error:
        load_backbone(str(folder))
    assert "missing: visual.proj [128, 20]" in str(error.value)
    assert "transformer.resblocks.1.attn.in_proj_weight: found [64, 64], expected [192, 64]" in str(error.value)


def test_a_file_without_a_clip_is_named(tmp_path):
    save_file({"classifier.weight": np.ones((7, 3), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"no tensor vision_model\S+, so it holds no whole CLIP; it has classifier.weight"
    ):
        load_backbone(str(tmp_path / "a.safetensors"), activation="gelu")


@pytest.mark.parametrize("content", [b"", b"no weights", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "ViT-B-16.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"ViT-B-16.pt (cannot be read|is a pointer)"):
        load_backbone(str(tmp_path / "ViT-B-16.pt"))


def test_what_is_no_checkpoint_is_said_without_advice_to_run_its_code(tmp_path):
    path = tmp_path / "ViT-B-16.pt"
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"no file of torch\.save; its first bytes are b'<!DOCTYPE html>'") as error:
        load_backbone(str(path))
    assert "weights_only" not in str(error.value)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="it holds a list, expected tensors by name"):
        load_backbone(str(path))


def test_the_folder_inside_a_folder_is_named(tmp_path):
    """As the Hub's cache has it, and archives unpack."""
    for inside in ("models--owner--name/snapshots/0a1b", "models--owner--name/clip"):
        openai_clip.save_open_clip(openai_clip.model(SHAPE), SHAPE, tmp_path / inside)
    with pytest.raises(FileNotFoundError, match=r"; a CLIP is in .*--name/clip and in .*/snapshots/0a1b$"):
        load_backbone(str(tmp_path / "models--owner--name"))


def test_half_of_an_archive_is_named(tmp_path):
    path = openai_clip.save_torchscript(openai_clip.model(SHAPE), SHAPE, tmp_path / "ViT-B-16.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"ViT-B-16.pt cannot be read as pytorch weights, download or copy it again"):
        load_backbone(str(path))


def test_without_torch_it_is_said_what_to_do(tmp_path):
    (tmp_path / "ViT-B-16.pt").write_bytes(b"")
    code = WITHOUT_TORCH + f"from mpafer_jax.backbones.files import find_files\nfind_files({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    message = run.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ModuleNotFoundError: {tmp_path / 'ViT-B-16.pt'} is a file of PyTorch's")
    assert "pip install torch" in message
    assert "mpafer-jax clip convert" in message


def test_a_hub_folder_of_todays_transformers(tmp_path):
    """`save_pretrained` of model and tokenizer: shards, float16, tokenizer.json alone."""
    from transformers import CLIPTokenizer

    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = torch_clip.config(text={"vocab_size": 49408, **ends})
    reference = torch_clip.model(config).half()
    reference.save_pretrained(tmp_path, max_shard_size="1MB")
    CLIPTokenizer.from_pretrained(CLIPS_TOKENIZER).save_pretrained(tmp_path)
    assert {"tokenizer.json", "model.safetensors.index.json"} <= {path.name for path in tmp_path.iterdir()}
    clip = load_backbone(str(tmp_path))
    images, ids = torch_clip.inputs(config)
    found = ours(clip, images, ids)
    for name, value in torch_clip.outputs(reference.float(), images, ids).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)
    assert clip.load_tokenizer().encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_clips_vocabulary_where_there_is_none(tmp_path):
    shape = Shape(vocabulary=49408)
    torch.save(openai_clip.model(shape).state_dict(), tmp_path / "a.pt")
    clip = load_backbone(str(tmp_path / "a.pt"), activation="gelu")
    assert clip.load_tokenizer().encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]
    folder = openai_clip.save_open_clip(openai_clip.model(SHAPE), SHAPE, tmp_path / "small")
    with pytest.raises(FileNotFoundError, match="small holds no tokenizer, and this CLIP with its 30 tokens"):
        load_backbone(str(folder)).load_tokenizer()


def test_conversion(tmp_path):
    shape = Shape(vocabulary=49408)
    reference = openai_clip.model(shape, half=True)
    source = openai_clip.save_torchscript(reference, shape, tmp_path / "ViT-B-16.pt")
    original = convert_clip(str(source), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    code = WITHOUT_TORCH + (
        "from mpafer_jax.backbones.registry import load_backbone\n"
        f"clip = load_backbone({str(tmp_path / 'out')!r})\n"
        "print(clip.content_hash, clip.image_mean[0], clip.load_tokenizer().encode('happy'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout == f"{original.content_hash} {OPENAI_MEAN[0]} [49406, 900, 49407]\n"
    converted = load_backbone(str(tmp_path / "out"))
    for path, value in flatten(original.params).items():
        np.testing.assert_array_equal(flatten(converted.params)[path], value, err_msg=path)
    assert_equals(converted, reference, shape)
    from transformers import AutoTokenizer, CLIPModel

    theirs = CLIPModel.from_pretrained(tmp_path / "out").eval()
    images, ids = openai_clip.inputs(shape)
    found, expected = torch_clip.outputs(theirs, images, ids), openai_clip.outputs(reference, images, ids)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4, err_msg=name)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("happy")["input_ids"] == [49406, 900, 49407]


def test_a_changed_conversion_is_another_clip(tmp_path):
    shape = Shape(vocabulary=49408)
    torch.save(openai_clip.model(shape).state_dict(), tmp_path / "a.pt")
    original = convert_clip(str(tmp_path / "a.pt"), tmp_path / "out", activation="gelu")
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()
    assert find_files(str(tmp_path / "out")).content_hash() == original.content_hash
    config = tmp_path / "out" / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"gelu"', '"quick_gelu"'))
    assert find_files(str(tmp_path / "out")).content_hash() != original.content_hash
    config.write_text(whole)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    save_file({**tensors, "logit_scale": np.array(tensors["logit_scale"] + 1)}, tmp_path / "out" / "model.safetensors")
    assert find_files(str(tmp_path / "out")).content_hash() != original.content_hash


def test_a_conversion_writes_over_nothing_and_leaves_nothing_half(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"missing.pt': there is no such file"):
        convert_clip(str(tmp_path / "missing.pt"), out)
    torch.save({**openai_clip.model(SHAPE).state_dict(), "more": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="unknown: more"):
        convert_clip(str(tmp_path / "a.pt"), out, activation="gelu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="out exists already"):
        convert_clip(str(tmp_path / "a.pt"), out, activation="gelu")
    assert (out / "notes.txt").read_text() == "mine"


SIGLIP = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"}
CLIPA = {"layers": 12, "width": 768, "patch_size": 16, "no_ln_pre": True, "pool_type": "avg"}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("SigLIP", {"custom_text": True, "vision_cfg": SIGLIP, "text_cfg": {"vocab_size": 32000}}),
        ("SigLIP 2", {"custom_text": True, "vision_cfg": SIGLIP, "text_cfg": {"vocab_size": 256000}}),
        ("MetaCLIP 2", {"text_cfg": {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos"}}),
        ("EVA02-CLIP", {"vision_cfg": {"timm_model_name": "eva02_base_patch16_clip_224"}}),
        ("MobileCLIP", {"vision_cfg": {"timm_model_name": "fastvit_mci1"}}),
        ("MobileCLIP", {"vision_cfg": {"timm_model_name": "vit_base_mci_224"}}),
        ("PE-Core", {"vision_cfg": {"timm_model_name": "vit_pe_core_base_patch16_224"}}),
        ("CLIPA", {"vision_cfg": CLIPA, "text_cfg": {"pool_type": "last"}}),
        ("CoCa", {"vision_cfg": {"attentional_pool": True}, "multimodal_cfg": {"width": 512}}),
        ("CLIP with CoCa's text tower", {"text_cfg": {"embed_cls": True}}),
        ("CLIP with a ResNet", {"vision_cfg": {"layers": [3, 4, 6, 3], "width": 64}}),
        ("CLIP with an image tower of timm", {"vision_cfg": {"timm_model_name": "convnext_base"}}),
        ("CLIP with a text tower of transformers", {"text_cfg": {"hf_model_name": "xlm-roberta-base"}}),
    ],
)
def test_other_architectures_of_open_clip_are_named(tmp_path, name, model):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 512, **model}}))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=f"It looks like {name}.*, which is not read: .*Take a CLIP of OpenAI's arch"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("SigLIP", {"model_type": "siglip"}),
        ("SigLIP 2", {"model_type": "siglip", "text_config": {"vocab_size": 256000}}),
        ("SigLIP 2", {"model_type": "siglip2"}),
        ("MetaCLIP 2", {"model_type": "metaclip_2"}),
    ],
)
def test_other_architectures_of_the_hub_are_named(tmp_path, name, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=f"model_type is .* It looks like {name}, which is not read"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("EVA02-CLIP", "visual.blocks.0.attn.q_proj.weight"),
        ("MobileCLIP", "image_encoder.model.patch_emb.0.weight"),
        ("PE-Core", "visual.attn_pool.probe"),
        ("SigLIP", "vision_model.head.probe"),
        ("CLIP with a ResNet", "visual.layer1.0.conv1.weight"),
        ("CLIP with an image tower of timm", "visual.trunk.blocks.0.norm1.weight"),
    ],
)
def test_other_architectures_are_known_by_their_tensors(tmp_path, name, tensor):
    save_file({tensor: np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=rf"a.safetensors is of another architecture than CLIP's. It looks like {name}"
    ):
        load_backbone(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("vision_cfg", "ls_init_value", 1e-4, r"it sets vision_cfg.ls_init_value = 0.0001"),
        ("text_cfg", "no_causal_mask", True, r"it sets text_cfg.no_causal_mask = True"),
        ("vision_cfg", "head_width", 40, r"widths 128 and 64 are no multiples of their heads"),
        ("text_cfg", "context_length", "long", r"text_cfg.context_length is 'long', expected a number"),
        ("vision_cfg", "patch_dropout", 0.5, ""),
        ("vision_cfg", "pool_type", "tok", ""),
        ("vision_cfg", "timm_model_name", None, ""),
    ],
)
def test_fields_of_open_clip_that_change_the_model_are_refused(tmp_path, section, field, value, message):
    folder = openai_clip.save_open_clip(openai_clip.model(SHAPE), SHAPE, tmp_path / "clip")
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"][section][field] = value
    path.write_text(json.dumps(config))
    if not message:
        load_backbone(str(folder))
        return
    with pytest.raises(ValueError, match=message):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"model_cfg": {"vision_cfg": 3, "embed_dim": 4}}', '{"model_cfg": {}}']
)
def test_a_broken_configuration_is_named(tmp_path, content):
    (tmp_path / "open_clip_config.json").write_text(content)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"open_clip_config.json"):
        load_backbone(str(tmp_path))


def test_a_wheel_has_the_vocabulary_and_its_licence():
    assert "MIT License" in (CLIPS_TOKENIZER / "LICENSE").read_text()
    assert "Copyright (c) 2021 OpenAI" in (CLIPS_TOKENIZER / "LICENSE").read_text()
    assert len(json.loads((CLIPS_TOKENIZER / "vocab.json").read_text())) == 49408
    assert len((CLIPS_TOKENIZER / "merges.txt").read_text(encoding="utf-8").splitlines()) == 1 + 48894
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    assert '"mpafer_jax.backbones.clip": ["vocabulary/*"]' in setup
