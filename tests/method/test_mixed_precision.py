"""bfloat16 against float32: the shipped CLIP on drawn faces, with prompts that were trained on them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from mpafer_jax.artifacts.checkpoints import load
from mpafer_jax.config.schema import Config
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.jobs import train
from mpafer_jax.method import build
from mpafer_jax.runtime import devices
from tests.golden.store import RUN_V1

FLOAT32 = {"clip.dtype": "float32"}
BFLOAT16 = {"clip.dtype": "bfloat16", "clip.residual_dtype": "bfloat16"}
FLOAT32_STREAM = {"clip.dtype": "bfloat16"}


def config(tmp_path, **changes) -> Config:
    values = quickstart.get_config()
    fixed = {"eval.baselines": (), "eval.report": "none", "data.dir": str(tmp_path / "faces")}
    with values.unlocked():
        values.update_from_flattened_dict({**fixed, **changes})
    return Config.from_config_dict(values)


def logits(config, prompts, split) -> np.ndarray:
    """[n, C], of the compiled steps that evaluation and prediction use."""
    experiment = build.build_experiment(config, split.class_names, build.load_frozen_clip(config))
    prompts = devices.replicate(jax.tree.map(jnp.asarray, prompts))
    found = np.full((len(split), len(split.class_names)), np.nan, np.float32)
    for part in make_evaluator(config, experiment).batches(prompts, split, ("logits",)):
        found[part["index"]] = part["logits"]
    assert not np.isnan(found).any()
    return found


def least_agreement(tmp_path, run, **faces) -> float:
    """How often the types give a face the same class, with the prompts of a run; less often of both comparisons."""
    prompts, _, _ = load(run, "last")
    test = load_dataset(config(tmp_path, **faces).data).test
    exact, *others = (
        logits(config(tmp_path, **dtypes), prompts, test) for dtypes in (FLOAT32, BFLOAT16, FLOAT32_STREAM)
    )
    # Were a type not read, logits would be equal to the bit.
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations((exact, *others), 2))
    return min(float(np.mean(exact.argmax(1) == other.argmax(1))) for other in others)


@pytest.mark.parametrize("unit", ["", "amx_bf16"])
def test_types_agree_on_prompts_of_a_short_run(tmp_path, monkeypatch, unit):
    monkeypatch.setattr(devices, "bfloat16_unit", lambda: unit)  # other CPUs compute the same, more slowly
    # Prompts after few steps leave more faces between two expressions, and these are few faces.
    few = {"data.synthface.train": 8, "data.synthface.validation": 8, "data.synthface.test": 200}
    assert least_agreement(tmp_path, RUN_V1, **few) >= 0.975


@pytest.mark.slow
def test_types_agree_on_the_quickstart(tmp_path):
    reached = [
        train.train_and_evaluate(config(tmp_path, **dtypes), tmp_path / str(number))["last"]["test"]["war"]
        for number, dtypes in enumerate((FLOAT32, BFLOAT16))
    ]
    # Three seeds in float32 have a standard deviation of 0.0072 (docs/quickstart.md).
    assert abs(reached[0] - reached[1]) < 3 * 0.0072
    # Of 14,000 faces 0.995 has a standard error of 0.0006; of the quickstart's 1,400 it has 0.0019.
    many = {"data.synthface.test": 14000, "data.dir": str(tmp_path / "measured_on")}
    assert least_agreement(tmp_path, tmp_path / "0", **many) >= 0.995
