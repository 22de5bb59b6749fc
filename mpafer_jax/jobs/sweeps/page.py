"""The page of all results: what was measured, and the commands for what was not."""

from __future__ import annotations

import json
import pathlib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from mpafer_jax.evaluation.protocol import to_markdown
from mpafer_jax.jobs.studies import cross_dataset
from mpafer_jax.jobs.sweeps import plot, published, report, sweep, tables
from mpafer_jax.jobs.sweeps.report import Report
from mpafer_jax.jobs.sweeps.sweep import Record, own_files, split_source
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError

_SWEEPS = pathlib.Path("configs/sweeps")
_QUICKSTART = "quickstart"
# The datasets of the paper's main table (sweep `backbones`), and what all other sweeps run on by default; where their
# owners' folders are in the commands.
_DATASETS = {
    "rafdb": "/data/RAF-DB",
    "ferplus": "/data/FERPlus",
    "affectnet7": "/data/AffectNet",
    "affectnet8": "/data/AffectNet",
}
_MAIN_TABLE, _DEFAULT_DATASET = "backbones", "rafdb"
_TINY_CLIP = "tiny_clip"
# The page's order; sweeps that are not named follow.
_ORDER = ("components", "baselines", "prompt_types", "top_k", "num_visual_prompts", "visual_prompt_depth")

_INTRODUCTION = """# Results

Made by `python -m mpafer_jax.cli.results --page={page}` from what is published in [{folder}/]({folder}): every run's
configuration, confusion matrices and correct images. Not to be edited by hand. [experiments.md](experiments.md) says
how to run a sweep. {explanation}
"""
_DRAWN = """## On drawn faces, with the small CLIP

The quickstart's benchmark ([quickstart.md](quickstart.md)). An accuracy on drawings says whether a method works, not
how good it is on photographs.
"""
_PHOTOGRAPHS = """## On photographs, with OpenAI's CLIP

The paper's experiments. The datasets have to be asked for from their owners ([datasets.md](datasets.md)); cells are
empty until a sweep has run. 'The paper, %' is the accuracy that the paper reports.
"""
_SMALL = """## On photographs, with the small CLIP

Real faces, and the CLIP that ships with the package, which was trained on drawings and has never seen a photograph:
what prompts bring where they have everything to bridge. Nothing here compares with the paper.
"""
_OTHERS = """## Other sweeps
"""
_MATRICES = """## Trained on one dataset, tested on others

Mean ± sample standard deviation over the runs of a row; [generalization.md](generalization.md) says how such a matrix
is made.
"""
_MATRIX_SUFFIX = ".json"
_WAITING = """### Not run yet
"""


def write(page: pathlib.Path, reports: Sequence[Report], matrices: Sequence[pathlib.Path] = ()) -> None:
    """Publishes sweeps, and writes the page of all that are published, with its plots in `images/` beside it.

    Each is published as a file in a folder beside the page, which has the page's name: a sweep's runs beside those that
    are there of it (`published.joined`), a matrix in place of the one that was there, as its `matrix.json` without the
    folders of its runs.

    Args:
      page: the page.
      reports: the sweeps to publish.
      matrices: folders of `tools.cross_dataset`, published under their own names.

    Raises:
      ConfigError: the sweep files are not here, two reports are of the same sweep, or a published file cannot be read.
      ReportError: see `collect`.
    """
    if not _SWEEPS.is_dir():
        raise ConfigError(f"there is no folder {_SWEEPS} here; run this from the root of the checkout")
    own: dict[str, Report] = {}
    for found in reports:
        first = own.setdefault(_normalized(found.record.source), found)
        if first is not found:
            raise ConfigError(f"{first.root} and {found.root} hold the same sweep {found.record.source}; name one")
    folder = page.with_suffix("")
    for source, found in own.items():
        path = folder / f"{sweep.name_of(source)}{published.SUFFIX}"
        # Read as a report first: runs that cannot stand in one table are refused before anything is written.
        whole = report.make(path, found.record, published.joined(path, found.record, found.runs))
        published.write(path, whole.record, whole.runs)
    for matrix in matrices:
        values = _read_matrix(matrix / cross_dataset.MATRIX)
        cells = [{name: value for name, value in cell.items() if name != "path"} for cell in values["cells"]]
        files.write_json(folder / f"{matrix.name}{_MATRIX_SUFFIX}", {**values, "cells": cells})
    everything = [report.read(path) for path in sorted(folder.glob(f"*{published.SUFFIX}"))]
    parts = _sweeps(page, {_normalized(found.record.source): found for found in everything})
    paths = sorted(folder.glob(f"*{_MATRIX_SUFFIX}"))
    parts += [_MATRICES, *(_matrix(path) for path in paths)] if paths else []
    files.write_text(page, "\n".join(parts))


