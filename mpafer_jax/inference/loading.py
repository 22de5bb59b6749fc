"""Loads a model for prediction, from a checkpoint or as a zero-shot CLIP."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.artifacts.loaded import load_model
from mpafer_jax.backbones.base import Color, Pretrained
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.config.schema import PromptGranularity
from mpafer_jax.method import build
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.hard_prompts.bank import Bank, load_banks
from mpafer_jax.method.hard_prompts.features import class_features, encode_hard_prompts, text_encoder
from mpafer_jax.method.hard_prompts.templates import build_hard_prompts, prompt_name
from mpafer_jax.method.model import PromptedModel
from mpafer_jax.method.prompts import Params, PromptLearner, check_names_differ

_PAPER_TOP_K, _PAPER_PATCHES = 16, 196


@dataclasses.dataclass(frozen=True, eq=False)
class ReadyModel:
    """A model with encoded texts.

    Attributes:
      experiment: the model, its frozen part on the devices.
      params: of its prompt learner.
      text_features: theta(t) [C, D].
      trained_on: training data, if any, and CLIP.
      mean, std: of the backbone's normalisation, per colour, on the scale 0..1.
    """

    experiment: build.Experiment
    params: Params = dataclasses.field(repr=False)
    text_features: jax.Array = dataclasses.field(repr=False)
    trained_on: TrainedOn
    mean: Color
    std: Color


def from_checkpoint(path: str | os.PathLike[str], which: checkpoints.Which, clip: str) -> ReadyModel:
    """See `Predictor.from_checkpoint`."""
    loaded = load_model(path, which, clip)
    experiment, normalization = loaded.experiment, loaded.description.normalization()
    mean, std = _rgb(normalization["mean"]), _rgb(normalization["std"])
    encode_texts: Any = jax.jit(Forward(experiment.model, mean, std).encode_texts)
    return ReadyModel(
        experiment=experiment,
        params=loaded.params,
        text_features=encode_texts(loaded.params, experiment.frozen),
        trained_on=loaded.description.trained_on,
        mean=mean,
        std=std,
    )


def zero_shot(
    clip: str | Pretrained,
    class_names: Sequence[str],
    bank: str | Bank | None,
    *,
    granularity: Sequence[PromptGranularity],
    paraphrases: int,
    top_k: int,
    local_weight: float,
) -> ReadyModel:
    """See `Predictor.zero_shot`."""
    class_names = check_class_names(class_names, "class_names", at_least=2)
    loaded = load_backbone(clip) if isinstance(clip, str) else clip
    if loaded.image_mean is None or loaded.image_std is None:
        raise ValueError(
            f"{loaded.name} says no mean and std of its images (no preprocessor_config.json), so they are unknown"
        )
    if isinstance(bank, str):
        bank = load_banks((bank,), paraphrases)
    hard_prompts = build_hard_prompts(class_names, 2 if bank is None else 3, bank, granularities=granularity)
    names = [prompt_name(name) for name in class_names]
    encode = loaded.load_tokenizer().encode
    check_names_differ(names, encode)
    num_patches = loaded.backbone.spec.num_patches
    model = PromptedModel(
        loaded.backbone,
        PromptLearner(),
        top_k=top_k or max(1, round(num_patches * _PAPER_TOP_K / _PAPER_PATCHES)),
        local_weight=local_weight,
    )
    if local_weight and model.top_k > num_patches:
        raise ValueError(f"top_k is {top_k}, {loaded.name} has {num_patches} patches")
    experiment = build.assemble(model, loaded, class_names, names, hard_prompts)
    encoder = text_encoder(model, experiment.frozen.backbone, encode)
    text_features, _ = encode_hard_prompts({"own": hard_prompts}, encoder)["own"]
    return ReadyModel(
        experiment=experiment,
        params={},
        text_features=class_features(text_features),
        trained_on=TrainedOn("", 0, loaded.name),
        mean=loaded.image_mean,
        std=loaded.image_std,
    )


def _rgb(values: Sequence[float]) -> Color:
    red, green, blue = values
    return (red, green, blue)
