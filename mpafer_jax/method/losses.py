"""MPA-FER's losses, one pure function per equation.

Each takes arrays and returns one value per example or per class; the caller reduces, over a batch and over devices.
Nothing here knows of devices, modules or configs. Equations: MPA-FER (arXiv 2506.21017). Shapes: B images, C classes,
D features.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mpafer_jax.backbones.clip.model import normalize

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
class Objective:
    """Which terms make up the loss, and how (Eq. 12): L = L_vt + beta (L_ta + L_pa) + gamma L_v.

    A term whose weight is 0 is not computed.

    Attributes:
      beta: weight of the hard-soft alignment.
      gamma: weight of the prototype alignment.
      token_weight: weight of L_ta inside the hard-soft alignment.
      prompt_weight: weight of L_pa inside it.
      token_distance: 'contrastive' or 'l1'.
      prompt_distance: 'contrastive', 'l1' or 'cosine'.
      temperature: tau of the contrastive forms.
      prototype_distance: 'cosine' or 'l1'.
      label_smoothing: see `cross_entropy`.
    """

    beta: float = 1.0
    gamma: float = 1.0
    token_weight: float = 1.0
    prompt_weight: float = 1.0
    token_distance: str = "contrastive"
    prompt_distance: str = "contrastive"
    temperature: float = 0.01
    prototype_distance: str = "cosine"
    label_smoothing: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the total, by name; terms that are switched off are left out."""
        everything = {
            "cross_entropy": 1.0,
            "token_alignment": self.beta * self.token_weight,
            "prompt_alignment": self.beta * self.prompt_weight,
            "prototype_alignment": self.gamma,
        }
        return {name: weight for name, weight in everything.items() if weight}

    def per_class_terms(
        self,
        *,
        token_features: jax.Array,
        text_features: jax.Array,
        hard_token_features: jax.Array,
        hard_text_features: jax.Array,
    ) -> dict[str, jax.Array]:
        """Terms with no batch axis, [C] each: they are the same for every image and on every device.

        Args:
          token_features: t [C, W], pooled token embeddings of the soft prompts.
          text_features: theta(t) [C, D].
          hard_token_features: t* [G, C, W], in G groups of hard prompts.
          hard_text_features: theta(t*) [G, C, D].
        """
        pairs = {
            "token_alignment": (self.token_distance, token_features, hard_token_features),
            "prompt_alignment": (self.prompt_distance, text_features, hard_text_features),
        }
        return {
            name: mean_over_groups(self._alignment(distance), soft, hard)
            for name, (distance, soft, hard) in pairs.items()
            if name in self.weights
        }

    def _alignment(self, distance: str) -> Alignment:
        if distance == "contrastive":
            return functools.partial(contrastive_alignment, temperature=self.temperature)
        return cosine_alignment if distance == "cosine" else l1_alignment

    def per_example_terms(
        self,
        *,
        logits: jax.Array,
        targets: jax.Array,
        image_features: jax.Array,
        labels: jax.Array,
        prototypes: jax.Array,
    ) -> dict[str, jax.Array]:
        """Terms with a batch axis, [B] each.

        Args:
          logits: [B, C].
          targets: [B, C], rows that sum to one.
          image_features: z^g [B, D] under the visual prompts.
          labels: y [B] int.
          prototypes: p [C, D].
        """
        terms = {"cross_entropy": cross_entropy(logits, targets, self.label_smoothing)}
        if "prototype_alignment" in self.weights:
            cosine = self.prototype_distance == "cosine"
            align = cosine_prototype_alignment if cosine else l1_prototype_alignment
            terms["prototype_alignment"] = align(image_features, prototypes, labels)
        return terms

    def total(self, terms: dict[str, jax.Array]) -> jax.Array:
        """The loss (Eq. 12) from the value of each term, [] each."""
        return sum((weight * terms[name] for name, weight in self.weights.items()), start=jnp.zeros((), jnp.float32))
