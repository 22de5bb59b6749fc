"""The folder of a run: whose it is, and what lies in it.

config.json      the configuration; a run with another one is refused
metrics.jsonl    one JSON object a line: step, and every metric of the interval or of an evaluation
tensorboard/     the same as curves
checkpoints/     see `checkpoint`
prototypes-*.npy class prototypes, named by what they depend on
summary.json     the result; it is there if, and only if, the run has ended
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, cast

from mpafer_jax import files
from mpafer_jax.config import Config, ConfigError

# Fields that change how a run is carried out, and not what comes out of it.
FREE_FIELDS = frozenset({"data.num_workers", "data.dir", "data.prepared_dir", "clip.cache_dir", "train.keep"})


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(cast(dict[str, Any], value), f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def claim(workdir: pathlib.Path, config: Config, *, write: bool) -> None:
    """Makes a folder this run's, or checks that it already is.

    Args:
      workdir: created where it is missing.
      config: of the run.
      write: whether this process writes.

    Raises:
      ConfigError: the folder belongs to a run with another configuration; the message lists what differs.
    """
    path = workdir / "config.json"
    if path.is_file():
        before, now = flatten(json.loads(path.read_text(encoding="utf-8"))), flatten(json.loads(config.to_json()))
        names = sorted((before.keys() | now.keys()) - FREE_FIELDS)
        absent = "(no such field)"
        differing = [
            f"  config.{name}: there {before.get(name, absent)!r}, here {now.get(name, absent)!r}"
            for name in names
            if before.get(name, absent) != now.get(name, absent)
        ]
        if differing:
            raise ConfigError(
                f"{workdir} holds a run with another configuration:\n" + "\n".join(differing) + "\n"
                "give another --workdir, or the same configuration to go on with that run"
            )
    elif write:
        files.write_text(path, config.to_json())
