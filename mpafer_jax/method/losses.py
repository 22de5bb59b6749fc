"""Losses of MPA-FER (arXiv 2506.21017) and of other methods: one pure function per equation, and the terms of the loss.

Functions return a value per example or per class; the caller reduces over batch and devices. Shapes: B images,
C classes, D features, W width of the text tower, G groups of hard prompts.

To add a loss: write its function, add a `Term` to `TERMS` and its weight to `config.schema.LossSection`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax

from mpafer_jax.backbones.base import Outputs, l2_normalize
from mpafer_jax.config.schema import LossSection
from mpafer_jax.method.hard_prompts.features import class_features
from mpafer_jax.method.state import Frozen
from mpafer_jax.runtime.errors import ConfigError

Alignment = Callable[[jax.Array, jax.Array], jax.Array]  # soft [C, D], hard [C, D] -> [C]


def contrastive_alignment(soft: jax.Array, hard: jax.Array, temperature: float) -> jax.Array:
    """Contrastive hard-soft alignment (Eq. 1-4).

    L(d) = -log [ exp(cos(t_d, t*_d) / tau) / sum_c exp(cos(t_c, t*_d) / tau) ]: L_ta on pooled token embeddings, L_pa
    on features of the text tower.

    Args:
      soft: t [C, D], learned.
      hard: t* [C, D], fixed.
      temperature: tau.

    Returns:
      [C], one value per hard prompt d; the equation's loss is their mean.
    """
    similarity = l2_normalize(hard) @ l2_normalize(soft).T / temperature  # [d, c]
    return optax.softmax_cross_entropy_with_integer_labels(similarity, jnp.arange(similarity.shape[0]))


def l1_alignment(soft: jax.Array, hard: jax.Array) -> jax.Array:
    """L1 hard-soft alignment |t_c - t*_c| [C] of normalised soft t [C, D] and hard t* [C, D] features.

    Normalised, as the logits only depend on directions. The norm, a sum over the D features, where the other L1
    terms take their mean: it grows with the root of D, and its weight is to be chosen for that.
    """
    return jnp.sum(jnp.abs(l2_normalize(soft) - l2_normalize(hard)), axis=-1)


def cosine_alignment(soft: jax.Array, hard: jax.Array) -> jax.Array:
    """Cosine hard-soft alignment 1 - cos(t_c, t*_c) [C] of soft t [C, D] and hard t* [C, D] features.

    Half the squared distance of normalised features, as in KgCoOp (Yao et al., 2023).
    """
    return 1 - jnp.sum(l2_normalize(soft) * l2_normalize(hard), axis=-1)


def mean_over_groups(alignment: Alignment, soft: jax.Array, hard: jax.Array) -> jax.Array:
    """Alignment [C] averaged over groups of hard prompts: (1 / G) sum_g L(t, t*_g).

    Classes are contrasted within a group: mouths with mouths, brows with brows.

    Args:
      alignment: L, one of the functions above.
      soft: t [C, D], learned.
      hard: t* [G, C, D], fixed.
    """
    return jnp.mean(jnp.stack([alignment(soft, group) for group in hard]), axis=0)


def cosine_prototype_alignment(image_features: jax.Array, prototypes: jax.Array, labels: jax.Array) -> jax.Array:
    """Prototype alignment 1 - cos(z^g_i, p_{y_i}) [B] (Eq. 7 with M = cosine distance).

    Args:
      image_features: z^g [B, D].
      prototypes: p [C, D].
      labels: y [B] int.
    """
    return 1 - jnp.sum(l2_normalize(image_features) * l2_normalize(prototypes)[labels], axis=-1)


def l1_prototype_alignment(image_features: jax.Array, prototypes: jax.Array, labels: jax.Array) -> jax.Array:
    """Prototype alignment |z^g_i - p_{y_i}| [B] (Eq. 7 with M = L1); arguments as for the cosine form.

    Mean over the D features, not their sum, so that gamma does not depend on D.
    """
    return jnp.mean(jnp.abs(image_features - prototypes[labels]), axis=-1)


def consistency(features: jax.Array, frozen: jax.Array) -> jax.Array:
    """L1 distance [n] of features [n, D] with prompts from those of the frozen CLIP, both normalised.

    PromptSRC's L_SCL of images and of texts (Khattak et al., 2023), as the mean over the D features: the paper
    writes their sum, the authors' code, for which the weights 10 and 25 hold, takes the mean.
    """
    return jnp.mean(jnp.abs(l2_normalize(features) - l2_normalize(frozen)), axis=-1)


def logit_consistency(logits: jax.Array, frozen_logits: jax.Array) -> jax.Array:
    """Divergence [B] of predictions q with prompts from the frozen CLIP's p: (1 / C) sum_c p_c log(p_c / q_c).

    PromptSRC's L_SCL of logits. The direction and the division by C are those of the authors' code.

    Args:
      logits: [B, C].
      frozen_logits: [B, C].
    """
    p, q = jax.nn.log_softmax(frozen_logits), jax.nn.log_softmax(logits)
    return jnp.mean(jnp.exp(p) * (p - q), axis=-1)


def channels_of_classes(features: jax.Array, num_classes: int) -> jax.Array:
    """Features [B, D] as [B, C, K]: K = floor(D / C) channels in a row for each of C classes; the rest is left out."""
    size = features.shape[-1] // num_classes
    return features[:, : size * num_classes].reshape(-1, num_classes, size)


def channel_separation(features: jax.Array, targets: jax.Array, kept: jax.Array) -> jax.Array:
    """CAFE's separation of channels (Zhang et al., 2024): cross-entropy [B] of logits r_c = max_k kept_ck z'_ck.

    A channel that is dropped counts as 0, as in the authors' code.

    Args:
      features: z' [B, D], masked, not normalised, divided by `channels_of_classes`.
      targets: [B, C], rows sum to one.
      kept: [C, K], 1 or 0 (`kept_channels`).
    """
    logits = jnp.max(channels_of_classes(features, targets.shape[1]) * kept, axis=-1)
    return optax.softmax_cross_entropy(logits, targets)


def channel_diversity(features: jax.Array, num_classes: int) -> jax.Array:
    """CAFE's channel-diverse loss [B]: 1 - (1 / (C K)) sum_c max_k z'_ck, of the K channels of each of C classes.

    Args:
      features: z' [B, D], masked, not normalised.
      num_classes: C.
    """
    channels = channels_of_classes(features, num_classes)
    return 1 - jnp.mean(jnp.max(channels, axis=-1), axis=-1) / channels.shape[-1]


def kept_channels(step: jax.Array, num_classes: int, size: int) -> jax.Array:
    """Which channels [C, K] a step keeps: of each class's K all but round(10 K / 73), at random, for all images alike.

    A function of the step only, so that devices agree and a resumed run repeats it. The authors' code drops 10 of 73.
    """
    words = jnp.stack([jnp.zeros((), jnp.uint32), step.astype(jnp.uint32)])
    key = cast(Any, jax.random).wrap_key_data(words, impl="threefry2x32")
    with jax.threefry_partitionable(True):
        draws = jax.random.uniform(key, (num_classes, size), jnp.float32)
    rank = jnp.argsort(jnp.argsort(draws, axis=-1), axis=-1)
    return (rank >= round(size * 10 / 73)).astype(jnp.float32)


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy [B] of global-local logits, L_vt (Eq. 11).

    Args:
      logits: [B, C].
      targets: [B, C], rows sum to one: one-hot labels, or votes; or each entry times the weight of its class.
      label_smoothing: fraction of each target that is spread evenly over the classes.
    """
    evenly = jnp.mean(targets, axis=-1, keepdims=True)
    return optax.softmax_cross_entropy(logits, (1 - label_smoothing) * targets + label_smoothing * evenly)


