"""Repositories of the Hub: downloaded once and only what is needed, from a real server; then from the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpafer_jax.backbones.clip.random_clip import write_random_clip
from mpafer_jax.backbones.registry import load_backbone
from tests.backbones import hub_server, openai_clip

pytestmark = pytest.mark.processes

SHAPE = openai_clip.Shape(vocabulary=49408)

# In processes of their own, since huggingface_hub reads its environment once; without torch, as users have it.
FIND = """
import json, sys
sys.modules['torch'] = None
from mpafer_jax.backbones.files import find_files
name, options = sys.argv[1], json.loads(sys.argv[2])
files = find_files(name, **options)
print(json.dumps([str(files.folder), files.revision, files.kind, [path.name for path in files.weights]]))
assert 'jax' not in sys.modules and 'transformers' not in sys.modules
"""
LOAD = """
import json, sys
sys.modules['torch'] = None
from mpafer_jax.backbones.registry import load_backbone
clip = load_backbone(sys.argv[1])
ids = clip.load_tokenizer().encode('a happy face')
print(json.dumps([clip.name, clip.revision, clip.content_hash, clip.image_mean, ids]))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_random_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def root(tmp_path, clip):
    """What the Hub serves: owner/clip, with files that nobody needs beside those of the checkpoint."""
    folder = tmp_path / "served" / "owner" / "clip"
    shutil.copytree(clip, folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "flax_model.msgpack"):
        (folder / name).write_bytes(b"not needed")
    return tmp_path / "served"


class User:
    """One user's computer: a home of its own for the Hub's cache, and commands that run there."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, code: str, name: str, url: str, env: dict[str, str] | None = None, **options) -> tuple[int, str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        env = {**keep, "HF_HOME": str(self.home), "HF_ENDPOINT": url, "NO_PROXY": "127.0.0.1", **(env or {})}
        command = [sys.executable, "-c", code, name, json.dumps(options)]
        run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        return run.returncode, run.stdout, run.stderr

    def ok(self, code: str, name: str, url: str, env: dict[str, str] | None = None, **options) -> list:
        status, output, errors = self.run(code, name, url, env, **options)
        assert status == 0, errors
        return json.loads(output)

    def error(self, name: str, url: str, env: dict[str, str] | None = None, **options) -> str:
        """The last exception's text, without the ones that it came from."""
        status, _, errors = self.run(FIND, name, url, env, **options)
        assert status == 1, errors
        return errors.rpartition("Traceback (most recent call last)")[2]


@pytest.fixture
def user(tmp_path):
    return User(tmp_path / "home")


def test_first_load_downloads_and_the_second_needs_no_server(user, root, clip):
    with hub_server.serve(root) as hub:
        first = user.ok(LOAD, "owner/clip", hub.url)
        assert sorted(hub.downloads) == [f"owner/clip/{path.name}" for path in sorted(clip.iterdir())]
    local = load_backbone(str(clip))
    assert first[:3] == ["owner/clip", hub_server.COMMIT, local.content_hash]
    assert tuple(first[3]) == local.image_mean
    assert user.ok(LOAD, "owner/clip", hub.url) == first
    folder, revision, kind, weights = user.ok(FIND, "owner/clip", hub.url)
    assert Path(folder).is_relative_to(user.home)
    assert (revision, kind, weights) == (hub_server.COMMIT, "safetensors", ["model.safetensors"])
    assert user.ok(FIND, "owner/clip", hub.url, revision=hub_server.COMMIT)[1] == hub_server.COMMIT


def test_the_cache_is_where_the_user_says(user, root, tmp_path):
    with hub_server.serve(root) as hub:
        folder = user.ok(FIND, "owner/clip", hub.url, cache_dir=str(tmp_path / "mine"))[0]
        assert Path(folder).is_relative_to(tmp_path / "mine")
        folder = user.ok(FIND, "owner/clip", hub.url, env={"HF_HUB_CACHE": str(tmp_path / "shared")})[0]
        assert Path(folder).is_relative_to(tmp_path / "shared")
    assert user.ok(FIND, "owner/clip", hub.url, cache_dir=str(tmp_path / "mine"))


def test_shards_are_downloaded_by_the_index(user, root):
    folder = root / "owner" / "clip"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"any": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with hub_server.serve(root) as hub:
        assert user.ok(FIND, "owner/clip", hub.url)[2:] == ["safetensors", ["model-00001-of-00001.safetensors"]]
    assert user.ok(FIND, "owner/clip", hub.url)
    shard = next(user.home.rglob("model-00001-of-00001.safetensors"))
    shard.unlink()
    with hub_server.serve(root) as hub:  # what is gone from the cache is asked for again
        assert user.ok(FIND, "owner/clip", hub.url)
        assert shard.is_file()
        (folder / "model-00001-of-00001.safetensors").unlink()
        other = User(user.home.parent / "other")
        assert "names shards that do not exist: model-00001-of-00001.safetensors" in other.error("owner/clip", hub.url)


def test_msgpack_where_there_are_no_safetensors(user, root):
    (root / "owner" / "clip" / "model.safetensors").unlink()
    with hub_server.serve(root) as hub:
        assert user.ok(FIND, "owner/clip", hub.url)[2:] == ["flax", ["flax_model.msgpack"]]


