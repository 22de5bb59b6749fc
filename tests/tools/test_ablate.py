"""The ablation: what varies, what is left out, statistics by hand, resuming, failures."""

import json
import shutil
import sys

import numpy as np
import pytest

from mpafer_jax import workdir
from mpafer_jax.config import ConfigError
from mpafer_jax.evaluation import ablation
from mpafer_jax.evaluation.table import BASELINE_TITLES
from mpafer_jax.tools import ablate
from tests.end_to_end import runs


def differences(one, two):
    one, two = (workdir.flatten(config.model_dump()) for config in (one, two))
    return {name for name in one if one[name] != two[name]}


def test_a_plan_has_every_run_once(sample):
    base = runs.config(sample, **{"eval.baselines": ("majority", "linear_probe", "text_context")})
    planned = {run.name: run.config for run in ablate.plan(base, list(ablate.VARIANTS), [0, 3], [0, 4])}
    assert len(planned) == len(ablate.VARIANTS) * 4
    assert differences(planned["all/full/seed_0"], base) == {"eval.baselines"}
    assert planned["all/full/seed_0"].eval.baselines == ("majority", "linear_probe")
    # A seed changes the run and the few-shot draw, and not what is held out.
    assert differences(planned["all/full/seed_0"], planned["all/full/seed_3"]) == {"seed", "data.few_shot_seed"}
    assert differences(planned["4_per_class/full/seed_3"], planned["all/full/seed_3"]) == {"data.train_per_class"}
    for name, variant in ablate.VARIANTS.items():
        if name != "full":
            changed = differences(planned[f"all/{name}/seed_3"], planned["all/full/seed_3"])
            assert changed == {*variant.changes, "eval.baselines"}
            assert planned[f"all/{name}/seed_3"].eval.baselines == ()


@pytest.mark.parametrize(
    ("variants", "seeds", "message"),
    [
        (["full", "no_local", "no_loca"], [0], "--only names no_loca; the variants are full, no_token_alignment, "),
        (["full", "full"], [0], "--only holds a value twice: full, full"),
        (["full"], [1, 1], "--seeds holds a value twice: 1, 1"),
    ],
)
def test_mistakes_are_refused(sample, variants, seeds, message):
    with pytest.raises(ConfigError, match=message):
        ablate.plan(runs.config(sample), variants, seeds, [0])


def write_summary(root, name, war, uar, *, baselines=None, best=True, seconds=60.0, resumed=0, clip="c", test="t"):
    scores = {"test": {"war": war, "uar": uar}, "validation": {"war": 0.0, "uar": 0.0}}
    summary = {
        "last": {"test": {"war": 0.01, "uar": 0.01}} if best else scores,
        **({"best": scores} if best else {}),
        "baselines": baselines or {},
        "clip": {"hash": clip},
        "fingerprints": {"train": name, "validation": "v", "test": test},
        "process": {"wall_seconds": seconds, "resumed_after_step": resumed},
    }
    path = root / name / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary))


def test_mean_spread_and_paired_difference_by_hand(tmp_path):
    for seed, war in enumerate((0.70, 0.80, 0.90)):
        probe = {"linear_probe": {"test": {"war": war - 0.1, "uar": 0.5}, "l2": 0.1}}
        write_summary(
            tmp_path, f"all/full/seed_{seed}", war, war, baselines=probe, seconds=60 * seed, resumed=seed // 2
        )
    write_summary(tmp_path, "all/no_local/seed_1", 0.79, 0.5)
    write_summary(tmp_path, "all/no_local/seed_2", 0.86, 0.5)
    write_summary(tmp_path, "all/no_local/seed_7", 0.10, 0.5)  # the full method has no such seed
    write_summary(tmp_path, "16_per_class/no_local/seed_0", 0.5, 0.4, best=False)
    write_summary(tmp_path, "all/of_another_time/seed_0", 0.5, 0.4)
    (tmp_path / "all" / "no_prototypes" / "seed_0").mkdir(parents=True)  # has not ended

    results = ablation.collect(tmp_path, list(ablate.VARIANTS))
    lines = ablation.summarize(results, [*ablate.VARIANTS, *BASELINE_TITLES])
    assert [(line.images, line.row, line.seeds) for line in lines] == [
        ("all", "full", (0, 1, 2)),
        ("all", "no_local", (1, 2, 7)),
        ("all", "linear_probe", (0, 1, 2)),
        ("16_per_class", "no_local", (0,)),
    ]
    full, no_local, probe, few = lines
    assert full.scores["war"].mean == pytest.approx(0.8)
    assert full.scores["war"].deviation == pytest.approx(0.1)
    assert full.difference is None
    assert full.minutes == pytest.approx(0.5)  # the third was interrupted
    assert no_local.scores["war"].mean == pytest.approx((0.79 + 0.86 + 0.10) / 3)
    assert no_local.paired_seeds == 2
    assert no_local.difference["war"].mean == pytest.approx((-0.01 - 0.04) / 2)
    assert no_local.difference["war"].deviation == pytest.approx(0.03 / np.sqrt(2))
    assert probe.difference["war"] == ablation.Spread(pytest.approx(-0.1), pytest.approx(0, abs=1e-12))
    assert probe.minutes is None
    assert few.scores["war"] == ablation.Spread(0.5, None)
    assert few.difference is None
    assert results[0].checkpoint == "last"

    text = ablate.report(tmp_path)
    assert (tmp_path / "ablation.md").read_text() == text
    assert "| 80.00 ± 10.00 |" in text
    assert " -2.50 ± 2.12 |" in text
    assert text.index("Training images: all") < text.index("Training images: 16 per class")
    assert "Measured on: test split, best checkpoint; test split, last checkpoint" in text
    assert len(json.loads((tmp_path / "ablation.json").read_text())["runs"]) == len(results)


