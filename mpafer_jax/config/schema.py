"""The types of a run's configuration.

Values and their meaning (unit, source) live in `configs/`, as ml_collections records. This file says which fields
exist, their types and their bounds, so that a typo or an impossible value stops a run before it starts, and so that
the rest of the package reads a typed, frozen record instead of a dictionary.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from ml_collections import config_dict
from pydantic import Field

from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Range = tuple[Positive, Positive]
Rgb = tuple[Positive, Positive, Positive]
ALL_SPLITS = "all"  # as data.test_split: whatever splits the dataset has, joined; no reader calls one so


@dataclasses.dataclass(frozen=True)
class Place:
    """Marks a field whose value names a place on the machine of a run; `places` takes those out of what others read.

    Attributes:
      keeps: what says something elsewhere too: nothing, the last part of the path, or, as of a CLIP, a name on the Hub.
    """

    keeps: Literal["nothing", "last part", "hub name"]


Folder = Annotated[str, Place("nothing")]

Granularity = Literal["holistic", "brows", "eyes", "nose", "cheeks", "mouth", "chin"]
PromptGranularity = Literal["template", Granularity]  # 'template': the class's name alone
Combine = Literal["mean", "separate"]
LabelRule = Literal["owner", "majority_labelcsv", "majority_csv", "argmax", "distribution"]
DatasetName = Literal[
    "rafdb",
    "rafdb_compound",
    "ferplus",
    "affectnet",
    "fer2013",
    "sfew",
    "ckplus",
    "jaffe",
    "folder",
    "synthface",
]
ClassChoice = Literal["checkpoint", "common", "dataset"]
BaselineName = Literal[
    "majority",
    "zero_shot_type1",
    "zero_shot_type2",
    "zero_shot_type3",
    "zero_shot_permuted",
    "zero_shot_global_local",
    "linear_probe",
    "text_context",
]


class Record(pydantic.BaseModel):
    """A frozen record with typed fields; unknown ones are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    documented_in: ClassVar[str] = "configs/common.py"

    @classmethod
    def from_config_dict(cls, config: config_dict.ConfigDict | Mapping[str, Any]) -> Self:
        """Checks a config from `configs/` and freezes it.

        Raises:
          ConfigError: names every unknown, missing or impossible field, what was found and what is expected.
        """
        try:
            return cls.model_validate(config if isinstance(config, Mapping) else config.to_dict())
        except OSError as error:  # a file that --config could not read is reported when its content is asked for
            raise ConfigError(f"--config: {error}") from error
        except pydantic.ValidationError as error:
            raise ConfigError(_explain(error, cls.documented_in)) from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote. Raises ConfigError as `from_config_dict` does."""
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            raise ConfigError(_explain(error, cls.documented_in)) from error

    def to_json(self) -> str:
        """The record as indented JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


class _Section(Record):
    """A part of a run's configuration."""


class ClipSection(_Section):
    """Which CLIP is adapted, and in which form it computes."""

    name: Annotated[str, Place("hub name")]
    revision: str
    cache_dir: Folder
    dtype: Literal["float32", "bfloat16"]
    residual_dtype: Literal["float32", "bfloat16"]
    remat: Literal["none", "dots", "full"]

    @pydantic.field_validator("dtype", mode="before")
    @classmethod
    def _range_is_float32s(cls, dtype: object) -> object:
        if dtype == "float16":
            raise ValueError(
                "float16 is not offered: it holds no number above 65504 and none below 6e-8, so that gradients vanish "
                "unless the loss is scaled, which is not done here. Use bfloat16: as small, with float32's range"
            )
        return dtype

    @pydantic.model_validator(mode="after")
    def _residual_is_no_less_exact_for_nothing(self) -> Self:
        if self.dtype == "float32" and self.residual_dtype != "float32":
            raise ValueError(
                "residual_dtype is bfloat16, which saves nothing with dtype float32; change both or neither"
            )
        return self


class CtxSection(_Section):
    """The soft text prompts' context vectors."""

    num_ctx: PositiveCount
    class_specific: bool
    init_text: str
    init_std: Positive


class VisualPromptsSection(_Section):
    """The deep visual prompts."""

    num_prompts: Count
    layers: tuple[PositiveCount, ...]
    before_ln_pre: bool
    init_std: Positive


