"""Base-to-new generalisation (Zhou et al., CoCoOp, CVPR 2022).

The first half of the classes, rounded up, is the base. Prompts are trained on its images only; base and new classes are
tested separately, and summarized by the harmonic mean of the two accuracies.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from mpafer_jax.artifacts import checkpoints, run_dir
from mpafer_jax.artifacts.loaded import for_classes
from mpafer_jax.config.schema import Config
from mpafer_jax.config.semantics import SEED_FIELDS
from mpafer_jax.data.registry import read_source
from mpafer_jax.data.splits import Dataset, Split, load_dataset
from mpafer_jax.evaluation.baselines import compute as baselines
from mpafer_jax.evaluation.evaluator import make_evaluator
from mpafer_jax.evaluation.protocol import TEST_SELECTED, reported_checkpoint
from mpafer_jax.evaluation.statistics import Estimate, percent
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.method import build
from mpafer_jax.method.hard_prompts.templates import configured_hard_prompts, prompt_names
from mpafer_jax.runtime import devices, distributed, files, locks, preemption, progress
from mpafer_jax.runtime.errors import ConfigError

HALVES = ("base", "new")
# Fields that `halved` sets, besides the classes and the report.
OWN_FIELDS = (*SEED_FIELDS, "eval.classes", "eval.baselines")
_RESULT = "base_to_new.json"  # of a seed in its run's folder, of all seeds in the root
# Method -> for each seed: half -> 'war' and 'uar', fractions of 1.
Scores = Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]


def halve(class_names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Base classes (the first half, rounded up) and new classes."""
    middle = (len(class_names) + 1) // 2
    base, new = tuple(class_names[:middle]), tuple(class_names[middle:])
    if len(new) < 2:
        raise ConfigError(
            f"config.data: {len(class_names)} classes ({', '.join(class_names)}) do not make two halves of two or "
            "more; base-to-new needs at least four"
        )
    return base, new


def harmonic_mean(base: float, new: float) -> float:
    """2 / (1 / base + 1 / new); 0 if either is 0."""
    return 2 * base * new / (base + new) if base and new else 0.0


def render(
    scores: Scores, class_names: Sequence[str], counts: Mapping[str, int], split: str, *, chosen_on_test: bool
) -> str:
    """The table as Markdown: accuracy and mean recall of base and new classes, and their harmonic mean H.

    Args:
      scores: of every method.
      class_names: all classes, base first.
      counts: half -> number of test images.
      split: the measured split, "test" or "validation".
      chosen_on_test: whether the checkpoint was selected on the test split of the base classes.
    """
    lines: list[list[str]] = []
    for method, seeds in scores.items():
        cells: list[str] = []
        for metric in ("war", "uar"):
            both = [(run["base"][metric], run["new"][metric]) for run in seeds]
            columns = (*zip(*both, strict=True), [harmonic_mean(base, new) for base, new in both])
            cells += [percent(Estimate.of(column)) for column in columns]
        lines.append([method, *cells])
    header = ("", *(f"{name} {column}" for name in ("WAR", "UAR") for column in ("base", "new", "H")))
    runs = max(len(seeds) for seeds in scores.values())
    halves = zip(HALVES, halve(class_names), strict=True)
    named = "".join(f"- {half}: {', '.join(names)} ({counts[half]} {split} images)\n" for half, names in halves)
    over = f"; mean ± sample standard deviation over {runs} seeds" if runs > 1 else ""
    banner = f"\n**{TEST_SELECTED}**\n" if chosen_on_test else ""
    return f"{markdown(header, lines)}\nPercent{over}. H: harmonic mean of base and new.\n{banner}\n{named}"


