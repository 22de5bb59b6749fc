"""Loading from local folders: every file format and type, and what goes wrong with each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file, save_file

from mpafer_jax.backbones.clip.load import read_config, read_normalization
from mpafer_jax.backbones.clip.rules import flatten, to_tensors, unflatten
from mpafer_jax.backbones.registry import load_backbone
from tests import needs
from tests.backbones import torch_clip

pytestmark = pytest.mark.torch

torch = needs.module("torch")

# A process in which importing torch fails as where it is not installed.
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"


@pytest.fixture(scope="module")
def reference():
    return torch_clip.model(torch_clip.config())


@pytest.fixture(scope="module")
def original(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    reference.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "clip")
    return tmp_path / "clip"


def edit_config(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        part, _, field = name.rpartition("__")
        (config[part] if part else config)[field] = value
    path.write_text(json.dumps(config))
    return path


def assert_equal_params(found, expected, **tolerance):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, err_msg=path, **(tolerance or {"rtol": 0}))


def to_bin(folder, reference, **options):
    (folder / "model.safetensors").unlink()
    state = {**reference.state_dict(), "text_model.embeddings.position_ids": torch.arange(9)[None]}
    torch.save(state, folder / "pytorch_model.bin", **options)


def test_everything_about_the_checkpoint(original):
    clip = load_backbone(str(original))
    assert (clip.name, clip.revision) == (str(original), "")
    assert (
        clip.backbone.config.vision.num_layers,
        clip.backbone.config.text.eos_token_id,
        clip.backbone.config.projection_dim,
    ) == (3, 2, 10)
    assert clip.image_mean is None
    assert clip.image_std is None


def test_shards(original, reference, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert_equal_params(load_backbone(str(tmp_path)).params, load_backbone(str(original)).params)


@pytest.mark.parametrize("kind", ["msgpack", "bin"])
def test_shards_of_the_other_formats(folder, original, kind):
    (folder / "model.safetensors").unlink()
    expected = load_backbone(str(original)).params
    tensors = to_tensors(expected, "flax" if kind == "msgpack" else "pytorch")
    parts = [dict(list(tensors.items())[i::2]) for i in range(2)]
    stem = "flax_model" if kind == "msgpack" else "pytorch_model"
    for i, part in enumerate(parts):
        path = folder / f"{stem}-{i}.{kind}"
        if kind == "msgpack":
            path.write_bytes(serialization.to_bytes(unflatten(part)))
        else:
            torch.save({name: torch.from_numpy(value) for name, value in part.items()}, path)
    index = {"weight_map": {name: f"{stem}-{i}.{kind}" for i, part in enumerate(parts) for name in part}}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    assert_equal_params(load_backbone(str(folder)).params, expected)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}'])
def test_broken_index_is_named(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model.safetensors.index.json (is no index|names)"):
        load_backbone(str(folder))


def test_missing_shard_is_named(reference, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = min(tmp_path.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        load_backbone(str(tmp_path))


def test_a_tensor_in_two_shards_is_named(reference, tmp_path):
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    first, second = sorted(tmp_path.glob("model-*.safetensors"))[:2]
    shutil.copy(first, second)
    with pytest.raises(ValueError, match=rf"{second.name} holds tensors that another shard holds too: \w+"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_bin(folder, original, reference, zipped):
    to_bin(folder, reference, _use_new_zipfile_serialization=zipped)
    assert_equal_params(load_backbone(str(folder)).params, load_backbone(str(original)).params)


def test_pytorch_bin_of_bfloat16(folder, original, reference):
    (folder / "model.safetensors").unlink()
    state = {name: value.bfloat16() for name, value in reference.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    assert_equal_params(load_backbone(str(folder)).params, load_backbone(str(original)).params, rtol=2**-8)


def test_pytorch_bin_that_would_run_code_is_refused(folder, tmp_path):
    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin cannot be read as pytorch weights"):
        load_backbone(str(folder))
    assert not (tmp_path / "ran").exists()


def test_without_torch_a_bin_is_an_error_that_says_what_to_do(folder, reference):
    to_bin(folder, reference)
    code = WITHOUT_TORCH + f"from mpafer_jax.backbones.files import find_files\nfind_files({str(folder)!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    message = run.stderr.strip().splitlines()[-1]
    assert message.startswith("ModuleNotFoundError: ")
    assert "only as pytorch_model.bin" in message
    assert "pip install torch" in message


def test_without_torch_safetensors_load_and_nothing_is_printed(original):
    code = WITHOUT_TORCH + f"from mpafer_jax.backbones.registry import load_backbone\nload_backbone({str(original)!r})"
    code += "\nassert 'tensorflow' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_float16_file(folder, original, reference):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in tensors.items()}, folder / "model.safetensors")
    clip = load_backbone(str(folder))
    assert {value.dtype.name for value in flatten(clip.params).values()} == {"float32"}
    assert_equal_params(clip.params, load_backbone(str(original)).params, rtol=1e-3, atol=1e-6)


def test_bfloat16_file_and_bfloat16_parameters(folder, original, reference):
    torch_clip.model(reference.config).bfloat16().save_pretrained(folder)
    clip = load_backbone(str(folder), dtype="bfloat16")
    assert clip.params["logit_scale"].dtype == np.float32
    assert clip.params["visual"]["projection"]["kernel"].dtype.name == "bfloat16"
    assert_equal_params(load_backbone(str(folder)).params, load_backbone(str(original)).params, rtol=2**-8)


def test_safetensors_come_before_msgpack_and_bin(folder, original, reference):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "flax_model.msgpack").write_bytes(b"")
    assert_equal_params(load_backbone(str(folder)).params, load_backbone(str(original)).params)


def test_hash_follows_the_content(folder, original, tmp_path):
    same, before = load_backbone(str(folder)).content_hash, load_backbone(str(original)).content_hash
    assert same == before
    assert len(same) == 64
    tensors = load_file(folder / "model.safetensors")
    tensors["logit_scale"] = np.array(tensors["logit_scale"] + np.float32(1e-3))
    save_file(tensors, folder / "model.safetensors")
    weights_differ = load_backbone(str(folder)).content_hash
    edit_config(folder, vision_config__layer_norm_eps=1e-6)
    assert len({before, weights_differ, load_backbone(str(folder)).content_hash}) == 3


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"version https://git-lfs.github.com/spec/v1\n"])
def test_broken_weights_are_named(folder, name, content):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_backbone(str(folder))


def test_missing_tensor_is_named_with_its_file(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors does not hold .*\n  missing: visual_projection.weight"):
        load_backbone(str(folder))


def test_weights_that_are_not_finite_are_named(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, value in (("visual_projection.weight", np.nan), ("text_model.encoder.layers.1.mlp.fc1.bias", -np.inf)):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[1] = value
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"model\.safetensors holds numbers that are NaN or infinite, in 2 tensor"
    ) as e:
        load_backbone(str(folder))
    assert "visual_projection.weight" in str(e.value)
    assert "text_model.encoder.layers.1.mlp.fc1.bias" in str(e.value)


def test_weights_too_large_for_their_type_are_refused(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"] + np.float32(1e6)
    save_file(tensors, path)
    load_backbone(str(folder), dtype="bfloat16")
    with pytest.raises(ValueError, match=r"infinite as float16, in 1 tensor\(s\): visual_projection\.weight"):
        load_backbone(str(folder), dtype="float16")


@pytest.mark.parametrize("prefix", ["module.", "model.", "clip.module."])
def test_a_prefix_of_all_names_is_left_out(folder, original, prefix):
    path = folder / "model.safetensors"
    save_file({prefix + name: value for name, value in load_file(path).items()}, path)
    assert_equal_params(load_backbone(str(folder)).params, load_backbone(str(original)).params)


def test_a_prefix_of_some_names_is_an_error(folder):
    path = folder / "model.safetensors"
    tensors = {"clip." + name: value for name, value in load_file(path).items()}
    save_file({**tensors, "classifier.weight": np.zeros((7, 10), np.float32)}, path)
    with pytest.raises(ValueError, match=r"unknown: classifier\.weight \[7, 10\]"):
        load_backbone(str(folder))


@pytest.mark.parametrize("under", ["state_dict", "model_state_dict", "model"])
def test_a_bin_of_a_training_run_holds_the_tensors_as_one_entry(folder, original, reference, under):
    (folder / "model.safetensors").unlink()
    wrapped = {f"module.{name}": value for name, value in reference.state_dict().items()}
    torch.save({under: wrapped, "epoch": 3, "optimizer": {"lr": 0.1}}, folder / "pytorch_model.bin")
    assert_equal_params(load_backbone(str(folder)).params, load_backbone(str(original)).params)


def test_a_bin_with_two_models_says_what_to_do(folder, reference):
    (folder / "model.safetensors").unlink()
    state = dict(reference.state_dict())
    torch.save({"model": state, "state_dict": state}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model is a dict, expected a tensor; .* give the model's state_dict alone"):
        load_backbone(str(folder))


def test_openais_own_names_are_told_from_damage(folder):
    path = folder / "model.safetensors"
    save_file({"visual.class_embedding": np.zeros(3, np.float32), "logit_scale": np.zeros((), np.float32)}, path)
    with pytest.raises(ValueError, match=r"as OpenAI's own program and open_clip do .* is on the Hub"):
        load_backbone(str(folder))


def test_omitted_fields_get_the_formats_defaults(folder):
    (folder / "config.json").write_text('{"model_type": "clip", "vision_config": {"patch_size": 16}}')
    config = read_config(folder / "config.json")
    assert (config.vision.patch_size, config.vision.hidden_size, config.text.num_layers) == (16, 768, 12)
    assert (config.vision.image_size, config.text.vocab_size, config.projection_dim) == (224, 49408, 512)
    assert (config.text.hidden_act, config.text.layer_norm_eps) == ("quick_gelu", 1e-5)


def test_configs_as_old_releases_wrote_them(folder):
    """OpenAI's repositories: every field of the transformers of 2021, and second copies under `*_config_dict`."""
    generation = {"num_beams": 1, "top_k": 50, "bad_words_ids": None, "length_penalty": 1.0, "max_length": 20}
    common = {
        "_name_or_path": "",
        "add_cross_attention": False,
        "architectures": None,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "finetuning_task": None,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "is_encoder_decoder": False,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "pruned_heads": {},
        "tie_word_embeddings": True,
        "torch_dtype": None,
        "torchscript": False,
        "transformers_version": "4.16.0.dev0",
        "use_bfloat16": False,
        **generation,
    }
    config = {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 512,
        "text_config": {**common, "model_type": "clip_text_model", "num_hidden_layers": 12, "hidden_size": 512},
        "text_config_dict": None,
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": {**common, "model_type": "clip_vision_model", "patch_size": 32},
        "vision_config_dict": {"patch_size": 16},
    }
    (folder / "config.json").write_text(json.dumps(config))
    read = read_config(folder / "config.json")
    assert (read.text.eos_token_id, read.text.hidden_size, read.vision.patch_size) == (2, 512, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__hidden_act": "mish"}, "text_config.hidden_act is 'mish', expected one of gelu, "),
        ({"vision_config__num_channels": 1}, "num_channels is 1, expected 3"),
        ({"vision_config__image_size": [12, 16]}, r"image_size is \(?\[?12, 16\]?\)?, expected one integer"),
        ({"vision_config__num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"text_config__hidden_size": "large"}, "hidden_size"),
    ],
)
def test_bad_config_is_named(folder, changes, message):
    path = edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_config(path)
    assert str(path) in str(error.value)


def test_another_architecture_is_named(folder):
    path = edit_config(folder, model_type="siglip")
    with pytest.raises(ValueError, match="model_type is 'siglip', supported is 'clip'") as error:
        load_backbone(str(folder))
    assert str(path) in str(error.value)


def test_config_that_is_no_json_is_named(folder):
    (folder / "config.json").write_text("model_type: clip")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        load_backbone(str(folder))


def test_folder_without_config_or_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config.json"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds no weights; expected one of model.safetensors, "):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("nested", [False, True])
def test_mean_and_standard_deviation(folder, nested):
    fields = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1]}
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (folder / name).write_text(json.dumps({"image_processor": fields} if nested else fields))
    clip = load_backbone(str(folder))
    assert (clip.image_mean, clip.image_std) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, r"image_mean is \[0.5, 0.5\], expected three numbers"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_std is None, expected three numbers"),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 0, 1]}, "the latter positive"),
        ({"image_mean": [0.5, 0.5, float("nan")], "image_std": [1, 1, 1]}, r"0.5, nan\].* expected finite numbers"),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, float("inf")]}, "expected finite numbers"),
    ],
)
def test_bad_normalization_is_named(tmp_path, fields, message):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        read_normalization(path)


def test_unknown_type_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="'float8', expected one of float32, bfloat16, float16"):
        load_backbone("nowhere/nothing", dtype="float8")
