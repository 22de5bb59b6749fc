"""The sections of a configuration that say where images come from and how they reach the towers."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.config.fields import (
    NO_PATH,
    Count,
    Folder,
    Fraction,
    FrozenModel,
    NamedPath,
    PositiveCount,
    Probability,
    Range,
    Rgb,
    Role,
    Text,
    option,
)
from mpafer_jax.runtime import files

HUB_SCHEME = "hf://"
_ON_THE_HUB = re.compile(r"hf://datasets/[\w.-]+/[\w.-]+(@[\w./-]+)?")
ALL_SPLITS = "all"  # as data.test_split: whatever splits the dataset has, joined; no reader calls one so
TEST_WOULD_SELECT = (
    "the test split would select the checkpoint; leave validation_split empty to carve validation from train, or, to "
    "let it do so openly, set validation_split='' and validation_fraction=0 and eval.select_on_test_split=True"
)


class AugmentSection(FrozenModel):
    """Random changes to training images."""

    role: ClassVar[Role] = "training"

    crop_scale: Range = option((0.7, 1.0), "relative: CoOp's is (0.08, 1), which loses the face's parts")
    """Share of the image's area that a random crop keeps, (low, high); (1, 1) with crop_ratio (1, 1) for no crop."""
    crop_ratio: Range = option((0.75, 4.0 / 3.0), "relative")
    """Width of the crop over its height, (low, high)."""
    flip: Probability = option(0.5, "relative")
    """Probability of a mirror image."""
    brightness: Fraction = option(0.0, "ours: off")
    """Strength of the change of brightness: a factor in 1 +- this."""
    contrast: Fraction = option(0.0, "ours: off")
    """Strength of the change of contrast: a factor in 1 +- this."""
    saturation: Fraction = option(0.0, "ours: off")
    """Strength of the change of saturation: a factor in 1 +- this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = option(0.0, "ours: off")
    """Largest turn of the hue, in turns of the colour circle, at most 0.5."""
    erase: Probability = option(0.25, "relative: FER code's random erasing")
    """Probability of erasing a rectangle."""
    erase_scale: Range = option((0.02, 0.1), "relative")
    """Share of the image's area that the rectangle covers, (low, high)."""

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


class SynthfaceSection(FrozenModel):
    """Drawn faces; read only if dataset is synthface."""

    style: Text = option("sketch", "ours")
    """How faces are drawn: colour, paint, grey, sketch, print, faint, neon, poster or infrared."""
    seed: Count = option(0, "ours")
    """Seed of persons, expressions and scenes."""
    train: PositiveCount = option(2800, "ours")
    """Training images; no person is in two splits."""
    validation: Count = option(400, "ours")
    """Validation images."""
    test: Count = option(1400, "ours")
    """Test images."""
    image_size: Annotated[int, Field(ge=32, le=224)] = option(96, "ours")
    """Side of the images in pixels, 32 to 224."""


class ClipsSection(FrozenModel):
    """Video clips; read only if dataset is dfew, ferv39k, mafw or clips."""

    frames: PositiveCount = option(16, "relative: DFER-CLIP's")
    """N, segments of equal length of a clip. A training image is a random frame of a segment, and an epoch has one of
    each; evaluation averages the logits of the middle frames of all."""
    fold: PositiveCount = option(1, "ours")
    """The fold that is the test, of dfew, mafw, and of lists whose names have {fold}."""
    folder: NamedPath = option("", "ours")
    """Folder below dir with the folders of frames; empty: the owner's, where only one is there, or dir for clips."""
    train_list: NamedPath = option("train.txt", "ours")
    """Dataset clips: the list below dir of the training clips, lines DIR N_FRAMES LABEL; {fold} in it is the fold."""
    test_list: NamedPath = option("test.txt", "ours")
    """Dataset clips: the list of the test clips."""


class ListSection(FrozenModel):
    """Label files of images; read only if dataset is list. Files may be given relative to data.dir."""

    role: ClassVar[Role] = "content"

    file: NamedPath = option("")
    """One list of all images: csv with any delimiter, txt with lines `path label`, or jsonl. Splits are named by a
    column, or by folders (train/..). Empty, and no list for a split: the lists in data.dir whose names are usual
    (train.csv, train_labels.csv, labels.csv, metadata.jsonl, ..)."""
    train: NamedPath = option("")
    """List of the training images, instead of file."""
    validation: NamedPath = option("")
    """List of the validation images, instead of file."""
    test: NamedPath = option("")
    """List of the test images, instead of file."""
    images: Folder = option("")
    """Folder that listed paths are relative to; empty: searched for in data.dir and beside the list."""
    delimiter: Text = option("", role="result")
    """Character between columns, such as ';'; empty: determined from the file."""

    @pydantic.model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.file and (self.train or self.validation or self.test):
            raise ValueError(f"file is {self.file!r} and a split has a list too; give one list, or one for each split")
        if len(self.delimiter) > 1:
            raise ValueError(f"delimiter is {self.delimiter!r}, expected one character, or nothing")
        given = [name for name in (self.file, self.train, self.validation, self.test) if name]
        if self.delimiter and given and all(name.lower().endswith(".jsonl") for name in given):
            raise ValueError(f"delimiter is {self.delimiter!r}, and JSON lines ({given[0]}) have none; leave it out")
        return self


