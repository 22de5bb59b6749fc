"""Reports on the hard prompts of a configuration, before anything is trained with them.

    python -m mpafer_jax.cli.prompt_report --config=configs/quickstart.py --out=runs/prompts

Prints zero-shot accuracy under the configured CLIP for every type and granularity that the configured banks have: each
alone and all together, the first text of each class and the mean of all, and descriptions given to the wrong classes as
a control. --out also gets `report.md` with token lengths, the cosines of the classes' features and the pairs that are
hard to tell apart; images of these cosines; and the numbers behind them as CSV.

Images are those of the validation split. A bank that is chosen by its accuracy on the test split can no longer be
reported on it, so that is read only with --split=test.

Exit code 0: done. 2: a mistake in the configuration, the data or a bank.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import pathlib
import sys
from collections.abc import Sequence

from absl import flags, logging

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.evaluation.matrix_plot import save_matrices
from mpafer_jax.jobs.studies import prompt_report_text as text
from mpafer_jax.jobs.studies.prompt_report import CONFIGURED, EVERY, PromptReport, all_texts, make_report
from mpafer_jax.method.hard_prompts.bank import GRANULARITIES
from mpafer_jax.runtime import console, distributed, files
from mpafer_jax.runtime.errors import ConfigError, DataError, PromptError

_CONFIG = define_config()
_OUT = flags.DEFINE_string("out", "", "Folder for the report and its images; empty: only print the table.")
_SPLIT = flags.DEFINE_enum("split", "validation", ["validation", "test"], "Whose images to measure on.")


def write(report: PromptReport, out: pathlib.Path) -> None:
    """Writes the report, its tables and its images into a folder."""
    alone = {
        what: report.sets[all_texts(what)].similarity
        for what in (*GRANULARITIES, EVERY)
        if all_texts(what) in report.sets
    }
    images = {"similarity.png": {CONFIGURED: report.sets[CONFIGURED].similarity}}
    if alone:
        images["similarity_by_granularity.png"] = alone
    for name, matrices in images.items():
        save_matrices(out / name, matrices, report.class_names, "cosine of text features")
    files.write_text(out / "token_lengths.csv", text.lengths_csv(report))
    files.write_text(out / "similarity.csv", text.similarity_csv(report))
    files.write_text(out / "report.md", text.render(report, list(images)))


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    runner.refuse_arguments(argv)
    try:
        out = runner.folder(str(_OUT.value), "--out") if _OUT.value else None
        config = Config.from_config_dict(_CONFIG.value)
        runner.import_libraries_without_torch()
        report = make_report(config, str(_SPLIT.value))
        if out and distributed.is_first():
            write(report, out)
    except (PromptError, ConfigError, DataError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        sys.exit(2)
    console.markdown(text.accuracy_table(report))
    console.line(f"Measured on the {report.split[1]} images of the {report.split[0]} split.")
    if out:
        print(f"{out}/report.md: lengths, cosines, classes that are hard to tell apart")


if __name__ == "__main__":
    runner.start(main, required=["config"])
