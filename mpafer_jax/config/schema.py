"""A run's configuration: every field with its type, bounds, default, source and meaning.

A typo or an impossible value stops a run before it starts, and the rest of the package reads a typed, frozen record
instead of a dictionary. `Config()` is the paper's method with its numbers; the files of `configs/` change a few fields
each. docs/configuration.md lists all of them.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from mpafer_jax.config.data_section import DataSection
from mpafer_jax.config.fields import (
    NO_PATH,
    Count,
    Folder,
    Fraction,
    FrozenModel,
    HubName,
    LocalPath,
    NamedPath,
    NonNegative,
    Positive,
    PositiveCount,
    Role,
    Text,
    option,
)

Granularity = Literal["holistic", "brows", "eyes", "nose", "cheeks", "mouth", "chin"]
PromptGranularity = Literal["template", Granularity]  # 'template': the class's name alone
Combine = Literal["mean", "separate"]
ClassChoice = Literal["checkpoint", "common", "dataset"]
Report = Literal["none", "predictions", "numbers", "full"]


class ClipSection(FrozenModel):
    """The frozen CLIP, and in which form it computes."""

    name: HubName = option("openai/clip-vit-base-patch16", "paper: ViT-B/16 and ViT-L/14", role="content")
    """Name on the Hub; a folder in the layout of the Hub or of open_clip; a file of weights; one of OpenAI's names
    (ViT-B/32, ViT-B/16, ViT-L/14, ViT-L/14@336px) for the file that its own program has downloaded; or tiny-face-clip
    or small-face-clip, which ship with the package (docs/clip.md). --mode=eval and predict take the CLIP that the
    checkpoint names, unless --config.clip.name says where it is now."""
    revision: Text = option("main", "ours", role="content")
    """Branch, tag or commit of the Hub's repository; not read for others."""
    cache_dir: Folder = option("", "ours", role="free")
    """Folder for the Hub's files, and where OpenAI's are looked for; empty: the Hub library's own cache (HF_HUB_CACHE,
    HF_HOME), and ~/.cache/clip."""
    activation: Literal["", "quick_gelu", "gelu"] = option("", "ours", role="content")
    """Activation of the towers, quick_gelu or gelu, for weights whose files do not say; empty for all others."""
    dtype: Literal["float32", "bfloat16"] = option("float32", "ours")
    """Type of the image tower's frozen weights and products: float32 or bfloat16; the text tower, prompts, features,
    losses and optimizer are float32 in either case."""
    residual_dtype: Literal["float32", "bfloat16"] = option("float32", "ours")
    """Type of the image tower's residual stream: float32, or, with that dtype, bfloat16, which is less exact and faster
    where memory traffic is the limit (docs/performance.md)."""
    remat: Literal["none", "dots", "full"] = option("dots", "ours", role="rounding")
    """Gradient checkpointing (jax.checkpoint): what the backward pass stores of each layer: none (everything), dots
    (products without a batch axis), full (nothing but each layer's input: least memory, most time). The numbers do not
    change."""

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


class CtxSection(FrozenModel):
    """Context vectors of the soft text prompts."""

    role: ClassVar[Role] = "model"

    num_ctx: PositiveCount = option(10, "paper")
    """M, context vectors of a soft prompt."""
    class_specific: bool = option(False, "ours: shared; paper unclear")
    """Whether every class has its own context vectors; otherwise all share one set."""
    init_text: Text = option("", "relative: CoOp's and KgCoOp's option; paper: random")
    """Words before the class name (a photo of a), from whose first num_ctx tokens they start; empty: random values."""
    words: Literal["name", "hard_prompt"] = option("name", "CoOp, paper")
    """What stands after the context: the class's name, or, for CLIPs to which that says nothing, its first hard prompt,
    which has to start with init_text and follows it."""
    init_std: Positive = option(0.02, "paper")
    """Standard deviation of random initial values."""


class VisualPromptsSection(FrozenModel):
    """Deep visual prompts."""

    role: ClassVar[Role] = "model"

    num_prompts: Count = option(8, "paper", off_at_zero=True)
    """N_p, visual prompts a layer; 0 for none."""
    layers: tuple[PositiveCount, ...] = option((), "paper: all")
    """Layers that get prompts, counted from 1; empty for all, with maple and promptsrc for the first
    9."""
    before_ln_pre: bool = option(False, "ours: after")
    """Whether layer 1's prompts pass CLIP's first normalisation (MaPLe's habit) or join after it."""
    init_std: Positive = option(0.02, "paper")
    """Standard deviation of their initial values."""


