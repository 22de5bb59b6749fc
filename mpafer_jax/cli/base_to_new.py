"""Base-to-new generalisation: trains on the first half of the classes, tests on either half among itself.

    python -m mpafer_jax.cli.base_to_new --config=configs/rafdb.py --workdir=runs/base_to_new \
      --config.data.dir=/data/RAF-DB --config.data.train_per_class=16 --config.train.num_steps=600 \
      --config.train.num_epochs=0 --seeds=0,1,2

The classes are the dataset's, in its order, or those of `data.class_names` in theirs; the first half, rounded up, is
trained on. The other half's names are put behind the learned context, which therefore has to be one that all classes
share (`ctx.class_specific=False`). Beside it stands the same CLIP without training, under the configured hard prompts.

Leaves `base_to_new.md` and `base_to_new.json`, and for each seed an ordinary run in `seed_N`. The same command goes on
with what is missing. Exit code 2: a mistake, which the message explains.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts import run_dir as workdir_lib
from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.data.registry import read_source
from mpafer_jax.data.splits import Dataset, Split, load_dataset
from mpafer_jax.evaluation.baselines import compute as baselines
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.evaluation.protocol import reported_checkpoint
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.jobs.studies import base_to_new
from mpafer_jax.method import build
from mpafer_jax.method.hard_prompts.templates import prompt_names
from mpafer_jax.runtime import console, devices, distributed, files, progress
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, DataError, PromptError

_CONFIG = define_config()
runner.define_workdir()
runner.define_distributed()
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs and of their few-shot draws.")


_RESULT = "base_to_new.json"  # of a seed in its run's folder, and of all in the workdir


def halved(config: Config, seed: int) -> dict[str, Config]:
    """The configurations of one seed: "base", which is trained, and "new", which is only evaluated on.

    Raises:
      ConfigError: the context is not shared, or the dataset has fewer than four classes.
      DataError: the dataset cannot be read.
    """
    if config.ctx.class_specific:
        raise ConfigError(
            "config.ctx.class_specific is True: every class learns a context of its own, and new classes would have "
            "none; set it to False"
        )
    # Entries as they are given, since one may name a class of the dataset otherwise ("happiness=4"); and what is
    # listed is read as it is spelled, which names of folders are not.
    names = config.data.class_names or prompt_names(read_source(config.data).class_names, as_spelled=False)
    try:
        halves = base_to_new.halve(names)
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error
    configs: dict[str, Config] = {}
    for half, classes in zip(base_to_new.HALVES, halves, strict=True):
        values = ConfigDict(config.model_dump())
        values.update_from_flattened_dict(
            {
                "seed": seed,
                "data.few_shot_seed": seed,
                "data.class_names": classes,
                "eval.classes": "dataset",
                "eval.baselines": (_zero_shot(config),),
                "eval.report": "none",
            }
        )
        configs[half] = Config.from_config_dict(values)
    return configs


def _zero_shot(config: Config) -> str:
    return f"zero_shot_type{config.hard_prompts.type}"


def run_seed(configs: dict[str, Config], folder: pathlib.Path) -> dict[str, Any]:
    """Trains on base and measures both halves, or reads what was measured before.

    Returns:
      'scores': method -> half -> 'war' and 'uar'; 'counts': half -> images; 'class_names'; 'split'; 'chosen_on_test',
      whether the test split chose the checkpoint; and 'identity', what it depends on.

    Raises:
      ConfigError: the folder holds another run, or one on another CLIP; or the configuration gives nothing to measure
        on.
    """
    path = folder / _RESULT
    workdir_lib.check(folder, configs["base"])
    dataset = load_dataset(configs["new"].data)
    held_out = {split.name: split for split in dataset.held_out}
    split = held_out.get("test", held_out.get("validation"))
    if split is None:
        raise ConfigError("config.data gives neither a validation nor a test split to measure on")
    evaluation = configs["base"].eval
    on_test = evaluation.which == "best" and evaluation.select_on_test_split
    identity = {"new": split.fingerprint, "which": evaluation.which}
    if path.is_file():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if before["identity"] == identity:
            workdir_lib.check_clip(folder, configs["base"].clip)
            logging.info("%s: measured before", folder)
            return {**before, "chosen_on_test": on_test}  # which files of earlier versions lack
    summary = train.train_and_evaluate(configs["base"], folder)
    which = reported_checkpoint(summary) if evaluation.which == "best" else "last"
    found = summary[which][split.name]
    new, zero_shot_new = _measure_new(configs["new"], folder, dataset, split)
    zero_shot = _zero_shot(configs["base"])
    result = {
        "scores": {
            "zero-shot CLIP": {"base": _two(summary["baselines"][zero_shot][split.name]), "new": _two(zero_shot_new)},
            summary["method"]: {"base": _two(found), "new": _two(new)},
        },
        "counts": {"base": found["count"], "new": new["count"]},
        "class_names": [*summary["class_names"], *dataset.class_names],
        "split": split.name,
        "chosen_on_test": on_test,
        "identity": identity,
    }
    if distributed.is_first():
        files.write_json(path, result)
    return result


def _measure_new(
    config: Config, folder: pathlib.Path, dataset: Dataset, split: Split
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's prompts, and CLIP without any, on the new classes."""
    params, description, _ = checkpoints.load(folder, config.eval.which)
    clip = build.load_frozen_clip(config)
    names = evaluate.choose_classes("dataset", description.class_names, split.class_names)
    run, params = evaluate.experiment_of(description.applied_to(config), params, description, clip, names)
    found = make_evaluator(config, run)(devices.replicate(params), split).to_dict()
    untrained = baselines.compute(config, dataset, build.build_experiment(config, names, clip), num_steps=0)
    return found, untrained[_zero_shot(config)][split.name]


def _two(scores: dict[str, Any]) -> dict[str, float]:
    return {name: scores[name] for name in ("war", "uar")}


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    runner.refuse_arguments(argv)
    runner.run(_run, (ConfigError, DataError, PromptError, PromptError, CheckpointError))


def _run() -> None:
    root = runner.workdir()
    config = Config.from_config_dict(_CONFIG.value)
    runner.import_libraries_without_torch()
    seeds = runner.whole_numbers("seeds", _SEEDS.value or [])
    left = [seed for seed in seeds if not (root / f"seed_{seed}" / _RESULT).is_file()]
    if left:
        train.check_before_data(config, root / f"seed_{left[0]}")
    shown = progress.track(seeds, "base to new", len(seeds), "seeds")
    results = [run_seed(halved(config, seed), root / f"seed_{seed}") for seed in shown]
    first = results[0]
    scores = {method: [result["scores"][method] for result in results] for method in first["scores"]}
    text = base_to_new.render(
        scores, first["class_names"], first["counts"], first["split"], chosen_on_test=first["chosen_on_test"]
    )
    if distributed.is_first():
        files.write_text(root / "base_to_new.md", text)
        files.write_json(root / _RESULT, dict(zip(map(str, seeds), results, strict=True)))
        console.markdown(text)


if __name__ == "__main__":
    runner.start(main, required=["config", "workdir"])