def class_weights(counts: jax.Array, kind: Literal["inverse_frequency", "effective_number"], beta: float) -> jax.Array:
    """Weights w_c [C] of the classes in the cross-entropy.

    Scaled to mean 1 over the training images, sum_c n_c w_c = sum_c n_c: the cross-entropy keeps its scale beside the
    other terms. A batch's sum is divided by its number of images and not by the sum of its weights, so an image's
    weight does not depend on the others in its batch or on its device.

    Args:
      counts: n_c [C] float32, training labels of each class, all above 0.
      kind: inverse_frequency, w_c ~ 1 / n_c; effective_number, w_c ~ (1 - beta) / (1 - beta^n_c) (Cui et al., 2019,
        "Class-Balanced Loss Based on Effective Number of Samples").
      beta: of the effective number, above 0 and below 1.
    """
    # 1 - beta^n without cancellation.
    weights = 1 / (counts if kind == "inverse_frequency" else -jnp.expm1(counts * math.log(beta)))
    return weights * (jnp.sum(counts) / jnp.sum(counts * weights))


def log_prior(counts: jax.Array) -> jax.Array:
    """log pi_c [C] of the class frequencies pi_c = n_c / sum_c n_c; n_c [C] float32, all above 0.

    Logit adjustment adds tau log pi_c to the logits, in the training loss only (Menon et al., 2021, "Long-Tail Learning
    via Logit Adjustment").
    """
    return jnp.log(counts / jnp.sum(counts))