def halved(config: Config, seed: int) -> dict[str, Config]:
    """The configurations of a seed: "base" for training, "new" for evaluation only."""
    if config.ctx.class_specific:
        raise ConfigError(
            "config.ctx.class_specific is True: every class learns a context of its own, and new classes would have "
            "none; set it to False"
        )
    # Entries as configured, since one may rename a class ("happiness=4"). Listed names are used as spelled, names of
    # folders are not.
    names = config.data.class_names or prompt_names(read_source(config.data).class_names, as_spelled=False)
    configs: dict[str, Config] = {}
    for half, classes in zip(HALVES, halve(names), strict=True):
        values = ConfigDict(config.model_dump())
        values.update_from_flattened_dict(
            {
                **dict.fromkeys(SEED_FIELDS, seed),
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
    """Trains on base and measures both halves, or reads an earlier result.

    Returns:
      'scores': method -> half -> 'war' and 'uar'; 'counts': half -> images; 'class_names'; 'split'; 'chosen_on_test',
        whether the checkpoint was selected on the test split; 'identity', what the result depends on.
    """
    path = folder / _RESULT
    run_dir.check(folder, configs["base"])
    evaluation = configs["base"].eval
    without = "" if evaluation.measure_test else "test"
    dataset = load_dataset(configs["new"].data, without=without)
    # Not after training: what is missing for the new classes.
    configured_hard_prompts(configs["new"].hard_prompts, prompt_names(dataset.class_names, as_spelled=True))
    held_out = {split.name: split for split in dataset.held_out}
    split = held_out.get("test", held_out.get("validation"))
    if split is None:
        raise ConfigError("config.data gives neither a validation nor a test split to measure on")
    base = load_dataset(configs["base"].data, without=without)
    on_test = evaluation.which == "best" and evaluation.select_on_test_split
    identity = {
        "new": split.fingerprint,
        "base": {each.name: each.fingerprint for each in (base.train, *base.held_out)},
        "which": evaluation.which,
    }
    before = files.read_cached(path)
    # Training takes all processes, and a host may not see yet what another has written.
    is_known = distributed.all_agree(before is not None and before.get("identity") == identity)
    if before is not None and is_known:
        run_dir.check_clip(folder, configs["base"].clip)
        logging.info("%s: measured before", folder)
        return before
    summary = train.train_and_evaluate(configs["base"], folder)
    which = reported_checkpoint(summary) if evaluation.which == "best" else "last"
    found = summary[which][split.name]
    with preemption.Notice():  # training has had one of its own
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
    """Metrics of the run's prompts and of zero-shot CLIP on the new classes."""
    params, description, _ = checkpoints.load(folder, config.eval.which)
    clip = build.load_frozen_clip(config)
    names = evaluate.choose_classes("dataset", description.class_names, split.class_names)
    run, params = for_classes(description.applied_to(config), params, description, clip, names)
    found = make_evaluator(config, run)(devices.replicate(params), split).to_dict()
    untrained = baselines.compute(config, dataset, build.build_experiment(config, names, clip), num_steps=0)
    return found, untrained[_zero_shot(config)][split.name]


def _two(scores: dict[str, Any]) -> dict[str, float]:
    return {name: scores[name] for name in ("war", "uar")}


def measure(config: Config, root: pathlib.Path, seeds: Sequence[int]) -> str:
    """Trains and measures the missing seeds and writes the table; all processes call it.

    Args:
      root: for `base_to_new.md`, `base_to_new.json` and a run in `seed_N` for each seed.
      seeds: of the runs and of their few-shot subsets.

    Returns:
      The table as Markdown.

    Raises:
      ConfigError: a seed is given twice, there are too few classes, or see `run_dir.check_shared`.
      PromptError: a new class has no hard prompts.
    """
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds holds a value twice: {', '.join(map(str, seeds))}")
    run_dir.check_shared(root)
    with locks.hold_for_run(root / locks.RUN, root):
        ended = [distributed.all_agree((root / f"seed_{seed}" / _RESULT).is_file()) for seed in seeds]
        if not all(ended):
            train.check_before_data(config, root / f"seed_{seeds[ended.index(False)]}")
        shown = progress.track(seeds, "base to new", len(seeds), "seeds")
        results = [run_seed(halved(config, seed), root / f"seed_{seed}") for seed in shown]
        first = results[0]
        scores = {method: [result["scores"][method] for result in results] for method in first["scores"]}
        text = render(
            scores, first["class_names"], first["counts"], first["split"], chosen_on_test=first["chosen_on_test"]
        )
        if distributed.is_first():
            files.write_text(root / "base_to_new.md", text)
            files.write_json(root / _RESULT, dict(zip(map(str, seeds), results, strict=True)))
    return text