class LoraSection(FrozenModel):
    """Low-rank updates of the towers' weights, with learner lora."""

    role: ClassVar[Role] = "model"

    rank: PositiveCount = option(2, "relative: CLIP-LoRA's")
    """r, rank of the update of each projection to queries, keys and values."""
    alpha: Positive = option(1.0, "relative: CLIP-LoRA's")
    """The update's weight is alpha / r."""


class HardPromptsSection(FrozenModel):
    """Fixed texts that the soft prompts are aligned with."""

    bank: Annotated[tuple[str, ...], LocalPath("last part")] = option(("expressions",), "ours")
    """Description banks for type 3, their texts pooled: names of those that ship with the package (expressions,
    compound) or paths of JSON files."""
    type: Literal[1, 2, 3] = option(3, "paper: 3 is best")
    """1: a photo of [class]; 2: a photo of a person making a facial expression of [class]; 3: type 2 and the
    description."""
    granularity: tuple[PromptGranularity, ...] = option(("holistic",), "paper: one description of the whole face")
    """What type 3 describes, one or several of: template (nothing, as type 2), holistic (the whole face), brows, eyes,
    nose, cheeks, mouth, chin; each description makes a text of its own."""
    paraphrases: Count = option(1, "paper: one")
    """Texts taken from each bank for every class and granularity, the file's first; 0 for all."""
    combine: Combine = option("mean", "ours; the same with one text")
    """How several texts of a class are aligned with: mean (by the mean of their normalised features) or separate (each
    granularity by a term of its own, the terms averaged; docs/hard_prompts.md)."""

    @pydantic.model_validator(mode="after")
    def _names_are_given_once(self) -> Self:
        for field in ("bank", "granularity"):
            names: tuple[str, ...] = getattr(self, field)
            if not names:
                raise ValueError(f"{field} is empty, expected at least one name")
            if len(set(names)) != len(names):
                raise ValueError(f"{field} holds a name twice: {names}")
        return self


class HeadSection(FrozenModel):
    """Global and local logits (Eq. 8-10)."""

    role: ClassVar[Role] = "model"

    top_k: PositiveCount = option(16, "paper")
    """k, patches averaged for each class in the local score."""
    local_weight: NonNegative = option(1.0, "paper", off_at_zero=True)
    """lambda, weight of the local score beside the global one; 0 leaves it out."""
    center_patch_scores: bool = option(False, "relative; paper: no")
    """Subtract each patch's mean over the classes before choosing the k patches."""
    normalize_scores: bool = option(False, "paper: no; CEPrompt does")
    """Divide an image's global scores, and its local ones, by their length over the classes, and average the two in
    place of scaling their sum (Zhou et al., 2024)."""
    motion_prior: Literal["none", "features", "images"] = option(
        "none", "ours, after Facial Motion Prior Networks, Chen et al. 2019; paper: none"
    )
    """Weights of the patches in each class's local score, by how far the class differs there from neutral over the
    images that make prototypes: none (equal weights), features (the frozen CLIP's patch features), images (pixels).
    Needs a class that is neutral."""
    motion_strength: Fraction = option(0.9, "ours: of 0.5 and 0.9 on drawn faces")
    """Share of a patch's weight that follows the difference, at least 0 and below 1; the rest is equal."""