@dataclasses.dataclass(frozen=True)
class Context:
    """Inputs of the terms, for a batch or a part of it.

    Attributes:
      logits: [B, C].
      targets: [B, C], rows sum to one: one-hot labels, or votes.
      labels: y [B] int.
      outputs: intermediates of the forward pass: 'image_features' z^g [B, D] with visual prompts, 'text_features'
        theta(t) [C, D], 'token_features' t [C, W] (pooled token embeddings of the soft prompts); with images also
        'patch_features' Z^l [B, N, D] and the scores of `model.global_local_logits`; where a term `reads_frozen`
        also 'frozen_image_features' [B, D] of the CLIP without prompts, and its 'frozen_logits' [B, C] by the run's
        head.
      params: trained parameters.
      frozen: constants: 'hard_text_features' theta(t*) [G, C, D], 'hard_token_features' t* [G, C, W], 'prototypes'
        p [C, D], 'class_counts' n_c [C].
      step: [] int32, number of earlier updates.
    """

    options: LossSection
    logits: jax.Array
    targets: jax.Array
    labels: jax.Array
    outputs: Outputs
    params: dict[str, jax.Array]
    frozen: Frozen
    step: jax.Array = dataclasses.field(default_factory=lambda: jnp.zeros((), jnp.int32))

    @property
    def prototypes(self) -> jax.Array:
        """p [C, D].

        Raises:
          ValueError: no term of the run has `reads_prototypes`.
        """
        if self.frozen.prototypes is None:
            raise ValueError("no prototypes were computed: a Term that reads them needs reads_prototypes=True")
        return self.frozen.prototypes

    @property
    def class_counts(self) -> jax.Array:
        """n_c [C].

        Raises:
          ValueError: `Frozen` has none.
        """
        if self.frozen.class_counts is None:
            raise ValueError("class weights and logit adjustment need Frozen.class_counts, which is None")
        return self.frozen.class_counts


@dataclasses.dataclass(frozen=True)
class Term:
    """A term of the loss.

    Attributes:
      name: in `metrics.jsonl` and `loss.terms`.
      title: in reports.
      axis: of its values: "example" [B] or "class" [C].
      weight: computes the term's weight; terms with weight 0 are not computed.
      fn: computes the values.
      equation: in the paper; '' for a term that is not part of MPA-FER.
      reads_prototypes: whether `fn` reads `Context.prototypes`, which are then computed before training.
      reads_frozen: whether `fn` reads the frozen CLIP's outputs for the batch, which cost a second pass through the
        image tower.
    """

    name: str
    title: str
    axis: Literal["example", "class"]
    weight: Callable[[LossSection], float]
    fn: Callable[[Context], jax.Array]
    equation: str = ""
    reads_prototypes: bool = False
    reads_frozen: bool = False


