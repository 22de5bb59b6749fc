"""A dual encoder that is no CLIP is one folder more: nothing of the method knows which it has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.backbones import registry
from mpafer_jax.backbones.base import Backbone, BackboneSpec, Pretrained, TokenSpec, Tower
from mpafer_jax.backbones.files import hash_files
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.export import check, programs, whole
from mpafer_jax.jobs import evaluate, train
from tests.jobs import runs

pytestmark = pytest.mark.training

SPEC = BackboneSpec(32, 8, Tower(1, 8), Tower(1, 12), 6, TokenSpec(prefix=0, suffix=1, max_positions=60))


class Toy(Backbone):
    """Patches and words, each mapped once and averaged; texts have no start token."""

    dtype: Any = jnp.float32
    residual_dtype: Any = jnp.float32
    products: Any = None
    remat: str = "none"
    spec = SPEC

    def setup(self):
        self.patches, self.image_projection = nn.Conv(8, (8, 8), (8, 8)), nn.Dense(6)
        self.words, self.text_projection = nn.Embed(100, 12), nn.Dense(6)

    def encode_image(self, images, prompts=None):
        x = self.patches(images).reshape(-1, 16, 8)
        if prompts is not None:
            x = x + jnp.mean(prompts.tokens[0], axis=0)
        patches = self.image_projection(jnp.tanh(x))
        image = jnp.mean(patches, axis=1)
        return image, {"image_features": image, "patch_features": patches}

    def embed_tokens(self, ids):
        return self.words(ids)

    def encode_embeddings(self, embeddings, ends, prompts=None):
        read = (jnp.arange(embeddings.shape[1]) <= ends[:, None])[:, :, None]
        features = self.text_projection(jnp.sum(jnp.tanh(embeddings) * read, axis=1))
        return features, {"text_features": features}

    def temperature_scale(self):
        return jnp.asarray(20.0)

    def image_params(self, params):
        return {name: params[name] for name in ("patches", "image_projection")}

    def __call__(self, images, ids):
        return self.encode_image(images), self.encode_embeddings(self.embed_tokens(ids), ids[:, 0])


class Words:
    """Ids by the words' letters; 99 ends a text."""

    def encode(self, text):
        return [*(sum(map(ord, word)) % 99 for word in text.split()), 99]

    def decode(self, ids):
        return " ".join(map(str, ids))


def load(files, *, name, dtype):
    params = Toy().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(np.asarray, params)
    return Pretrained(name, "", hash_files([files.config]), Toy(), params, (0.5,) * 3, (0.25,) * 3, Words)


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    for name, content in (
        ("config.json", '{"model_type": "toy"}'),
        ("model.safetensors", ""),
        ("tokenizer.json", "{}"),
    ):
        (folder / name).write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.LOADERS, "toy", load)
        changes = {"clip.name": str(folder), "data.mean": (0.5,) * 3, "data.std": (0.25,) * 3}
        changes |= {"train.num_steps": 20, "train.eval_every": 20, "train.log_every": 1, "eval.batch_size": 16}
        workdir = folder / "run"
        yield workdir, changes, train.train_and_evaluate(runs.config(sample, **changes), workdir)


def test_it_learns_predicts_and_is_exported(run, sample, tmp_path):
    workdir, changes, summary = run
    losses = [line["loss"] for line in runs.metrics(workdir) if line["kind"] == "train"]
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
    params, _, _ = checkpoints.load(workdir, "best")
    assert {name: value.shape for name, value in params.items()} == {"ctx": (10, 12), "visual_prompts": (1, 8, 8)}
    config = runs.config(sample, **changes, **{"eval.checkpoint": str(workdir)})
    assert evaluate.evaluate_checkpoint(config, tmp_path / "evaluated")["test"] == summary["best"]["test"]
    predictor = Predictor.from_checkpoint(workdir, batch_sizes=(5,))
    pixels = check.drawn_faces(5, predictor.image_size)
    whole.export(str(workdir), ("stablehlo",), tmp_path / "out")
    found = programs.load_stablehlo(tmp_path / "out")(pixels)
    np.testing.assert_allclose(found["logits"], predictor.logits(pixels), rtol=1e-4, atol=1e-4)


def test_an_unknown_kind_is_named(tmp_path, run):
    folder = run[0].parent
    for file in folder.glob("*.*"):
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match=r"model_type is 'siglip', supported is 'clip', 'toy'"):
        registry.load_backbone(str(tmp_path))
