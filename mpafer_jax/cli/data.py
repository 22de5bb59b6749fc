"""`mpafer-jax data`: datasets before a run."""

from __future__ import annotations

import argparse
import shlex

from mpafer_jax.cli.parser import UsageError
from mpafer_jax.cli.runner import FACE_MODEL, MARGIN, argument, command, number, path
from mpafer_jax.runtime import files

_SPLITS = ("train", "validation", "test")
_PAIRS = 60


@command(
    "data check",
    path("--pairs", help=f"PNG file to write: near-duplicates side by side, at most {_PAIRS} pairs"),
    config=True,
)
def check(arguments: argparse.Namespace) -> int:
    """Checks a dataset before anything is trained on it, and says what is in it.

        mpafer-jax data check --config=configs/ferplus.py --config.data.dir=D

    Reads the owner's files directly: nothing needs to be prepared, nothing but --pairs is written, and all broken
    images are listed instead of the first. Prints whether the counts are those of a published protocol, the labels'
    mapping, counts per split and class, the majority rate (the accuracy of always answering the most frequent class),
    what was dropped and why, image sizes, unreadable images, images that occur more than once (equal in every decoded
    pixel), and near-duplicates (mirrored, encoded again, resized), within and across splits, with equal or conflicting
    labels.

    Exit code 1: something needs attention, listed at the end: an augmented or reduced copy of a published dataset, a
    split that the config names is not there or is in two of train, validation and test, a list of data.test_subset that
    names other images, images and other files that are left out because of where they lie or what they are called,
    class folders that are numbers or empty, a class without training images, classes of which the configured
    description banks say nothing, unreadable images, sizes other than the owner's, images or near-duplicates that occur
    in several splits, or that have different labels in one split.
    """
    from mpafer_jax.config.schema import Config
    from mpafer_jax.data.check import check
    from mpafer_jax.data.contact_sheet import pairs_sheet
    from mpafer_jax.data.registry import read_source
    from mpafer_jax.method.hard_prompts.templates import check_hard_prompts
    from mpafer_jax.runtime import console
    from mpafer_jax.runtime.errors import PromptError

    config = Config.from_config_dict(arguments.config)
    index = read_source(config.data)
    report = check(config.data, index)
    if arguments.pairs and report.pairs:
        with files.replacing(arguments.pairs) as temporary:
            pairs_sheet(report.pairs[:_PAIRS]).save(temporary, "PNG")
    elif arguments.pairs:
        console.line(f"no near-duplicates, so {arguments.pairs} is not written")
    attention = list(report.attention)
    try:
        attention += check_hard_prompts(config.hard_prompts, index.class_names)
    except PromptError as error:
        attention.append(str(error))
    for line in [*report.lines, "needs attention:" if attention else "nothing needs attention"]:
        console.line(line)
    for finding in attention:
        console.line(f"  {finding}")
    return 1 if attention else 0


@command(
    "data sheet",
    path("--out", required=True, help="PNG file to write"),
    argument("--split", default="train", help="the owner's split to show"),
    number("--per_class", 1, default=8, help="images of each class"),
    number("--tile", 16, default=96, help="side of a shown image in pixels"),
    number("--sheet_seed", 0, default=0, help="seed of the choice of images (default 0)"),
    config=True,
)
def sheet(arguments: argparse.Namespace) -> None:
    """Writes an image of what is in a dataset: one row of images for each class.

        mpafer-jax data sheet --config=configs/rafdb.py --config.data.dir=D --out=sheet.png

    Images come from the prepared dataset (which is prepared first where it is not yet), so they are what a run would
    see before resizing. Which ones are shown is drawn by --sheet_seed; every row has its class's name and, beside it,
    how many images the split has of it.
    """
    from mpafer_jax.config.schema import Config
    from mpafer_jax.data.contact_sheet import contact_sheet

    data = Config.from_config_dict(arguments.config).data
    image = contact_sheet(data, arguments.split, arguments.per_class, arguments.tile, arguments.sheet_seed)
    with files.replacing(arguments.out) as temporary:
        image.save(temporary, "PNG")
    print(f"{arguments.out}: {image.width}x{image.height} pixels")


