"""Repeats a configuration over seeds and leaves out one loss or part at a time.

    python -m mpafer_jax.tools.ablate --config=configs/quickstart.py --workdir=runs/ablation --shots=0,16

Every run is an ordinary one, in `<workdir>/<images>/<variant>/seed_<n>`: it resumes, and one that has ended is not made
again. So the same command goes on where it stopped, and `--only` or `--seeds` share the work between machines. A run
that fails is reported and the others go on; the exit code is then 1. After every run `ablation.md` and `ablation.json`
are written anew from all runs that have ended: mean and standard deviation over the seeds, and the difference to the
full method, paired by seed.

What a seed changes: the initial prompts, the order and augmentation of the images, the choice of prototype images, the
permutation of the descriptions, and with `--shots` which training images are drawn. What it does not change: the
validation and test images (`data.split_seed`), all of which are used whatever `--shots` says.

`--shots` counts training images a class, 0 for all; by default it is the configuration's. The length of training is the
configuration's too: in steps it is the same for every number of images, in epochs it shrinks with them. The baselines
are those of `eval.baselines`, once for each seed and number of images; the text context is a variant here, trained with
augmentation like all others. `eval.report` is none for every run; `tools.report` compares some of them.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from mpafer_jax import command, distributed, experiment, files, train, workdir
from mpafer_jax.config import Config, ConfigError
from mpafer_jax.data.records import DataError
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation import ablation
from mpafer_jax.evaluation.table import BASELINE_TITLES

_CONFIG = command.define_config()
command.define_workdir()
command.define_distributed()
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, with commas between them.")
_SHOTS = flags.DEFINE_list("shots", [], "Training images a class, with commas between them, 0 for all.")
_ONLY = flags.DEFINE_list("only", [], "Variants to run, with commas between them; none: all.")


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is left out.

    Attributes:
      title: the table's word for it.
      changes: of the configuration, by dotted name.
    """

    title: str
    changes: Mapping[str, Any]


VARIANTS = {
    ablation.FULL: Variant("full method", {}),
    "no_token_alignment": Variant("without token-level alignment", {"loss.token_weight": 0.0}),
    "no_prompt_alignment": Variant("without prompt-level alignment", {"loss.prompt_weight": 0.0}),
    "no_hard_soft": Variant("without hard-soft alignment (beta = 0)", {"loss.beta": 0.0}),
    "no_prototypes": Variant("without prototypes (gamma = 0)", {"loss.gamma": 0.0}),
    "no_local": Variant("without the local score", {"head.local_weight": 0.0}),
    "no_visual_prompts": Variant("without visual prompts", {"visual_prompts.num_prompts": 0}),
    "text_only": Variant(
        "text context alone (CoOp)",
        {"loss.beta": 0.0, "loss.gamma": 0.0, "head.local_weight": 0.0, "visual_prompts.num_prompts": 0},
    ),
}


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run: where, below the workdir, and with which configuration."""

    name: str
    config: Config


def plan(base: Config, variants: Sequence[str], seeds: Sequence[int], shots: Sequence[int]) -> list[Planned]:
    """All runs, one seed after the other, so that a table is complete as early as can be.

    Raises:
      ConfigError: a variant that does not exist, something named twice, or a configuration that does not hold.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ConfigError(f"--only names {', '.join(unknown)}; the variants are {', '.join(VARIANTS)}")
    for flag, values in (("only", variants), ("seeds", seeds), ("shots", shots)):
        if len(set(values)) != len(values):
            raise ConfigError(f"--{flag} holds a value twice: {', '.join(map(str, values))}")
    runs: list[Planned] = []
    for seed in seeds:
        for number in shots:
            for name in variants:
                images = f"{number}_per_class" if number else "all"
                runs.append(Planned(f"{images}/{name}/seed_{seed}", _config(base, name, seed, number)))
    return runs


def _config(base: Config, variant: str, seed: int, shots: int) -> Config:
    # Baselines do not depend on what is left out; of them, the text context has a variant of its own.
    baselines = tuple(name for name in base.eval.baselines if name != "text_context" and variant == ablation.FULL)
    values = ConfigDict(base.model_dump())
    values.update_from_flattened_dict(
        {
            **VARIANTS[variant].changes,
            "seed": seed,
            "data.few_shot_seed": seed,
            "data.train_per_class": shots,
            "eval.baselines": baselines,
            "eval.report": "none",  # nobody reads a page for each of dozens of runs; tools.report compares some
        }
    )
    return Config.from_config_dict(values)


