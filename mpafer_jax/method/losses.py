"""MPA-FER's losses: one pure function per equation, and the terms that a run may train with.

The functions return one value per example or per class; the caller reduces, over a batch and over devices. Nothing here
knows of devices or of configuration files. Equations: MPA-FER (arXiv 2506.21017). Shapes: B images, C classes,
D features, W the width of the text tower, G groups of hard prompts.

To add a loss: write its function, add a `Term` to `TERMS`, and give `config.schema.LossSection` its weight.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from mpafer_jax.backbones.base import Outputs, normalize
from mpafer_jax.config.schema import LossSection
from mpafer_jax.method.state import Frozen
from mpafer_jax.runtime.errors import ConfigError

Alignment = Callable[[jax.Array, jax.Array], jax.Array]  # soft [C, D], hard [C, D] -> [C]


def contrastive_alignment(soft: jax.Array, hard: jax.Array, temperature: float) -> jax.Array:
    """Hard-soft alignment by contrast: among all soft prompts, a hard prompt's own must be nearest (Eq. 1-4).

    L(d) = -log [ exp(cos(t_d, t*_d) / tau) / sum_c exp(cos(t_c, t*_d) / tau) ]. With pooled token embeddings this is
    L_ta, with the text tower's features it is the contrastive form of L_pa.

    Args:
      soft: t [C, D], learned.
      hard: t* [C, D], fixed.
      temperature: tau.

    Returns:
      [C], one value per hard prompt d; the equation's loss is their mean.
    """
    similarity = normalize(hard) @ normalize(soft).T / temperature  # [d, c]
    return optax.softmax_cross_entropy_with_integer_labels(similarity, jnp.arange(similarity.shape[0]))


def l1_alignment(soft: jax.Array, hard: jax.Array) -> jax.Array:
    """Hard-soft alignment by distance: |t_c - t*_c|, on normalised features, since only directions reach the logits.

    Args:
      soft: t [C, D], learned.
      hard: t* [C, D], fixed.

    Returns:
      [C], the L1 norm of each difference.
    """
    return jnp.sum(jnp.abs(normalize(soft) - normalize(hard)), axis=-1)


def cosine_alignment(soft: jax.Array, hard: jax.Array) -> jax.Array:
    """Hard-soft alignment by angle: 1 - cos(t_c, t*_c), half the squared distance of the normalised features.

    KgCoOp's discrepancy between learned and fixed prompts (Yao et al., 2023).

    Args:
      soft: t [C, D], learned.
      hard: t* [C, D], fixed.

    Returns:
      [C].
    """
    return 1 - jnp.sum(normalize(soft) * normalize(hard), axis=-1)


def mean_over_groups(alignment: Alignment, soft: jax.Array, hard: jax.Array) -> jax.Array:
    """Alignment with several groups of hard prompts: (1 / G) sum_g L(t, t*_g), each group a term of its own.

    Classes are told apart within a group: mouths from mouths, brows from brows.

    Args:
      alignment: L, `contrastive_alignment` at some temperature, `l1_alignment` or `cosine_alignment`.
      soft: t [C, D], learned.
      hard: t* [G, C, D], fixed.

    Returns:
      [C].
    """
    return jnp.mean(jnp.stack([alignment(soft, group) for group in hard]), axis=0)


def cosine_prototype_alignment(image_features: jax.Array, prototypes: jax.Array, labels: jax.Array) -> jax.Array:
    """Prototype alignment 1 - cos(z^g_i, p_{y_i}) (Eq. 7 with M = cosine distance).

    Args:
      image_features: z^g [B, D].
      prototypes: p [C, D].
      labels: y [B] int.

    Returns:
      [B].
    """
    return 1 - jnp.sum(normalize(image_features) * normalize(prototypes)[labels], axis=-1)


def l1_prototype_alignment(image_features: jax.Array, prototypes: jax.Array, labels: jax.Array) -> jax.Array:
    """Prototype alignment |z^g_i - p_{y_i}| (Eq. 7 with M = L1); arguments as for the cosine form.

    Returns:
      [B], the mean absolute difference over the D features: a mean and not a sum, so that the weight gamma does not
      depend on the width of the CLIP.
    """
    return jnp.mean(jnp.abs(image_features - prototypes[labels]), axis=-1)


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of global-local logits, L_vt (Eq. 11).

    Args:
      logits: [B, C].
      targets: [B, C], rows that sum to one: one-hot labels, or votes.
      label_smoothing: this much of each target is spread evenly over the classes.

    Returns:
      [B].
    """
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