def _cross_entropy(context: Context) -> jax.Array:
    options, logits, targets = context.options, context.logits, context.targets
    if options.class_weights != "none":
        targets = targets * class_weights(context.class_counts, options.class_weights, options.effective_number_beta)
    if options.logit_adjustment:
        logits = logits + options.logit_adjustment * log_prior(context.class_counts)
    return cross_entropy(logits, targets, options.label_smoothing)


def _alignment(distance: str, temperature: float) -> Alignment:
    if distance == "contrastive":
        return functools.partial(contrastive_alignment, temperature=temperature)
    return cosine_alignment if distance == "cosine" else l1_alignment


def _token_alignment(context: Context) -> jax.Array:
    alignment = _alignment(context.options.token_distance, context.options.temperature)
    return mean_over_groups(alignment, context.outputs["token_features"], context.frozen.hard_token_features)


def _prompt_alignment(context: Context) -> jax.Array:
    alignment = _alignment(context.options.prompt_distance, context.options.temperature)
    return mean_over_groups(alignment, context.outputs["text_features"], context.frozen.hard_text_features)


def _prototype_alignment(context: Context) -> jax.Array:
    cosine = context.options.prototype_distance == "cosine"
    align = cosine_prototype_alignment if cosine else l1_prototype_alignment
    return align(context.outputs["image_features"], context.prototypes, context.labels)


def _image_consistency(context: Context) -> jax.Array:
    return consistency(context.outputs["image_features"], context.outputs["frozen_image_features"])


def _text_consistency(context: Context) -> jax.Array:
    return consistency(context.outputs["text_features"], class_features(context.frozen.hard_text_features))


def _logit_consistency(context: Context) -> jax.Array:
    return logit_consistency(context.logits, context.outputs["frozen_logits"])


