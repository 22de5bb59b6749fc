"""The measurement of the methods' steps: each method's own step is timed, and ratios are taken within turns."""

import pytest

from mpafer_jax.config.flags import read_config
from mpafer_jax.config.schema import Config
from tests.bench import methods

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("method", ["", "lora"])
def test_a_step_is_timed_again_and_again(method, tmp_path):
    fields = ["synthface.train=64", "synthface.validation=8", "synthface.test=8", f"dir={tmp_path}/faces"]
    words = [f"configs/quickstart.py{':' * bool(method)}{method}", *(f"data.{field}" for field in fields)]
    config = Config.from_config_dict(read_config([*words, "train.batch_size=8", "eval.baselines=()"]))
    call = methods.timed_step(config, tmp_path / "run")
    assert call() > 0
    assert call() > 0  # its state is not the donated one


def test_ratios_are_taken_within_turns():
    text = methods.render({"mpa": [0.1, 0.2, 0.4], "coop": [0.05, 0.1, 0.1]})
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]] == [
        "coop",
        "100 (50 to 100)",
        "0.50 (0.25 to 0.50)",
    ]
