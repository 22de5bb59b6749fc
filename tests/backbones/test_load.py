"""Loading from local folders: every file format and type, and what goes wrong with each."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file, save_file
from transformers import CLIPConfig

from mpafer_jax.backbones.clip.load import read_config, read_normalization
from mpafer_jax.backbones.clip.rules import flatten, to_tensors, unflatten
from mpafer_jax.backbones.registry import load_backbone
from tests import needs
from tests.backbones import torch_clip

pytestmark = pytest.mark.torch

torch = needs.module("torch")


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


def edit_tensors(folder, edit) -> None:
    path = folder / "model.safetensors"
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    save_file(edit(tensors) or tensors, path)


def to_bin(folder, content, **options) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin", **options)


def test_everything_about_the_checkpoint(original):
    clip = load_backbone(str(original))
    assert (clip.name, clip.revision, clip.image_mean, clip.image_std) == (str(original), "", None, None)
    config = clip.backbone.config
    assert (config.vision.num_layers, config.text.eos_token_id, config.projection_dim) == (3, 2, 10)


def shards(folder, reference):
    (folder / "model.safetensors").unlink()
    reference.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def shards_of(kind, folder, reference):
    tensors = to_tensors(load_backbone(str(folder)).params, "flax" if kind == "msgpack" else "pytorch")
    (folder / "model.safetensors").unlink()
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


def one_bin(zipped, folder, reference):
    state = {**reference.state_dict(), "text_model.embeddings.position_ids": torch.arange(9)[None]}
    to_bin(folder, state, _use_new_zipfile_serialization=zipped)


def others_beside_it(folder, reference):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "flax_model.msgpack").write_bytes(b"")


EXACT = {"rtol": 0}
FORMS = {
    "safetensors in shards": (shards, EXACT),
    "msgpack in shards": (functools.partial(shards_of, "msgpack"), EXACT),
    "bin in shards": (functools.partial(shards_of, "bin"), EXACT),
    "bin": (functools.partial(one_bin, True), EXACT),
    "bin of old": (functools.partial(one_bin, False), EXACT),
    "bin of bfloat16": (
        lambda folder, reference: to_bin(folder, {name: x.bfloat16() for name, x in reference.state_dict().items()}),
        {"rtol": 2**-8},
    ),
    "bin of a training run": (
        lambda folder, reference: to_bin(
            folder, {"state_dict": {f"module.{name}": x for name, x in reference.state_dict().items()}, "epoch": 3}
        ),
        EXACT,
    ),
    "prefix": (
        lambda folder, _: edit_tensors(folder, lambda all_: {f"clip.module.{n}": x for n, x in all_.items()}),
        EXACT,
    ),
    "float16": (
        lambda folder, _: edit_tensors(folder, lambda all_: {n: x.astype(np.float16) for n, x in all_.items()}),
        {"rtol": 1e-3, "atol": 1e-6},
    ),
    "bfloat16": (
        lambda folder, reference: torch_clip.model(reference.config).bfloat16().save_pretrained(folder),
        {"rtol": 2**-8},
    ),
    "safetensors before msgpack and bin": (others_beside_it, EXACT),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_weights_is_read(folder, original, reference, form):
    write, tolerance = FORMS[form]
    write(folder, reference)
    found, expected = (flatten(load_backbone(str(path)).params) for path in (folder, original))
    assert found.keys() == expected.keys()
    assert {value.dtype.name for value in found.values()} == {"float32"}
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, err_msg=path, **tolerance)


def without_a_shard(folder, reference):
    shards(folder, reference)
    min(folder.glob("model-*.safetensors")).unlink()


def a_shard_twice(folder, reference):
    shards(folder, reference)
    shutil.copy(*sorted(folder.glob("model-*.safetensors"))[:2])


def weights_are(name, content, folder, reference):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)


def some_names_prefixed(folder, reference):
    other = {"classifier.weight": np.zeros((7, 10), np.float32)}
    edit_tensors(folder, lambda tensors: {**{f"clip.{name}": x for name, x in tensors.items()}, **other})


def not_finite(folder, reference):
    def edit(tensors):
        tensors[TENSOR].flat[1] = np.nan
        tensors[BIAS].flat[1] = -np.inf

    edit_tensors(folder, edit)


INDEX = "model.safetensors.index.json"
TENSOR, BIAS = "visual_projection.weight", "text_model.encoder.layers.1.mlp.fc1.bias"
WRONG = [
    *(
        (functools.partial(weights_are, INDEX, content), rf"{INDEX} (is no index|names)")
        for content in (b"", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": "../b.safetensors"}}')
    ),
    *(
        (functools.partial(weights_are, name, content), name)
        for name in ("model.safetensors", "flax_model.msgpack", "pytorch_model.bin")
        for content in (b"", b"not weights at all", b"version https://git-lfs.github.com/spec/v1\n")
    ),
    (without_a_shard, r"model-00001-of-0000\d\.safetensors"),
    (a_shard_twice, r"model-00002-of-0000\d.safetensors holds tensors that another shard holds too: \w+"),
    (
        lambda folder, _: edit_tensors(folder, lambda tensors: tensors.pop(TENSOR) is None),
        rf"model\.safetensors does not hold .*\n  missing: {TENSOR}",
    ),
    (some_names_prefixed, r"unknown: classifier\.weight \[7, 10\]"),
    (
        lambda folder, reference: to_bin(folder, {**reference.state_dict(), "epoch": 3}),
        r"epoch is a int, expected a tensor; .* give the model's state_dict alone",
    ),
    (
        lambda folder, _: edit_tensors(folder, lambda _: {"visual.class_embedding": np.zeros(3, np.float32)}),
        r"missing: visual.conv1.weight \[24, 3, 4, 4\]",
    ),
    (
        not_finite,
        rf"holds numbers that are NaN or infinite, in 2 tensor(?=[\s\S]*{TENSOR})[\s\S]*{BIAS}",
    ),
]


@pytest.mark.parametrize(("write", "message"), WRONG)
def test_what_is_wrong_with_weights_is_named(folder, reference, write, message):
    write(folder, reference)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_backbone(str(folder))


def test_weights_too_large_for_their_type_are_refused(folder):
    edit_tensors(folder, lambda tensors: {**tensors, "visual_projection.weight": np.full((10, 24), 1e6, np.float32)})
    load_backbone(str(folder), dtype="bfloat16")
    with pytest.raises(ValueError, match=r"infinite as float16, in 1 tensor\(s\): visual_projection\.weight"):
        load_backbone(str(folder), dtype="float16")


def test_pytorch_bin_that_would_run_code_is_refused(folder, tmp_path):
    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    to_bin(folder, {"logit_scale": Malicious()})
    with pytest.raises(ValueError, match=r"pytorch_model.bin cannot be read as pytorch weights"):
        load_backbone(str(folder))
    assert not (tmp_path / "ran").exists()


def without_torch(code):
    """A process in which importing torch fails as where it is not installed."""
    code = f"import sys; sys.modules['torch'] = None\nfrom mpafer_jax.backbones import files, registry\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_without_torch_a_bin_is_an_error_that_says_what_to_do(folder, reference):
    to_bin(folder, reference.state_dict())
    run = without_torch(f"files.find_files({str(folder)!r})")
    assert run.returncode == 1
    message = run.stderr.strip().splitlines()[-1]
    assert message.startswith("ModuleNotFoundError: ")
    assert "only as pytorch_model.bin" in message
    assert "pip install torch" in message


def test_without_torch_safetensors_load_and_nothing_is_printed(original):
    run = without_torch(f"registry.load_backbone({str(original)!r})\nassert 'tensorflow' not in sys.modules")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_image_tower_alone_may_be_of_another_type(original):
    clip = load_backbone(str(original), dtype="bfloat16")
    assert clip.params["logit_scale"].dtype == np.float32
    assert clip.params["visual"]["projection"]["kernel"].dtype.name == "bfloat16"


def test_hash_follows_the_content(folder, original):
    same, before = (load_backbone(str(path)).content_hash for path in (folder, original))
    assert same == before
    assert len(same) == 64
    edit_tensors(folder, lambda tensors: {**tensors, "logit_scale": np.array(1.25, np.float32)})
    weights_differ = load_backbone(str(folder)).content_hash
    edit_config(folder, vision_config__layer_norm_eps=1e-6)
    assert len({before, weights_differ, load_backbone(str(folder)).content_hash}) == 3


def test_omitted_fields_get_the_formats_defaults(folder):
    (folder / "config.json").write_text('{"model_type": "clip", "vision_config": {"patch_size": 16}}')
    config = read_config(folder / "config.json")
    assert (config.vision.patch_size, config.vision.hidden_size, config.text.num_layers) == (16, 768, 12)
    assert (config.vision.image_size, config.text.vocab_size, config.projection_dim) == (224, 49408, 512)
    assert (config.text.hidden_act, config.text.layer_norm_eps) == ("quick_gelu", 1e-5)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    (folder / "all.json").write_text(json.dumps(CLIPConfig().to_dict()))
    assert read_config(folder / "config.json") == read_config(folder / "all.json")


def test_configs_as_old_releases_wrote_them(folder):
    """OpenAI's repositories: every field of the transformers of 2021, and second copies under `*_config_dict`."""
    common = {
        **{"_name_or_path": "", "add_cross_attention": False, "architectures": None, "bos_token_id": 0},
        **{"dropout": 0.0, "eos_token_id": 2, "finetuning_task": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
        **{"is_encoder_decoder": False, "pruned_heads": {}, "tie_word_embeddings": True, "torch_dtype": None},
        **{"torchscript": False, "transformers_version": "4.16.0.dev0", "use_bfloat16": False},
        **{"num_beams": 1, "top_k": 50, "bad_words_ids": None, "length_penalty": 1.0, "max_length": 20},
    }
    config = {
        **{"architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592},
        **{"model_type": "clip", "projection_dim": 512, "torch_dtype": "float32", "transformers_version": None},
        "text_config": {**common, "model_type": "clip_text_model", "num_hidden_layers": 12, "hidden_size": 512},
        "text_config_dict": None,
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
        ({"vision_config__image_size": [12, 16]}, r"image_size is \(?\[?12, 16\]?\)?, expected one positive integer"),
        ({"vision_config__num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"text_config__hidden_size": "large"}, "hidden_size"),
        ({"model_type": "siglip"}, "model_type is 'siglip', supported is 'clip'"),
    ],
)
def test_bad_config_is_named(folder, changes, message):
    path = edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
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
        ({"image_mean": [0.5] * 3, "image_std": [1.0] * 3, "do_grayscale": 1}, "do_grayscale is 1, expected true or"),
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