def _channel_separation(context: Context) -> jax.Array:
    features, classes = context.outputs["image_features"], context.targets.shape[1]
    kept = kept_channels(context.step, classes, features.shape[1] // classes)
    return channel_separation(features, context.targets, kept)


def _channel_diversity(context: Context) -> jax.Array:
    return channel_diversity(context.outputs["image_features"], context.targets.shape[1])


TERMS = (
    Term("cross_entropy", "Cross-entropy", "example", lambda loss: 1.0, _cross_entropy, equation="11"),
    Term(
        "token_alignment",
        "Token-level alignment",
        "class",
        lambda loss: loss.beta * loss.token_weight,
        _token_alignment,
        equation="1-4",
    ),
    Term(
        "prompt_alignment",
        "Prompt-level alignment",
        "class",
        lambda loss: loss.beta * loss.prompt_weight,
        _prompt_alignment,
        equation="1-4",
    ),
    Term(
        "prototype_alignment",
        "Prototype alignment",
        "example",
        lambda loss: loss.gamma,
        _prototype_alignment,
        equation="7",
        reads_prototypes=True,
    ),
    Term(
        "image_consistency",
        "Consistency with frozen image features",
        "example",
        lambda loss: loss.image_consistency,
        _image_consistency,
        reads_frozen=True,
    ),
    Term(
        "text_consistency",
        "Consistency with frozen text features",
        "class",
        lambda loss: loss.text_consistency,
        _text_consistency,
    ),
    Term(
        "logit_consistency",
        "Consistency with frozen logits",
        "example",
        lambda loss: loss.logit_consistency,
        _logit_consistency,
        reads_frozen=True,
    ),
    Term(
        "channel_separation",
        "Separation of channels",
        "example",
        lambda loss: loss.channel_separation,
        _channel_separation,
    ),
    Term(
        "channel_diversity",
        "Diversity of channels",
        "example",
        lambda loss: loss.channel_diversity,
        _channel_diversity,
    ),
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weighted sum of terms; the paper's (Eq. 12) is L = L_vt + beta (L_ta + L_pa) + gamma L_v.

    Attributes:
      terms: those with a weight other than 0, in the order of `TERMS`.
    """

    options: LossSection
    terms: tuple[Term, ...]

    @classmethod
    def of(cls, options: LossSection, *, only: Collection[str] = ()) -> Objective:
        """The configured loss.

        Args:
          options: weights; `options.terms` restricts the terms, () for all.
          only: names of terms that override `options.terms`.

        Raises:
          ConfigError: unknown term, or all weights are 0.
        """
        names = only or options.terms or [term.name for term in TERMS]
        if unknown := [name for name in names if name not in [term.name for term in TERMS]]:
            raise ConfigError(
                f"config.loss.terms holds {', '.join(map(repr, unknown))}, expected names of "
                f"{', '.join(term.name for term in TERMS)}; several as \"('cross_entropy','prompt_alignment')\""
            )
        terms = tuple(term for term in TERMS if term.name in names and term.weight(options))
        if not terms:
            raise ConfigError(f"nothing would be trained: the weight of each of {', '.join(names)} is 0 (config.loss)")
        return cls(options, terms)

    @property
    def weights(self) -> dict[str, float]:
        """Weights by name of the term."""
        return {term.name: term.weight(self.options) for term in self.terms}

    def idle_options(self) -> list[str]:
        """Sentences on what was set and has no effect: a listed term without weight, a weight without its term."""
        options, listed = self.options, self.options.terms
        left_out = [name for name in listed if name not in self.weights]
        idle = [f"config.loss.terms names {name}, whose weight is 0: it is left out" for name in left_out]
        fields = [name for name, value in options if isinstance(value, float)]
        changed = [name for name in fields if getattr(options, name) not in (0.0, getattr(LossSection(), name))]
        candidates = [term for term in TERMS if not listed or term.name in listed]

        def is_weight(field: str, terms: Iterable[Term]) -> bool:
            """Whether the weight of one of these terms depends on a field."""
            ones = options.model_copy(update=dict.fromkeys(fields, 1.0))
            return any(term.weight(ones.model_copy(update={field: 2.0})) != term.weight(ones) for term in terms)

        idle += [
            f"config.loss.{name} is {getattr(options, name):g}, but none of config.loss.terms has this weight"
            for name in changed
            if is_weight(name, TERMS) and not is_weight(name, candidates)
        ]
        return idle

    def with_numbers(self, numbers: Mapping[str, Mapping[str, Any]]) -> Objective:
        """Copy with numbers of the section 'loss' replaced (`Frozen.numbers`); the terms stay, none must become 0."""
        return dataclasses.replace(self, options=self.options.model_copy(update=numbers.get("loss")))

    @property
    def reads_prototypes(self) -> bool:
        """Whether any term reads class prototypes."""
        return any(term.reads_prototypes for term in self.terms)

    @property
    def reads_frozen(self) -> bool:
        """Whether any term reads the frozen CLIP's outputs for the batch."""
        return any(term.reads_frozen for term in self.terms)

    def __str__(self) -> str:
        """As a sum: 'cross_entropy + 0.5 token_alignment', and how class imbalance is corrected."""
        terms = " + ".join(name if w == 1 else f"{w:g} {name}" for name, w in self.weights.items())
        return ", ".join(filter(None, [terms, self.options.imbalance]))

    def values(self, context: Context, axis: Literal["example", "class"]) -> dict[str, jax.Array]:
        """Values of the terms with this axis, by name: [B] each for "example", [C] each for "class"."""
        return {term.name: term.fn(context) for term in self.terms if term.axis == axis}

    def total(self, terms: dict[str, jax.Array]) -> jax.Array:
        """The loss [] from the terms' means, [] each."""
        return sum((weight * terms[name] for name, weight in self.weights.items()), start=jnp.zeros((), jnp.float32))
