"""Time and peak memory of one training step and one evaluation step at a full CLIP's shape, with random weights.

    python -m tests.measurements.one_step [--shape=vit_b16] [--batch=16] [--dtype=float32] [--remat=dots] [--repeats=5]

Prints the seconds of the first call (compilation included), the median of the later ones, and the process's peak
memory. No CLIP has to be there: the numbers do not depend on what the weights are.
"""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.clip.random_clip import random_params
from mpafer_jax.backbones.clip.sizes import SIZES
from mpafer_jax.config.schema import LossSection
from mpafer_jax.method import steps
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.losses import Objective
from mpafer_jax.method.model import PromptedModel
from mpafer_jax.method.mpa import MpaPrompts
from mpafer_jax.method.prompts import TextEmbeddings
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices
from tests.bench.problem import mean, std

_SHAPE = flags.DEFINE_enum("shape", "vit_b16", ["vit_b16", "vit_l14"], "Which CLIP.")
_BATCH = flags.DEFINE_integer("batch", 16, "Images at once.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the towers.")
_REMAT = flags.DEFINE_enum("remat", "dots", ["none", "dots", "full"], "What the backward pass keeps.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls after the first.")

CLASSES, LENGTH = 7, 15  # ten context tokens, a class name, a full stop, start and end, one to spare


def main(_):
    clip = SIZES[_SHAPE.value]
    backbone = CLIP(clip, jnp.dtype(_DTYPE.value), remat=_REMAT.value)
    spec, text = backbone.spec, clip.text
    layers = tuple(range(1, spec.vision.num_layers + 1))
    learner = MpaPrompts(spec.text, spec.vision, 10, 0, 0.02, "", 8, layers, 0.02, False)
    model = PromptedModel(backbone, learner, top_k=16)
    params = jax.tree.map(lambda x: jnp.asarray(x, _DTYPE.value), random_params(clip))
    embeddings = jnp.zeros((CLASSES, LENGTH, text.hidden_size), _DTYPE.value)
    content = jnp.ones((CLASSES, LENGTH), bool)
    frozen = devices.replicate(
        Frozen(
            backbone=params,
            soft_prompts=TextEmbeddings(embeddings, jnp.full(CLASSES, LENGTH - 1), content),
            hard_text_features=jax.random.normal(jax.random.key(0), (1, CLASSES, clip.projection_dim)),
            hard_token_features=jax.random.normal(jax.random.key(1), (1, CLASSES, text.hidden_size)),
            prototypes=jax.random.normal(jax.random.key(2), (CLASSES, clip.projection_dim)),
        )
    )
    del params
    tx = optax.sgd(2e-3, momentum=0.9)
    prompts = learner.initial_params(3)
    state = devices.replicate(TrainState(jnp.zeros((), jnp.int32), prompts, tx.init(prompts)))
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, _BATCH.value).astype(np.int32)
    batch = devices.shard_batch(
        {
            "image": rng.integers(0, 256, (_BATCH.value, 224, 224, 3)).astype(np.uint8),
            "label": label,
            "label_distribution": np.eye(CLASSES, dtype=np.float32)[label],
            "mask": np.ones(_BATCH.value, np.float32),
        }
    )
    print(f"{_SHAPE.value}, batch {_BATCH.value}, {_DTYPE.value}, remat {_REMAT.value}, {jax.device_count()} device(s)")
    forward = Forward(model, mean, std)
    train_step = steps.make_train_step(forward=forward, tx=tx, objective=Objective.of(LossSection()))
    train_step = devices.data_parallel(train_step, donate=(0,))

    def one_update():
        nonlocal state
        state, metrics = train_step(state, frozen, batch)
        jax.block_until_ready(metrics)

    report("train step", one_update)
    eval_step = devices.data_parallel(steps.make_eval_step(forward))
    text_features = devices.replicate(jax.jit(forward.encode_texts)(state.params, frozen))
    part = {"image": batch["image"], "index": batch["label"], "mask": batch["mask"]}
    report("eval step", lambda: jax.block_until_ready(eval_step(state.params, frozen, text_features, part)))


def report(name, call):
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    seconds = []
    for _ in range(_REPEATS.value):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name}: first {first:.1f} s, then {np.median(seconds):.2f} s (median of {len(seconds)}, "
        f"{min(seconds):.2f} to {max(seconds):.2f}), peak memory so far {peak:.2f} GiB"
    )


if __name__ == "__main__":
    app.run(main)
