"""Makes docs/results.md, the page of all results, from the files in docs/results/, after it has added runs to them.

    python docs/results/make.py                             the page again
    python docs/results/make.py runs/components runs/top_k  with what has run there
    python docs/results/make.py --print docs/results/components_quickstart.jsonl --format=latex
    python docs/results/make.py --print docs/results/styles_quickstart.jsonl --ranks=war

From the root of the checkout. A folder is what `mpafer-jax study sweep`, `study cross-dataset` or `python -m
tests.bench.expression_packages` has left. A sweep is published as one file, a matrix as its `matrix.json` without the
folders of its runs, the packages' table as it is; of a sweep's search `search.md` and `search.json`, in a folder of the
sweep's name, where the word `tuned` of other sweeps finds them. On the page stand the tables of all of them, and the
commands of the project's sweeps that have not run.

The file of a sweep has JSON lines. The first is the sweep's record; each other one is a finished run: its name,
configuration (by dotted name, without what changes no result), `summary.json` (without the lines that name folders),
and which images of the reported split were classified correctly, a 1 or 0 each in the split's order, or null. Paths of
the machine that ran it are redacted.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.cli.parser import path_argument
from mpafer_jax.config.flags import own_files
from mpafer_jax.config.redaction import LOCAL_PATHS, redact, redact_value
from mpafer_jax.config.schema import Config
from mpafer_jax.config.semantics import unrecorded_fields
from mpafer_jax.evaluation.protocol import to_markdown
from mpafer_jax.jobs.studies import cross_dataset_text
from mpafer_jax.jobs.sweeps import ranks, report, search, sweep, tables
from mpafer_jax.jobs.sweeps.collect import METRICS, FinishedRun
from mpafer_jax.jobs.sweeps.report import Report
from mpafer_jax.jobs.sweeps.sweep import Record, split_source
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, UserError

_PAGE = pathlib.Path("docs/results.md")
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
# The page's order; sweeps that are not named follow.
_ORDER = ("components", "methods", "prompt_types", "top_k", "num_visual_prompts", "visual_prompt_depth")

_INTRODUCTION = """# Results

Made by `python docs/results/make.py` from what is published in [{folder}/]({folder}): every run's configuration,
confusion matrices and correct images. Not to be edited by hand. [experiments.md](experiments.md) says how to run a
sweep. {explanation}
"""
_DRAWN = """## On drawn faces, with tiny-face-clip

The quickstart's benchmark ([quickstart.md](quickstart.md)). An accuracy on drawings says whether a method works, not
how good it is on photographs.
"""
_PHOTOGRAPHS = """## On photographs, with OpenAI's CLIP

The paper's experiments. The datasets have to be asked for from their owners ([datasets.md](datasets.md)); cells are
empty until a sweep has run. 'The paper, %' is the accuracy that the paper reports.
"""
_SMALL = """## On photographs, with the CLIPs that ship

Real faces, and `small-face-clip`, the CLIP of the package that was trained on photographs: those of FERPlus' Training
part with its votes, so that its zero-shot predictions are no measure of a CLIP that has not seen the dataset. Nothing
here compares with the paper. With `ferplus_prompts` what is trained in updates sees all classes equally often.
Zero-shot predictions and the linear probe are not corrected for rare classes, and Tip-Adapter and Tip-Adapter-F compare
with all training images, most of which are neutral or happy: this favours their accuracy and costs them UAR.
"""
_PACKAGES = """### Packages that ship a classifier of expressions

```bash
python -m tests.bench.expression_packages --ferplus=/data/FERPlus --out=runs/packages
```

Each as it ships, on the photographs of FERPlus' PublicTest; 'ours' is `ferplus-prompts`, what prediction takes by
default. None but ours knows contempt, which is a recall of 0.

"""
_OTHERS = """## Other sweeps
"""
_MATRICES = """## Trained on one dataset, tested on others