def load_basis(config: Config) -> ablation.Basis:
    """What all runs will share; prepares the data, and fails here, before any run, where data or CLIP do not hold."""
    dataset = load_dataset(config.data)
    clip = experiment.load_frozen_clip(config)
    return ablation.Basis(clip.content_hash, {split.name: split.fingerprint for split in dataset.held_out})


def run_all(runs: Sequence[Planned], root: pathlib.Path, basis: ablation.Basis) -> list[str]:
    """Makes every run that has not ended yet, and the table after each.

    Returns:
      For each run that failed, its name and the error.

    Raises:
      MixedRunsError: `root` holds runs of another basis.
    """
    failures: list[str] = []
    for number, planned in enumerate(runs, start=1):
        folder = root / planned.name
        try:
            if _has_ended(folder, planned.config, basis):
                logging.info("run %d of %d, %s: has ended before", number, len(runs), planned.name)
                continue
            logging.info("run %d of %d, %s", number, len(runs), planned.name)
            train.train_and_evaluate(planned.config, folder)
        except Exception as error:  # whatever it is: hours of other runs must not be lost to it
            logging.exception("run %d of %d, %s: failed", number, len(runs), planned.name)
            failures.append(f"{planned.name}: {type(error).__name__}: {error}")
        finally:
            # The next run compiles functions of its own: what this one compiled would only fill the memory.
            jax.clear_caches()
        report(root)
    return failures


def _has_ended(folder: pathlib.Path, config: Config, basis: ablation.Basis) -> bool:
    """Whether a run left its summary, with the baselines that are asked for.

    Raises:
      ConfigError: the folder holds a run with another configuration.
      MixedRunsError: it was made with another CLIP or measured on other images.
    """
    workdir.check(folder, config)
    if not (folder / "summary.json").is_file():
        return False
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    basis.check(ablation.Basis.of(summary), "what config.clip and config.data name now", str(folder))
    return summary["baselines"].keys() == set(config.eval.baselines)


def report(root: pathlib.Path) -> str:
    """Writes `ablation.md` and `ablation.json` of all runs that have ended, and returns the former."""
    results = ablation.collect(root, list(VARIANTS))
    lines = ablation.summarize(results, [*VARIANTS, *BASELINE_TITLES])
    measured = sorted({f"{result.split} split, {result.checkpoint} checkpoint" for result in results})
    notes = (
        f"Measured on: {'; '.join(measured)} (best: chosen on validation).",
        "Mean ± sample standard deviation over seeds; differences are paired by seed.",
    )
    text = ablation.render(lines, {name: variant.title for name, variant in VARIANTS.items()}, notes)
    if distributed.is_first():
        files.write_text(root / "ablation.md", text)
        runs = [dataclasses.asdict(result) for result in results]
        files.write_json(root / "ablation.json", {"lines": [dataclasses.asdict(line) for line in lines], "runs": runs})
    return text


def keep_compiled_functions(folder: pathlib.Path) -> None:
    """Lets runs that compile the same functions (the seeds of a variant) compile them once.

    JAX's persistent cache, keyed by the whole program, the compiler and its options; JAX_COMPILATION_CACHE_DIR names
    another place for it.
    """
    if not cast(Any, jax.config).jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    command.refuse_arguments(argv)
    command.show_own_log_lines()
    command.run(_run, (ConfigError, DataError, ablation.MixedRunsError))


def _run() -> None:
    root = command.workdir(local=True)
    base = Config.from_config_dict(_CONFIG.value)
    seeds = command.whole_numbers("seeds", _SEEDS.value or [])
    shots = command.whole_numbers("shots", _SHOTS.value or [str(base.data.train_per_class)])
    runs = plan(base, _ONLY.value or list(VARIANTS), seeds, shots)
    keep_compiled_functions(root / "compilation_cache")
    failures = run_all(runs, root, load_basis(base))
    text = report(root)
    if distributed.is_first():
        print(text)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