class LossSection(FrozenModel):
    """Terms, weights and distances of the loss (Eq. 1-4, 7, 11, 12); a term of weight 0 is left out."""

    terms: Annotated[tuple[str, ...], NO_PATH] = option((), "ours")
    """Names of the terms that may be part of the loss, each with its weight below (cross_entropy: 1): cross_entropy,
    token_alignment, prompt_alignment, prototype_alignment, image_consistency, text_consistency, logit_consistency,
    channel_separation, channel_diversity; empty for all."""
    beta: NonNegative = option(1.0, "paper", traced=True)
    """beta, weight of the hard-soft alignment."""
    gamma: NonNegative = option(1.0, "paper", traced=True)
    """gamma, weight of the prototype alignment."""
    token_weight: NonNegative = option(1.0, "paper: 1", traced=True)
    """Weight of the token-level term inside the hard-soft alignment."""
    prompt_weight: NonNegative = option(1.0, "paper: 1", traced=True)
    """Weight of the prompt-level term inside the hard-soft alignment."""
    token_distance: Literal["contrastive", "l1"] = option("contrastive", "paper: contrastive")
    """Form of the token-level term: contrastive, or l1, a sum over the embedding's entries (see prompt_distance)."""
    prompt_distance: Literal["contrastive", "l1", "cosine"] = option(
        "contrastive", "paper unclear: the first two exist"
    )
    """Form of the prompt-level term: contrastive, l1, or cosine (KgCoOp's). l1 is the sum over the feature's D entries,
    where prototype_distance and the consistency terms take their mean: with D 512 and a cosine of 0.8 it is about 11,
    so that beta 1 drowns the cross-entropy, and beta 1 / D makes it a mean."""
    temperature: Positive = option(0.01, "ours: CLIP's own, 1 / 100", traced=True)
    """tau of the contrastive forms."""
    prototype_distance: Literal["cosine", "l1"] = option("cosine", "ours: cosine; paper unclear")
    """M of Eq. 7: cosine or l1."""
    image_consistency: NonNegative = option(0.0, "paper: none; PromptSRC takes 10", traced=True)
    """Weight of the L1 distance of prompted image features from those of the frozen CLIP (Khattak et al., 2023)."""
    text_consistency: NonNegative = option(0.0, "paper: none; PromptSRC takes 25", traced=True)
    """Weight of the L1 distance of prompted text features from the mean frozen features of a class's hard prompts."""
    logit_consistency: NonNegative = option(0.0, "paper: none; PromptSRC takes 1", traced=True)
    """Weight of the divergence of predictions from those of the frozen CLIP with the hard prompts as class texts and
    the same head."""
    channel_separation: NonNegative = option(0.0, "paper: none; CAFE takes 1.5", traced=True)
    """Weight of the cross-entropy of logits that are each the largest of one class's channels of the image feature
    (Zhang et al., 2024)."""
    channel_diversity: NonNegative = option(0.0, "paper: none; CAFE takes 5", traced=True)
    """Weight of the term that makes the largest channel of every class large (Zhang et al., 2024)."""
    label_smoothing: Fraction = option(0.0, "paper: none", traced=True)
    """Share of each label that is spread evenly over the classes."""
    class_weights: Literal["none", "inverse_frequency", "effective_number"] = option("none", "paper: none")
    """Weights of the classes in the cross-entropy, from the counts of the training labels: none, inverse_frequency, or
    effective_number (Cui et al., 2019); their mean over the training images is 1."""
    effective_number_beta: Annotated[float, Field(gt=0, lt=1)] = option(0.999, "relative: Cui et al., 0.9 to 0.9999")
    """beta of effective_number: near 0 the weights are equal, near 1 those of inverse_frequency."""
    logit_adjustment: NonNegative = option(0.0, "paper: none; Menon et al. take 1")
    """tau of logit adjustment (Menon et al., 2021): tau times the logarithm of the class frequencies of train is added
    to the logits in the cross-entropy, and not in prediction; 0: none."""

    @pydantic.model_validator(mode="after")
    def _imbalance_is_corrected_once(self) -> Self:
        if self.class_weights != "none" and self.logit_adjustment:
            raise ValueError(
                f"class_weights is {self.class_weights!r} and logit_adjustment {self.logit_adjustment}: each corrects "
                "the class imbalance, and both together would do it twice; choose one"
            )
        if self.imbalance and self.terms and "cross_entropy" not in self.terms:
            raise ValueError(f"{self.imbalance} changes the cross-entropy, which terms {self.terms} leaves out")
        return self

    @property
    def imbalance(self) -> str:
        """How the cross-entropy corrects class imbalance, from the counts of train; '' if it does not."""
        if self.logit_adjustment:
            return f"logit adjustment (tau {self.logit_adjustment:g})"
        if self.class_weights == "effective_number":
            return f"class weights (effective number, beta {self.effective_number_beta:g})"
        return "class weights (inverse frequency)" if self.class_weights == "inverse_frequency" else ""


class PrototypesSection(FrozenModel):
    """Class prototypes (Eq. 6)."""

    images_per_class: Count = option(0, "ours; an ablation of the paper")
    """Training images of each class that make its prototype, drawn by seed; 0 for all."""
    normalize: bool = option(False, "ours: no; paper unclear")
    """Whether features are normalised before they are averaged; not with l1."""


class DecaySection(FrozenModel):
    """A learning rate with linear warm-up and cosine decay to 0, weight decay, and a limit of the gradient."""

    learning_rate: Positive = option(2.0e-3, "relative: 2e-3 to 2.5e-3", traced=True)
    """Peak learning rate, reached after the warm-up, then cosine decay to 0."""
    weight_decay: NonNegative = option(5.0e-4, "relative: CoOp's 5e-4", traced=True)
    """Weight decay."""
    warmup_steps: Count = option(50, "relative: about one epoch of few-shot data")
    """Updates of linear warm-up."""
    clip_norm: NonNegative = option(0.0, "ours")
    """Largest norm of the gradient of all that is trained, 0 for no limit."""


