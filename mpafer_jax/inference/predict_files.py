"""Predictions on files, folders, videos or a camera, into a table, heat maps or a callback."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from absl import logging

from mpafer_jax.artifacts import shipped
from mpafer_jax.artifacts.checkpoints import Which
from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.expressions import CANONICAL_NAMES
from mpafer_jax.faces.detect import YUNET, Detector
from mpafer_jax.faces.finder import FaceFinder
from mpafer_jax.faces.finder import Which as WhichFaces
from mpafer_jax.inference import media, tables, temporal
from mpafer_jax.inference.annotate import Annotator
from mpafer_jax.inference.attribution import Explainer
from mpafer_jax.inference.attribution_sheet import HeatmapFolder
from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.predictor import Cropper, Predictor
from mpafer_jax.inference.results import Failure, Prediction, Result
from mpafer_jax.inference.temporal import VideoTracks
from mpafer_jax.method.hard_prompts.bank import bank_of_option
from mpafer_jax.runtime import progress, signals
from mpafer_jax.runtime.errors import InputError

_NAMED = 5  # inputs listed in full in a request's identity
# Fields that do not change the results as they come; smoothing is done when they are complete.
_SAME_RESULTS = ("out", "annotate", "smooth", "overwrite", "batch_size")


@dataclasses.dataclass(frozen=True)
class Request:
    """The model, inputs and outputs of a prediction command.

    Attributes:
      inputs: files, folders, patterns, videos, or "camera:0".
      checkpoint: as for `Predictor.from_checkpoint`.
      out: a table, .csv, .jsonl or .parquet; None: no table.
      heatmaps: a folder for attributions; None: none.
      annotate: a video to write, .mp4: the one input with its results drawn on; None: none.
      smooth: seconds over which the probabilities of a track are averaged besides; 0 for not at all.
      overwrite: whether to discard the results of an interrupted request instead of resuming it.
      bank: descriptions for heat maps and `zero_shot`; "none" for none.
      faces: "detect", or "none": every image is a face.
      which_faces: "largest" or "all" detected faces.
      margin: around the crop of a detected face, as a fraction of its side; None for the one of the training images.
      no_align: whether detected faces are not turned upright.
      face_model: another file of the face detector; None for the one that is shipped.
      stride: take every `stride`-th frame of a video.
      batch_size: images computed together.
      which: of a run's checkpoints.
      clip: the checkpoint's CLIP, if it has moved, '' if not; or the CLIP of `zero_shot`.
      zero_shot: whether to use `clip` and descriptions without a checkpoint.
      class_names: for `zero_shot`.
      calibrated: whether the checkpoint's temperature calibrates the probabilities.
      min_confidence: predictions of a lower confidence, with `smooth` of a lower smooth one, are uncertain.
    """

    inputs: Sequence[str]
    checkpoint: str = shipped.DEFAULT
    out: Path | None = None
    heatmaps: Path | None = None
    annotate: Path | None = None
    smooth: float = 0.0
    overwrite: bool = False
    bank: str = "expressions"
    faces: str = "detect"
    which_faces: WhichFaces = "largest"
    margin: float | None = None
    no_align: bool = False
    face_model: Path | None = None
    stride: int = 1
    batch_size: int = 32
    which: Which = "best"
    clip: str = ""
    zero_shot: bool = False
    class_names: Sequence[str] = CANONICAL_NAMES
    calibrated: bool = False
    min_confidence: float = 0.0

    def predictor(self) -> Predictor:
        """Loads the model."""
        sizes = sorted({1, min(8, self.batch_size), self.batch_size})
        if not self.zero_shot:
            return Predictor.from_checkpoint(
                self.checkpoint, which=self.which, clip=self.clip, batch_sizes=sizes, calibrated=self.calibrated
            )
        try:
            clip = load_backbone(self.clip)
        except ValueError as error:  # other errors name the CLIP themselves
            raise InputError(f"--zero_shot with {self.clip}: {error}") from error
        bank = bank_of_option(self.bank)
        if bank is not None and (missing := bank.missing(self.class_names, "holistic")):
            raise InputError(
                f"--zero_shot with --bank={self.bank}: it does not describe {', '.join(map(repr, missing))} "
                f"(holistic), only {', '.join(bank.classes)}; name a bank file that does, or --bank=none to "
                "classify by the names alone"
            )
        return Predictor.zero_shot(clip, self.class_names, bank, batch_sizes=sizes)

    def detector(self) -> Detector | None:
        """The face detector, or None."""
        if self.faces == "none":
            return None
        cv2.setNumThreads(1)  # images are already processed in parallel
        return Detector(self.face_model or YUNET)

    def cropper(self, detector: Detector | None, trained_on: TrainedOn) -> Cropper | None:
        """What crops detected faces; None if images are faces."""
        margin = trained_on.face_margin if self.margin is None else self.margin
        return detector and FaceFinder(detector, which=self.which_faces, margin=margin, align=not self.no_align)

    def subject(self, predictor: Predictor) -> dict[str, object]:
        """Everything the results depend on, ready for JSON."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if name not in _SAME_RESULTS}
        return {
            **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
            "inputs": _in_short(self.inputs),
            "classes": list(predictor.class_names),
            "confidence": None if predictor.confidence is None else predictor.confidence.model_dump(mode="json"),
            "texts": hashlib.sha256(np.asarray(predictor.text_features).tobytes()).hexdigest()[:16],
        }


def _in_short(names: Sequence[str]) -> list[str]:
    """A few names as they are; of many, the first ones and a digest of all."""
    if len(names) <= _NAMED:
        return list(names)
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return [*names[:_NAMED], f"and more, {len(names)} in all ({digest[:16]})"]


