"""Configuration of the pre-training of a small CLIP; docs/configuration.md lists its fields."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from mpafer_jax.config.data_section import AugmentSection, ImagesSection
from mpafer_jax.config.fields import (
    NO_PATH,
    Count,
    Folder,
    Fraction,
    FrozenModel,
    LocalPath,
    NamedPath,
    NonNegative,
    Positive,
    PositiveCount,
    Probability,
    Text,
    option,
)
from mpafer_jax.config.schema import DecaySection, IntervalsSection


class TowerSection(FrozenModel):
    """Size of one tower, whose MLPs are four times as wide as it is."""

    hidden_size: PositiveCount = option(128)
    """Width."""
    num_layers: PositiveCount = option(4)
    """Layers."""
    num_heads: PositiveCount = option(4)
    """Attention heads."""

    @pydantic.model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        return self


class ModelSection(FrozenModel):
    """The CLIP that is trained."""

    vision: TowerSection = TowerSection()
    text: TowerSection = TowerSection(hidden_size=96, num_layers=3)
    initial: Literal["normal", "mimetic"] = option("normal")
    """First weights of the image tower's attention and positions: normal (OpenAI's), or mimetic, like those of trained
    towers (Trockman and Kolter, 2023)."""
    projection_dim: PositiveCount = option(64)
    """D, size of the joint space."""
    image_size: PositiveCount = option(96)
    """Side of an image, in pixels."""
    patch_size: PositiveCount = option(12)
    """Side of a patch, in pixels."""
    vocab_size: PositiveCount = option(1500)
    """Tokens at most."""
    vocabulary_banks: Annotated[tuple[str, ...], LocalPath("last part")] = option(("expressions", "compound"))
    """Description banks whose words the vocabulary shall know besides those of the captions."""
    max_position_embeddings: PositiveCount = option(77)
    """Tokens that a text may have."""

    @pydantic.model_validator(mode="after")
    def _patches_fill_the_image(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        return self


class LabelledSection(FrozenModel):
    """Images of a dataset of docs/datasets.md, beside those of data.source; captions are made of their labels or votes
    and a description bank."""

    dataset: Text = option("")
    """Name, as ferplus; empty: none."""
    dir: Folder = option("", role="free")
    """Folder in the owner's layout."""
    label_rule: Text = option("owner")
    """How votes become labels, as in data.label_rule of a training: majority_votes and distribution keep the votes."""
    bank: NamedPath = option("expressions")
    """Description bank that captions and statements are made of, by name or path."""
    held_out_fraction: Fraction = option(0.1)
    """Share of each class of train that training never sees; near-duplicates are on one side."""
    split_seed: Count = option(0)
    """Seed of what is held out."""


class DataSection(ImagesSection):
    """Images with captions."""

    source: Literal["synthface", "folder", "tfds", "none"] = option("synthface")
    """synthface (drawn here), folder (images and metadata.jsonl), tfds (prepared as array_record), or none
    (data.labelled alone)."""
    dir: Folder = option("", role="free")
    """synthface: where drawn faces are stored (empty: 'images' in the workdir). folder: which. tfds: its data_dir."""
    name: Text = option("")
    """tfds: 'dataset:version/split'."""
    image_feature: Text = option("image")
    """tfds: name of the feature with the image; one inside another is written with a slash, as in 'captions/text'."""
    text_feature: Text = option("caption")
    """tfds: name of the feature with the caption or captions."""
    held_out: PositiveCount = option(1024)
    """Images at the end of the source that training never sees; retrieval and statements are measured on them."""
    images: Count = option(40000)
    """synthface: images in all, held-out ones included."""
    styles: Annotated[tuple[str, ...], NO_PATH] = option(("colour", "paint", "grey"))
    """synthface: the styles, drawn evenly."""
    seed: Count = option(1)
    """synthface: seed of the faces."""
    grayscale_at_use: bool = option(False)
    """Whether the CLIP is to be given grey images once it is trained (do_grayscale in its preprocessor_config.json),
    for photographs without colours, beside which only drawings had some. Training and its measures take images as they
    are."""
    labelled: LabelledSection = LabelledSection()
    augment: AugmentSection = AugmentSection(crop_scale=(0.85, 1.0), crop_ratio=(0.9, 1.1))


