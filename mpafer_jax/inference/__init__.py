"""Expressions of people's own images, from a trained checkpoint or from a CLIP as it came."""

from mpafer_jax.inference.predictor import Predictor
from mpafer_jax.inference.results import Failure, NoFace, Prediction, Result, Source

__all__ = ["Failure", "NoFace", "Prediction", "Predictor", "Result", "Source"]
