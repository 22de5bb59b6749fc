"""`Predictor`: from images to typed results."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent import futures
from typing import Any, cast

import jax
import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax.artifacts import checkpoints, shipped
from mpafer_jax.artifacts.confidence import FILE, HOW_TO_MAKE, Confidence
from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.artifacts.loaded import load_model
from mpafer_jax.backbones.base import Outputs, Pretrained
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.expressions import check_class_names
from mpafer_jax.config.schema import PromptGranularity
from mpafer_jax.data import preprocess
from mpafer_jax.data.preprocess import Pixels
from mpafer_jax.faces.detect import Face
from mpafer_jax.faces.finder import FaceCrop
from mpafer_jax.inference.batching import BATCH_SIZES, PaddedFunction
from mpafer_jax.inference.inputs import ImageLike, Input, InputImage, as_input
from mpafer_jax.inference.results import Failure, NoFace, Prediction, Result, Source, check_min_confidence
from mpafer_jax.inference.temporal import VideoTracks
from mpafer_jax.method import build
from mpafer_jax.method.forward import Forward, Rgb
from mpafer_jax.method.hard_prompts.bank import Bank, load_banks
from mpafer_jax.method.hard_prompts.features import class_features, encode_hard_prompts, text_encoder
from mpafer_jax.method.hard_prompts.templates import build_hard_prompts, prompt_name
from mpafer_jax.method.model import PromptedModel
from mpafer_jax.method.outliers import mahalanobis
from mpafer_jax.method.prompts import Params, PromptLearner, check_names_differ
from mpafer_jax.method.state import Frozen
from mpafer_jax.runtime import devices, workers
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, ImageError
from mpafer_jax.runtime.finite import check_rows, finite_rows

_NOT_FINITE = "the model's logits are NaN or infinite; see whether its checkpoint is of a run that went well"
_LARGE = 64 << 20  # bytes of weights; smaller ones may stay in a processor's cache, and scanned layers compile faster
_PAPER_TOP_K, _PAPER_PATCHES = 16, 196
Cropper = Callable[[Image.Image], Sequence[FaceCrop]]


class Predictor:
    """Predicts expressions; make one with `from_checkpoint` or `zero_shot`.

    Texts are encoded on construction. Images are computed in padded batches of a few sizes, each compiled on first use.
    Thread-safe.

    Attributes:
      class_names: C names, in the order of logits and probabilities.
      hard_prompts: the texts of a checkpoint's training, or of zero-shot classification.
      trained_on: training data, if any, and CLIP; its `warning` names what the model cannot do.
      image_size: S, side in pixels to which images or faces are resized.
      grid: (rows, columns) of patches.
      model: the network.
      frozen, params: its frozen and learned parameters, on the devices; learned updates of weights are in both.
      untrained: the backbone's parameters without learned updates.
      text_features: theta(t) [C, D], on the devices.
      confidence: the checkpoint's, measured on its validation split; None if it has none, and for zero-shot.
      temperature: T of calibrated probabilities; None: they are uncalibrated.
      tokenizer: of the backbone.
      forward: the forward pass from stored images.
    """

    def __init__(
        self,
        experiment: build.Experiment,
        params: Params,
        text_features: jax.Array,
        *,
        trained_on: TrainedOn,
        forward: Forward,
        batch_sizes: Sequence[int] = BATCH_SIZES,
        confidence: Confidence | None = None,
        calibrated: bool = False,
    ) -> None:
        """Puts everything on the devices; compiles nothing yet.

        Args:
          experiment: the model.
          params: of its prompt learner.
          text_features: theta(t) [C, D].
          trained_on: training data, if any, and CLIP.
          forward: of the model; its normalisation is read.
          batch_sizes: batch sizes to pad to, ascending; the largest bounds the memory.
          confidence: of the checkpoint; None: predictions do not tell images unlike its training images.
          calibrated: whether probabilities are softmax(logits / T), with the temperature T of `confidence`.

        Raises:
          ValueError: batch sizes are not positive and ascending, or `calibrated` without `confidence`.
        """
        if calibrated and confidence is None:
            raise ValueError("calibrated probabilities need a confidence, which holds the temperature")
        self.model, self.tokenizer = experiment.model, experiment.tokenizer
        self.class_names, self.hard_prompts = experiment.class_names, experiment.hard_prompts
        self.trained_on = trained_on
        self.image_size, self.grid = experiment.image_size, self.model.backbone.spec.grid
        self.params = devices.replicate(params)
        self.text_features = devices.replicate(text_features)
        self.forward = dataclasses.replace(forward, model=self.model)
        self.frozen, self.untrained = self.forward.merged(self.params, experiment.frozen), experiment.frozen.backbone
        self.confidence = confidence
        self.temperature = confidence.temperature if confidence is not None and calibrated else None
        gaussian = None if confidence is None else devices.replicate((confidence.mean, confidence.whitening))
        model, frozen = _fastest(self.model, self.frozen)
        predict = functools.partial(self._predict, dataclasses.replace(forward, model=model))
        arguments = (self.params, frozen, self.text_features, gaussian)
        self._classify = PaddedFunction(predict, arguments, self.image_size, batch_sizes)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str] = shipped.DEFAULT,
        *,
        which: checkpoints.Which = "best",
        clip: str = "",
        batch_sizes: Sequence[int] = BATCH_SIZES,
        calibrated: bool | None = False,
    ) -> Predictor:
        """The model of a training run; its logits are those of `--mode=eval`.

        Args:
          path: a workdir, its `checkpoints` folder, one `step_N` folder, exported prompts, or a name of
            `shipped.PROMPTS`; by default the prompts that ship with the package, for photographs.
          which: the best checkpoint on validation (the last if none was evaluated) or the last.
          clip: the CLIP it was trained on, if that has moved; '' for its recorded name.
          batch_sizes: batch sizes to pad to, ascending; the largest bounds the memory.
          calibrated: whether probabilities are calibrated by the temperature that was fitted on validation; None: if
            the checkpoint has one.

        Raises:
          CheckpointError: no checkpoint, one of another version, its CLIP is missing or another, or `calibrated` of a
            checkpoint without a temperature.
        """
        experiment, params, description, confidence = load_model(path, which, clip)
        if calibrated is None:
            calibrated = confidence is not None
        elif calibrated and confidence is None:
            raise CheckpointError(f"{path} has no calibrated temperature ({FILE} in the checkpoint). {HOW_TO_MAKE}")
        normalization = description.normalization()
        mean, std = (cast(Rgb, tuple(normalization[name])) for name in ("mean", "std"))
        forward = Forward(experiment.model, mean, std, normalization["grayscale"])
        encode_texts: Any = jax.jit(forward.encode_texts)
        text_features = encode_texts(params, experiment.frozen)
        trained_on = description.trained_on
        return cls(
            experiment,
            params,
            text_features,
            trained_on=trained_on,
            forward=forward,
            batch_sizes=batch_sizes,
            confidence=confidence,
            calibrated=calibrated,
        )

    @classmethod
    def zero_shot(
        cls,
        clip: str | Pretrained,
        class_names: Sequence[str],
        bank: str | Bank | None = "expressions",
        *,
        granularity: Sequence[PromptGranularity] = ("holistic",),
        paraphrases: int = 0,
        top_k: int = 0,
        local_weight: float = 1.0,
        batch_sizes: Sequence[int] = BATCH_SIZES,
    ) -> Predictor:
        """An untrained CLIP as a zero-shot classifier of any classes.

        Args:
          clip: an argument or a result of `load_backbone`.
          class_names: C names.
          bank: descriptions (hard prompts of type 3), a `Bank`, its name or path; None for class names alone (type 2).
          granularity: the bank's texts to use; a class's feature is the mean of its texts.
          paraphrases: number of each, in the order of a bank given by name or path; 0 for all.
          top_k: k patches of a class's local score; 0 for the paper's share, 16 of 196.
          local_weight: lambda of the local score; 0 for standard CLIP zero-shot classification.
          batch_sizes: as in `from_checkpoint`.

        Raises:
          PromptError: the bank is missing or lacks classes, a text does not fit the text tower, or two names have the
            same tokens.
          ConfigError: fewer than two classes, an empty name, two names of one class, the CLIP's image normalisation is
            unknown, or it has fewer patches than `top_k`.
        """
        class_names = check_class_names(class_names, "class_names", at_least=2)
        loaded = load_backbone(clip) if isinstance(clip, str) else clip
        if loaded.image_mean is None or loaded.image_std is None:
            raise ConfigError(
                f"{loaded.name} says no mean and std of its images; put a preprocessor_config.json with image_mean and "
                "image_std into its folder (of a file, into the folder that `mpafer-jax clip convert` makes of it)"
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
            raise ConfigError(f"top_k is {top_k}, {loaded.name} has {num_patches} patches")
        experiment = build.assemble(model, loaded, class_names, names, hard_prompts)
        encoder = text_encoder(model, experiment.frozen.backbone, encode)
        text_features, _ = encode_hard_prompts({"own": hard_prompts}, encoder)["own"]
        return cls(
            experiment,
            {},
            class_features(text_features),
            trained_on=TrainedOn("", 0, loaded.name),
            forward=Forward(model, loaded.image_mean, loaded.image_std, loaded.grayscale),
            batch_sizes=batch_sizes,
        )

    def __repr__(self) -> str:
        calibrated = "" if self.temperature is None else f"; calibrated: {self.confidence}"
        return f"<{type(self).__name__} of {', '.join(self.class_names)}; {self.trained_on}{calibrated}>"

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes to which batches are padded, ascending."""
        return self._classify.sizes

    def predict(self, image: ImageLike, *, min_confidence: float = 0.0) -> Prediction:
        """Predicts one image, taken as a face that fills it; `min_confidence` as for `stream`.

        Raises:
          ImageError: it cannot be read; names it.
        """
        return self.predict_batch([image], min_confidence=min_confidence)[0]

    def predict_batch(
        self, images: Sequence[ImageLike] | npt.NDArray[np.uint8], *, min_confidence: float = 0.0
    ) -> list[Prediction]:
        """Predicts several images, or an array [B, height, width, 3], each taken as a face that fills it.

        `min_confidence` is as for `stream`.

        Raises:
          ImageError: one cannot be read; names it.
        """
        return [checked(result) for result in self.stream(images, min_confidence=min_confidence)]

    def stream(
        self,
        images: Iterable[Input],
        *,
        faces: Cropper | None = None,
        tracks: VideoTracks | None = None,
        batch_size: int = 0,
        keep_pixels: bool = False,
        min_confidence: float = 0.0,
    ) -> Generator[Result]:
        """Predicts any number of images, in order, in constant memory.

        Threads read images while the devices compute. An input that cannot be read, or whose logits are NaN or
        infinite, becomes a `Failure`.

        Args:
          images: paths, encoded images (bytes), Pillow images, arrays uint8[height, width, 3] in RGB order; an iterator
            is advanced only a little ahead of the results.
          faces: face detector (`faces.FaceFinder`): one result for each face, or a `NoFace`. None: images are faces.
          tracks: gives the faces of a video's frames their tracks; None for new ones.
          batch_size: images computed together; 0 for the largest of `batch_sizes`. 1, for a camera, yields each result
            before the next image is taken.
          keep_pixels: whether predictions hold their input pixels, grey where the model reads grey ones.
          min_confidence: predictions of a lower confidence are `uncertain`.

        Raises:
          TypeError, ValueError: an input is not of a type of image; see `inputs.as_input`.
          ValueError: `batch_size` is above the largest of `batch_sizes`, or `min_confidence` is not from 0 to 1.
        """
        if isinstance(images, (str, bytes)):  # would be taken for many, a letter or byte each
            raise TypeError("one image, expected several: [image], or predict(image)")
        check_min_confidence(min_confidence)
        limit = batch_size or self.batch_sizes[-1]
        if not 1 <= limit <= self.batch_sizes[-1]:
            raise ValueError(f"batch_size must be 1 to {self.batch_sizes[-1]}, the largest compiled, found {limit}")
        in_flight, ahead = (1, limit) if limit > 1 else (0, 0)

        def prepare(item: InputImage | Failure) -> list[_Row]:
            return self._prepare(item, faces)

        items = (as_input(image, index) for index, image in enumerate(images))
        with (
            futures.ThreadPoolExecutor(workers.READING_THREADS) as pool,
            contextlib.closing(workers.map_in_order(pool, prepare, items, ahead)) as prepared,
        ):
            running: collections.deque[tuple[list[_Row], Outputs | None]] = collections.deque()
            for rows in _groups(_tracked(prepared, tracks or VideoTracks()), limit):
                pixels = [row.pixels for row in rows if isinstance(row, _Crop)]
                running.append((rows, self._classify.start(pixels) if pixels else None))
                if len(running) > in_flight:  # one batch computes while the next is prepared
                    yield from self._finish(*running.popleft(), keep_pixels, min_confidence)
            while running:
                yield from self._finish(*running.popleft(), keep_pixels, min_confidence)

    def _prepare(self, item: InputImage | Failure, faces: Cropper | None) -> list[_Row]:
        if isinstance(item, Failure):
            return [item]
        try:
            image = item.read()
        except ImageError as error:
            return [Failure(item.source, str(error))]
        if faces is None:
            return [_Crop(item.source, None, self._resized(image))]
        crops = faces(image)
        return [_Crop(item.source, crop.face, self._resized(crop.image)) for crop in crops] or [NoFace(item.source)]

    def _resized(self, image: Image.Image) -> Pixels:
        return np.asarray(preprocess.resize(image, self.image_size))

    def logits(self, pixels: Pixels, names: Sequence[str] = ()) -> npt.NDArray[np.float32]:
        """Logits [n, C] of n > 0 images of the model's size.

        Args:
          pixels: uint8[n, S, S, 3].
          names: of the images, for errors; empty to number them.

        Raises:
          NonFiniteError: an image's logits are NaN or infinite.
        """
        logits = self._classify(pixels)["logits"]
        check_rows("logits", logits, names or [f"image {number}" for number in range(len(logits))])
        return logits

    def warm_up(self) -> None:
        """Compiles all batch sizes now, as for a service."""
        self._classify.warm_up()

    def _predict(
        self,
        forward: Forward,
        params: dict[str, Any],
        frozen: Frozen,
        text_features: jax.Array,
        gaussian: tuple[jax.Array, jax.Array] | None,
        pixels: jax.Array,
    ) -> Outputs:
        outputs = forward.predict(forward.image_prompts(params), frozen, pixels, text_features)
        mean_patches = outputs.pop("mean_patch")
        if self.temperature is not None:
            outputs["probabilities"] = jax.nn.softmax(outputs["logits"] / self.temperature, axis=-1)
        if gaussian is not None:
            outputs["distances"] = mahalanobis(mean_patches, *gaussian)
        return outputs

    def _finish(
        self, rows: list[_Row], outputs: Outputs | None, keep_pixels: bool, min_confidence: float
    ) -> Generator[Result]:
        values = {name: np.asarray(value) for name, value in (outputs or {}).items()}
        finite = finite_rows(values["logits"]) if values else ()
        limit = None if self.confidence is None else self.confidence.unlike_distance
        position = -1
        for row in rows:
            if not isinstance(row, _Crop):
                yield row
                continue
            position += 1
            if not finite[position]:
                yield Failure(row.source, _NOT_FINITE)
                continue
            yield Prediction(
                source=row.source,
                face=row.face,
                class_names=self.class_names,
                logits=values["logits"][position],
                probabilities=values["probabilities"][position],
                patch_scores=values["patch_scores"][position] if "patch_scores" in values else None,
                top_patches=values["top_patches"][position] if "top_patches" in values else None,
                grid=self.grid,
                pixels=preprocess.as_read(row.pixels, grayscale=self.forward.grayscale) if keep_pixels else None,
                temperature=self.temperature,
                min_confidence=min_confidence,
                unlike=None if limit is None else float(values["distances"][position]) / limit,
                track=row.track,
                covered=self.model.backbone.spec.covered,
            )