class ColumnsSection(FrozenModel):
    """Columns of lists and Parquet files; read only if dataset is list or parquet.

    A column is given by name, or by number from 1 in a list without a header.
    """

    image: Text = option("")
    """Path of the image, in Parquet the image; empty: path, image, file_name or another usual name."""
    label: Text = option("")
    """Class, by name or number; empty: label, expression, emotion or another usual name."""
    split: Text = option("")
    """Split (train, val, Training, PublicTest, ..); empty: split, usage or another usual name, if it names splits."""
    person: Text = option("")
    """Who is on the image, for splits that share no person; empty: person, subject or another usual name, if any."""
    box: Annotated[tuple[str, ...], NO_PATH] = option(())
    """The face's rectangle in pixels of the upright image, as programs show it, which is cropped: four columns, or one
    with four numbers; empty: whole images."""
    box_format: Literal["xywh", "xyxy"] = option("xywh")
    """Meaning of these numbers: left, top, width, height (xywh), or left, top, right, bottom (xyxy)."""
    attributes: Annotated[tuple[str, ...], NO_PATH] = option(())
    """Other columns to read, such as gender or age, for numbers by group."""

    @pydantic.model_validator(mode="after")
    def _box_has_four_numbers(self) -> Self:
        if len(self.box) not in (0, 1, 4):
            raise ValueError(f"box names {len(self.box)} columns, expected four, or one that holds four numbers")
        if self.box_format != "xywh" and not self.box:
            raise ValueError(f"box_format is {self.box_format!r}, and box, whose numbers it is of, names no column")
        return self


class ImagesSection(FrozenModel):
    """How images are decoded and normalised."""

    mean: Rgb = option((0.48145466, 0.4578275, 0.40821073), "CLIP's", role="model")
    """Mean of each colour, on the scale 0..1."""
    std: Rgb = option((0.26862954, 0.26130258, 0.27577711), "CLIP's", role="model")
    """Standard deviation of each colour, on the scale 0..1."""
    num_workers: Count = option(0, "ours", role="free")
    """Processes that decode and augment; 0: threads of the command's own process, as always in short evaluation
    passes."""


