"""The table of docs/methods.md: a row for each method, with the parameters that it trains, and tests that exist."""

import math
import pathlib
import re

from configs.common import METHODS
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.evaluation.baselines import BASELINES
from mpafer_jax.method import build, optim
from tests.bench import shapes
from tests.golden import cases

ROOT = pathlib.Path(__file__).parents[2]
COLUMNS = ("method", "how", "parameters", "loss", "source", "tests")


def rows() -> list[dict[str, str]]:
    lines = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split("\n\n")[2].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells]


def count(method: str) -> int:
    """Trained parameters for ViT-B/16 and seven classes."""
    config = cases.build("rafdb", method)
    learner = build.make_model(config, CLIP(shapes.find_clip_config(config)), 7).learner
    arrays = learner.param_shapes()
    return sum(math.prod(arrays[name].shape) for name in optim.trained(arrays, config.optimizer.lr_scales))


def test_every_method_has_a_row_with_its_number_of_parameters():
    of_presets = {row["how"]: row["parameters"] for row in rows() if row["how"].startswith("`:")}
    assert of_presets == {f"`:{method}`": f"{count(method):,}" for method in METHODS}
    (own,) = (row["parameters"] for row in rows() if row["how"] == "the default")
    assert own == f"{count(''):,}"


def test_what_else_it_names_exists():
    for row in rows():
        if not row["how"].startswith("`:") and row["how"] != "the default":
            assert re.findall(r"`(\w+)`", row["how"])[0] in BASELINES
        for path in re.findall(r"`([\w/]+\.py)`", row["tests"]):
            assert (ROOT / "tests" / path).is_file(), path