class OptimizerSection(DecaySection):
    """Optimizer and learning-rate schedule."""

    name: Literal["sgd", "adamw"] = option("sgd", "relative: CoOp, MaPLe, PromptSRC, KgCoOp use SGD; paper unknown")
    """sgd or adamw."""
    lr_scales: Annotated[tuple[tuple[str, NonNegative], ...], NO_PATH] = option(
        (("ctx", 1.0), ("visual_prompts", 1.0)), "ours: 1 for both"
    )
    """Ordered (pattern, factor) pairs: the first that matches a parameter's whole name scales its learning rate, 0
    freezes it. Parameters are `ctx` and `visual_prompts`; those of other learners are in their modules."""
    momentum: Fraction = option(0.9, "relative", traced=True)
    """Momentum of SGD; b1 of AdamW."""
    average: Count = option(0, "paper: none; PromptSRC takes 20, its epochs")
    """Equal parts of training after each of which the prompts join an average over training with Gaussian weights; it
    is evaluated and saved in place of the last prompts. 0: no average."""
    average_mean: Annotated[float, Field(allow_inf_nan=False)] = option(15.0, "PromptSRC, of 20 parts")
    """Mean of the Gaussian, in parts, at most their number: the prompts after this part weigh most. To be set with
    another number of parts than 20."""
    average_std: Positive = option(1.0, "PromptSRC, of 20 parts")
    """Standard deviation of the Gaussian, in parts."""

    @pydantic.field_validator("lr_scales")
    @classmethod
    def _patterns(cls, pairs: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        patterns = [pattern for pattern, _ in pairs]
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error}); '.*' matches every name") from error
        if twice := sorted({pattern for pattern in patterns if patterns.count(pattern) > 1}):
            raise ValueError(f"{', '.join(map(repr, twice))} stands twice in {pairs}; give each pattern once")
        return pairs

    @pydantic.model_validator(mode="after")
    def _average_has_its_peak_in_training(self) -> Self:
        if 0 < self.average < self.average_mean:
            raise ValueError(
                f"average_mean is {self.average_mean:g}, after the last of the {self.average} parts (average), which "
                "would weigh most, so that little or nothing would be averaged; set average_mean to at most "
                f"{self.average}, such as {0.75 * self.average:g} (PromptSRC's 15 of 20 parts)"
            )
        return self


class IntervalsSection(FrozenModel):
    """Size of a batch, and how often something is logged, evaluated and saved."""

    batch_size: PositiveCount = option(64, "relative: 32 to 128")
    """Images of one update, over all devices."""
    log_every: PositiveCount = option(50, "ours")
    """Updates between lines of training metrics."""
    eval_every: PositiveCount = option(500, "ours")
    """Updates between evaluations on the validation split."""
    checkpoint_every: PositiveCount = option(500, "ours")
    """Updates between checkpoints; every evaluation makes one too."""
    keep: PositiveCount = option(2, "ours", role="free")
    """How many of the newest checkpoints stay; the best stays besides."""


class TrainSection(IntervalsSection):
    """Length of training, memory, and how often something is logged, evaluated and saved."""

    num_steps: Count = option(0)
    """Updates in all; 0: counted from num_epochs. Exactly one of the two is set."""
    num_epochs: NonNegative = option(30.0, "relative: 20 to 50; paper unknown")
    """Passes over the training images."""
    accumulate: PositiveCount = option(1, "ours", role="rounding")
    """Gradient accumulation: parts into which each device's share of a batch is cut, one after the other, to save
    memory. Same update."""
    text_chunk: Count = option(0, "ours", role="rounding")
    """Classes that the text tower encodes at once, to save memory where there are hundreds; 0: all. Same update."""
    warm_start: NamedPath = option("")
    """A workdir or checkpoint whose prompts to start from, where they fit, or ferplus-prompts, which ship with the
    package; empty: fresh prompts."""

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