Mean ± sample standard deviation over the runs of a row; [generalization.md](generalization.md) says how such a matrix
is made.
"""
_WAITING = """### Not run yet
"""
_SWEEP_SUFFIX, _MATRIX_SUFFIX = ".jsonl", ".json"
_PEERS, _PUBLISHED_PEERS = "peers.md", "expression_packages.md"
_NAMES_FOLDERS = "data"  # of a summary; its counts and fingerprints say the rest


def publish(folder: pathlib.Path, reports: Sequence[Report], matrices: Sequence[pathlib.Path]) -> None:
    """Adds a sweep's runs to those published of it (`joined`), and puts a matrix in the place of an earlier one.

    Args:
      folder: of the published files.
      reports: of the sweeps.
      matrices: folders of `cross_dataset`, published under their own names.

    Raises:
      ConfigError: two reports are of the same sweep, one is of a search that has not ended, or a file cannot be read.
      ReportError: see `collect`.
    """
    by_source: dict[str, Report] = {}
    for added in reports:
        first = by_source.setdefault(_normalized(added.record.source), added)
        if first is not added:
            raise ConfigError(f"{first.root} and {added.root} hold the same sweep {added.record.source}; name one")
    for source, added in by_source.items():
        path = folder / f"{sweep.name_of(source)}{_SWEEP_SUFFIX}"
        searched = _read_search(added)
        # Read as a report first: runs that cannot stand in one table are refused before anything is written.
        whole = report.make(path, added.record, joined(path, added.record, added.runs))
        if searched is not None:
            _publish_search(added, searched, path.with_suffix(""))
        write_sweep(path, whole.record, whole.runs)
    for matrix in matrices:
        values = _read_matrix(matrix / cross_dataset_text.MATRIX)
        cells = [{name: value for name, value in cell.items() if name != "path"} for cell in values["cells"]]
        files.write_json(folder / f"{matrix.name}{_MATRIX_SUFFIX}", {**values, "cells": cells})


def _read_search(added: Report) -> dict[str, Any] | None:
    """What a sweep's search chose; None if it has none.

    Raises:
      ConfigError: only some points were searched, which would take the place of a search of all.
    """
    path = added.root / search.JSON
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(files.read_text(path))
    if missing := [point.name for point in added.record.sweep.searched if point.name not in values["methods"]]:
        raise ConfigError(
            f"{path} has no trials of {', '.join(missing)}; a sweep is published when the search of all its points "
            "has ended: give its command without --only"
        )
    return values


def _publish_search(added: Report, values: dict[str, Any], folder: pathlib.Path) -> None:
    """Copies the trials' tables of a sweep, with folders in their commands redacted."""
    text = files.read_text(added.root / search.MARKDOWN)
    for method in values["methods"].values():
        words = shlex.split(method["command"])
        kept = [_redacted_override(word) for word in words if not word.startswith("--config.data.dir=")]
        shown = shlex.join([*kept, *_data_flag(added.record.source)])
        text = text.replace(method["command"], shown)
        method["command"] = shown
    files.write_text(folder / search.MARKDOWN, text)
    files.write_json(folder / search.JSON, values)


def write_page(page: pathlib.Path) -> None:
    """Writes the page of all published files, which lie in the folder of its name, with plots in `images/`.

    Raises:
      ConfigError: a published file cannot be read.
      ReportError: see `collect`.
    """
    folder = page.with_suffix("")
    reports = [read_sweep(path) for path in sorted(folder.glob(f"*{_SWEEP_SUFFIX}"))]
    parts = _sweeps(page, {_normalized(published.record.source): published for published in reports})
    matrices = sorted(folder.glob(f"*{_MATRIX_SUFFIX}"))
    parts += [_MATRICES, *(_matrix(path) for path in matrices)] if matrices else []
    files.write_text(page, "\n".join(parts))


def _matrix(path: pathlib.Path) -> str:
    values = _read_matrix(path)
    flags = " \\\n  ".join(shlex.quote(flag) for flag in values["flags"])
    command = f"```bash\nmpafer-jax study cross-dataset {flags}\n```\n"
    return "\n".join(
        [f"### {path.stem}\n", command, cross_dataset_text.render(values["cells"], values["classes"], level=4)]
    )


def _read_matrix(path: pathlib.Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: values[name] for name in ("flags", "classes", "cells")}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no matrix ({type(error).__name__}: {error}); run the command of "
            "mpafer-jax study cross-dataset that made it again, which keeps what was measured"
        ) from error


