"""What the sweeps share: which config they start from.

The argument of a sweep file names a config of `configs/` and, after commas, that config's own arguments:

    configs/sweeps/components.py:quickstart          drawn faces and tiny-face-clip, no download
    configs/sweeps/components.py                     RAF-DB with ViT-B/16, as configs/rafdb.py
    configs/sweeps/components.py:affectnet7,vit_l14  another dataset, another CLIP
    configs/sweeps/components.py:ferplus_prompts     photographs and a CLIP that ships, no download of weights
"""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.common import METHODS
from mpafer_jax.evaluation.baselines import BASELINES
from mpafer_jax.jobs.sweeps.sweep import Point

# The context alone, trained with the cross-entropy of the global logits.
TEXT_ONLY: Mapping[str, Any] = METHODS["coop"]
# Baselines that are not trained, or in a second.
UNTRAINED = tuple(name for name in BASELINES if name != "text_context")


def base(argument: str) -> str:
    """The base config of a sweep's argument, as --config takes it."""
    name, _, rest = (argument or "rafdb").partition(",")
    return f"configs/{name}.py:{rest}" if rest else f"configs/{name}.py"


def is_quickstart(argument: str) -> bool:
    """Whether the base is of drawn faces."""
    return argument.partition(",")[0] == "quickstart"


def small_clip(argument: str) -> str:
    """Name of the base's CLIP if it is one of those that ship, which see 64 patches; empty if not."""
    shipped = {"tiny_clip": "tiny-face-clip", "small_clip": "small-face-clip"}
    shipped |= {"quickstart": shipped["tiny_clip"], "ferplus_prompts": shipped["small_clip"]}
    return next((shipped[word] for word in reversed(argument.split(",")) if word in shipped), "")


def few_images(argument: str, per_class: int) -> Mapping[str, Any]:
    """Changes that leave so many training images of each class, and updates enough to learn from them.

    Args:
      argument: the sweep's. Configs with a small CLIP count updates already; the others count epochs, of which the
        usual number would be a handful of updates here (30 epochs of 7 images make 3), fewer than the warm-up.
      per_class: images of each class.
    """
    longer = {"train.num_steps": 600, "train.num_epochs": 0.0, "train.eval_every": 100, "train.checkpoint_every": 100}
    return {"data.train_per_class": per_class, **({} if small_clip(argument) else longer)}  # [ours]


def full_and_text_only(table: str, changes: Mapping[str, Any], value: float | None = None) -> tuple[Point, ...]:
    """The full method and the text context alone, both with these changes, in one table.

    Args:
      table, value: see `Point`; with a value each of the two is a line of the plot.
      changes: by dotted name.
    """
    methods: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
        ("full", "full method", {}),
        ("text_only", "text context alone (CoOp)", TEXT_ONLY),
    )
    return tuple(
        Point(name, title, {**own, **changes}, table, "" if value is None else title, value)
        for name, title, own in methods
    )


def along(
    field: str, values: Sequence[float], default: float, title: str, *, table: str = "all", series: str = ""
) -> tuple[Point, ...]:
    """Points that differ in one number; that of the base is called 'full'.

    Args:
      field: by dotted name.
      values: of the points.
      default: the base's own value, one of `values`.
      title: of a row, with {} for the value.
      table, series: see `Point`.
    """
    return tuple(
        Point(
            name="full" if value == default else f"{field.rpartition('.')[2]}_{value}",
            title=title.format(value),
            changes={} if value == default else {field: value},
            table=table,
            series=series,
            value=float(value),
        )
        for value in values
    )