@pytest.mark.parametrize(("changes", "what"), [({"clip": "d"}, "CLIP"), ({"test": "u"}, "validation or test images")])
def test_runs_that_cannot_be_compared_are_refused(tmp_path, changes, what):
    write_summary(tmp_path, "all/full/seed_0", 0.5, 0.5)
    write_summary(tmp_path, "16_per_class/full/seed_0", 0.5, 0.5)  # trained on other images, which is as it should be
    ablate.report(tmp_path)
    write_summary(tmp_path, "all/no_local/seed_0", 0.5, 0.5, **changes)
    with pytest.raises(ablation.MixedRunsError, match=f"all/no_local/seed_0 do not have the same {what}"):
        ablate.report(tmp_path)


def test_a_difference_of_nothing_has_no_sign():
    assert ablation.Spread(-1e-9, 0.0).percent("+") == "+0.00 ± 0.00"


def test_the_command_goes_on_after_a_failure_and_resumes(sample, tmp_path):
    """Four runs of two steps; one folder belongs to another run, until it is moved away."""
    changes = {
        **runs.CHANGES,
        "train.num_steps": 2,
        "optimizer.warmup_steps": 0,
        "eval.baselines": "('majority',)",
        "data.dir": str(sample / "faces"),
        "clip.name": str(sample / "clip"),
    }

    def command(*flags):
        arguments = [sys.executable, "-m", "mpafer_jax.tools.ablate", f"--config={runs.ROOT / 'configs' / 'sample.py'}"]
        values = [f"--config.{name}={value}" for name, value in changes.items()]
        return runs.run([*arguments, f"--workdir={tmp_path / 'ablation'}", *values, *flags])

    taken = tmp_path / "ablation" / "4_per_class" / "no_visual_prompts" / "seed_0"
    taken.mkdir(parents=True)
    (taken / "config.json").write_text(runs.config(sample).to_json())
    flags = ["--seeds=0,5", "--shots=4", "--only=full,no_visual_prompts"]
    first = command(*flags)
    assert first.returncode == 1, first.stderr
    assert "failed: 4_per_class/no_visual_prompts/seed_0: ConfigError: " in first.stderr
    assert "| without visual prompts  |    1 |" in first.stdout
    assert "| full method             |    2 |" in first.stdout
    assert "majority class of train" in first.stdout
    stored = runs.summary(tmp_path / "ablation" / "4_per_class" / "full" / "seed_5")
    assert stored["seed"] == 5
    assert "at most 4 of each class, seed 5" in "\n".join(stored["data"])
    assert list((tmp_path / "ablation" / "compilation_cache").iterdir())

    shutil.rmtree(taken)
    second = command(*flags)
    assert second.returncode == 0, second.stderr
    assert second.stderr.count(": has ended before") == 3
    assert "| without visual prompts  |    2 |" in second.stdout
    assert runs.summary(tmp_path / "ablation" / "4_per_class" / "full" / "seed_5") == stored

    # Another baseline is added to the full method's runs, which are not trained again.
    changes["eval.baselines"] = "('majority','zero_shot_type1')"
    more = command(*flags)
    assert more.returncode == 0, more.stderr
    assert more.stderr.count(": has ended before") == 2
    assert "zero-shot, prompts of type 1" in more.stdout
    measured = runs.summary(tmp_path / "ablation" / "4_per_class" / "full" / "seed_5")
    assert measured["best"] == stored["best"]

    # A finished run of another configuration is not taken for this one's.
    changes["loss.gamma"] = 2.0
    other = command(*flags)
    assert other.returncode == 1
    assert "config.loss.gamma: there 1.0, here 2.0" in other.stderr
    del changes["loss.gamma"]

    # A CLIP that was exchanged since is not passed off as the old one.
    summary = runs.summary(tmp_path / "ablation" / "4_per_class" / "full" / "seed_0")
    summary["clip"]["hash"] = "another"
    (tmp_path / "ablation" / "4_per_class" / "full" / "seed_0" / "summary.json").write_text(json.dumps(summary))
    exchanged = command(*flags)
    assert exchanged.returncode == 2
    assert "do not have the same CLIP" in exchanged.stderr
    assert command("--seeds=0,x").returncode == 2
