"""Expression prediction on images, with a trained checkpoint or a zero-shot CLIP."""

from mpafer_jax.inference.predictor import Predictor
from mpafer_jax.inference.results import Failure, NoFace, Prediction, Result, Source

__all__ = ["Failure", "NoFace", "Prediction", "Predictor", "Result", "Source"]
