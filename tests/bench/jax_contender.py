"""Our steps as a contender, as a run compiles them (`mpafer_jax/method/steps.py`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.products import DEFAULT
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.schema import LossSection
from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.method import build, steps
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.losses import Context, Objective
from mpafer_jax.method.model import PromptedModel, variables
from mpafer_jax.method.mpa import MpaPrompts
from mpafer_jax.method.prompts import TextEmbeddings, Texts
from mpafer_jax.method.state import Frozen, TrainState
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.flops import count_flops
from tests.bench import measures, timing
from tests.bench import problem as problem_lib
from tests.bench.problem import Arrays, Problem


class JaxContender:
    """An implementation of the problem, loaded; functions compile on their first call. `TorchContender` has the same.

    Attributes:
      device: "cpu", or the accelerator's name.
    """

    def __init__(self, problem: Problem, *, remat: str, plain_products: bool = False) -> None:
        """Loads the problem.

        Args:
          remat: as `config.clip.remat`.
          plain_products: whether bfloat16 numbers are multiplied as on a CPU without units for them.

        Raises:
          ValueError: several devices, of which plain PyTorch would use one.
        """
        if jax.device_count() > 1:
            raise ValueError(f"found {jax.device_count()} devices, expected one: hide the others from this process")
        setting = problem.setting
        exact = setting.precision == "float32"
        jax.config.update("jax_default_matmul_precision", "float32" if exact else "tensorfloat32")
        self._dtype = jnp.bfloat16 if setting.precision == "bfloat16" else jnp.float32
        self._problem = problem
        self._objective = Objective.of(LossSection(temperature=setting.temperature))
        self._tx = optax.chain(
            optax.add_decayed_weights(setting.weight_decay),
            optax.sgd(setting.learning_rate, momentum=setting.momentum),
        )
        clip = load_backbone(str(problem.clip_folder), dtype=jnp.dtype(self._dtype).name)
        computing: Any = clip.backbone
        model = PromptedModel(
            computing.clone(dtype=self._dtype, residual_dtype=self._dtype, remat=remat),
            _learner(problem),
            top_k=setting.top_k,
        )
        self._model = model if plain_products else build.for_this_device(model)
        self._frozen = self._make_frozen(clip.params)
        del clip
        self._state = self._fresh_state()
        self._batch = devices.shard_batch(_batch(problem.arrays, setting.num_classes))
        self._train_step, self._eval_step = self._steps(self._model)
        self._text_step = jax.jit(Forward(self._model, problem_lib.mean, problem_lib.std).encode_texts)
        self._text_features: jax.Array | None = None

    def _make_frozen(self, params: dict[str, Any]) -> Frozen:
        arrays = self._problem.arrays
        params = jax.device_put(params)
        soft = self._model.apply(variables(params, {}), _texts(arrays), method="embed")
        return devices.replicate(
            Frozen(
                backbone=params,
                soft_prompts=cast(TextEmbeddings, soft),
                hard_text_features=jnp.asarray(arrays["hard_text_features"])[None],
                hard_token_features=jnp.asarray(arrays["hard_token_features"])[None],
                prototypes=jnp.asarray(arrays["prototypes"]),
            )
        )

    def _steps(self, model: PromptedModel) -> tuple[Any, Any]:
        forward = Forward(model, problem_lib.mean, problem_lib.std)
        train = steps.make_train_step(forward=forward, tx=self._tx, objective=self._objective)
        return devices.data_parallel(train, donate=(0,)), devices.data_parallel(steps.make_eval_step(forward))

    def _fresh_state(self) -> TrainState:
        prompts = {name: jnp.asarray(self._problem.arrays[name]) for name in ("ctx", "visual_prompts")}
        return devices.replicate(TrainState(jnp.zeros((), jnp.int32), prompts, self._tx.init(prompts)))

    @property
    def device(self) -> str:
        return "cpu" if jax.default_backend() == "cpu" else devices.kind()

    @property
    def bfloat16_unit(self) -> str:
        """See `devices.bfloat16_unit`."""
        return devices.bfloat16_unit()

    def peak_memory(self) -> int:
        """Peak bytes: of the process on a CPU, else of the device."""
        if self.device == "cpu":
            return timing.peak_memory_bytes()
        return int(cast(Any, jax.devices()[0]).memory_stats()["peak_bytes_in_use"])

    def check(self) -> Arrays:
        """Outputs, losses and gradients at the initial prompts, from the functions that are timed; resets the prompts.

        'logits' [B, C], 'image_features' [B, D], 'patch_features' [B, N, D], 'text_features' [C, D], 'losses' [5]
        (in the order of `measures.LOSSES`), 'gradient_ctx', 'gradient_visual_prompts', 'eval_cross_entropy' [] (mean).
        """
        arrays, decay = self._problem.arrays, self._problem.setting.weight_decay
        metrics = devices.to_host(self._update())
        trace = devices.to_host(optax.tree.get(self._state.opt_state, "trace"))
        self._state = self._fresh_state()

        @jax.jit
        def forward(params: Any, frozen: Frozen, images: Any) -> Any:
            images = normalize_images(images, problem_lib.mean, problem_lib.std)
            return self._model.apply(variables(frozen.backbone, params), images, frozen.soft_prompts)

        result = cast(Any, forward)(self._state.params, self._frozen, arrays["images"])
        logits, out = cast(tuple[jax.Array, dict[str, jax.Array]], result)
        rows = devices.to_host(self._evaluate(self._batch))
        labels = self._batch["label"].ravel()[rows["index"]]
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels(rows["logits"], labels)
        features = {name: np.asarray(out[name]) for name in ("image_features", "patch_features")}
        return {
            "logits": np.asarray(logits),
            **features,
            "text_features": np.asarray(self._text_features),
            "losses": np.array([metrics[name][0] / metrics[name][1] for name in measures.LOSSES], np.float32),
            "eval_cross_entropy": np.asarray(jnp.mean(cross_entropy), np.float32),
            # After the first update SGD's trace is the gradient plus weight decay.
            **{f"gradient_{name}": trace[name] - decay * arrays[name] for name in trace},
        }

    def calls(self) -> measures.Calls:
        """Timed functions by measure; each waits for its results."""
        one = {name: value[:, :1] for name, value in self._batch.items()}
        return {
            measures.TRAIN: lambda: _finish(self._update()),
            measures.EVAL: lambda: _finish(self._evaluate(self._batch)),
            measures.SINGLE: lambda: _finish(self._evaluate(one)),
            measures.TEXT: lambda: _finish(self._text_step(self._state.params, self._frozen)),
            measures.TEXT_TRAIN: self._make_text_gradient(),
            measures.PROBE: self._make_probe(),
            measures.PRODUCT: self._make_product(),
        }

    def flops(self) -> dict[str, float]:
        """Floating-point operations of a call's matrix products, without rematerialisation, by measure."""
        backbone = cast(Any, self._model.backbone).clone(remat="none", products=DEFAULT)
        plain = self._model.clone(backbone=backbone)
        train, evaluate = self._steps(plain)
        texts = jax.ShapeDtypeStruct(self._problem.arrays["hard_text_features"].shape, jnp.float32)
        rows, inner, columns = measures.product_shape(self._problem)
        return {
            measures.TRAIN: count_flops(train, self._state, self._frozen, self._batch),
            measures.EVAL: count_flops(evaluate, self._state.params, self._frozen, texts, _eval_part(self._batch)),
            measures.PRODUCT: 2.0 * rows * inner * columns,
        }

    def _update(self) -> steps.Metrics:
        self._text_features = None
        self._state, metrics = self._train_step(self._state, self._frozen, self._batch)
        return metrics

    def _evaluate(self, batch: Mapping[str, Any]) -> Any:
        if self._text_features is None:
            self._text_features = devices.replicate(cast(jax.Array, self._text_step(self._state.params, self._frozen)))
        return self._eval_step(self._state.params, self._frozen, self._text_features, _eval_part(batch))

    def _make_text_gradient(self) -> Callable[[], None]:
        def loss(ctx: jax.Array, params: Any, frozen: Frozen) -> jax.Array:
            both = variables(frozen.backbone, {**params, "ctx": ctx})
            encoded = self._model.apply(both, frozen.soft_prompts, method="encode_soft_prompts")
            text_features, token_features = cast(tuple[jax.Array, jax.Array], encoded)
            outputs = {"text_features": text_features, "token_features": token_features}
            unread = cast(Any, None)  # terms per class do not read images
            context = Context(self._objective.options, unread, unread, unread, outputs, params, frozen)
            terms = self._objective.values(context, "class")
            return sum((jnp.mean(values) for values in terms.values()), start=jnp.zeros(()))

        gradient = jax.jit(jax.grad(loss))
        return lambda: _finish(gradient(self._state.params["ctx"], self._state.params, self._frozen))

    def _make_probe(self) -> Callable[[], None]:
        setting, arrays = self._problem.setting, self._problem.arrays
        classes, width = setting.num_classes, self._problem.clip_config.projection_dim
        probe: Any = devices.replicate({"weights": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)})

        @jax.jit
        def step(probe: Any, clip_params: Any, images: Any, labels: Any) -> Any:
            images = normalize_images(images, problem_lib.mean, problem_lib.std)
            features = self._model.apply(variables(clip_params, {}), images, method="encode_image_frozen")

            def loss(probe: Any) -> jax.Array:
                logits = features @ probe["weights"] + probe["bias"]
                return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

            return optax.apply_updates(probe, optax.tree.scale(-setting.learning_rate, jax.grad(loss)(probe)))

        def call() -> None:
            nonlocal probe
            probe = cast(Any, step)(probe, self._frozen.backbone, arrays["images"], arrays["labels"])
            jax.block_until_ready(probe)

        return call

    def _make_product(self) -> Callable[[], None]:
        rows, inner, columns = measures.product_shape(self._problem)
        keys = jax.random.split(jax.random.key(0))
        left = jax.random.normal(keys[0], (rows, inner), self._dtype)
        right = jax.random.normal(keys[1], (inner, columns), self._dtype)
        einsum = cast(Any, self._model.backbone).products.einsum
        product = jax.jit(functools.partial(einsum, "ri,ic->rc"))
        return lambda: _finish(product(left, right))


def _finish(result: Any) -> None:
    jax.block_until_ready(result)


def _learner(problem: Problem) -> MpaPrompts:
    setting, spec = problem.setting, CLIP(problem.clip_config).spec
    layers = tuple(range(1, spec.vision.num_layers + 1))
    return MpaPrompts(spec.text, spec.vision, setting.num_ctx, 0, 0.02, "", setting.num_visual, layers, 0.02, False)


def _texts(arrays: Arrays) -> Texts:
    """The class prompts, trimmed to the longest as in a run."""
    ends = arrays["ends"]
    ids = arrays["ids"][:, : ends.max() + 1]
    position = cast(np.ndarray[Any, Any], np.arange(ids.shape[1]))
    return Texts(jnp.asarray(ids), jnp.asarray(ends), jnp.asarray((position > 0) & (position < ends[:, None])))


def _batch(arrays: Arrays, num_classes: int) -> Arrays:
    labels = arrays["labels"]
    return {
        "image": arrays["images"],
        "label": labels,
        "label_distribution": np.eye(num_classes, dtype=np.float32)[labels],
        "index": np.arange(len(labels)),
        "mask": np.ones(len(labels), np.float32),
    }


def _eval_part(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("image", "index", "mask")}
