"""What a model said of every image of a split, kept so that a report can be made anew without model or data."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.config.expressions import map_classes
from mpafer_jax.config.schema import Config
from mpafer_jax.data import preprocess
from mpafer_jax.data.splits import Split
from mpafer_jax.evaluation.metrics import softmax
from mpafer_jax.method import build, steps
from mpafer_jax.method.build import Experiment
from mpafer_jax.runtime import devices, files
from mpafer_jax.runtime.errors import ReportError
from mpafer_jax.runtime.finite import check_rows, not_finite

MAX_MAPPED = 1000  # images whose features are kept: more make a map of them slower, not clearer
MAX_MISTAKES = 12

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Of n images with one of the model's C classes, in the split's order.

    Attributes:
      split: "test" or "validation".
      fingerprint: of the split, see `data.splits.Split`.
      step: of the checkpoint.
      class_names: C names.
      names: str[n], the owner's names of the images.
      labels: int32[n], the true classes.
      logits: float32[n, C].
      mapped: int32[m], positions of the images whose features are kept, at most `MAX_MAPPED`, drawn by seed.
      features_before: float16[m, D], z^g of the frozen CLIP without prompts, normalised.
      features_after: float16[m, D], z^g under the visual prompts, normalised.
      mistakes: int32[e], positions of the wrong answers that were given with the most confidence, the most first.
      mistake_pixels: uint8[e, S, S, 3], what the model saw; [0, ..] if images were not to be kept.
      mistake_patch_scores: float32[e, N, C], cos(z^l_i, theta(t_d)); [0, ..] also for a model without local score.
    """

    split: str
    fingerprint: str
    step: int
    class_names: tuple[str, ...]
    names: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int32]
    logits: Floats
    mapped: npt.NDArray[np.int32]
    features_before: npt.NDArray[np.float16]
    features_after: npt.NDArray[np.float16]
    mistakes: npt.NDArray[np.int32]
    mistake_pixels: npt.NDArray[np.uint8]
    mistake_patch_scores: Floats

    @property
    def probabilities(self) -> Floats:
        """float32[n, C]."""
        return softmax(self.logits)

    def save(self, path: pathlib.Path) -> None:
        """Writes a compressed .npz, whole or not at all."""
        values: Any = {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **values)

    @classmethod
    def load(cls, path: pathlib.Path) -> Predictions:
        """Reads what `save` wrote; nothing in it is executed.

        Raises:
          ReportError: it is damaged, or of another version.
        """
        expected = {field.name for field in dataclasses.fields(cls)}
        try:
            # Opened here: of a file that is no archive NumPy leaves the closing to chance.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                found = set(stored.files)
                if found != expected:
                    raise ValueError(f"it holds {', '.join(sorted(found))}; expected {', '.join(sorted(expected))}")
                values: dict[str, Any] = {name: stored[name] for name in expected}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ReportError(f"{path} cannot be read: {error}; run the evaluation again to write it") from error
        names = tuple(str(name) for name in values["class_names"])
        values |= {"split": str(values["split"]), "fingerprint": str(values["fingerprint"])}
        values |= {"step": int(values["step"]), "class_names": names}
        if broken := not_finite({"logits": values["logits"]}):
            raise ReportError(f"{path} holds numbers that are NaN or infinite: {', '.join(broken)}")
        return cls(**values)


