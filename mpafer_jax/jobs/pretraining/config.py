"""The configuration of `mpafer_jax.cli.pretrain_clip` as a typed record; `configs/pretrain_tiny_clip.py` is one."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import pydantic

from mpafer_jax.config.schema import AugmentSection, Count, Fraction, NonNegative, Positive, PositiveCount, Record, Rgb


class TowerSection(Record):
    """Size of one tower."""

    hidden_size: PositiveCount
    num_layers: PositiveCount
    num_heads: PositiveCount

    @pydantic.model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        return self


class ModelSection(Record):
    """The CLIP that is trained."""

    vision: TowerSection
    text: TowerSection
    projection_dim: PositiveCount
    image_size: PositiveCount
    patch_size: PositiveCount
    vocab_size: PositiveCount
    vocabulary_banks: tuple[str, ...]
    max_position_embeddings: PositiveCount

    @pydantic.model_validator(mode="after")
    def _patches_fill_the_image(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        return self


class DataSection(Record):
    """Images with captions."""

    source: Literal["synthface", "folder", "tfds"]
    dir: str
    name: str
    image_feature: str
    text_feature: str
    held_out: PositiveCount
    images: Count
    styles: tuple[str, ...]
    seed: Count
    mean: Rgb
    std: Rgb
    num_workers: Count
    augment: AugmentSection


class LossSection(Record):
    """Terms of the loss; a term of weight 0 is not computed."""

    contrastive: NonNegative
    statements: NonNegative
    local_statements: NonNegative
    attributes: NonNegative
    attributes_alone_steps: Count
    top_k: PositiveCount
    token_noise: Fraction

    @pydantic.model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if not (self.contrastive or self.statements or self.local_statements or self.attributes):
            raise ValueError("every weight is 0, so that nothing would be trained; set one of them above 0")
        if self.attributes_alone_steps and not self.attributes:
            raise ValueError(
                f"attributes_alone_steps is {self.attributes_alone_steps} with attributes 0: those updates would have "
                "no loss; set attributes above 0, or attributes_alone_steps to 0"
            )
        return self


class OptimizerSection(Record):
    """Muon and AdamW with warm-up and cosine decay."""

    learning_rate: Positive
    weight_decay: NonNegative
    warmup_steps: Count
    clip_norm: NonNegative


class TrainSection(Record):
    """Length and rhythm of training."""

    batch_size: PositiveCount
    num_steps: PositiveCount
    log_every: PositiveCount
    eval_every: PositiveCount
    checkpoint_every: PositiveCount
    keep: PositiveCount


class PretrainConfig(Record):
    """One pre-training run; `configs/pretrain_tiny_clip.py` says what each field means and in which unit."""

    documented_in: ClassVar[str] = "configs/pretrain_tiny_clip.py"

    seed: Count
    model: ModelSection
    data: DataSection
    loss: LossSection
    optimizer: OptimizerSection
    train: TrainSection

    @pydantic.model_validator(mode="after")
    def _fits_the_patches(self) -> Self:
        patches = (self.model.image_size // self.model.patch_size) ** 2
        if self.loss.top_k > patches:
            raise ValueError(f"loss.top_k is {self.loss.top_k}, an image has {patches} patches")
        return self