@dataclasses.dataclass(frozen=True)
class Context:
    """Everything that a term may read, of one part of a batch.

    Attributes:
      options: the loss section of the configuration.
      logits: [B, C].
      targets: [B, C], rows that sum to one: one-hot labels, or votes.
      labels: y [B] int.
      outputs: every intermediate of the forward pass by name: 'image_features' z^g [B, D] under the visual prompts,
        'text_features' theta(t) [C, D], 'token_features' t [C, W] (pooled token embeddings of the soft prompts); of a
        forward pass over images also 'patch_features' Z^l [B, N, D] and the scores of `model.global_local_logits`.
      params: the trained parameters.
      frozen: what no step changes: 'hard_text_features' theta(t*) [G, C, D], 'hard_token_features' t* [G, C, W],
        'prototypes' p [C, D].
    """

    options: LossSection
    logits: jax.Array
    targets: jax.Array
    labels: jax.Array
    outputs: Outputs
    params: dict[str, jax.Array]
    frozen: Frozen

    @property
    def prototypes(self) -> jax.Array:
        """p [C, D].

        Raises:
          ValueError: none were computed, since no term of the run says that it reads them.
        """
        if self.frozen.prototypes is None:
            raise ValueError("no prototypes were computed: a Term that reads them needs reads_prototypes=True")
        return self.frozen.prototypes


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of the loss.

    Attributes:
      name: of its curve in `metrics.jsonl`, and in `loss.terms`.
      title: of its curve in reports.
      axis: of its values: "example" [B], or "class" [C] for one that is the same for every image.
      weight: from the loss section to the term's weight in the total; the term is not computed where it is 0.
      fn: the values.
      equation: of the paper; '' for a term that is not part of MPA-FER.
      reads_prototypes: whether `fn` reads `Context.prototypes`, which then are computed before training.
    """

    name: str
    title: str
    axis: Literal["example", "class"]
    weight: Callable[[LossSection], float]
    fn: Callable[[Context], jax.Array]
    equation: str = ""
    reads_prototypes: bool = False


def _cross_entropy(context: Context) -> jax.Array:
    return cross_entropy(context.logits, context.targets, context.options.label_smoothing)


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
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a run, a weighted sum of terms; the paper's (Eq. 12): L = L_vt + beta (L_ta + L_pa) + gamma L_v.

    Attributes:
      options: the loss section of the configuration.
      terms: those whose weight is not 0, in the order of `TERMS`.
    """

    options: LossSection
    terms: tuple[Term, ...]

    @classmethod
    def of(cls, options: LossSection, *, only: Collection[str] = ()) -> Objective:
        """The loss that a configuration asks for.

        Args:
          options: the weights; and in `terms` the names of the terms that may be part of the loss, () for all.
          only: names of terms, for a method whose loss is these whatever `options.terms` says.

        Raises:
          ConfigError: a name is not a term's, or the weights of all terms are 0.
        """
        names = only or options.terms or [term.name for term in TERMS]
        if unknown := [name for name in names if name not in [term.name for term in TERMS]]:
            raise ConfigError(
                f"config.loss.terms holds {', '.join(unknown)}, expected names of "
                f"{', '.join(term.name for term in TERMS)}"
            )
        terms = tuple(term for term in TERMS if term.name in names and term.weight(options))
        if not terms:
            raise ConfigError(f"nothing would be trained: the weight of each of {', '.join(names)} is 0 (config.loss)")
        return cls(options, terms)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the total, by name."""
        return {term.name: term.weight(self.options) for term in self.terms}

    @property
    def reads_prototypes(self) -> bool:
        """Whether a term reads class prototypes."""
        return any(term.reads_prototypes for term in self.terms)

    def __str__(self) -> str:
        """As a sum: 'cross_entropy + 0.5 token_alignment'."""
        return " + ".join(name if w == 1 else f"{w:g} {name}" for name, w in self.weights.items())

    def values(self, context: Context, axis: Literal["example", "class"]) -> dict[str, jax.Array]:
        """The terms of an axis by name: [B] each for "example", [C] each for "class"."""
        return {term.name: term.fn(context) for term in self.terms if term.axis == axis}

    def total(self, terms: dict[str, jax.Array]) -> jax.Array:
        """The loss [] from the mean of each term, [] each."""
        return sum((weight * terms[name] for name, weight in self.weights.items()), start=jnp.zeros((), jnp.float32))
