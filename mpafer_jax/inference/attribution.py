"""Attribution of a prediction: patch scores, attention rollout, nearest descriptions.

A class's heat map holds the patch scores cos(z^l_i, theta(t_d)), whose k highest make the class's local score (MPA-FER
Eq. 8-10). Attention rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020), extended to visual
prompts. `inference.faithfulness` measures both.

Shapes: B images, N patches, L = 1 + N positions (CLS first), N_p visual prompts, K layers, C classes, P phrases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpafer_jax.backbones.base import Outputs
from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.config.schema import Granularity
from mpafer_jax.evaluation import overlay
from mpafer_jax.inference.batching import PaddedFunction
from mpafer_jax.inference.predictor import Predictor
from mpafer_jax.inference.results import Floats, Prediction
from mpafer_jax.method.hard_prompts.bank import Bank, load_bank
from mpafer_jax.method.hard_prompts.features import text_encoder
from mpafer_jax.method.model import global_local_logits
from mpafer_jax.method.prompts import Prompts
from mpafer_jax.method.state import Frozen

_PHRASE = "a photo of a person with {}"  # hard prompts of type 3 without the class name


def rollout(attention: jax.Array, num_patches: int, fresh: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Share of each patch in the final CLS state, by attention rollout through all layers.

    A layer passes on half of its input (residual) and half of what it attends to. Attention to a visual prompt that is
    replaced at a layer ends there: it comes from no patch.

    Args:
      attention: [K, B, L, L + N_p], see `Backbone.attention`: L positions are CLS, N patches, and prompts in sequence.
      num_patches: N.
      fresh: [K] bool, the layers before which prompts in sequence are replaced.

    Returns:
      Shares of the patches [B, N] and of the visual prompts of all layers [B]; the rest to 1 is CLS's.
    """
    length = attention.shape[2]
    start = jnp.zeros((attention.shape[1], length), jnp.float32).at[:, 0].set(1.0)  # at the end, all of it is CLS's

    def one_layer_down(share: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        weights, is_fresh = layer
        taken = jnp.einsum("bl,blm->bm", share, weights)  # [B, L + N_p]
        share, ended = (share + taken[:, :length]) / 2, jnp.sum(taken[:, length:], axis=1) / 2
        in_sequence = share[:, 1 + num_patches :]
        kept = jnp.concatenate([share[:, : 1 + num_patches], jnp.where(is_fresh, 0.0, in_sequence)], axis=1)
        return kept, ended + jnp.where(is_fresh, jnp.sum(in_sequence, axis=1), 0.0)

    share, prompts = jax.lax.scan(one_layer_down, start, (attention, fresh), reverse=True)
    return share[:, 1 : 1 + num_patches], jnp.sum(prompts, axis=0)


@dataclasses.dataclass(frozen=True, slots=True)
class Phrase:
    """A text of a description bank, with its class (as the bank spells it) and region."""

    text: str
    class_name: str
    granularity: Granularity


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The attribution of a prediction.

    Attributes:
      rollout: float32[rows, columns], share of each patch in attention rollout.
      prompt_share: the visual prompts' share in attention rollout.
      phrases: with scores, best first. A score is the mean of the cosines with the frozen CLIP's image feature and with
        its k nearest patches, weighted by the head's lambda.
    """

    prediction: Prediction
    rollout: Floats
    prompt_share: float
    phrases: tuple[tuple[Phrase, float], ...]

    def __repr__(self) -> str:
        nearest = f"; nearest phrase: {self.phrases[0][0].text}" if self.phrases else ""
        return f"<{type(self).__name__} of {self.prediction}{nearest}>"

    @property
    def class_maps(self) -> Floats | None:
        """Patch scores of every class, float32[C, rows, columns]; None without a local score."""
        scores = self.prediction.patch_scores
        return None if scores is None else scores.T.reshape(-1, *self.prediction.grid)

    @property
    def contrast_maps(self) -> Floats | None:
        """`overlay.contrast` of `class_maps`."""
        maps = self.class_maps
        return None if maps is None else overlay.contrast(maps)

    def to_dict(self) -> dict[str, Any]:
        """Prediction, maps, rollout and phrases, ready for JSON."""
        maps = self.class_maps
        names = self.prediction.class_names
        return {
            **self.prediction.to_dict(),
            "class_maps": None if maps is None else dict(zip(names, maps.tolist(), strict=True)),
            "rollout": self.rollout.tolist(),
            "prompt_share": self.prompt_share,
            "phrases": [{**dataclasses.asdict(phrase), "score": score} for phrase, score in self.phrases],
        }


class Explainer:
    """Computes attributions of a predictor's results; compiled once per batch size."""

    def __init__(self, predictor: Predictor, bank: Bank | str | None = "expressions") -> None:
        """Encodes the bank's phrases: of the predictor's classes if the bank has any of them, else of all.

        Args:
          predictor: makes the predictions to explain.
          bank: a `Bank`, its name or its path; None for no phrases.

        Raises:
          PromptError: the bank is missing, or a text does not fit the text tower.
        """
        bank = load_bank(bank) if isinstance(bank, str) else bank
        trained = {canonical_name(name) for name in predictor.class_names}
        classes = {} if bank is None else bank.classes
        names = [name for name in classes if canonical_name(name) in trained] or list(classes)
        self.phrases = tuple(
            Phrase(text.text, name, granularity) for name in names for granularity, text in classes[name].items()
        )
        self._predictor = predictor
        encode = text_encoder(predictor.model, predictor.untrained, predictor.tokenizer.encode)
        texts = [_PHRASE.format(phrase.text) for phrase in self.phrases]
        features = encode(texts)[0] if texts else np.zeros((0, predictor.text_features.shape[-1]), np.float32)
        arguments = (predictor.params, predictor.frozen, predictor.untrained, predictor.text_features, features)
        self._explain = PaddedFunction(self._forward, arguments, predictor.image_size, predictor.batch_sizes)

    def explain(self, predictions: Sequence[Prediction]) -> list[Explanation]:
        """Attributions of predictions that hold their pixels (`Predictor.stream(..., keep_pixels=True)`).

        Raises:
          ValueError: a prediction holds no pixels.
        """
        if not predictions:
            return []
        pixels = [prediction.pixels for prediction in predictions if prediction.pixels is not None]
        if len(pixels) < len(predictions):
            raise ValueError("explanations need the pixels: take predictions from stream(..., keep_pixels=True)")
        outputs = self._explain(np.stack(pixels))
        return [
            Explanation(
                prediction=prediction,
                rollout=outputs["rollout"][row].reshape(prediction.grid),
                prompt_share=float(outputs["prompt_share"][row]),
                phrases=self._ranked(outputs["phrase_scores"][row]),
            )
            for row, prediction in enumerate(predictions)
        ]

    def _ranked(self, scores: Floats) -> tuple[tuple[Phrase, float], ...]:
        order: list[int] = np.argsort(-scores, kind="stable").tolist()
        return tuple((self.phrases[index], float(scores[index])) for index in order)

    def _forward(
        self,
        params: dict[str, Any],
        frozen: Frozen,
        untrained: dict[str, Any],
        text_features: jax.Array,
        phrase_features: jax.Array,
        pixels: jax.Array,
    ) -> Outputs:
        model = self._predictor.model
        forward = self._predictor.forward
        prompts = forward.image_prompts(params)
        _, out = forward.classify(prompts, frozen, pixels, text_features, attention=True)
        fresh = None if prompts.visual is None else prompts.visual.enabled
        if fresh is None:
            fresh = jnp.ones(len(out["attention"]), bool)
        shares, prompt_share = rollout(out["attention"], model.backbone.spec.num_patches, fresh)
        # What is trained for the classes' prompts moves features away from all other texts.
        if jax.tree.leaves(prompts) or self._predictor.frozen.backbone is not self._predictor.untrained:
            bare = dataclasses.replace(frozen, backbone=untrained)
            _, out = forward.classify(Prompts(), bare, pixels, text_features)
        scores, _ = global_local_logits(
            out["image_features"],
            out["patch_features"],
            phrase_features,
            logit_scale=1 / (1 + model.local_weight),
            top_k=model.top_k,
            local_weight=model.local_weight,
        )
        return {"rollout": shares, "prompt_share": prompt_share, "phrase_scores": scores}
