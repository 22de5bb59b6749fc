"""Takes runs that other sweeps have made already: many sweeps share a point, most of all the full method."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence

from mpafer_jax.artifacts.run_dir import TRAINING_PREDICTIONS
from mpafer_jax.config.semantics import CONTENT_FIELDS
from mpafer_jax.jobs.sweeps.plan import Run, has_ended
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError

# All that tables read, and what a reader of the folder may want; checkpoints stay where they are.
_COPIED = ("config.json", "results.md", "metrics.jsonl", TRAINING_PREDICTIONS)


def find(run: Run, others: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """The folder of a finished run with the same configuration, in the folders of other sweeps."""
    for other in others:
        for summary in sorted(other.glob(f"*/*/seed_{run.seed}/summary.json")):
            try:
                if has_ended(run, summary.parent, but=CONTENT_FIELDS):
                    return summary.parent
            except ConfigError:
                continue
    return None


def take(found: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies a finished run; its summary comes last, since that says that the run has ended."""
    for name in (*_COPIED, "summary.json"):
        if (found / name).is_file():
            with files.replacing(folder / name) as temporary:
                shutil.copyfile(found / name, temporary)