def _sweeps(page: pathlib.Path, by_source: dict[str, Report]) -> list[str]:
    explanation = tables.explanation("the table's first row, or to the one that is named so")
    parts = [_INTRODUCTION.format(folder=page.stem, explanation=explanation)]
    small_clip = sweep.load_module(_SWEEPS / "common.py").small_clip
    drawn = [*_drawn(), *(source for source in by_source if split_source(source)[1].startswith(f"{_QUICKSTART},"))]
    own = [source for source in by_source if split_source(source)[0].parent == _SWEEPS]
    small = [source for source in own if source not in drawn and small_clip(split_source(source)[1])]
    for heading, sources, shown in (
        (_DRAWN, drawn, ()),
        (_SMALL, small, ()),
        (_PHOTOGRAPHS, _photographs(), _main_table()),
    ):
        if not sources:
            continue
        found = {source: by_source.pop(source, None) for source in sources}
        waiting = [source for source in sources if found[source] is None and source not in shown]
        parts.append(heading)
        parts += [_section(source, found[source], page) for source in sources if source not in waiting]
        if heading is _SMALL and (peers := page.with_suffix("") / _PUBLISHED_PEERS).is_file():
            parts.append(_PACKAGES + files.read_text(peers))
        if waiting:
            commands = "\n".join(f"# {_title(source)}\n{_command(source)}" for source in waiting)
            parts.append(f"{_WAITING}\n```bash\n{commands}```\n")
    if by_source:
        parts += [_OTHERS, *(_section(source, found, page) for source, found in by_source.items())]
    return parts


def _normalized(source: str) -> str:
    """A sweep's source with its default argument written out, and of folders in that the last part."""
    path, argument = split_source(source)
    words = (word.partition("=") for word in (argument or _DEFAULT_DATASET).split(","))
    return f"{path}:{','.join(f'{name}{sign}{pathlib.PurePath(value).name}' for name, sign, value in words)}"


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
    return title if argument == _QUICKSTART else f"{title}: {argument}"


def _command(source: str, overrides: Sequence[str] = ()) -> str:
    path, argument = split_source(source)
    folder = path.stem if argument == _QUICKSTART else sweep.name_of(source)
    flags = "".join(f" \\\n  {shlex.quote(flag)}" for flag in (*_data_flag(source), *overrides))
    return f"mpafer-jax study sweep --sweep={source} --workdir=runs/{folder}{flags}\n"


def _data_flag(source: str) -> list[str]:
    """The flag that names the folder of a sweep's dataset, if it needs one."""
    dataset = split_source(source)[1].partition(",")[0].removesuffix("_prompts")
    return [f"--config.data.dir={_DATASETS[dataset]}"] if dataset in _DATASETS else []


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
    if report.write_plot(image, record.sweep, found.lines, found.results):
        parts.append(f"![Accuracy over {record.sweep.axis}]({image.relative_to(page.parent)})\n")
    if (trials := page.with_suffix("") / sweep.name_of(source) / search.MARKDOWN).is_file():
        place = trials.relative_to(page.parent)
        parts.append(f"[All trials]({place}), and the command that makes a chosen one again.\n")
    if found.results:
        parts.append(_protocol(found))
    return "\n".join(parts)


def _protocol(found: Report) -> str:
    runs = sum(not result.baseline for result in found.results)
    minutes = found.minutes
    time = "" if minutes is None else f", {minutes / 60:.1f} hours of wall time together"
    return f"<details><summary>{runs} runs{time}; protocol</summary>\n\n{to_markdown(found.protocol)}\n</details>\n"


def joined(path: pathlib.Path, record: Record, runs: Iterable[FinishedRun]) -> list[FinishedRun]:
    """Runs, and those of the same sweep that are in a file: other seeds, made elsewhere or before.

    A run takes the place of one of its name. What is there of points that were otherwise then is dropped.

    Args:
      path: the file, which ends on ".jsonl"; it need not be there.
      record: of the sweep.
      runs: those that have ended.

    Returns:
      All of them, in the order of the sweep's points, and by seed.

    Raises:
      ConfigError: the file is there and cannot be read.
    """
    now = _settings(record)
    merged: dict[str, FinishedRun] = {}
    if path.is_file():
        before, old = _read(path)
        then = _settings(before)
        merged = {run.name: run for run in old if now.get(run.key) == then[run.key]}
    merged |= {run.name: run for run in runs}
    order = {key: place for place, key in enumerate(now)}
    return sorted(merged.values(), key=lambda run: (order[run.key], run.seed))


def _settings(record: Record) -> dict[str, Any]:
    """Point -> all that makes its configuration, but the seed, as it is published."""
    record = _redacted(record)
    return {point.key: (record.sweep.base, record.overrides, point.changes) for point in record.sweep.points}