class LossSection(FrozenModel):
    """Terms of the loss; a term of weight 0 is not computed."""

    contrastive: NonNegative = option(1.0)
    """Weight of CLIP's loss between images and captions."""
    statements: NonNegative = option(5.0)
    """Weight of telling true statements from false ones by the whole image."""
    local_statements: NonNegative = option(5.0)
    """The same by the k patches that agree most with a statement: patches come to mean something."""
    attributes: NonNegative = option(5.0)
    """The same by a linear reading of all patches, which is thrown away at the end."""
    guidance: NonNegative = option(1.0)
    """Weight of the squared difference between the last layer's patches, mapped linearly, and the teacher's maps;
    without a teacher not computed."""
    attributes_alone_steps: Count = option(500)
    """First stage: so many first updates have the attributes and the guidance alone."""
    top_k: PositiveCount = option(4)
    """k of the local statements."""
    token_noise: Fraction = option(0.05)
    """Probability that a token of a caption is replaced by a random one."""

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


class TeacherSection(FrozenModel):
    """A convolutional network that is trained first on the same images, and teaches the CLIP (docs/pretraining.md)."""

    num_steps: Count = option(0)
    """Its updates, of train.batch_size images each; 0: no teacher."""
    widths: tuple[PositiveCount, ...] = option((32, 64, 128))
    """Channels of its stages; each has half the resolution of the one before, the first half of the image's."""
    layers: PositiveCount = option(3)
    """Convolutions of each stage."""
    learning_rate: Positive = option(3.0e-3)
    """Peak learning rate, with linear warm-up and cosine decay."""
    weight_decay: NonNegative = option(0.05)
    """Weight decay of the kernels of 3 x 3 convolutions."""
    share: Probability = option(0.7)
    """Share of its answers in the truth of statements that the CLIP is trained with."""

    @pydantic.model_validator(mode="after")
    def _has_stages(self) -> Self:
        if not self.widths:
            raise ValueError("widths is empty; give the channels of at least one stage")
        return self


class OptimizerSection(DecaySection):
    """Muon for the layers' matrices, which alone have weight decay, and AdamW for all else."""


class TrainSection(IntervalsSection):
    """Length of training, and how often something is logged, evaluated and saved."""

    num_steps: PositiveCount = option(5000)
    """Updates in all."""
    kept_patches: Annotated[float, Field(gt=0, le=1)] = option(1.0)
    """First stage (loss.attributes_alone_steps): share of an image's patches, drawn anew each time, that are encoded
    (FLIP), which saves time."""


class PretrainConfig(FrozenModel):
    """One pre-training run; the defaults are those of `tiny-face-clip`, which ships with the package."""

    listed_by: ClassVar[str] = "mpafer-jax config --pretraining"

    seed: Count = option(0)
    """Seed of the weights, the order, the augmentation and the choice of captions."""
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection(
        learning_rate=5.0e-3, weight_decay=0.05, warmup_steps=100, clip_norm=1.0
    )
    train: TrainSection = TrainSection(batch_size=128)
    teacher: TeacherSection = TeacherSection()

    @pydantic.model_validator(mode="after")
    def _has_images(self) -> Self:
        if self.data.source == "none" and not self.data.labelled.dataset:
            raise ValueError("data.source is none and data.labelled.dataset is empty; give one of them")
        return self

    @pydantic.model_validator(mode="after")
    def _patches_are_left_out_in_a_first_stage(self) -> Self:
        if self.train.kept_patches < 1 and not self.loss.attributes_alone_steps:
            raise ValueError(
                f"train.kept_patches is {self.train.kept_patches} and there is no first stage to leave patches out in: "
                "loss.attributes_alone_steps is 0; raise it, or set kept_patches to 1"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _fits_the_patches(self) -> Self:
        patches = (self.model.image_size // self.model.patch_size) ** 2
        if self.loss.top_k > patches:
            raise ValueError(f"loss.top_k is {self.loss.top_k}, an image has {patches} patches")
        return self