def _certainty(predictor: Predictor) -> str:
    """What the confidences of a checkpoint are."""
    if predictor.confidence is None:
        return "confidences are uncalibrated, and images unlike the training images are not told: no confidence.npz"
    if predictor.temperature is None:
        return f"confidences are uncalibrated; --calibrated calibrates them ({predictor.confidence})"
    return f"confidences are calibrated: {predictor.confidence}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a request came to.

    Attributes:
      counts: of results as `tables.tally` names them, earlier ones included.
      stopped: the interruption, if any.
      has_frames: whether an image was a frame of a video, an animation or a camera.
    """

    counts: collections.Counter[str]
    stopped: signals.Preempted | KeyboardInterrupt | None
    has_frames: bool


def run(request: Request, show: Callable[[Predictor], Callable[[Result], None]]) -> Outcome:
    """Predicts on all inputs. An interrupted request with a table resumes when it is run again.

    Args:
      request: the request.
      show: given the loaded model, returns the callback for results if there is no table.

    Raises:
      CheckpointError, ConfigError, PromptError: the model cannot be loaded.
      InputError: the inputs are empty, or the table belongs to another request.
      OSError: an output cannot be written.
    """
    written = [request.heatmaps] if request.heatmaps is not None else []
    left_out = media.LeftOut()
    found = media.find(request.inputs, but=written)
    # What is missing fails before the model is loaded.
    annotator = (
        None if request.annotate is None else Annotator(request.annotate, request.inputs, request.min_confidence)
    )
    detector = request.detector()
    with progress.task("loading the model"):
        predictor = request.predictor()
    total = media.count(media.find(request.inputs, but=written, left_out=left_out), stride=request.stride)
    model = request.clip if request.zero_shot else shipped.in_words(request.checkpoint)
    logging.info("%s: %s", model, predictor.trained_on)
    if predictor.trained_on.terms:
        logging.info("%s", predictor.trained_on.terms)
    if predictor.trained_on.warning:
        logging.warning("%s", predictor.trained_on.warning)
    if not request.zero_shot:
        logging.info("%s", _certainty(predictor))
    if left_out:
        logging.info("left out, neither images nor videos by their names: %s; to have them read, name them", left_out)
    has_frames = False

    def looked_at(images: Iterable[InputImage | Failure]) -> Generator[InputImage | Failure]:
        nonlocal has_frames
        for image in images:
            has_frames |= image.source.frame is not None
            yield image

    images = looked_at(media.images(found, stride=request.stride))
    live = total is None  # a camera: results must not wait for others, and Ctrl-C is the regular end
    smooth = functools.partial(
        temporal.smooth_rows, seconds=request.smooth, min_confidence=request.min_confidence, ahead=not live
    )
    tracks = VideoTracks()
    counts: collections.Counter[str] = collections.Counter()
    stopped: KeyboardInterrupt | signals.Preempted | None = None
    with contextlib.ExitStack() as stack:
        table = None
        if path := request.out or request.annotate:
            opened = tables.open_table(
                path,
                predictor.class_names,
                request.subject(predictor),
                overwrite=request.overwrite,
                smooth=smooth,
                written=request.out is not None,
            )
            table = stack.enter_context(opened)
            images = table.remaining(images)
            counts.update(table.earlier)
            if before := table.earlier.total() - table.earlier[tables.UNLIKE]:
                logging.info("%d results are there from before; going on behind them", before)
                tracks.replay(table.rows())
            for file in (request.out, request.annotate):
                if not before and file is not None and file.exists():
                    logging.info("%s is there already, and is replaced at the end", file)
        sinks: list[Callable[[Result], None]] = [table or show(predictor)]
        if request.heatmaps is not None:
            sinks.append(HeatmapFolder(request.heatmaps, Explainer(predictor, bank_of_option(request.bank))))
            if not request.zero_shot and request.checkpoint in shipped.HEAT_MAPS:
                logging.warning("heat maps of %s: %s", request.checkpoint, shipped.HEAT_MAPS[request.checkpoint])
        results = stack.enter_context(
            contextlib.closing(
                predictor.stream(
                    images,
                    faces=request.cropper(detector, predictor.trained_on),
                    tracks=tracks,
                    batch_size=1 if live else 0,
                    keep_pixels=request.heatmaps is not None,
                    min_confidence=request.min_confidence,
                )
            )
        )
        if table is None:
            results = temporal.smooth_results(results, request.smooth, ahead=not live)
        try:
            with progress.task("predicting", total, "images") as work, contextlib.ExitStack() as block:
                index = None  # of the last image
                for result in results:
                    if index is None:  # no results to keep before, while programs are compiled
                        block.enter_context(signals.orderly())
                    work.advance(int(result.source.index != index))
                    index = result.source.index
                    counts[result.status] += 1
                    counts[tables.UNLIKE] += isinstance(result, Prediction) and result.is_unlike
                    for sink in sinks:
                        sink(result)
                    if isinstance(result, Failure):
                        logging.warning("%s", result)
            if annotator is not None and table is not None:
                with signals.orderly():
                    annotator.write(smooth(table.rows()))
        except (KeyboardInterrupt, signals.Preempted) as asked:
            stopped = None if live else asked
            if table is not None and not live:
                table.stop()
        if table is not None and request.smooth:  # which decides what is uncertain
            counts = collections.Counter(itertools.chain.from_iterable(map(tables.tally, smooth(table.rows()))))
    return Outcome(counts, stopped, has_frames)
