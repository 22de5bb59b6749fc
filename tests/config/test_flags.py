"""What stands on a command line after --config; its mistakes in whole commands: tests/golden/test_commands.py."""

import pytest

from mpafer_jax.config.flags import take_config
from mpafer_jax.runtime.errors import ConfigError
from tests.jobs import runs

KGCOOP = f"--config={runs.ROOT / 'configs' / 'rafdb.py'}:kgcoop"


def test_a_field_of_a_section_leaves_the_others():
    config, overridden, rest = take_config([KGCOOP, "--config.loss.beta=2.0", "--workdir=runs/x"])
    assert (config.loss.beta, config.loss.prompt_distance) == (2.0, "cosine")
    assert (overridden, rest) == ({"loss.beta": 2.0}, ["--workdir=runs/x"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.train.num_steps=10.5"], "--config.train.num_steps: expected a whole number, found '10.5'"),
        (["--config.train.eval_every", "1e3"], "--config.train.eval_every: expected a whole number, found '1e3'"),
        (
            ["--config.loss.beta=2", "--config.optimizer.learning_rate=abc", "--config.seed=0x10"],
            "--config.optimizer.learning_rate: expected a number, found 'abc'",
        ),
    ],
)
def test_a_number_that_is_none_is_told_what_is_expected(words, message):
    with pytest.raises(ConfigError) as refused:
        take_config([KGCOOP, *words])
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("words", "section", "instead"),
    [
        (["--config.loss={'beta': 2.0}"], "loss", " alone, as --config.loss.beta=2.0"),
        (["--config.loss", "{'beta': 2.0}"], "loss", " alone, as --config.loss.beta=2.0"),
        (["--config.loss.gamma=0.5", "--config.loss={'beta': 2.0}"], "loss", " alone, as --config.loss.beta=8.0"),
        (["--config.loss={}"], "loss", " alone"),
        (["--config.head=None"], "head", " alone, as --config.head."),
        (
            ["--config.data.augment={'flip': False, 'crop_scale': (0.5, 1.0)}"],
            "data.augment",
            " alone, as '--config.data.augment.crop_scale=(0.5, 1.0)' --config.data.augment.flip=False",
        ),
    ],
)
def test_a_section_as_a_whole_would_reset_its_other_fields(words, section, instead):
    """KgCoOp's loss with another beta would be MPA-FER's."""
    with pytest.raises(ConfigError) as refused:
        take_config([KGCOOP, *words])
    assert str(refused.value).startswith(f"--config.{section} is a section, and to give it as a whole would reset ")
    assert str(refused.value).partition("give each field")[2].startswith(instead)
