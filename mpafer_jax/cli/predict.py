"""The command: expressions of photos, folders, videos or a camera.

    python -m mpafer_jax.predict runs/rafdb photos/ --out=results.csv

also installed as `mpafer-predict`; docs/predict.md shows more. Exit status 0: every input was predicted on (or holds no
face); 1: some could not be read, the others are done; 2: nothing was done, the message says why. A folder's files that
are neither images nor videos by their names are counted, and change nothing about it.
"""

# argparse, and not absl's flags as the other commands: files and folders are arguments here, and the shell's patterns
# make many of them.

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.backbones.clip.load import load_clip
from mpafer_jax.cli import options, runner, usage
from mpafer_jax.config.expressions import CANONICAL_NAMES, check_class_names
from mpafer_jax.inference import media, tables
from mpafer_jax.inference.attribution import Explainer
from mpafer_jax.inference.attribution_sheet import sheet
from mpafer_jax.inference.faces import FaceFinder, check_margin, import_opencv
from mpafer_jax.inference.predictor import Cropper, Predictor
from mpafer_jax.inference.results import Failure, NoFace, Prediction, Result, Source
from mpafer_jax.runtime import console, files, preemption, progress
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, InputError, PromptError

_USER_ERRORS = (
    CheckpointError,
    PromptError,
    PromptError,
    InputError,
    ModuleNotFoundError,
    OSError,
    InputError,
)
_STATUSES: dict[type, str] = {Prediction: "ok", NoFace: "no_face", Failure: "error"}
_NAMED = 5  # inputs by which a command is told from another
_LOOKED_AT = 1000  # names of inputs, for the width of their column
_NO_FACE = "no face"
_SAME_RESULTS = ("out", "overwrite", "batch_size", "log", "verbosity")  # options that change no result
_LONGEST_STEM = 100  # of a file's name, which becomes a part of others'
_STATUS_READ_SOME, _STATUS_MISTAKE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: its arguments; None for the process's own.

    Returns:
      The exit status.

    Raises:
      SystemExit: 2 where the arguments are wrong, as argparse does; 0 after --help.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    options.refuse_idle(parser, argv, _idle(arguments))
    with parser.console(arguments):
        return _ended(arguments)


