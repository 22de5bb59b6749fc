"""What the sweeps share: which config they start from.

The argument of a sweep file names a config of `configs/` and, after commas, that config's own arguments:

    configs/sweeps/components.py:quickstart          drawn faces and tiny-face-clip, no download
    configs/sweeps/components.py                     RAF-DB with ViT-B/16, as configs/rafdb.py
    configs/sweeps/components.py:affectnet7,vit_l14  another dataset, another CLIP
    configs/sweeps/components.py:ferplus_prompts     photographs and a CLIP that ships, no download of weights

Some also take the settings that a search chose, the published one of the sweep `methods` with that argument, or that in
a folder:

    configs/sweeps/components.py:quickstart,tuned
    configs/sweeps/components.py:quickstart,tuned=runs/methods
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from configs.common import BASELINES, CLIPS, FEW_UPDATES, METHODS, SHIPPED, method_changes, per_class, prior
from mpafer_jax.jobs.sweeps.search import JSON
from mpafer_jax.jobs.sweeps.sweep import Point, name_of
from mpafer_jax.runtime.errors import ConfigError

# Titles of the methods of `configs.common`, and of MPA-FER itself.
METHOD_TITLES = {
    "full": "MPA-FER",
    "coop": "CoOp: text context alone",
    "kgcoop": "KgCoOp: context held near hard prompts",
    "vpt_deep": "VPT-deep: visual prompts alone",
    "ivlp": "IVLP: text context and visual prompts",
    "maple": "MaPLe: deep prompts of both towers, coupled",
    "ceprompt": "CEPrompt: MaPLe's prompts, global and local scores",
    "promptsrc": "PromptSRC: deep prompts of both towers, held near the frozen CLIP",
    "cafe": "CAFE: mask on the channels of the frozen feature",
    "lora": "LoRA: low-rank updates of both towers' attention",
}
_DEFAULT = "rafdb"  # argument of a sweep without one
_SEARCHED = "configs/sweeps/methods.py"
_PUBLISHED = pathlib.Path("docs/results")
# The context alone, trained with the cross-entropy of the global logits.
TEXT_ONLY: Mapping[str, Any] = METHODS["coop"]
# Baselines that are not trained, or in a second.
UNTRAINED = tuple(name for name in BASELINES if name != "text_context")


def base(argument: str) -> str:
    """The base config of a sweep's argument, as --config takes it.

    Raises:
      ConfigError: the argument has a method or a number of images, which the points of sweeps decide.
    """
    name, _, rest = (argument or _DEFAULT).partition(",")
    if wrong := [word for word in rest.split(",") if word in METHODS or per_class(word)]:
        raise ConfigError(
            f"{', '.join(wrong)}: the points of a sweep decide the method and the number of images. The sweep "
            "methods has all methods (--only names some), few_shot has few images, and "
            "--config.data.train_per_class=16 changes all points"
        )
    return f"configs/{name}.py:{rest}" if rest else f"configs/{name}.py"


def tuned(argument: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Splits the word tuned or tuned=FOLDER off a sweep's argument.

    Returns:
      The argument without it, and what the search chose that is in that folder or, without one, that is published:
      method -> value by field; empty without the word.

    Raises:
      ConfigError: the folder has no search that has ended, or none is published. For methods that it lacks, see
        `with_settings`.
    """
    words = argument.split(",")
    others = ",".join(word for word in words if word.partition("=")[0] != "tuned")
    folders = [word.partition("=")[2] for word in words if word.partition("=")[0] == "tuned"]
    chosen: dict[str, dict[str, Any]] = {}
    searched = f"{_SEARCHED}:{others or _DEFAULT}"
    for path in (pathlib.Path(folder or _PUBLISHED / name_of(searched)) / JSON for folder in folders):
        try:
            methods = json.loads(path.read_text(encoding="utf-8"))["methods"]
            chosen |= {name: dict(method["values"]) for name, method in methods.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"tuned: {path} cannot be read ({type(error).__name__}: {error}). Give tuned=FOLDER, a --workdir of "
                f"{searched} whose trials have ended"
            ) from error
    return others, chosen


def with_settings(chosen: Mapping[str, Mapping[str, Any]], points: Iterable[Point]) -> tuple[Point, ...]:
    """Points with what a search chose (`tuned`) for CoOp, if they are "text_only", else for the full method.

    What a point itself changes stays.

    Raises:
      ConfigError: something was chosen, but not for one of these methods.
    """
    found: list[Point] = []
    for point in points:
        name = "coop" if point.name == "text_only" else "full"
        if chosen and name not in chosen:
            raise ConfigError(
                f"tuned: the search has no method {name!r}, whose settings the point {point.key} takes; it has "
                f"{', '.join(chosen)}. Give a search of all methods"
            )
        found.append(dataclasses.replace(point, changes={**chosen.get(name, {}), **point.changes}))
    return tuple(found)


def is_quickstart(argument: str) -> bool:
    """Whether the base is of drawn faces."""
    return argument.partition(",")[0] == "quickstart"


def small_clip(argument: str) -> str:
    """Name of the base's CLIP if it is one of those that ship, which see 64 patches; empty if not."""
    clips = {"quickstart": CLIPS["tiny_clip"], "ferplus_prompts": CLIPS["small_clip"], **CLIPS}
    named = [clips[word]["clip.name"] for word in argument.split(",") if word in clips]
    return named[-1] if named and named[-1] in SHIPPED else ""


def few_images(argument: str, images: int) -> Mapping[str, Any]:
    """Changes that leave so many training images of each class, and updates enough to learn from them.

    Args:
      argument: the sweep's. Configs with a small CLIP count updates already, the others epochs.
      images: of each class.
    """
    return {"data.train_per_class": images, **({} if small_clip(argument) else FEW_UPDATES)}


def with_prior(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of the full method, with what suits it if they leave few images (`configs.common.prior`)."""
    images = changes.get("data.train_per_class", 0)
    return {**(prior(images) if images else {}), **changes}


def method(argument: str, name: str, **options: Any) -> Point:
    """A method of `configs.common` as a point, "full" for MPA-FER.

    Args:
      argument: the sweep's.
      name: of the method.
      options: further fields of `Point`; `changes` are added to the method's.
    """
    changes = {} if name == "full" else method_changes(name, small_clip(argument))
    changes |= options.pop("changes", {})
    if name == "full":
        changes = with_prior(changes)
    return Point(name, METHOD_TITLES[name], changes, **options)


def full_and_text_only(table: str, changes: Mapping[str, Any], value: float | None = None) -> tuple[Point, ...]:
    """The full method and the text context alone, both with these changes, in one table.

    Args:
      table, value: see `Point`; with a value each of the two is a line of the plot.
      changes: by dotted name.
    """
    methods: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
        ("full", "full method", with_prior(changes)),
        ("text_only", "text context alone (CoOp)", {**TEXT_ONLY, **changes}),
    )
    return tuple(
        Point(name, title, changed, table, "" if value is None else title, value) for name, title, changed in methods
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
