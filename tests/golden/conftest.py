"""What the tests of whole commands share: one process that runs them, and one run of twenty steps."""

import pytest

from tests.golden.commands import Commands

# The quickstart's configuration with few faces and few steps. Rounding of other processors (SSE4.2 alone, AVX2) moved
# losses by 4e-6 of themselves; the two highest logits of a test face are at least 0.009 apart, and moved by 6e-5.
RUN = (
    "--config=configs/quickstart.py",
    "--config.data.synthface.train=64",
    "--config.data.synthface.validation=24",
    "--config.data.synthface.test=40",
    "--config.train.num_steps=20",
    "--config.train.log_every=5",
    "--config.train.eval_every=10",
    "--config.train.checkpoint_every=10",
    "--config.train.batch_size=16",
    "--config.eval.batch_size=32",
    "--config.optimizer.warmup_steps=2",
)


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Runs commands; their drawn faces and features stay in a folder of this session."""
    cache = tmp_path_factory.mktemp("cache")
    with Commands(cache) as found:
        yield found


@pytest.fixture(scope="session")
def twenty_steps(commands, tmp_path_factory):
    """(workdir, how the command ended); not to be changed by a test."""
    workdir = tmp_path_factory.mktemp("twenty") / "run"
    return workdir, commands.run("mpafer_jax.main", *RUN, f"--workdir={workdir}", places={"RUN": workdir})