def test_only_a_bin_and_no_torch(user, root):
    for name in ("model.safetensors", "flax_model.msgpack"):
        (root / "owner" / "clip" / name).unlink()
    with hub_server.serve(root) as hub:
        message = user.error("owner/clip", hub.url)
        assert "ModuleNotFoundError: owner/clip (revision main) on the Hub holds its weights only as" in message
        assert "owner/clip/pytorch_model.bin" not in hub.downloads


def test_without_preprocessor_the_cache_is_enough_too(user, root):
    (root / "owner" / "clip" / "preprocessor_config.json").unlink()
    with hub_server.serve(root) as hub:
        first = user.ok(LOAD, "owner/clip", hub.url)
    assert first[3] is None
    assert user.ok(FIND, "owner/clip", hub.url)


def test_without_tokenizer_clips_own_vocabulary_is_taken_or_missed(user, root):
    for name in ("vocab.json", "merges.txt"):
        (root / "owner" / "clip" / name).unlink()
    with hub_server.serve(root) as hub:
        assert user.ok(FIND, "owner/clip", hub.url)
        status, _, errors = user.run(LOAD, "owner/clip", hub.url)
    assert user.ok(FIND, "owner/clip", hub.url)
    assert status == 1
    assert "holds no tokenizer, and this CLIP with its" in errors


def test_a_repository_of_open_clip(user, root, tmp_path):
    """As timm's: open_clip's files, and beside them those of the image tower alone, which timm may have cached."""
    folder = openai_clip.save_open_clip(openai_clip.model(SHAPE), SHAPE, root / "timm" / "vit.openai")
    (folder / "config.json").write_text('{"architecture": "vit_base_patch16_clip_224"}')
    for name in ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"):
        (folder / name).write_bytes(b"not needed")
    expected = load_backbone(str(folder)).content_hash
    with hub_server.serve(root) as hub:
        first = user.ok(LOAD, "timm/vit.openai", hub.url)
        assert first[2] == expected
        assert set(hub.downloads) == {
            f"timm/vit.openai/{name}"
            for name in ("config.json", "open_clip_config.json", "open_clip_model.safetensors")
        }
    assert user.ok(LOAD, "timm/vit.openai", hub.url) == first
    next(user.home.rglob("open_clip_config.json")).unlink()
    with hub_server.serve(root) as hub:
        assert user.ok(LOAD, "timm/vit.openai", hub.url) == first


def test_what_another_program_left_in_the_cache_is_completed(user, root):
    with hub_server.serve(root) as hub:
        user.ok(FIND, "owner/clip", hub.url)
        for name in ("preprocessor_config.json", "merges.txt"):
            next(user.home.rglob(name)).unlink()
            hub.downloads.clear()
            user.ok(FIND, "owner/clip", hub.url)
            assert all(file.endswith(name) for file in hub.downloads)
            assert next(user.home.rglob(name)).is_file()
    next(user.home.rglob("preprocessor_config.json")).unlink()
    message = user.error("owner/clip", hub.url, env={"HF_HUB_OFFLINE": "1"})
    assert "preprocessor_config.json is not in the Hub's cache" in message


def test_errors_say_what_was_looked_for_and_what_to_do(user, root):
    shutil.copytree(root / "owner" / "clip", root / "gated" / "clip")
    (root / "owner" / "empty").mkdir()
    with hub_server.serve(root) as hub:
        message = user.error("owner/nothing", hub.url)
        assert (
            "FileNotFoundError: CLIP 'owner/nothing' (revision main): there is no such file or folder here and"
            in message
        )
        assert hub.url in message
        message = user.error("owner/clip", hub.url, revision="v9")
        assert "CLIP 'owner/clip' (revision v9): the Hub has the repository but not this revision" in message
        assert "accept this repository's terms" in user.error("gated/clip", hub.url)
        assert "owner/empty (revision main) on the Hub holds no config.json" in user.error("owner/empty", hub.url)
    assert "cannot be a repository of the Hub either" in user.error("/no/such/folder", hub.url)


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"HF_HUB_OFFLINE": "1"}, id="no-network-wanted"),
        pytest.param({}, id="no-server"),  # told at once: the Hub's library alone would try for 25 seconds
    ],
)
def test_offline_without_a_cache(user, env):
    assert "; did you mean ViT-B/16?\n" in user.error("ViT-B-16", "http://127.0.0.1:9", env=env)  # as open_clip says
    message = user.error("owner/clip", "http://127.0.0.1:9", env=env)
    assert (
        "FileNotFoundError: CLIP 'owner/clip' (revision main): there is no such file or folder here; config.json"
        in message
    )
    assert str(user.home) in message
    assert "hf download owner/clip" in message


@pytest.mark.slow  # the Hub's library tries several times
def test_a_download_that_breaks_off_leaves_no_half_file(user, root):
    (root / "owner").rename(root / "cut")
    with hub_server.serve(root) as hub:
        message = user.error("cut/clip", hub.url)
    assert "model.safetensors is not in the Hub's cache" in message
    assert not list(user.home.rglob("snapshots/*/model.safetensors"))
