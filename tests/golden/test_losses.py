"""Loss, its terms and the gradients of one update by method, on a tiny CLIP; and every form of every term.

Numbers and not bytes: XLA orders sums by the processor, and by the number of devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.method import build, optim, steps
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.losses import Context, Objective
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices
from tests import tiny
from tests.golden import cases, store

# Relative, of float32 with CLIP's temperature of 1 / 100, which makes a rounding error a hundredfold.
FLOAT32 = 1e-4
# Three digits of bfloat16, and which of two neighbours a product is rounded to.
BFLOAT16 = 3e-2
ENTRIES = 12  # of each gradient, evenly spread

SMALL = {"ctx.num_ctx": 4, "ctx.init_text": "", "visual_prompts.num_prompts": 2, "head.top_k": 5}
NO_VISUAL = {"visual_prompts.num_prompts": 0}
# Name -> config argument, changes, on how many devices, or as many as there are: the numbers are the same.
STEPS = {
    "mpafer": ("", {}, 8),
    "coop": ("coop", NO_VISUAL, 8),
    "vpt_deep": ("vpt_deep", {}, 8),
    "ivlp": ("ivlp", {}, 8),
    "kgcoop": ("kgcoop", NO_VISUAL, 8),
    "prompts of another shape": (
        "",
        {"ctx.class_specific": True, "visual_prompts.layers": (1, 3), "visual_prompts.before_ln_pre": True},
        1,
    ),
    "less memory": ("", {"train.accumulate": 2, "train.text_chunk": 2, "clip.remat": "full"}, 2),
    "centred patch scores": ("", {"head.center_patch_scores": True, "clip.remat": "none"}, 1),
    "mpafer, bfloat16": ("", {"clip.dtype": "bfloat16", "clip.residual_dtype": "bfloat16"}, 1),
}
OBJECTIVES = {
    "mpafer": {},
    "no prompt alignment": {"prompt_weight": 0.0},
    "no alignment": {"beta": 0.0},
    "no prototypes": {"gamma": 0.0},
    "weights": {"beta": 0.5, "gamma": 2.0, "token_weight": 3.0, "prompt_weight": 0.25},
    "temperature": {"temperature": 0.1},
    "token l1": {"token_distance": "l1"},
    "prompt l1": {"prompt_distance": "l1"},
    "prompt cosine": {"prompt_distance": "cosine"},
    "prototypes l1": {"prototype_distance": "l1"},
    "label smoothing": {"label_smoothing": 0.1},
    "inverse frequency": {"class_weights": "inverse_frequency", "label_smoothing": 0.1},
    "effective number": {"class_weights": "effective_number"},
    "logit adjustment": {"logit_adjustment": 1.5},
}


def fed(config) -> tuple[dict, TrainState, object, object]:
    """A batch whose labels are votes and whose last images are masked; a fresh state; what is frozen; the model."""
    model = build.make_model(config, CLIP(tiny.CLIP), 3)
    batch = tiny.batch(masked=3)
    votes = np.random.default_rng(1).dirichlet(np.ones(3), 16)
    batch["label_distribution"] = (0.8 * batch["label_distribution"] + 0.2 * votes).astype(np.float32)
    frozen = tiny.frozen(model)
    if config.clip.dtype == "bfloat16":
        visual = jax.tree.map(lambda x: x.astype(jnp.bfloat16), frozen.backbone["visual"])
        frozen = frozen.replace(backbone={**frozen.backbone, "visual": visual})
    # Two groups of hard prompts, as `hard_prompts.combine = "separate"` gives.
    doubled = {
        name: jnp.concatenate([getattr(frozen, name), 0.5 + getattr(frozen, name)[:, ::-1]])
        for name in ("hard_text_features", "hard_token_features")
    }
    params = model.learner.initial_params(0)
    state = TrainState(jnp.zeros((), jnp.int32), params, TX.init(params))
    return batch, state, frozen.replace(**doubled), model


TX = optax.trace(decay=0.0)  # an update rule whose state is the gradient


def losses_and_gradients(config, num_devices: int) -> dict:
    batch, state, frozen, model = fed(config)
    step = steps.make_train_step(
        forward=Forward(build.training_model(config, model), config.data.mean, config.data.std),
        tx=TX,
        objective=Objective.of(config.loss),
        accumulate=config.train.accumulate,
        trained=(trained := optim.trained(state.params, config.optimizer.lr_scales)),
    )
    step = devices.data_parallel(step, on=jax.devices()[:num_devices])
    moved, metrics = jax.device_get(step(state, frozen, batch))
    found = {name: float(total) / float(count) for name, (total, count) in sorted(metrics.items())}
    for name, gradient in sorted(moved.opt_state.trace.items()):
        if name in trained:
            found[f"gradient of {name}"] = sketch(gradient)
        else:
            assert not np.any(gradient)
    return found


def sketch(gradient) -> dict:
    """Its norm, and some entries in units of the root of their mean square, so that one tolerance suits all."""
    gradient = np.asarray(gradient)
    assert gradient.dtype == np.float32
    norm = float(np.linalg.norm(gradient))
    entries = gradient.ravel()[np.linspace(0, gradient.size - 1, ENTRIES).astype(int)]
    return {"norm": norm, "entries": [float(x) * gradient.size**0.5 / norm for x in entries]}


@pytest.mark.parametrize(
    ("name", "most"),
    [pytest.param(name, most, marks=[pytest.mark.devices] * (most > 1)) for name, (_, _, most) in STEPS.items()],
)
def test_steps(name, most):
    argument, changes, _ = STEPS[name]
    config = cases.build("rafdb", argument, **{**SMALL, **changes})
    found = losses_and_gradients(config, min(most, jax.device_count()))
    tolerance = FLOAT32 if config.clip.dtype == "float32" else BFLOAT16
    store.check(f"losses/step: {name}", found, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name):
    """Every form of every term, on features that are given, and its gradient with respect to them."""
    config = cases.build("rafdb", **{f"loss.{field}": value for field, value in OBJECTIVES[name].items()})
    objective = Objective.of(config.loss)
    rng = np.random.default_rng(0)
    learned = {"logits": (6, 3), "image_features": (6, 20), "token_features": (3, 24), "text_features": (3, 20)}
    learned = {name: rng.normal(size=shape).astype(np.float32) for name, shape in learned.items()}
    hard_token_features, hard_text_features, prototypes = (
        rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 24), (2, 3, 20), (3, 20))
    )
    targets = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    labels = targets.argmax(1)

    counts = jnp.array([5.0, 1.0, 30.0], jnp.float32)
    frozen = Frozen({}, None, hard_text_features, hard_token_features, prototypes, counts)

    def loss(learned):
        context = Context(config.loss, learned["logits"], targets, labels, learned, {}, frozen)
        per_example, per_class = objective.values(context, "example"), objective.values(context, "class")
        terms = {**per_example, **per_class}
        return objective.total({name: jnp.mean(values) for name, values in terms.items()}), terms

    (total, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(learned)
    found = {"loss": float(total)}
    found |= {name: np.asarray(values).tolist() for name, values in sorted(terms.items())}
    found |= {f"gradient of {name}": sketch(value) for name, value in sorted(gradient.items()) if np.any(value)}
    store.check(f"losses/objective: {name}", found, rtol=FLOAT32, atol=FLOAT32)
