"""One short run on the sample, and its predictor, for all tests of prediction."""

import pytest

from mpafer_jax.inference import Predictor
from mpafer_jax.jobs import train
from tests.jobs import runs


@pytest.fixture(scope="session")
def trained(sample, shared):
    changes = {"train.num_steps": 2, "optimizer.warmup_steps": 0, "head.top_k": 5, "head.local_weight": 0.5}
    return shared("predicted", lambda out: train.train_and_evaluate(runs.config(sample, **changes), out))


@pytest.fixture(scope="session")
def predictor(trained):
    return Predictor.from_checkpoint(trained, batch_sizes=(1, 8))


@pytest.fixture(scope="session")
def faces(sample):
    """The test split's files: five classes, five images each."""
    return sorted((sample / "faces" / "test").glob("*/*.png"))
