"""Two CPU devices for every test, what several tests use, and what the tiers need (markers: pyproject.toml)."""

import os
import pathlib
import shutil
import signal
import threading

import filelock
import pytest

from tests.golden import store

# Before JAX is imported, and for the processes that tests start. Devices are made once: two, or what `XLA_FLAGS` says.
# Tests compile many small programs and run each a few times, so XLA optimizes little: a third of the processor time.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_FLAGS = {"--xla_force_host_platform_device_count": "2", "--xla_cpu_use_fusion_emitters": "false"}
_GIVEN = os.environ.get("XLA_FLAGS", "")
_MISSING = (f"{name}={value}" for name, value in _FLAGS.items() if name not in _GIVEN)
os.environ["XLA_FLAGS"] = " ".join([_GIVEN, *_MISSING]).strip()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# What one process has compiled the others need not compile again, nor those of the next time.
_COMPILED = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# A shell has it ignored for what it starts in the background, and commands that tests start would inherit that.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Longest tests first: at the end short ones are left, which workers can share.
_TIERS = ("slow", "processes", "bench", "training", "browser", "cloud", "onnx", "torch")


def _tier(item):
    return next((number for number, name in enumerate(_TIERS) if item.get_closest_marker(name)), len(_TIERS))


def pytest_addoption(parser):
    parser.addoption("--update-goldens", action="store_true", help="write tests/golden/data anew")


def pytest_configure(config):
    store.updating = config.getoption("--update-goldens")


def pytest_collection_modifyitems(items):
    for item in items:
        if "commands" in item.fixturenames:
            item.add_marker("processes")
    items.sort(key=_tier)


@pytest.fixture
def strict_promotion():
    """Models and losses must say which types they mean; Optax itself relies on promotion, so this is not for steps."""
    import jax

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """(name, build) -> a folder that `build(folder)` fills once for all worker processes. No test may change it."""
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent

    def folder(name, build):
        path, done = root / f"shared-{name}", root / f"shared-{name}.done"
        with filelock.FileLock(root / f"shared-{name}.lock"):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)  # of a worker whose build failed
                build(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def sample(shared):
    """A few drawn faces in class folders, and a small CLIP with random weights."""
    from mpafer_jax.jobs.sample import write_sample

    return shared("sample", lambda out: write_sample(out, train_per_class=14, test_per_class=5, seed=0))


@pytest.fixture(scope="session")
def finished(sample, shared):
    """An undisturbed run on the sample, with its report: (workdir, summary). Not to be changed by a test."""
    from mpafer_jax.jobs import train
    from tests.jobs import runs

    config = runs.config(sample, **{"eval.report": "full"})
    workdir = shared("finished", lambda out: train.train_and_evaluate(config, out))
    return workdir, runs.summary(workdir)


@pytest.fixture(scope="session")
def chosen_on_test(sample, shared):
    """A run whose checkpoint the test split chose. Not to be changed by a test."""
    from mpafer_jax.jobs import train
    from tests.jobs import runs

    changes = {"data.validation_fraction": 0.0, "eval.select_on_test_split": True, "train.keep": 1}
    return shared("chosen_on_test", lambda out: train.train_and_evaluate(runs.config(sample, **changes), out))