def _fastest(model: PromptedModel, frozen: Frozen) -> tuple[PromptedModel, Frozen]:
    """The model as CPUs compute it fastest: a large image tower unrolled.

    One device copies no weights for it: the memory of a CPU is the host's, where aligned views are taken as they are.
    """
    if jax.default_backend() != "cpu" or sum(leaf.nbytes for leaf in jax.tree.leaves(frozen.backbone)) < _LARGE:
        return model, frozen
    backbone, params = model.backbone.unroll(frozen.backbone)
    return model.clone(backbone=backbone), dataclasses.replace(frozen, backbone=devices.replicate(params))


def checked(result: Result) -> Prediction:
    """Returns a result that is a prediction.

    Raises:
      ImageError: the input could not be read, or holds no face; names it.
    """
    if isinstance(result, Prediction):
        return result
    raise ImageError(str(result))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    """Model input uint8[S, S, 3]."""

    source: Source
    face: Face | None
    pixels: Pixels
    track: int | None = None


_Row = _Crop | NoFace | Failure


def _tracked(prepared: Iterable[list[_Row]], tracks: VideoTracks) -> Generator[list[_Row]]:
    """The rows of each image, its detected faces with their tracks."""
    for rows in prepared:
        faces = [row.face for row in rows if isinstance(row, _Crop) and row.face is not None]
        if faces or isinstance(rows[0], NoFace):
            numbers = itertools.chain(tracks(rows[0].source, faces), itertools.repeat(None))
            rows = [
                dataclasses.replace(row, track=number) if isinstance(row, _Crop) else row
                for row, number in zip(rows, numbers, strict=False)
            ]
        yield rows


def _groups(prepared: Iterable[list[_Row]], limit: int) -> Generator[list[_Row]]:
    """Groups of rows in order, each of at most `limit` crops and `limit` other rows, so that none waits unboundedly."""
    rows: list[_Row] = []
    crops = 0
    for image_rows in prepared:
        for row in image_rows:
            rows.append(row)
            crops += isinstance(row, _Crop)
            if limit in (crops, len(rows) - crops):
                yield rows
                rows, crops = [], 0
    if rows:
        yield rows
