"""Trains a small CLIP a little on FERPlus' training faces, so that a run on real faces has towers to adapt.

    python -m tests.measurements.pretrain_small_clip --data=FERPLUS --out=CLIP [--steps=4000]

For measurements only: the towers see the labels of the same training faces (never those of another split), so an
accuracy reached on top says that the whole path works, and nothing about CLIP. The captions are the bank's descriptions
and never name an expression: a class name is a word that this CLIP has not read, which leaves prompts something to
learn. What it writes is a folder in the Hub's layout.
"""

import itertools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from configs import ferplus
from mpafer_jax.backbones.clip.export import save_clip
from mpafer_jax.backbones.clip.model import CLIP, ClipConfig, TextConfig, VisionConfig
from mpafer_jax.backbones.clip.random_clip import OPENAI_MEAN, OPENAI_STD, random_params
from mpafer_jax.backbones.clip.tokenizer import train_tokenizer
from mpafer_jax.config.schema import Config
from mpafer_jax.data.normalize import normalize as normalize_images
from mpafer_jax.data.pipeline import train_batches
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.method import losses
from mpafer_jax.method.hard_prompts.bank import load_bank
from mpafer_jax.method.hard_prompts.templates import every_prompt
from mpafer_jax.method.model import global_local_logits
from mpafer_jax.method.prompts import tokenize

_DATA = flags.DEFINE_string("data", None, "FERPlus in its owners' layout.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_STEPS = flags.DEFINE_integer("steps", 4000, "Updates.")
_BATCH = flags.DEFINE_integer("batch", 96, "Images of one update.")


# Ways to say a description; every update sees two of them.
CAPTIONS = ("a photo of a person with {}", "a face with {}", "{}")


def main(_):
    config = ferplus.get_config("no_validation")
    with config.unlocked():
        config.data.dir = _DATA.value
        config.data.augment.crop_scale, config.data.augment.erase = (0.85, 1.0), 0.0
        config.data.train_splits, config.data.test_split = ("train",), ""
    data = Config.from_config_dict(config).data
    split = load_dataset(data).train
    bank = load_bank("expressions")
    descriptions = [bank.texts(name, "holistic")[0].text for name in split.class_names]
    captions = [[wording.format(text) for text in descriptions] for wording in CAPTIONS]
    with tempfile.TemporaryDirectory() as tokenizer_folder:
        texts = [*every_prompt(bank), *itertools.chain.from_iterable(captions)]
        tokenizer = train_tokenizer(texts, tokenizer_folder, 1500)
        shape = ClipConfig(
            vision=VisionConfig(128, 512, 4, 4, 48, 12, "quick_gelu", 1e-5),
            text=TextConfig(tokenizer.vocab_size, 128, 512, 2, 4, 77, tokenizer.eos_id, "quick_gelu", 1e-5),
            projection_dim=128,
        )
        params = train(shape, split, data, [tokenize(texts, tokenizer.encode, 77) for texts in captions])
        save_clip(
            _OUT.value,
            config=shape,
            params=params,
            tokenizer_folder=pathlib.Path(tokenizer_folder),
            image_mean=OPENAI_MEAN,
            image_std=OPENAI_STD,
        )
    logging.info("written: %s", _OUT.value)


def train(shape, split, data, texts):
    model = CLIP(shape)
    # A linear classifier on all patch features side by side, thrown away at the end: without it the first hundreds of
    # updates only learn how frequent each class is.
    auxiliary = jnp.zeros((shape.vision.num_patches, shape.projection_dim, len(split.class_names)))
    params = {**jax.device_put(random_params(shape, seed=0)), "auxiliary": auxiliary}
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 50, _STEPS.value)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))

    def loss_fn(params, images, labels, text, other):
        clip = {"params": {name: value for name, value in params.items() if name != "auxiliary"}}
        _, out = model.apply(clip, images, method="encode_image")
        text_features, other_features = (
            model.apply(clip, t.ids, t.ends, method="encode_text")[0] for t in (text, other)
        )
        scale = jnp.minimum(jnp.exp(params["logit_scale"]), 100.0)
        total = 0.0
        # Half of the time the patches count, so that they come to mean something too.
        for weight in (0.0, 1.0):
            logits, _ = global_local_logits(
                out["image_features"],
                out["patch_features"],
                text_features,
                logit_scale=scale,
                top_k=4,
                local_weight=weight,
            )
            total += 0.5 * optax.softmax_cross_entropy(logits, labels).mean()
        auxiliary = jnp.einsum("bnd,ndc->bc", out["patch_features"], params["auxiliary"]) / 8
        total += optax.softmax_cross_entropy(auxiliary, labels).mean()
        # The texts differ in a word or two: they are told apart first, and images can then follow.
        total += losses.contrastive_alignment(text_features, other_features, 0.1).mean()
        return total, jnp.mean(jnp.argmax(logits, -1) == jnp.argmax(labels, -1))

    @jax.jit
    def step(params, opt_state, batch, text, other):
        images = normalize_images(batch["image"], data.mean, data.std)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, accuracy), grads = gradient(params, images, batch["label_distribution"], text, other)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, accuracy

    opt_state, seen = tx.init(params), []
    batches = train_batches(
        split, section=data, image_size=48, batch_size=_BATCH.value, seed=1, start_step=0, num_steps=_STEPS.value
    )
    for number, batch in enumerate(batches, start=1):
        text, other = (texts[(number + shift) % len(texts)] for shift in (0, 1))
        params, opt_state, loss, accuracy = step(params, opt_state, dict(batch), text, other)
        seen.append((loss, accuracy))
        if number % 50 == 0:
            logging.info("step %d: loss %.3f, accuracy on the batches %.3f", number, *np.mean(seen, axis=0))
            seen = []
    del params["auxiliary"]
    return jax.tree.map(np.asarray, params)


if __name__ == "__main__":
    app.run(main)