class EvalSection(FrozenModel):
    """Evaluation, and the choice of a checkpoint."""

    batch_size: PositiveCount = option(64, role="rounding")
    """Images at once, over all devices; also when prototypes are made."""
    select_by: Literal["war", "uar", "macro_f1"] = option("war", "relative: war")
    """What makes a checkpoint the best on validation: war (accuracy), uar (mean recall) or macro_f1."""
    select_on_test_split: bool = option(False, "ours: no")
    """Whether the test split selects the checkpoint, to compare with literature that did so; its accuracy is then
    better than on new images, and every table says so. Needs `no_validation`."""
    measure_test: bool = option(True, "ours")
    """Whether training ends with numbers on the test split; False: on validation alone, as in the trials of a
    hyper-parameter search, and no test image is read."""
    checkpoint: NamedPath = option("")
    """--mode=eval, --mode=predict: the checkpoint, a workdir or one step's folder, or ferplus-prompts, which ship with
    the package; empty: the workdir's own."""
    which: Literal["best", "last"] = option("best")
    """Which of a workdir's checkpoints these modes and train.warm_start take: best or last."""
    classes: ClassChoice = option("checkpoint", "ours: checkpoint", role="free")
    """--mode=eval: the classes to choose among: checkpoint (those that it was trained on; images of others are left
    out), common (those of them that the dataset has), or dataset (the dataset's, trained on or not: what the learned
    context is worth for new classes; not with ctx.class_specific)."""
    baselines: Annotated[tuple[str, ...], NO_PATH] = option((), "ours", role="free")
    """What to measure beside the method, on the same splits, from CLIP's frozen features (names in
    docs/methods.md); empty: nothing. --mode=eval does not compute them."""
    report: Report = option("full", "ours", role="free")
    """What is left to look at, after training and after --mode=eval: full (predictions.npz and report.html), numbers
    (the same without images of the dataset), predictions (predictions.npz alone), none."""

    @pydantic.model_validator(mode="after")
    def _baselines_differ(self) -> Self:
        if len(set(self.baselines)) != len(self.baselines):
            raise ValueError(f"baselines holds a name twice: {self.baselines}")
        return self


class PredictSection(FrozenModel):
    """--mode=predict, which reads besides data, eval.checkpoint, eval.which and eval.batch_size."""

    role: ClassVar[Role] = "free"

    split: Literal["train", "validation", "test"] = option("test", "ours")
    """Which part of the dataset, as the data section makes it: train, validation or test."""
    images_per_part: PositiveCount = option(1000, "ours")
    """Images in one file of predictions. A run that is resumed writes the files that are missing, and processes share
    the files among them, so there should be several for each."""
    format: Literal["parquet", "csv"] = option("parquet", "ours")
    """Of those files: parquet or csv."""


class ModelSections(FrozenModel):
    """The sections that decide what a model computes, whatever it was trained on and how."""

    clip: ClipSection = ClipSection()
    learner: Text = option("mpa", "paper", role="model")
    """What is learned: mpa (context and deep visual prompts, independent of each other), maple (deep prompts in both
    towers, coupled), promptsrc (deep prompts in both towers, independent of each other), cafe (no prompts, but a mask
    on the channels of the image feature) or lora (low-rank updates of both towers' attention, with fixed class
    texts)."""
    mask_width: PositiveCount = option(64, "ours; CAFE has a ResNet-18", role="model")
    """H, hidden units of the network that computes cafe's mask."""
    ctx: CtxSection = CtxSection()
    visual_prompts: VisualPromptsSection = VisualPromptsSection()
    lora: LoraSection = LoraSection()
    head: HeadSection = HeadSection()


class Config(ModelSections):
    """One run."""

    seed: Count = option(0, "ours", role="seed")
    """Seed of initial prompts, data order, augmentation and the choice of prototype images."""
    hard_prompts: HardPromptsSection = HardPromptsSection()
    loss: LossSection = LossSection()
    prototypes: PrototypesSection = PrototypesSection()
    optimizer: OptimizerSection = OptimizerSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()
    predict: PredictSection = PredictSection()

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
    def _imbalance_is_corrected_once(self) -> Self:
        if self.data.sampler == "class_balanced" and self.loss.imbalance:
            raise ValueError(
                f"data.sampler is 'class_balanced' and the loss has {self.loss.imbalance}: each corrects the class "
                "imbalance, and both together would do it twice; set data.sampler to 'shuffle', or loss.class_weights "
                "to 'none' and loss.logit_adjustment to 0"
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

    @pydantic.model_validator(mode="after")
    def _something_is_measured(self) -> Self:
        if not self.eval.measure_test and not (self.data.validation_split or self.data.validation_fraction):
            raise ValueError(
                "eval.measure_test is False, as in the trials of a search, so the run is measured on validation, which "
                "is missing; set data.validation_split or data.validation_fraction"
            )
        return self