class DataSection(ImagesSection):
    """Dataset and splits."""

    grayscale: bool = option(False, "ours", role="model")
    """Whether images are made grey (their luminance), in training and wherever the model is used: for models that have
    seen photographs in grey only, as those of FERPlus, and would not know those in colour."""
    dataset: Text = option("folder")
    """Name of a dataset of docs/datasets.md, as rafdb; folder for images in class folders, list for images with label
    files, parquet for Parquet files of the Hub; synthface for faces drawn on first use."""
    dir: Folder = option("", role="content")
    """Folder with the dataset in its owner's layout (docs/datasets.md), or its gs:// or s3:// URL, which is copied to
    this machine first, or hf://datasets/OWNER/NAME, perhaps with @REVISION, which is downloaded from the Hub. Has to be
    given, except for synthface: where drawn faces are stored, empty: `mpafer_jax/synthface` in $XDG_CACHE_HOME or
    ~/.cache."""
    prepared_dir: Folder = option("", "ours", role="free")
    """Folder of this machine for the prepared copy; empty: `mpafer_tfds` inside dir or its copy."""
    class_names: Annotated[tuple[str, ...], NO_PATH] = option(())
    """Classes to use, in this order, matched by name (synonyms count); empty: all of the dataset's, in its order."""
    label_rule: Text = option("owner")
    """How votes become labels, FERPlus only: majority_labelcsv, majority_votes, majority_csv, argmax, distribution;
    else owner."""
    align: Text = option("")
    """How faces are cropped, RAF-DB only: owner (as aligned by its owners), aligned_224 (a realigned copy), landmarks
    (from the whole images, by the five landmarks of its annotations); empty: as the files are, which must be one of
    the first two."""
    face_margin: Annotated[float, Field(gt=-0.5, le=4)] = option(0.0, "ours", role="free")
    """Margin around detected faces with which they are cropped as this dataset's images are, as a fraction of the side
    of the crop (docs/predict.md); prediction with a checkpoint takes it."""
    where: Annotated[tuple[str, ...], NO_PATH] = option(())
    """Use only images whose attributes meet all of these conditions: NAME=VALUE, NAME=VALUE|VALUE, NAME>=NUMBER or
    NAME<=NUMBER, as ('angle=straight',); docs/datasets.md says which dataset has which attributes."""
    on_bad_image: Literal["error", "skip"] = option("error")
    """An image that is missing or cannot be decoded: error, or skip (counted and logged)."""
    train_splits: Annotated[tuple[str, ...], NO_PATH] = option(("train",))
    """The owner's splits to train on, joined; empty for --mode=eval on a dataset of which all is to be evaluated."""
    validation_split: Text = option("")
    """The owner's split that selects the checkpoint; empty: validation_fraction is split off from train."""
    validation_fraction: Fraction = option(0.1, "ours: so that the test split selects nothing")
    """Share of train that is split off for validation, class by class, or person by person where the dataset tells
    persons apart."""
    test_split: Text = option("test")
    """The owner's split for the final numbers; empty: test_fraction is split off from train, or none; all: all splits
    of the dataset, joined, where nothing is trained on (train_splits empty)."""
    test_fraction: Fraction = option(0.0)
    """Share of train that is split off for the test."""
    test_subset: NamedPath = option("")
    """A file with a name of an image a line that test_split is restricted to, such as the lists of occluded or turned
    faces (docs/datasets.md); empty: all of it."""
    split_seed: Count = option(0, "ours")
    """Seed of splitting off; apart from `seed`, so that runs of several seeds share their splits."""
    near_duplicates_together: bool = option(False, "ours: off")
    """Splitting off keeps near-duplicates (docs/datasets.md) on one side, as it always does identical images; they are
    searched for once."""
    train_per_class: Count = option(0, "few-shot experiments", role="training")
    """Training images of each class, drawn by few_shot_seed; 0 for all.

    The config argument 16_per_class sets it, and what suits few images.
    """
    few_shot_seed: Count = option(0, "ours", role="seed")
    """Seed of that draw; apart from split_seed, so that few-shot runs differ in what they train on and not in what they
    are measured on."""
    label_noise: Fraction = option(0.0, "noise experiments, as in Self-Cure Network; 0: none", role="training")
    """Share of the training images of each class whose label is replaced by that of another class, drawn by
    label_noise_seed; validation and test keep theirs."""
    label_noise_seed: Count = option(0, "ours", role="seed")
    """Seed of that draw; apart from the others, so that noise can vary alone or stay."""
    eval_per_class: Count = option(0, "to try things out")
    """Images of each class in validation and test, drawn by split_seed; 0 for all."""
    sampler: Literal["shuffle", "class_balanced"] = option("shuffle", role="training")
    """shuffle (each image once an epoch) or class_balanced (classes equally likely, with replacement; common on
    AffectNet, harmful on RAF-DB; not together with loss.class_weights or loss.logit_adjustment)."""
    cache_decoded: bool = option(False, "ours: off", role="free")
    """Store the images decoded too, in a memory-mapped file in the prepared folder (width x height x 3 bytes each, grey
    ones a third). The batches are the same; docs/performance.md says what it gains."""
    features_dir: Folder = option("", "ours", role="free")
    """Folder for the frozen CLIP's features, for prototypes and baselines of all runs on these images (4 x D bytes an
    image); empty: `features` in the prepared folder."""
    list: ListSection = ListSection()
    columns: ColumnsSection = ColumnsSection()
    augment: AugmentSection = AugmentSection()
    synthface: SynthfaceSection = SynthfaceSection()
    clips: ClipsSection = ClipsSection()

    @pydantic.model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if not self.dir.startswith(HUB_SCHEME):
            if self.dir:
                files.any_path(self.dir, "dir")
        elif not _ON_THE_HUB.fullmatch(self.dir):
            raise ValueError(f"dir is {self.dir!r}, expected hf://datasets/OWNER/NAME, perhaps with @REVISION")
        for field in ("prepared_dir", "features_dir", "test_subset"):
            if getattr(self, field):
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
            raise ValueError(f"validation_split and test_split are both {held_out[0]!r}: {TEST_WOULD_SELECT}")
        for kind in ("validation", "test"):
            if getattr(self, f"{kind}_split") and getattr(self, f"{kind}_fraction"):
                raise ValueError(f"set {kind}_split or {kind}_fraction, not both (the fraction is carved from train)")
        check_class_names(self.class_names, "class_names", at_least=0)
        return self
