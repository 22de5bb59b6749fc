"""The shared run and its predictor, for all tests of prediction."""

import pytest

from mpafer_jax.inference import Predictor


@pytest.fixture(scope="session")
def trained(finished):
    return finished[0]


@pytest.fixture(scope="session")
def predictor(trained):
    return Predictor.from_checkpoint(trained, batch_sizes=(1, 8))


@pytest.fixture(scope="session")
def faces(sample):
    """The test split's files: five classes, five images each."""
    return sorted((sample / "faces" / "test").glob("*/*.png"))