class HardPromptsSection(_Section):
    """The fixed texts that soft prompts are pulled towards."""

    bank: Annotated[tuple[str, ...], Place("last part")]
    type: Literal[1, 2, 3]
    granularity: tuple[PromptGranularity, ...]
    paraphrases: Count
    combine: Combine

    @pydantic.model_validator(mode="after")
    def _names_are_given_once(self) -> Self:
        for field in ("bank", "granularity"):
            names: tuple[str, ...] = getattr(self, field)
            if not names:
                raise ValueError(f"{field} is empty, expected at least one name")
            if len(set(names)) != len(names):
                raise ValueError(f"{field} holds a name twice: {names}")
        return self


class HeadSection(_Section):
    """Global-local logits (Eq. 8-10)."""

    top_k: PositiveCount
    local_weight: NonNegative
    center_patch_scores: bool
    motion_prior: Literal["none", "features", "images"]
    motion_strength: Fraction


class LossSection(_Section):
    """Weights and distances of the loss (Eq. 1-4, 7, 11, 12)."""

    beta: NonNegative
    gamma: NonNegative
    token_weight: NonNegative
    prompt_weight: NonNegative
    token_distance: Literal["contrastive", "l1"]
    prompt_distance: Literal["contrastive", "l1", "cosine"]
    temperature: Positive
    prototype_distance: Literal["cosine", "l1"]
    label_smoothing: Fraction


class PrototypesSection(_Section):
    """Class prototypes (Eq. 6)."""

    images_per_class: Count
    normalize: bool


class OptimizerSection(_Section):
    """Optimizer and learning-rate schedule."""

    name: Literal["sgd", "adamw"]
    learning_rate: Positive
    lr_scales: tuple[tuple[str, NonNegative], ...]
    momentum: Fraction
    weight_decay: NonNegative
    warmup_steps: Count
    clip_norm: NonNegative


class AugmentSection(_Section):
    """Changes to training images."""

    crop_scale: Range
    crop_ratio: Range
    flip: Probability
    brightness: Fraction
    contrast: Fraction
    saturation: Fraction
    hue: Annotated[float, Field(ge=0, le=0.5)]
    erase: Probability
    erase_scale: Range

    @pydantic.model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("crop_scale", "crop_ratio", "erase_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (low, high) with low <= high, found {(low, high)}")
        for name in ("crop_scale", "erase_scale"):
            if getattr(self, name)[1] > 1:
                raise ValueError(f"{name} is a fraction of the image's area, so at most 1, found {getattr(self, name)}")
        return self


class SynthfaceSection(_Section):
    """Faces that are drawn on first use; read only if they are the dataset."""

    style: str
    seed: Count
    train: PositiveCount
    validation: Count
    test: Count
    image_size: Annotated[int, Field(ge=32, le=224)]


class DataSection(_Section):
    """Dataset, its splits and the way to the towers."""

    dataset: DatasetName
    dir: Folder
    prepared_dir: Folder
    class_names: tuple[str, ...]
    label_rule: LabelRule
    on_bad_image: Literal["error", "skip"]
    train_splits: tuple[str, ...]
    validation_split: str
    validation_fraction: Fraction
    test_split: str
    test_fraction: Fraction
    test_subset: Annotated[str, Place("last part")]
    split_seed: Count
    train_per_class: Count
    few_shot_seed: Count
    label_noise: Fraction
    label_noise_seed: Count
    eval_per_class: Count
    sampler: Literal["shuffle", "class_balanced"]
    mean: Rgb
    std: Rgb
    num_workers: Count
    cache_decoded: bool
    features_dir: Folder
    augment: AugmentSection
    synthface: SynthfaceSection

    @pydantic.model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if not self.dir and self.dataset != "synthface":
            raise ValueError(
                "dir is empty; give the dataset's folder, --config.data.dir=... (layouts: docs/datasets.md)"
            )
        files.any_path(self.dir, "dir")
        for field in ("prepared_dir", "features_dir", "test_subset"):
            files.local_path(getattr(self, field), field)
        if self.test_subset and not self.test_split:
            raise ValueError(f"test_subset {self.test_subset!r} restricts the split of test_split, which is empty")
        if self.test_split == ALL_SPLITS and (self.train_splits or self.validation_split or self.test_subset):
            raise ValueError(
                f"test_split {ALL_SPLITS!r} means every split that the dataset has, so train_splits has to be (), "
                f"validation_split '' and test_subset '', found {self.train_splits}, {self.validation_split!r} and "
                f"{self.test_subset!r} (the config argument `whole` sets all of them)"
            )
        held_out = [name for name in (self.validation_split, self.test_split) if name]
        for name in held_out:
            if name in self.train_splits:
                raise ValueError(
                    f"split {name!r} is in train_splits {self.train_splits} and would also be evaluated on"
                )
        if len(held_out) == 2 and held_out[0] == held_out[1]:
            raise ValueError(
                f"validation_split and test_split are both {held_out[0]!r}: the test split would select the "
                "checkpoint; leave validation_split empty to carve validation from train, or, to let it do so openly, "
                "set validation_split='' and validation_fraction=0 and eval.select_on_test_split=True"
            )
        for kind in ("validation", "test"):
            if getattr(self, f"{kind}_split") and getattr(self, f"{kind}_fraction"):
                raise ValueError(f"set {kind}_split or {kind}_fraction, not both (the fraction is carved from train)")
        check_class_names(self.class_names, "class_names", at_least=0)
        if (self.dataset == "ferplus") == (self.label_rule == "owner"):
            raise ValueError(
                f"label_rule {self.label_rule!r} does not go with dataset {self.dataset!r}: ferplus needs one of "
                "majority_labelcsv, majority_csv, argmax, distribution; every other dataset 'owner'"
            )
        return self


