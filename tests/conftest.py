"""Eight CPU devices for every test, and strict types where the code under test is ours."""

import os

# Before JAX is imported: the devices are made once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import signal
import threading

import jax
import pytest

from tests.golden import store

# A shell has it ignored for what it starts in the background, and commands that tests start would inherit that.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Minutes each: first, since processes that share the files would wait at the end for whoever begins one last.
_LONG = (
    "tests/sweeps/test_command.py",
    "tests/end_to_end/test_command.py",
    "tests/multihost/test_layouts.py",
    "tests/pretraining/test_train.py",
    "tests/pretraining/test_steps.py",
    "tests/test_mixed_precision.py",
    "tests/benchmark/test_benchmark.py",
)


def pytest_addoption(parser):
    parser.addoption("--update-goldens", action="store_true", help="write tests/golden/data anew")


def pytest_configure(config):
    store.updating = config.getoption("--update-goldens")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.location[0] not in _LONG)


@pytest.fixture
def strict_promotion():
    """Models and losses must say which types they mean; Optax itself relies on promotion, so this is not for steps."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """A few drawn faces in class folders, and a small CLIP with random weights."""
    from mpafer_jax.cli.make_sample import write_sample

    out = tmp_path_factory.mktemp("sample") / "sample"
    write_sample(out, train_per_class=14, test_per_class=5, seed=0)
    return out


@pytest.fixture(scope="session")
def finished(sample, tmp_path_factory):
    """An undisturbed run on the sample, with its report: (workdir, summary). Not to be changed by a test."""
    from mpafer_jax.jobs import train
    from tests.jobs import runs

    workdir = tmp_path_factory.mktemp("finished")
    return workdir, train.train_and_evaluate(runs.config(sample, **{"eval.report": "full"}), workdir)