@command(
    "data align",
    path("--out", required=True, help="folder of the copy; the same command goes on with one that was begun"),
    path("--images", help="in place of --config: a folder of images without labels, whose folders the copy has too"),
    number("--size", 16, default=224, help="side of the aligned images in pixels"),
    argument("--margin", type=MARGIN, default=0.0, help="around the crop, as a fraction of its side (default 0)"),
    argument(
        "--on_missing",
        choices=("keep", "drop"),
        default="keep",
        help="what becomes of an image without a face: keep it whole, resized (default), or leave it out",
    ),
    FACE_MODEL,
    config="optional",
)
def align(arguments: argparse.Namespace) -> int:
    """Writes an aligned copy of a dataset: every face found, turned upright and cut out by its five landmarks.

        mpafer-jax data align --config=configs/rafdb.py --config.data.dir=D --out=D_aligned
        python -m mpafer_jax.main --config=configs/rafdb.py --config.data.dir=D_aligned --workdir=runs/aligned

    The original is only read. The copy holds all labelled images as `OUT/<split>/<class>/<name>.jpg`, with labels,
    label distributions, persons and attributes in `OUT/metadata.jsonl`, so that the same config reads it, and results
    state the crop. `OUT/alignment.csv` says of every image what was found. After any interruption the same command
    does the rest.

    Where an image shows several faces, the one that overlaps most with the owner's face box is taken, and must cover
    its center; without a face box the one that overlaps most with the image, which is mostly the largest.

    Exit code 1: images cannot be read, which alignment.csv lists; the copy is complete without them with
    --config.data.on_bad_image=skip.
    """
    from mpafer_jax.config.schema import Config
    from mpafer_jax.jobs import align
    from mpafer_jax.runtime import console

    options = align.Options(
        size=arguments.size,
        margin=arguments.margin,
        on_missing=arguments.on_missing,
        **({"face_model": arguments.face_model} if arguments.face_model else {}),
    )
    words = shlex.join(["mpafer-jax", "data", "align", *arguments.words])
    if (arguments.config is None) == (arguments.images is None):
        raise UsageError("give a dataset, --config=FILE, or a folder of images, --images=FOLDER")
    if arguments.images is not None:
        copy = align.align_images(arguments.images, arguments.out, options, words)
    else:
        copy = align.align_dataset(Config.from_config_dict(arguments.config).data, arguments.out, options, words)
    counts = ", ".join(f"{number} {status}" for status, number in copy.counts.items())
    console.line(f"{arguments.out}: {counts}")
    if not copy.complete:
        console.line(
            f"not complete: {arguments.out}/alignment.csv lists the unreadable images; mend them and give the same "
            "command, or add --config.data.on_bad_image=skip"
        )
    return 1 if "unreadable" in copy.counts else 0


@command(
    "data sample",
    path("--out", required=True, help="folder to make; must not exist yet"),
    number("--train_per_class", 1, default=40, help="training images of each expression"),
    number("--test_per_class", 1, default=20, help="test images of each expression"),
    number("--seed", 0, default=0, help="seed of images and weights (default 0)"),
)
def sample(arguments: argparse.Namespace) -> None:
    """Writes something to run on: drawn faces in class folders, and a random CLIP.

        mpafer-jax data sample --out=sample

    makes `sample/faces/{train,test}/<expression>/NNN.png` and `sample/clip` in the Hub's layout, from nothing, in a few
    seconds. It shows that an installation works and what a run leaves behind. It shows nothing about accuracy: the
    weights are random, and the faces are a dozen strokes each.
    """
    from mpafer_jax.jobs.sample import EXPRESSIONS, write_sample

    out = arguments.out
    counts = {"train_per_class": arguments.train_per_class, "test_per_class": arguments.test_per_class}
    write_sample(out, **counts, seed=arguments.seed)
    print(f"{out}/faces: drawn faces, {len(EXPRESSIONS)} expressions; {out}/clip: a CLIP with random weights")


@command(
    "data features",
    path("--out", required=True, help="folder for the features"),
    argument("--split", action="append", choices=_SPLITS, help="of which splits; may be repeated (default all)"),
    config=True,
    processes=True,
)
def features(arguments: argparse.Namespace) -> None:
    """Writes the frozen CLIP's image features of a dataset, for experiments of your own.

        mpafer-jax data features --config=configs/quickstart.py --out=features

    writes `<out>/train.npz`, `validation.npz` and `test.npz`, those of them that the configuration has, each with (of
    video clips a row for each frame that evaluation reads, under the clip's name)

        image_features       float32[n, D], z^g of the un-prompted image tower, not normalised, without augmentation
        labels               int32[n], positions in class_names
        label_distributions  float32[n, C]
        names                str[n], the owner's names of the images
        pixel_hashes         str[n], equal for pixel-identical images
        class_names          str[C]

    and `<out>/features.json`, which says of which CLIP and which images. The features are those that prototypes and
    baselines read: what a run has computed is not computed again, and the other way round (`data.features_dir`).
    """
    from mpafer_jax.config.schema import Config
    from mpafer_jax.evaluation.baselines import feature_files

    feature_files.write(Config.from_config_dict(arguments.config), arguments.split or _SPLITS, arguments.out)
