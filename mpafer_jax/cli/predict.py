"""`python -m mpafer_jax.predict`, `mpafer-predict` and `mpafer-jax predict`: expressions of images."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpafer_jax.cli.parser import UsageError, checked
from mpafer_jax.cli.runner import CHECKPOINT, FACE_MODEL, MARGIN, WHICH, argument, command, number, path, refuse_idle
from mpafer_jax.runtime import files, signals

if TYPE_CHECKING:
    from mpafer_jax.inference.predictor import Predictor
    from mpafer_jax.inference.results import Result

_LOOKED_AT = 1000  # names of inputs, for the width of their column
_NO_FACE = "no face"
_LONGEST_WINDOW = 60  # seconds of --smooth: results that long are held in memory


def _table(text: str) -> Path:
    from mpafer_jax.inference import tables

    path = files.local_path(text, "--out")
    tables.check_suffix(path)
    return path


def _annotated(text: str) -> Path:
    path = files.local_path(text, "--annotate")
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path} ends in {path.suffix!r}; annotated videos are written to .mp4")
    return path


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _LONGEST_WINDOW:
        raise ValueError(f"expected seconds from 0 to {_LONGEST_WINDOW}, found {text}")
    return seconds


def _min_confidence(text: str) -> float:
    from mpafer_jax.inference.results import check_min_confidence

    return check_min_confidence(float(text))


def _class_names(text: str) -> tuple[str, ...]:
    from mpafer_jax.config.expressions import check_class_names

    return check_class_names(text.split(","), "the names between commas", at_least=2)


@command(
    "predict",
    argument("inputs", nargs="+", metavar="input", help="file, folder, pattern in quotes, video, or camera:0"),
    CHECKPOINT,
    argument(
        "--out",
        type=checked(_table),
        metavar="FILE",
        help="results: .csv, .jsonl or .parquet (default: lines on the screen)",
    ),
    path(
        "--heatmaps",
        metavar="DIR",
        help="explanations: an image and a JSON file for each face",
    ),
    argument(
        "--annotate",
        type=checked(_annotated),
        metavar="FILE.mp4",
        help="one video with its results drawn on every frame",
    ),
    argument(
        "--smooth",
        type=checked(_seconds),
        default=0.0,
        metavar="SECONDS",
        help="besides, average the probabilities of each face of a video over so long (default: 0, not at all)",
    ),
    argument("--overwrite", action="store_true", help="begin anew where results of a command that was stopped lie"),
    argument(
        "--bank",
        default="expressions",
        help="descriptions that heat maps rank and --zero_shot reads (name or path; none: class names alone)",
    ),
    argument("--faces", choices=("detect", "none"), default="detect", help="none: every image is a crop of a face"),
    argument("--which_faces", choices=("largest", "all"), default="largest", help="of those detected"),
    argument(
        "--margin",
        type=MARGIN,
        help="around the crop, as a fraction of its side (default: that of the training images)",
    ),
    argument("--no_align", action="store_true", help="do not turn detected faces upright"),
    FACE_MODEL,
    number("--stride", 1, default=1, help="every so many frames of a video"),
    number("--batch_size", 1, default=32, help="images computed together"),
    argument("--calibrated", action="store_true", help="confidences calibrated on the checkpoint's validation split"),
    argument(
        "--min_confidence",
        type=checked(_min_confidence),
        default=0.0,
        metavar="SHARE",
        help="answer 'uncertain' below it, a fraction of 1; the run's report says which to take with --calibrated",
    ),
    WHICH,
    argument(
        "--clip",
        default="",
        help="where the checkpoint's CLIP is now, if not where it was; with --zero_shot the CLIP to classify with",
    ),
    argument("--zero_shot", action="store_true", help="no checkpoint: classify with --clip and descriptions alone"),
    argument(
        "--class_names",
        type=checked(_class_names),
        help="for --zero_shot, with commas (default: all eight expressions)",
    ),
    called="mpafer-predict",
)
def predict(arguments: argparse.Namespace) -> int:
    """Predicts the expressions in photos, folders, videos or a camera's stream.

        mpafer-predict photo.jpg
        mpafer-predict photos/ --checkpoint=runs/rafdb --out=results.csv

    the same as `python -m mpafer_jax.predict`; docs/predict.md shows more. Without --checkpoint the model is one that
    ships with the package, for photographs.

    Exit code 0: every input was predicted on (or holds no face); 1: some could not be read, the others are done; 2:
    nothing was done, the message says why. A folder's files that are neither images nor videos by their names are
    counted, and change nothing about it.
    """
    _check_model(arguments)
    refuse_idle(arguments, _idle(arguments))
    from absl import logging

    from mpafer_jax.inference import predict_files, tables
    from mpafer_jax.inference.results import UNCERTAIN
    from mpafer_jax.runtime import compilation_cache

    compilation_cache.enable()
    names = {field.name for field in dataclasses.fields(predict_files.Request)}
    fields = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    outcome = predict_files.run(predict_files.Request(**fields), lambda predictor: lines(predictor, arguments.inputs))
    counts = outcome.counts
    predicted = f"{counts['ok']} predicted"
    if arguments.min_confidence:
        predicted += f", {counts[UNCERTAIN]} uncertain"
    drawn = arguments.annotate if outcome.stopped is None else None
    written = [str(path) for path in (arguments.out, drawn) if path is not None]
    crops = " (if the images are crops of faces: --faces=none)" if counts["no_face"] else ""
    logging.info(
        "%s, %d without a face%s, %d that could not be read%s",
        *(predicted, counts["no_face"], crops, counts["error"]),
        "; written to " + " and ".join(written) if written else "",
    )
    if unlike := counts[tables.UNLIKE]:
        logging.warning(
            "%d of %d images are unlike the training images: farther from them than 99%% of the validation images. "
            "Their predictions, however confident, are worth little",
            *(unlike, counts["ok"] + counts[UNCERTAIN]),
        )
    if outcome.stopped is None:
        over_time = {"--smooth": arguments.smooth > 0, "--stride": arguments.stride > 1}
        if not outcome.has_frames and any(over_time.values()):
            given = " and ".join(option for option, is_given in over_time.items() if is_given)
            logging.warning("%s did nothing: no input was a frame of a video, an animation or a camera", given)
        return 1 if counts["error"] else 0
    if arguments.out is not None or arguments.annotate is not None:
        logging.info("stopped before the end; the same command resumes with what is missing")
    return getattr(outcome.stopped, "exit_code", signals.INTERRUPTED)


def _check_model(arguments: argparse.Namespace) -> None:
    """Refuses a zero-shot prediction without a CLIP, and a checkpoint in the place of an image."""
    from mpafer_jax.artifacts import checkpoints

    if arguments.zero_shot and not arguments.clip:
        raise UsageError("--zero_shot needs --clip, the CLIP to classify with")
    first = arguments.inputs[0]
    if not arguments.zero_shot and "--checkpoint" not in arguments.given and checkpoints.holds_any(first):
        raise UsageError(
            f"the first input, {first}, is a checkpoint: name it with --checkpoint={first}, beside the images"
        )


def _idle(arguments: argparse.Namespace) -> dict[str, str]:
    """Options that do nothing beside the others, each with what it needs."""
    from mpafer_jax.artifacts import checkpoints

    found: dict[str, str] = {}
    if arguments.out is None and arguments.annotate is None:
        found["--overwrite"] = "--out or --annotate"
    if arguments.faces == "none":
        found |= dict.fromkeys(("--which_faces", "--margin", "--no_align", "--face_model"), "--faces=detect")
    if arguments.zero_shot:
        found |= dict.fromkeys(("--which", "--checkpoint", "--calibrated"), "a checkpoint, which --zero_shot has not")
    else:
        if checkpoints.holds_one(arguments.checkpoint):
            found["--which"] = checkpoints.SEVERAL
        found["--class_names"] = "--zero_shot"
        if arguments.heatmaps is None:
            found["--bank"] = "--heatmaps or --zero_shot"
    return found


def lines(predictor: Predictor, inputs: Sequence[str]) -> Callable[[Result], None]:
    """What shows results on stdout: in columns where somebody looks at them, between tabs for programs."""
    from mpafer_jax.inference import media
    from mpafer_jax.inference.results import UNCERTAIN, Failure, Prediction, Source
    from mpafer_jax.runtime import console

    in_columns = console.is_at_terminal()
    first = itertools.islice(media.find(inputs), _LOOKED_AT)
    file_width = max((len(str(Source(medium.path, 0))) for medium in first), default=0)
    answer_width = max(len(name) for name in (*predictor.class_names, _NO_FACE, UNCERTAIN))

    def show(result: Result) -> None:
        if isinstance(result, Failure):
            return
        file, answer, confidence = str(result.source), _NO_FACE, ""
        if isinstance(result, Prediction):
            answer, share = result.answer
            answer = answer if result.certain else UNCERTAIN
            confidence = f"{100 * share:.1f}%"
            file += "" if result.track is None else f" #{result.track}"
        if in_columns:
            console.line(f"{file:<{file_width}}  {answer:<{answer_width}}  {confidence:>6}".rstrip())
        else:
            console.line(f"{file}\t{answer}\t{confidence}")

    return show