def _ended(arguments: argparse.Namespace) -> int:
    try:
        return _predict(arguments)
    # Mistakes of the user's: the message says all there is to say, a traceback would bury it.
    except _USER_ERRORS as error:
        logging.error("%s", "\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()))))
        return _STATUS_MISTAKE


def run() -> None:
    """The entry point `mpafer-predict`, in a process of its own."""
    runner.import_libraries_without_torch()
    with preemption.ending():
        sys.exit(main())


def _parser() -> usage.Parser:
    parser = usage.Parser(prog="python -m mpafer_jax.predict", description=__doc__ or "")
    add = parser.add_argument
    add("checkpoint", help="a run's workdir, its checkpoints folder, or one step_N folder; with --zero_shot a CLIP")
    add("inputs", nargs="+", metavar="input", help="file, folder, pattern in quotes, video, or camera:0")
    add(
        "--out",
        type=_table,
        metavar="FILE",
        help="results: .csv, .jsonl or .parquet (default: lines on the screen)",
    )
    add(
        "--heatmaps",
        type=files.path_argument("--heatmaps"),
        metavar="DIR",
        help="explanations: an image and a JSON file for each face",
    )
    add("--overwrite", action="store_true", help="begin anew where results of a command that was stopped lie")
    add("--bank", default="expressions", help="descriptions that heat maps rank and --zero_shot reads (name or path)")
    add("--faces", choices=("none", "detect"), default="none", help="none: every image is a face (default)")
    add("--which_faces", choices=("largest", "all"), default="largest", help="of those detected")
    add("--margin", type=_margin, default=0.2, help="around a detected face, as a fraction of its side (default 0.2)")
    add("--no_align", action="store_true", help="do not turn detected faces upright by their eyes")
    add("--stride", type=_positive, default=1, help="every so many frames of a video (default 1)")
    add("--batch_size", type=_positive, default=32, help="images computed together (default 32)")
    add("--which", choices=("best", "last"), default="best", help="of a run's checkpoints")
    add("--clip", default="", help="where the checkpoint's CLIP is now, if not where it was")
    add("--zero_shot", action="store_true", help="no checkpoint: classify with a CLIP and descriptions alone")
    add("--class_names", type=_class_names, default=CANONICAL_NAMES, help="for --zero_shot, joined by commas")
    return parser


def _idle(arguments: argparse.Namespace) -> dict[str, str]:
    """Options that do nothing beside the others, each with what it needs."""
    found: dict[str, str] = {}
    if arguments.faces == "none":
        found |= dict.fromkeys(("--which_faces", "--margin", "--no_align"), "--faces=detect")
    if arguments.zero_shot:
        found |= dict.fromkeys(("--which", "--clip"), "a checkpoint, which --zero_shot has not")
    else:
        if checkpoints.holds_one(arguments.checkpoint):
            found["--which"] = checkpoints.SEVERAL
        found["--class_names"] = "--zero_shot"
        if arguments.heatmaps is None:
            found["--bank"] = "--heatmaps or --zero_shot"
    return found


def _table(text: str) -> Path:
    path = files.path_argument("--out")(text)
    try:
        tables.check_suffix(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def _margin(text: str) -> float:
    try:
        return check_margin(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _class_names(text: str) -> tuple[str, ...]:
    try:
        return check_class_names(text.split(","), "the names between commas", at_least=2)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return int(text)


def _predict(arguments: argparse.Namespace) -> int:
    written = [arguments.heatmaps] if arguments.heatmaps is not None else []
    left_out = media.LeftOut()
    found = media.find(arguments.inputs, but=written)
    faces = _face_finder(arguments)
    with progress.task("loading the model"):
        predictor = _predictor(arguments)
    total = media.count(media.find(arguments.inputs, but=written, left_out=left_out), stride=arguments.stride)
    _say(f"{arguments.checkpoint}: {predictor.trained_on}")
    if predictor.trained_on.warning:
        logging.warning("%s", predictor.trained_on.warning)
    if left_out:
        _say(f"left out, as neither images nor videos by their names: {left_out}; to have them read, name them")
    images = media.images(found, stride=arguments.stride)
    live = total is None  # a camera's results must not wait for a batch
    counts: collections.Counter[type] = collections.Counter()
    with contextlib.ExitStack() as stack:
        table = _table_of(arguments, predictor, stack)
        if table is not None:
            images = table.left(images)
            counts.update({kind: table.kept[status] for kind, status in _STATUSES.items()})
            if before := table.kept.total():
                _say(f"{before} results are there from before; going on behind them")
            elif arguments.out.exists():
                _say(f"{arguments.out} is there already, and is replaced at the end")
        longest = _longest(media.find(arguments.inputs))
        sinks = [*_sinks(arguments, predictor, longest, table), _complain]
        keep = arguments.heatmaps is not None
        results = stack.enter_context(
            contextlib.closing(predictor.stream(images, faces=faces, batch_size=1 if live else 0, keep_pixels=keep))
        )
        work = stack.enter_context(progress.task("predicting", total, "images"))
        # Ctrl-C is how a camera's run ends; what there is so far is kept.
        stopped: KeyboardInterrupt | preemption.Preempted | None = None
        try:
            with contextlib.ExitStack() as block:
                for number, result in enumerate(results):
                    if not number:  # before, while programs are compiled, there is nothing to keep
                        block.enter_context(preemption.orderly())
                    work.advance()
                    counts[type(result)] += 1
                    for sink in sinks:
                        sink(result)
        except (KeyboardInterrupt, preemption.Preempted) as asked:
            stopped = asked
            if table is not None and not live:
                table.stop()
    _say(
        f"{counts[Prediction]} predicted, {counts[NoFace]} without a face, {counts[Failure]} that could not be read"
        + (f"; written to {arguments.out}" if arguments.out else "")
    )
    if stopped and not live:
        if arguments.out is not None:
            _say("stopped before the end; the same command goes on with what is missing")
        return stopped.exit_code if isinstance(stopped, preemption.Preempted) else preemption.INTERRUPTED
    return _STATUS_READ_SOME if counts[Failure] else 0


def _predictor(arguments: argparse.Namespace) -> Predictor:
    sizes = sorted({1, min(8, arguments.batch_size), arguments.batch_size})
    if arguments.zero_shot:
        try:
            clip = load_clip(arguments.checkpoint)
        except ValueError as error:  # other errors say themselves that it is a CLIP that is missing
            raise InputError(f"--zero_shot with {arguments.checkpoint}: {error}") from error
        return Predictor.zero_shot(clip, arguments.class_names, arguments.bank, batch_sizes=sizes)
    return Predictor.from_checkpoint(
        arguments.checkpoint, which=arguments.which, clip=arguments.clip, batch_sizes=sizes
    )


def _face_finder(arguments: argparse.Namespace) -> Cropper | None:
    if arguments.faces == "none":
        return None
    import_opencv().setNumThreads(1)  # several images are looked at side by side already
    return FaceFinder(which=arguments.which_faces, margin=arguments.margin, align=not arguments.no_align)


def _table_of(arguments: argparse.Namespace, predictor: Predictor, stack: contextlib.ExitStack) -> tables.Table | None:
    if arguments.out is None:
        return None
    given = {name: value for name, value in vars(arguments).items() if name not in _SAME_RESULTS}
    prompts = np.asarray(predictor.text_features)
    subject = {
        **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
        "inputs": _in_short(arguments.inputs),
        "classes": list(predictor.class_names),
        "texts": hashlib.sha256(prompts.tobytes()).hexdigest()[:16],  # which prompts and which CLIP
    }
    opened = tables.open_table(arguments.out, predictor.class_names, subject, overwrite=arguments.overwrite)
    return stack.enter_context(opened)


def _in_short(names: Sequence[str]) -> list[str]:
    """A few names as they are; of many the first, and what tells them from others."""
    if len(names) <= _NAMED:
        return list(names)
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return [*names[:_NAMED], f"and more, {len(names)} in all ({digest[:16]})"]


def _longest(found: Iterable[media.Medium]) -> int:
    """Length of the longest name among the first inputs, which decides how wide their column is."""
    return max((len(str(Source(medium.path, 0))) for medium in itertools.islice(found, _LOOKED_AT)), default=0)


def _sinks(
    arguments: argparse.Namespace, predictor: Predictor, longest: int, table: tables.Table | None
) -> Generator[Callable[[Result], None]]:
    """Where each result goes."""
    yield table or _Lines(predictor.class_names, longest)
    if arguments.heatmaps is not None:
        yield HeatmapFolder(arguments.heatmaps, Explainer(predictor, arguments.bank))


class HeatmapFolder:
    """Writes what `sheet` draws, and the numbers behind it, for each prediction that it is given."""

    def __init__(self, folder: Path, explainer: Explainer) -> None:
        """Makes the folder where it is not there."""
        self._folder, self._explainer = folder, explainer
        self._last, self._face = -1, 0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, result: Result) -> None:
        """Writes `<index>[_face]_<file's name>.png` and `.json`; of what is no prediction nothing."""
        if not isinstance(result, Prediction):
            return
        source = result.source
        self._face = self._face + 1 if source.index == self._last else 0  # several faces of one image
        self._last = source.index
        stem = Path(source.file).stem.replace(":", "_")[:_LONGEST_STEM]
        name = f"{source.index:06d}{f'_{self._face}' if self._face else ''}_{stem}"
        (explanation,) = self._explainer.explain([result])
        with files.replacing(self._folder / f"{name}.png") as temporary:
            sheet(explanation).save(temporary, "PNG")
        files.write_json(self._folder / f"{name}.json", explanation.to_dict())


class _Lines:
    """Shows results on stdout: in columns where somebody looks at them, between tabs for programs."""

    def __init__(self, class_names: Sequence[str], longest: int) -> None:
        """Takes the widths of the columns.

        Args:
          class_names: of the model.
          longest: of the inputs' names, as far as they are known.
        """
        self._columns = console.is_looked_at()
        self._answer = max(len(name) for name in (*class_names, _NO_FACE))
        self._file = longest

    def __call__(self, result: Result) -> None:
        """Shows one."""
        if isinstance(result, Failure):
            return
        file, answer, confidence = str(result.source), _NO_FACE, ""
        if isinstance(result, Prediction):
            answer, confidence = result.expression, f"{100 * result.confidence:.1f}%"
        if self._columns:
            console.line(f"{file:<{self._file}}  {answer:<{self._answer}}  {confidence:>6}".rstrip())
        else:
            console.line(f"{file}\t{answer}\t{confidence}")


def _complain(result: Result) -> None:
    if isinstance(result, Failure):
        logging.warning("%s", result)


def _say(text: str) -> None:
    logging.info("%s", text)
