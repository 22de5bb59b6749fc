"""How sure a checkpoint's predictions are, measured on its validation split; kept in its folder.

confidence.npz    in checkpoints/step_N or beside exported prompts: `Confidence` as JSON, and its arrays
"""

from __future__ import annotations

import errno
import io
import json
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic

from mpafer_jax.runtime import files
from mpafer_jax.runtime.arrays import digests
from mpafer_jax.runtime.errors import CheckpointError
from mpafer_jax.runtime.finite import not_finite

FILE = "confidence.npz"
HOW_TO_MAKE = (
    "A run makes it at its end, on its validation split, for the checkpoint that it reports. For another or an older "
    "checkpoint: mpafer-jax evaluate with that run's --config and --workdir (--config.eval.which=last for its last "
    "step), with a validation split"
)
_FORMAT = "mpafer-confidence-1"


class Confidence(pydantic.BaseModel):
    """Calibration of a checkpoint, and its measure of images unlike the training images.

    Attributes:
      temperature: T of calibrated probabilities softmax(logits / T) (Guo et al. 2017).
      thresholds: pairs (wanted accuracy, lowest calibrated confidence to answer with); None: not reachable.
      unlike_distance: an image farther from the training images is unlike them; 99% of those of validation are nearer.
      mean, whitening: float32[D] and [D, D], for that distance, see `method.outliers`.
      split, count, unit: what it was fitted on ("validation", 400, "images").
      step: of the checkpoint.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True, strict=True
    )

    temperature: float = pydantic.Field(gt=0)
    thresholds: list[tuple[float, float | None]]
    unlike_distance: float = pydantic.Field(gt=0)
    split: str
    count: int
    unit: str
    step: int
    mean: npt.NDArray[np.float32] = pydantic.Field(exclude=True, repr=False)
    whitening: npt.NDArray[np.float32] = pydantic.Field(exclude=True, repr=False)

    def __str__(self) -> str:
        """ "temperature 1.37, fitted on 400 validation images"."""
        return f"temperature {self.temperature:.2f}, fitted on {self.count:,} {self.split} {self.unit}"

    def save(self, folder: pathlib.Path, params: dict[str, Any]) -> pathlib.Path:
        """Writes `FILE` atomically into the folder of a checkpoint with these prompts; returns the file.

        Raises:
          FileNotFoundError: the folder is gone, as training deletes older checkpoints.
        """
        if not folder.is_dir():  # a bucket would make it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        about = json.dumps({"format": _FORMAT, "prompts": _digest(params), **self.model_dump(mode="json")})
        with files.replacing(folder / FILE, make_folder=False) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, about=np.array(about), mean=self.mean, whitening=self.whitening)
        return folder / FILE

    @classmethod
    def load(cls, folder: pathlib.Path, params: dict[str, Any]) -> Confidence | None:
        """Reads `save`'s file, without pickle; None if there is none.

        Raises:
          CheckpointError: it is damaged, of another version, or was measured with other prompts than `params`.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            # NumPy verifies the archive's checksums.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                about: dict[str, Any] = json.loads(str(stored["about"]))
                arrays = {name: stored[name] for name in ("mean", "whitening")}
            if about.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            if about.pop("prompts") != _digest(params):
                raise ValueError("it was measured with other prompts")
            if not_finite(arrays) or any(array.dtype != np.float32 for array in arrays.values()):
                raise ValueError("its arrays are not of finite float32 numbers")
            thresholds = [(wanted, found) for wanted, found in about.pop("thresholds")]
            return cls(**about, thresholds=thresholds, **arrays)
        except (KeyError, TypeError, *files.DAMAGED_NPZ) as error:
            raise CheckpointError(
                f"{path} cannot be used ({error}). Copy it again from where it came, or delete it. {HOW_TO_MAKE}"
            ) from error


def _digest(params: dict[str, Any]) -> str:
    return files.json_digest(digests(params))