class TrainSection(_Section):
    """Length and rhythm of training."""

    batch_size: PositiveCount
    accumulate: PositiveCount
    text_chunk: Count
    num_steps: Count
    num_epochs: NonNegative
    log_every: PositiveCount
    eval_every: PositiveCount
    checkpoint_every: PositiveCount
    keep: PositiveCount
    warm_start: Annotated[str, Place("last part")]

    @pydantic.model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if (self.num_steps > 0) == (self.num_epochs > 0):
            raise ValueError(
                f"set exactly one of num_steps and num_epochs above 0, found num_steps={self.num_steps}, "
                f"num_epochs={self.num_epochs}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        return self


class EvalSection(_Section):
    """Evaluation and the choice of a checkpoint."""

    batch_size: PositiveCount
    select_by: Literal["war", "uar", "macro_f1"]
    select_on_test_split: bool
    checkpoint: Annotated[str, Place("last part")]
    which: Literal["best", "last"]
    classes: ClassChoice
    baselines: tuple[BaselineName, ...]
    report: Literal["none", "predictions", "numbers", "full"]

    @pydantic.model_validator(mode="after")
    def _baselines_differ(self) -> Self:
        if len(set(self.baselines)) != len(self.baselines):
            raise ValueError(f"baselines holds a name twice: {self.baselines}")
        return self


class PredictSection(_Section):
    """Predictions for a whole dataset."""

    split: Literal["train", "validation", "test"]
    images_per_part: PositiveCount
    format: Literal["parquet", "csv"]


class ModelSections(Record):
    """The sections of a configuration that decide what a model computes, whatever it was trained on and how."""

    clip: ClipSection
    ctx: CtxSection
    visual_prompts: VisualPromptsSection
    head: HeadSection


class Config(ModelSections, _Section):
    """One run. `configs/common.py` says what each field means, in which unit, and where its value comes from."""

    seed: Count
    hard_prompts: HardPromptsSection
    loss: LossSection
    prototypes: PrototypesSection
    optimizer: OptimizerSection
    data: DataSection
    train: TrainSection
    eval: EvalSection
    predict: PredictSection

    @pydantic.model_validator(mode="after")
    def _prototypes_fit_their_distance(self) -> Self:
        if self.prototypes.normalize and self.loss.prototype_distance == "l1":
            raise ValueError(
                "prototypes.normalize is True with loss.prototype_distance 'l1', which compares image features as they "
                "are: means of normalised features are shorter, and the loss would mostly measure length; set one of "
                "the two otherwise ('cosine', False)"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _one_split_selects(self) -> Self:
        if self.eval.select_on_test_split:
            if self.data.validation_split or self.data.validation_fraction:
                raise ValueError(
                    "eval.select_on_test_split is True, but there is a validation split to choose the checkpoint on "
                    f"(data.validation_split={self.data.validation_split!r}, "
                    f"validation_fraction={self.data.validation_fraction}); leave that field False, or give up the "
                    "validation split (config argument no_validation)"
                )
            if not (self.data.test_split or self.data.test_fraction):
                raise ValueError("eval.select_on_test_split is True, but data names no test split")
        return self


def _explain(error: pydantic.ValidationError, documented_in: str) -> str:
    lines = ["the configuration does not hold:"]
    for item in error.errors():
        place = "config." + ".".join(str(part) for part in item["loc"])
        found = "" if item["type"] == "missing" or not item["loc"] else f" (found {item['input']!r})"
        if item["type"] == "value_error":  # a rule over several fields: its message already says what was found
            found = ""
        lines.append(f"  {place}: {item['msg']}{found}")
    lines.append(f"every field, its unit and its source: {documented_in}")
    return "\n".join(lines)
