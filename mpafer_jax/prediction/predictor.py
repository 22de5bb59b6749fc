"""`Predictor`: a model that is ready, from pictures to typed results."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent import futures
from typing import Any, cast

import jax
import numpy as np
import numpy.typing as npt
from PIL import Image

from mpafer_jax import checkpoint, devices, experiment, processes
from mpafer_jax.data import preprocess
from mpafer_jax.data.normalize import normalize
from mpafer_jax.data.preprocess import PictureError, Pixels
from mpafer_jax.faces import Face, FaceCrop
from mpafer_jax.hard_prompts.bank import Bank, load_bank
from mpafer_jax.hard_prompts.templates import build_hard_prompts, prompt_name
from mpafer_jax.models.clip import Outputs
from mpafer_jax.models.mpafer import MPAFER, variables
from mpafer_jax.models.prompts import PromptShape, init_prompts, tokenize, tokenize_soft
from mpafer_jax.prediction.inputs import ImageLike, Input, Picture, as_picture
from mpafer_jax.prediction.results import Failure, NoFace, Prediction, Result, Source
from mpafer_jax.weights.load import PretrainedClip, load_clip
from mpafer_jax.weights.tokenizer import Tokenizer, load_tokenizer

BATCH_SIZES = (1, 8, 32)
_THREADS = min(16, processes.usable_cores() + 2)  # a little more than the cores: reading waits for the disk
_PAPER_TOP_K, _PAPER_PATCHES = 16, 196
Cropper = Callable[[Image.Image], Sequence[FaceCrop]]


class Predictor:
    """Predicts expressions; make one with `from_checkpoint` or `zero_shot`.

    Texts are encoded when it is made. Pictures are computed in padded batches of a few sizes, each compiled when it is
    first needed. One predictor may serve several threads.

    Attributes:
      class_names: C names, in the order of logits and probabilities.
      texts: what stands for each class: the hard prompts a checkpoint was trained with, or the zero-shot texts.
      image_size: S, side in pixels to which pictures or faces are resized.
      grid: (rows, columns) of patches.
      model: the composition.
      variables: its parameters, on the devices.
      text_features: theta(t) [C, D], on the devices.
      tokenizer: of the CLIP.
      mean: CLIP's mean of each colour, on the scale 0..1.
      std: likewise its standard deviation.
    """

    def __init__(
        self,
        *,
        model: MPAFER,
        clip: PretrainedClip,
        prompts: dict[str, Any],
        text_features: jax.Array,
        class_names: Sequence[str],
        texts: Sequence[str],
        tokenizer: Tokenizer,
        mean: Sequence[float],
        std: Sequence[float],
        batch_sizes: Sequence[int] = BATCH_SIZES,
    ) -> None:
        """Puts everything on the devices; compiles nothing yet.

        Raises:
          ValueError: batch sizes that are no positive, ascending numbers.
        """
        if not batch_sizes or min(batch_sizes) < 1 or list(batch_sizes) != sorted(set(batch_sizes)):
            raise ValueError(f"batch_sizes must be positive and ascend, found {list(batch_sizes)}")
        vision = clip.config.vision
        side = vision.image_size // vision.patch_size
        self.model = model
        self.variables: dict[str, Any] = devices.replicate(variables(clip.params, prompts))
        self.text_features = devices.replicate(text_features)
        self.class_names = tuple(class_names)
        self.texts = tuple(texts)
        self.tokenizer = tokenizer
        self.image_size = vision.image_size
        self.grid = (side, side)
        self.mean, self.std = _rgb(mean), _rgb(std)
        self._batch_sizes = tuple(batch_sizes)
        self._compiled: dict[int, Callable[..., Outputs]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        which: checkpoint.Which = "best",
        clip: str = "",
        batch_sizes: Sequence[int] = BATCH_SIZES,
    ) -> Predictor:
        """The model of a training run; its numbers are those of `--mode=eval`.

        Args:
          path: a workdir, its `checkpoints` folder, or one `step_N` folder.
          which: of several, the best on validation (the last where none was evaluated) or the last.
          clip: the CLIP that it was trained on, where that is no longer found under its name; '' for that name.
          batch_sizes: to which batches are padded, ascending; the largest bounds the memory.

        Raises:
          CheckpointError: no checkpoint, one of another version, or its CLIP is not there or is another.
        """
        params, description, _ = checkpoint.load(os.fspath(path), which)
        sections = description.model_sections()
        name = clip or sections.clip.name
        try:
            loaded = load_clip(
                name, revision=sections.clip.revision, cache_dir=sections.clip.cache_dir, dtype=sections.clip.dtype
            )
            tokenizer = load_tokenizer(loaded.tokenizer_folder)
        except (OSError, ValueError, ModuleNotFoundError) as error:
            raise checkpoint.CheckpointError(
                f"{path}: its CLIP, {name!r}, cannot be loaded: {error}; name the place where it is now (clip=..., "
                "--clip)"
            ) from error
        description.check_clip(name, loaded.content_hash)
        model = experiment.make_model(sections, loaded.config, len(description.class_names)).clone(remat="none")
        names = [prompt_name(name) for name in description.class_names]
        positions = loaded.config.text.max_position_embeddings
        soft = tokenize_soft(names, tokenizer.encode, positions, sections.ctx.num_ctx)
        bound = model.bind(variables(jax.device_put(loaded.params), jax.device_put(params)))
        text_features, _ = bound.encode_soft_prompts(bound.embed(soft))
        return cls(
            model=model,
            clip=loaded,
            prompts=params,
            text_features=text_features,
            class_names=description.class_names,
            texts=description.hard_prompts,
            tokenizer=tokenizer,
            mean=description.config["data"]["mean"],
            std=description.config["data"]["std"],
            batch_sizes=batch_sizes,
        )

    @classmethod
    def zero_shot(
        cls,
        clip: str | PretrainedClip,
        class_names: Sequence[str],
        bank: str | Bank | None = "expressions",
        *,
        top_k: int = 0,
        local_weight: float = 1.0,
        batch_sizes: Sequence[int] = BATCH_SIZES,
    ) -> Predictor:
        """A CLIP without any training, on classes of any names.

        Args:
          clip: what `load_clip` takes, or what it returned.
          class_names: C names.
          bank: descriptions (hard prompts of type 3), by name, path or as such; None for names alone (type 2), which
            any class has.
          top_k: k patches that make a class's local score; 0 for as large a share as the paper's 16 of 196.
          local_weight: lambda of the local score; 0 for CLIP's own zero-shot classification.
          batch_sizes: as in `from_checkpoint`.

        Raises:
          BankError: no such bank, or it lacks a class.
          PromptError: a text does not fit the text tower.
          ValueError: the CLIP does not say how its pictures are normalised, or has fewer patches than `top_k`.
        """
        loaded = load_clip(clip) if isinstance(clip, str) else clip
        if loaded.image_mean is None or loaded.image_std is None:
            raise ValueError(
                f"{loaded.name} has no preprocessor_config.json, so its pictures' mean and std are unknown"
            )
        descriptions = load_bank(bank) if isinstance(bank, str) else bank
        texts = build_hard_prompts(class_names, 2 if descriptions is None else 3, descriptions)
        tokenizer = load_tokenizer(loaded.tokenizer_folder)
        tokens = tokenize(texts, tokenizer.encode, loaded.config.text.max_position_embeddings)
        num_patches = loaded.config.vision.num_patches
        model = MPAFER(
            clip_config=loaded.config,
            prompt_shape=_no_prompts(loaded),
            top_k=top_k or max(1, round(num_patches * _PAPER_TOP_K / _PAPER_PATCHES)),
            local_weight=local_weight,
        )
        if local_weight and model.top_k > num_patches:
            raise ValueError(f"top_k is {top_k}, {loaded.name} has {num_patches} patches")
        unread = init_prompts(model.prompt_shape, jax.random.key(0))  # these texts have no place for a context
        bound = model.bind(variables(jax.device_put(loaded.params), unread))
        text_features, _ = bound.encode_hard_prompts(bound.embed(tokens))
        return cls(
            model=model,
            clip=loaded,
            prompts=unread,
            text_features=text_features,
            class_names=class_names,
            texts=texts,
            tokenizer=tokenizer,
            mean=loaded.image_mean,
            std=loaded.image_std,
            batch_sizes=batch_sizes,
        )

    @property
    def compiled_batch_sizes(self) -> tuple[int, ...]:
        """The sizes that were needed, and so compiled, until now."""
        return tuple(sorted(self._compiled))

    def predict(self, image: ImageLike) -> Prediction:
        """One picture, taken as it is: a face that fills it.

        Raises:
          PictureError: it cannot be read; names it.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[ImageLike] | npt.NDArray[np.uint8]) -> list[Prediction]:
        """Several pictures, each taken as it is; also an array [B, height, width, 3].

        Raises:
          PictureError: one cannot be read; names it.
        """
        predictions: list[Prediction] = []
        for result in self.stream(images):
            if not isinstance(result, Prediction):  # nobody looked for faces, so it is no NoFace
                reason = result.reason if isinstance(result, Failure) else "no face"
                raise PictureError(f"{result.source}: {reason}")
            predictions.append(result)
        return predictions

    def stream(
        self,
        images: Iterable[Input],
        *,
        faces: Cropper | None = None,
        batch_size: int = 0,
        keep_pixels: bool = False,
    ) -> Generator[Result]:
        """Any number of pictures, in their order, with the same memory however many they are.

        Pictures are read by threads while the devices compute. An input that cannot be read becomes a `Failure`, and
        the rest goes on.

        Args:
          images: paths, encoded pictures (bytes), Pillow pictures, arrays uint8[height, width, 3] in RGB order; an
            iterator is advanced only a little further than results are taken.
          faces: finds the faces of a picture (`faces.FaceFinder`): one result for each, or a `NoFace`. None: every
            picture is a face that fills it.
          batch_size: how many are computed together; 0 for the largest of `batch_sizes`. 1 for a camera: every result
            comes before the next picture is taken.
          keep_pixels: whether predictions hold what the model saw.

        Raises:
          TypeError, ValueError: an input can be no picture, whatever it holds; see `inputs.as_picture`.
          ValueError: a batch size that is not compiled.
        """
        limit = batch_size or self._batch_sizes[-1]
        if not 1 <= limit <= self._batch_sizes[-1]:
            raise ValueError(f"batch_size must be 1 to {self._batch_sizes[-1]}, the largest compiled, found {limit}")
        in_flight, ahead = (1, limit) if limit > 1 else (0, 0)

        def prepare(picture: Picture | Failure) -> list[_Row]:
            return self._prepare(picture, faces)

        pictures = (as_picture(image, index) for index, image in enumerate(images))
        with (
            futures.ThreadPoolExecutor(_THREADS) as pool,
            contextlib.closing(processes.map_in_order(pool, prepare, pictures, ahead)) as prepared,
        ):
            running: collections.deque[tuple[list[_Row], Outputs | None]] = collections.deque()
            for rows in _groups(prepared, limit):
                pixels = [row.pixels for row in rows if isinstance(row, _Crop)]
                running.append((rows, self._start(pixels) if pixels else None))
                if len(running) > in_flight:  # one batch computes while the next is made ready
                    yield from self._finish(*running.popleft(), keep_pixels)
            while running:
                yield from self._finish(*running.popleft(), keep_pixels)

    def _prepare(self, picture: Picture | Failure, faces: Cropper | None) -> list[_Row]:
        if isinstance(picture, Failure):
            return [picture]
        try:
            image = picture.read()
        except PictureError as error:
            return [Failure(picture.source, str(error))]
        if faces is None:
            return [_Crop(picture.source, None, self._resized(image))]
        crops = faces(image)
        return [_Crop(picture.source, crop.face, self._resized(crop.image)) for crop in crops] or [
            NoFace(picture.source)
        ]

    def _resized(self, image: Image.Image) -> Pixels:
        return np.asarray(preprocess.resize(image, self.image_size))

    def logits(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Logits [n, C] of n pictures that have the model's size already, uint8[n, S, S, 3]."""
        found = np.empty((len(pixels), len(self.class_names)), np.float32)
        largest = self._batch_sizes[-1]
        for start in range(0, len(pixels), largest):
            part = pixels[start : start + largest]
            found[start : start + len(part)] = np.asarray(self._start(part)["logits"])[: len(part)]
        return found

    def warm_up(self) -> None:
        """Compiles all batch sizes now, for a service whose first answer must not wait."""
        for size in self._batch_sizes:
            self._executable(size)

    def _start(self, pixels: Sequence[Pixels] | Pixels) -> Outputs:
        """Starts computing a batch; JAX returns before it is done."""
        size = next(size for size in self._batch_sizes if size >= len(pixels))
        batch = np.zeros((size, self.image_size, self.image_size, 3), np.uint8)
        batch[: len(pixels)] = pixels
        return self._executable(size)(self.variables, self.text_features, devices.spread(batch))

    def _executable(self, size: int) -> Callable[..., Outputs]:
        with self._lock:  # of two threads that need a size, one compiles
            if size not in self._compiled:
                zeros = np.zeros((size, self.image_size, self.image_size, 3), np.uint8)
                jitted: Any = jax.jit(self._forward)
                lowered = jitted.lower(self.variables, self.text_features, devices.spread(zeros))
                self._compiled[size] = lowered.compile()
            return self._compiled[size]

    def _forward(self, params: dict[str, Any], text_features: jax.Array, pixels: jax.Array) -> Outputs:
        images = normalize(pixels, self.mean, self.std)
        result = self.model.apply(params, images, text_features, method="classify")
        logits, out = cast(tuple[jax.Array, Outputs], result)
        local = {name: out[name] for name in ("patch_scores", "top_patches") if name in out}
        return {"logits": logits, "probabilities": jax.nn.softmax(logits, axis=-1), **local}

    def _finish(self, rows: list[_Row], outputs: Outputs | None, keep_pixels: bool) -> Generator[Result]:
        values = {name: np.asarray(value) for name, value in (outputs or {}).items()}
        position = 0
        for row in rows:
            if not isinstance(row, _Crop):
                yield row
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
                pixels=row.pixels if keep_pixels else None,
            )
            position += 1


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    """What the model is to see: uint8[S, S, 3]."""

    source: Source
    face: Face | None
    pixels: Pixels


_Row = _Crop | NoFace | Failure


def _groups(prepared: Iterable[list[_Row]], limit: int) -> Generator[list[_Row]]:
    """Rows in groups with at most `limit` crops, and at most as many others, which must not wait for ever."""
    rows: list[_Row] = []
    crops = 0
    for found in prepared:
        for row in found:
            rows.append(row)
            crops += isinstance(row, _Crop)
            if limit in (crops, len(rows) - crops):
                yield rows
                rows, crops = [], 0
    if rows:
        yield rows


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return (red, green, blue)


def _no_prompts(clip: PretrainedClip) -> PromptShape:
    """Of a model without visual prompts, whose context nothing reads."""
    vision, text = clip.config.vision, clip.config.text
    return PromptShape(
        num_ctx=1,
        num_classes=0,
        text_width=text.hidden_size,
        ctx_std=1.0,
        num_visual=0,
        visual_layers=(),
        num_layers=vision.num_layers,
        visual_width=vision.hidden_size,
        visual_std=1.0,
    )