def _matrix(path: pathlib.Path) -> str:
    values = _read_matrix(path)
    flags = " \\\n  ".join(shlex.quote(flag) for flag in values["flags"])
    command = f"```bash\npython -m mpafer_jax.cli.cross_dataset {flags}\n```\n"
    return "\n".join([f"### {path.stem}\n", command, cross_dataset.render(values["cells"], values["classes"], level=4)])


def _read_matrix(path: pathlib.Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: values[name] for name in ("flags", "classes", "cells")}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no matrix ({type(error).__name__}: {error}); run the command of "
            "mpafer_jax.cli.cross_dataset that made it again, which keeps what was measured"
        ) from error


def _sweeps(page: pathlib.Path, by_source: dict[str, Report]) -> list[str]:
    explanation = tables.explanation("the table's first row, or to the one that is named so")
    parts = [_INTRODUCTION.format(page=page, folder=page.stem, explanation=explanation)]
    small = [source for source in by_source if _TINY_CLIP in split_source(source)[1].split(",")]
    for heading, sources, shown in (
        (_DRAWN, _drawn(), ()),
        (_SMALL, small, ()),
        (_PHOTOGRAPHS, _photographs(), _main_table()),
    ):
        if not sources:
            continue
        found = {source: by_source.pop(source, None) for source in sources}
        waiting = [source for source in sources if found[source] is None and source not in shown]
        parts.append(heading)
        parts += [_section(source, found[source], page) for source in sources if source not in waiting]
        if waiting:
            commands = "\n".join(f"# {_title(source)}\n{_command(source)}" for source in waiting)
            parts.append(f"{_WAITING}\n```bash\n{commands}```\n")
    if by_source:
        parts += [_OTHERS, *(_section(source, found, page) for source, found in by_source.items())]
    return parts


def _normalized(source: str) -> str:
    """A sweep's source with its default argument written out."""
    path, argument = split_source(source)
    return f"{path}:{argument or _DEFAULT_DATASET}"


def _all(argument: str) -> Iterable[str]:
    """The project's sweeps that take an argument."""
    order = {name: place for place, name in enumerate(_ORDER)}
    for path in sorted(own_files(_SWEEPS), key=lambda path: order.get(path.stem, len(order))):
        source = f"{path}:{argument}"
        try:
            sweep.load(source)
        except ConfigError:  # not made for such data
            continue
        yield source


def _drawn() -> list[str]:
    return list(_all(_QUICKSTART))


def _main_table() -> list[str]:
    return [f"{_SWEEPS / _MAIN_TABLE}.py:{dataset}" for dataset in _DATASETS]


def _photographs() -> list[str]:
    main = _main_table()
    return [*main, *(source for source in _all(_DEFAULT_DATASET) if source not in main)]


def _title(source: str, found: Report | None = None) -> str:
    title = (found.record.sweep if found is not None else sweep.load(source)).title
    argument = split_source(source)[1]
    return title if argument.startswith(_QUICKSTART) else f"{title}: {argument}"


def _command(source: str, overrides: Sequence[str] = ()) -> str:
    path, argument = split_source(source)
    base = argument.partition(",")[0]
    data = [f"--config.data.dir={_DATASETS[base]}"] if base in _DATASETS else []
    folder = path.stem if argument == _QUICKSTART else sweep.name_of(source)
    flags = "".join(f" \\\n  {shlex.quote(flag)}" for flag in (*data, *overrides))
    return f"python launch/sweep.py --sweep={source} --workdir=runs/{folder}{flags}\n"


def _section(source: str, found: Report | None, page: pathlib.Path) -> str:
    """A sweep: its command, and its tables, empty or not."""
    record = found.record if found is not None else Record(source, (), sweep.load(source))
    if found is None:
        found = report.make(page, record, [])
    parts = [
        f"### {_title(source, found)}\n",
        f"```bash\n{_command(source, record.overrides)}```\n",
        found.to_markdown(level=4),
    ]
    image = page.parent / "images" / f"results_{sweep.name_of(source)}.png"
    if plot.write(image, record.sweep, found.lines, found.results):
        parts.append(f"![Accuracy over {record.sweep.axis}]({image.relative_to(page.parent)})\n")
    if found.results:
        parts.append(_protocol(found))
    return "\n".join(parts)


def _protocol(found: Report) -> str:
    runs = sum(not result.baseline for result in found.results)
    minutes = found.minutes
    time = "" if minutes is None else f", {minutes / 60:.1f} hours of wall time together"
    return f"<details><summary>{runs} runs{time}; protocol</summary>\n\n{to_markdown(found.protocol)}\n</details>\n"
