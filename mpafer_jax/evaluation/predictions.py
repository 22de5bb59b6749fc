"""Predictions of each image or clip of a split, saved so that a report can be rewritten without model or data."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from mpafer_jax.config.schema import Report
from mpafer_jax.data import preprocess
from mpafer_jax.data.splits import Grouping, Split
from mpafer_jax.evaluation.evaluator import Evaluator, Scores
from mpafer_jax.evaluation.metrics import ClassificationMetrics, from_logits, softmax
from mpafer_jax.evaluation.protocol import reported_split
from mpafer_jax.method.features import encode_splits
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ReportError
from mpafer_jax.runtime.finite import not_finite

MAX_MAPPED = 1000  # images whose features are kept for the feature map
MAX_MISTAKES = 12
_ATTRIBUTE = "attributes/"  # before the name of an attribute's array in the file

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for the n images (or clips) of a split whose class is one of the model's C, in the split's order.

    Attributes:
      split: "test" or "validation".
      fingerprint: of the split, see `data.splits.Split`.
      step: of the checkpoint.
      class_names: C names.
      names: str[n], the images' or clips' names in the dataset.
      labels: int32[n], the true classes.
      logits: float32[n, C], of a clip the mean over its frames.
      mapped: int32[m], positions of images with stored features, at most `MAX_MAPPED`, drawn by seed.
      features_before: float16[m, D], z^g of the frozen CLIP without prompts, normalised.
      features_after: float16[m, D], z^g under the visual prompts, normalised.
      mistakes: int32[e], positions of the most confident errors, most confident first.
      mistake_pixels: uint8[e, S, S, 3], what the patches cover of the model's input, of a clip of its middle frame;
        [0, ..] if images are not kept.
      mistake_patch_scores: float32[e, N, C], cos(z^l_i, theta(t_d)); [0, ..] also for a model without local score.
      attributes: str[n] by name, see `data.splits.Split`; in the file `attributes/<name>`.
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
    attributes: Mapping[str, npt.NDArray[np.str_]] = dataclasses.field(default_factory=dict[str, npt.NDArray[np.str_]])

    @property
    def metrics(self) -> ClassificationMetrics:
        """Metrics of these predictions."""
        return from_logits(self.logits, self.labels, self.class_names, names=self.names, attributes=self.attributes)

    @property
    def probabilities(self) -> Floats:
        """float32[n, C]."""
        return softmax(self.logits)

    def save(self, path: pathlib.Path) -> None:
        """Writes a compressed .npz atomically."""
        names = (field.name for field in dataclasses.fields(self) if field.name != "attributes")
        values: Any = {name: np.asarray(getattr(self, name)) for name in names}
        values |= {f"{_ATTRIBUTE}{name}": column for name, column in self.attributes.items()}
        with files.replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **values)

    @classmethod
    def load(cls, path: pathlib.Path) -> Predictions:
        """Reads a file written by `save`; without pickle.

        Raises:
          ReportError: the file is damaged or from another version.
        """
        expected = {field.name for field in dataclasses.fields(cls)} - {"attributes"}
        try:
            # Opened here: NumPy may leave a file that is no archive open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                attributes = {name for name in stored.files if name.startswith(_ATTRIBUTE)}
                names = set(stored.files) - attributes
                if names != expected:
                    raise ValueError(f"it holds {', '.join(sorted(names))}; expected {', '.join(sorted(expected))}")
                values: dict[str, Any] = {name: stored[name] for name in expected}
                values["attributes"] = {name.removeprefix(_ATTRIBUTE): stored[name] for name in sorted(attributes)}
        except (OSError, *files.DAMAGED_NPZ) as error:
            raise ReportError(f"{path} cannot be read: {error}; run the evaluation again to write it") from error
        names = tuple(str(name) for name in values["class_names"])
        values |= {"split": str(values["split"]), "fingerprint": str(values["fingerprint"])}
        values |= {"step": int(values["step"]), "class_names": names}
        if broken := not_finite({"logits": values["logits"]}):
            raise ReportError(f"{path} holds numbers that are NaN or infinite: {', '.join(broken)}")
        return cls(**values)

    @classmethod
    def load_result(cls, path: pathlib.Path, split: str, fingerprint: str, step: int) -> Predictions | None:
        """The predictions behind a result. None without a file; with a warning, if they are of other images or another
        step. Errors as for `load`.
        """
        if not path.is_file():
            return None
        stored = cls.load(path)
        if (stored.split, stored.fingerprint, stored.step) != (split, fingerprint, step):
            logging.warning(
                "%s holds predictions of %s (%s) after step %d, the results are of %s (%s) after step %d; it is not "
                "used",
                *(path, stored.split, stored.fingerprint[:8], stored.step, split, fingerprint[:8], step),
            )
            return None
        return stored


def measure(
    evaluator: Evaluator, params: dict[str, Any], splits: Sequence[Split], *, step: int, report: Report
) -> tuple[dict[str, Scores], Predictions | None]:
    """Scores by split name, and predictions for the reported split; one pass over each split.

    Args:
      params: the prompts, on the devices.
      splits: to evaluate; of test and validation, test is reported.
      step: of the checkpoint.
      report: `config.eval.report`; with "none" no predictions are made.

    Raises:
      ConfigError: a split has no image of the model's classes.
      NonFiniteError: the logits of an image are NaN or infinite.
    """
    scores = {split.name: evaluator.score(params, split) for split in splits}
    reported = None if report == "none" else reported_split(scores)
    predictions: Predictions | None = None
    for split in splits:
        if split.name == reported:
            predictions = predict(evaluator, params, split, scores[split.name], step=step, images=report == "full")
    return scores, predictions


def predict(
    evaluator: Evaluator, params: dict[str, Any], split: Split, scores: Scores, *, step: int, images: bool
) -> Predictions:
    """Predictions for a split. Every process calls this and gets the whole result.

    Args:
      params: the prompts, on the devices.
      scores: of the split.
      step: of the checkpoint.
      images: whether to keep the most confident errors as images.
    """
    covered = evaluator.experiment.model.backbone.spec.covered
    experiment, known, (frames, grouping) = evaluator.experiment, scores.positions, split.frames()
    mapped = _draw(known, evaluator.config.seed)
    chosen = split.take(mapped)
    before = _normalized(encode_splits(evaluator.config, experiment, [chosen])[split.name].image_features)
    mistakes = _mistakes(scores.logits, scores.labels)
    shown = frames.take(grouping.middle()[known[mistakes]] if images else known[:0])
    return Predictions(
        split=split.name,
        fingerprint=split.fingerprint,
        step=step,
        class_names=scores.class_names,
        names=scores.names,
        labels=scores.labels.astype(np.int32),
        logits=scores.logits,
        mapped=np.searchsorted(known, mapped).astype(np.int32),
        features_before=_mean_direction(before, chosen.frames()[1]),
        features_after=_mean_direction(scores.features, grouping)[mapped],
        mistakes=mistakes,
        mistake_pixels=_pixels(shown, experiment.image_size, evaluator.config.data.grayscale)[:, :covered, :covered],
        mistake_patch_scores=_patch_scores(evaluator, params, shown),
        attributes=scores.attributes,
    )


def _draw(known: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    if len(known) <= MAX_MAPPED:
        return known
    return np.sort(np.random.default_rng(seed).choice(known, MAX_MAPPED, replace=False))


def _normalized(features: Floats) -> Floats:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _mean_direction(features: npt.NDArray[np.floating], grouping: Grouping) -> npt.NDArray[np.float16]:
    """Normalised means of normalised features [m, D]; of images the features themselves."""
    if len(grouping.starts) < grouping.num_images:
        features = _normalized(grouping.mean(features.astype(np.float32)))
    return features.astype(np.float16)


def _mistakes(logits: Floats, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Positions of the most confident errors, most confident first, of equals the first."""
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    confidence = softmax(logits[wrong]).max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:MAX_MISTAKES].astype(np.int32)


def _pixels(split: Split, size: int, grayscale: bool) -> npt.NDArray[np.uint8]:
    pixels = np.zeros((len(split), size, size, 3), np.uint8)
    for row in range(len(split)):
        image = preprocess.to_pixels(preprocess.resize(split.source.image(row), size))
        pixels[row] = preprocess.as_read(image, grayscale=grayscale)
    return pixels


def _patch_scores(evaluator: Evaluator, params: dict[str, Any], split: Split) -> Floats:
    """[n, N, C]; [0, 0, C] if the split is empty or the model has no local score."""
    scores = np.zeros((0, 0, len(evaluator.experiment.class_names)), np.float32)
    for batch in evaluator.batches(params, split, ("patch_scores",)) if len(split) else ():
        found = batch.get("patch_scores")
        if found is not None:
            scores = np.zeros((len(split), *found.shape[1:]), np.float32) if not len(scores) else scores
            scores[batch["index"]] = found
    return scores