def predict(
    config: Config, built: Experiment, params: dict[str, Any], split: Split, *, step: int, images: bool
) -> Predictions:
    """Runs a split through the model once more, and keeps what was said of each image.

    Every process calls this and gets all of it. Images of classes that the model does not know are left out.

    Args:
      config: of the data and of the batch size.
      built: the model.
      params: the prompts, on the devices.
      split: its images.
      step: of the checkpoint.
      images: whether to keep the most confident mistakes as images.

    Raises:
      NonFiniteError: the logits of an image are NaN or infinite.
    """
    labels = map_classes(split.class_names, built.class_names)[split.labels]
    known = np.flatnonzero(labels >= 0)
    mapped = _draw(known, config.seed)
    collected = _Collected(labels, mapped, split.names)
    text_features = devices.replicate(steps.make_text_step(model=built.model)(params, built.frozen))
    run = steps.make_prediction_step(model=built.model, mean=config.data.mean, std=config.data.std)
    parts = (
        {"image": batch["image"], "index": batch["index"], "mask": batch["mask"]}
        for batch in build.eval_batches(config, built, split, "predictions for")
    )
    for found in devices.results(functools.partial(run, params, built.frozen, text_features), parts):
        collected.add(found)
    position = np.full(len(split), -1, np.int32)  # in the split -> among the known
    position[known] = np.arange(len(known))
    before, after = collected.features()
    mistakes = collected.mistakes
    indices = [found.index for found in mistakes]
    return Predictions(
        split=split.name,
        fingerprint=split.fingerprint,
        step=step,
        class_names=built.class_names,
        names=split.names[known],
        labels=labels[known].astype(np.int32),
        logits=np.stack([collected.logits[index] for index in known.tolist()]),
        mapped=position[mapped],
        features_before=before,
        features_after=after,
        mistakes=position[np.array(indices, np.int64)],
        mistake_pixels=_pixels(split, indices if images else [], built.image_size),
        mistake_patch_scores=_patch_scores(mistakes if images else [], len(built.class_names)),
    )


def _draw(known: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    if len(known) <= MAX_MAPPED:
        return known
    return np.sort(np.random.default_rng(seed).choice(known, MAX_MAPPED, replace=False))


def _pixels(split: Split, indices: list[int], size: int) -> npt.NDArray[np.uint8]:
    pixels = np.zeros((len(indices), size, size, 3), np.uint8)
    for row, index in enumerate(indices):
        pixels[row] = preprocess.to_pixels(preprocess.resize(split.source.image(index), size))
    return pixels


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Mistake:
    index: int
    confidence: float
    patch_scores: Floats | None


def _patch_scores(mistakes: list[_Mistake], num_classes: int) -> Floats:
    scores = [found.patch_scores for found in mistakes if found.patch_scores is not None]
    return np.stack(scores) if scores else np.zeros((0, 0, num_classes), np.float32)


class _Collected:
    """Outputs of batches, by the images' positions in the split."""

    def __init__(
        self, labels: npt.NDArray[np.int32], mapped: npt.NDArray[np.int64], names: npt.NDArray[np.str_]
    ) -> None:
        self.labels = labels
        self.names = names
        self.logits: dict[int, Floats] = {}
        self.mistakes: list[_Mistake] = []
        self._row = {int(index): row for row, index in enumerate(mapped)}
        self._before: dict[int, npt.NDArray[np.float16]] = {}
        self._after: dict[int, npt.NDArray[np.float16]] = {}

    def add(self, batch: dict[str, Any]) -> None:
        """The gathered outputs of one batch; see `steps.make_prediction_step`."""
        real = np.asarray(batch["mask"]) > 0
        check_rows("logits", batch["logits"][real], self.names[np.asarray(batch["index"])[real]])
        confidences = softmax(batch["logits"]).max(axis=1)
        for row, index in enumerate(np.asarray(batch["index"]).tolist()):
            if not batch["mask"][row] or self.labels[index] < 0:
                continue
            self.logits[index] = batch["logits"][row]
            if index in self._row:
                self._before[index] = batch["frozen_features"][row].astype(np.float16)
                self._after[index] = batch["image_features"][row].astype(np.float16)
            if batch["logits"][row].argmax() != self.labels[index]:
                scores = batch["patch_scores"][row].copy() if "patch_scores" in batch else None
                self.mistakes.append(_Mistake(index, float(confidences[row]), scores))
        # The order of the indices decides between equals, so that the devices' number makes no difference.
        self.mistakes = sorted(self.mistakes, key=lambda found: (-found.confidence, found.index))[:MAX_MISTAKES]

    def features(self) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
        """Of the mapped images, before and after."""
        return np.stack([self._before[i] for i in self._row]), np.stack([self._after[i] for i in self._row])