def _redacted(record: Record) -> Record:
    points = tuple(
        dataclasses.replace(point, changes=redact(point.changes, told_apart=True)) for point in record.sweep.points
    )
    overrides = tuple(_redacted_override(override) for override in record.overrides)
    return dataclasses.replace(
        record,
        source=_normalized(record.source),
        overrides=overrides,
        sweep=dataclasses.replace(record.sweep, points=points),
    )


def _redacted_override(override: str) -> str:
    flag, _, text = override.partition("=")
    field = flag.removeprefix("--config.")
    if field not in LOCAL_PATHS:
        return override
    try:
        value: Any = ast.literal_eval(text)  # as several banks are given
    except (ValueError, SyntaxError):
        value = text
    found = redact_value(field, value)
    return f"{flag}={found if isinstance(found, str) else repr(found)}"


def write_sweep(path: pathlib.Path, record: Record, runs: Iterable[FinishedRun]) -> None:
    """Writes the file.

    Args:
      path: its name, which ends on ".jsonl".
      record: of the sweep.
      runs: those that have ended.
    """
    lines: list[dict[str, Any]] = [dataclasses.asdict(_redacted(record))]
    for run in runs:
        config = {name: value for name, value in flatten(run.config).items() if name not in unrecorded_fields(Config)}
        config = redact(config)
        summary = {name: value for name, value in run.summary.items() if name != _NAMES_FOLDERS}
        clip = summary["clip"]
        summary["clip"] = {**clip, "name": redact_value("clip.name", clip["name"])}
        correct = None if run.correct is None else "".join("01"[right] for right in run.correct.tolist())
        lines.append({"name": run.name, "config": config, "summary": summary, "correct": correct})
    files.write_text(path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def _read(path: pathlib.Path) -> tuple[Record, list[FinishedRun]]:
    """Reads what `write` left.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        first, *others = (json.loads(line) for line in files.read_text(path).splitlines())
        return Record.from_json(first), [_run(**line) for line in others]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no sweep's results ({type(error).__name__}: {error}); "
            "python docs/results/make.py writes such files"
        ) from error


def _run(name: str, config: dict[str, Any], summary: dict[str, Any], correct: str | None) -> FinishedRun:
    right = None if correct is None else np.array([digit == "1" for digit in correct], np.bool_)
    return FinishedRun(name, config, summary, right)


def read_sweep(path: pathlib.Path, baseline: str = "") -> Report:
    """The report of a published sweep; `baseline` and errors as for `report.read`."""
    return report.make(path, *_read(path), baseline)


def main(argv: Sequence[str] | None = None) -> None:
    """Publishes what has run and writes the page, or prints a published sweep's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = "of sweeps, matrices or packages"
    parser.add_argument("folders", nargs="*", type=path_argument("folder"), help=kinds)
    parser.add_argument("--page", type=path_argument("--page"), default=_PAGE, help=f"default: {_PAGE}")
    printed = "print published sweeps' tables instead"
    parser.add_argument("--print", type=pathlib.Path, nargs="+", default=[], metavar="FILE", help=printed)
    parser.add_argument("--format", choices=list(report.FORMATS), default="markdown", help="with --print")
    parser.add_argument("--baseline", default="", help="with --print: row that the others are compared with")
    parser.add_argument("--ranks", choices=METRICS, help="with --print: the ranks of the rows over the tables instead")
    arguments = parser.parse_args(argv)
    try:
        if arguments.print:
            reports = [read_sweep(path, arguments.baseline) for path in arguments.print]
            texts = (found.text(arguments.format) for found in reports)
            print(ranks.render(reports, arguments.ranks) if arguments.ranks else "\n".join(texts))
            return
        if not _SWEEPS.is_dir():
            raise ConfigError(f"there is no folder {_SWEEPS} here; run this from the root of the checkout")
        published = arguments.page.with_suffix("")
        peers = [folder for folder in arguments.folders if (folder / _PEERS).is_file()]
        matrices = [folder for folder in arguments.folders if (folder / cross_dataset_text.MATRIX).is_file()]
        reports = [report.read(folder) for folder in arguments.folders if folder not in (*matrices, *peers)]
        publish(published, reports, matrices)
        for folder in peers:
            files.write_text(published / _PUBLISHED_PEERS, files.read_text(folder / _PEERS))
        write_page(arguments.page)
    except UserError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(arguments.page)


if __name__ == "__main__":
    main()
