"""What a run leaves: metrics, summary, table, page; twenty steps of the quickstart on 64 drawn faces."""

import html
import json
import re

from tests.golden import store
from tests.golden.commands import masked, without_versions

# Between processors losses differ by 4e-6 of themselves, terms that have become tiny by 1e-7.
TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}
# Of the machine and the moment.
_OF_THE_MOMENT = ("versions", "devices", "finished", "process")


def test_the_run_ends_well_and_shows_its_table(twenty_steps):
    workdir, done = twenty_steps
    assert done.code == 0, done.err
    assert done.out == (workdir / "results.md").read_text().partition("\n- ")[0] + "\n"
    names = [
        path for path in workdir.rglob("*") if path.is_file() and not {"checkpoints", "tensorboard"} & set(path.parts)
    ]
    store.check("run_files", sorted(str(path.relative_to(workdir)) for path in names))


def test_metrics(twenty_steps):
    lines = [json.loads(line) for line in (twenty_steps[0] / "metrics.jsonl").read_text().splitlines()]
    store.check("run_metrics", lines, **TOLERANCE)


def test_summary(twenty_steps, commands):
    text = masked((twenty_steps[0] / "summary.json").read_text(), {"CACHE": commands.cache})
    store.check("run_summary", without_moments(json.loads(text)), **TOLERANCE)


def without_moments(value):
    """What a run's time and machine are is left out; of what stands in their place, the names stay."""
    if isinstance(value, list):
        return [without_moments(item) for item in value]
    if not isinstance(value, dict):
        return value
    # Settings are there only where variables are set; not every CPU has a unit for bfloat16.
    left_out = {*_OF_THE_MOMENT, "settings", "bfloat16_unit"}
    kept = {name: without_moments(item) for name, item in value.items() if name not in left_out}
    moments = {name: value[name] for name in _OF_THE_MOMENT if name in value}
    return kept | {name: sorted(item) if isinstance(item, dict) else "MASKED" for name, item in moments.items()}


def test_results(twenty_steps):
    lines = (twenty_steps[0] / "results.md").read_text().splitlines()
    of_the_machine = ("- settings", "- unusual settings")
    store.check("run_results", [without_versions(line) for line in lines if not line.startswith(of_the_machine)])


_CELL = r"</?(?:td|th|dt|dd|span|strong|em|code|sup|sub|b|i|a)\b[^>]*>"


def test_text_of_the_page(twenty_steps, commands):
    """Without the plots' letters, which Matplotlib sets; a bar stands for the border of two cells or spans."""
    page = masked((twenty_steps[0] / "report.html").read_text(), {"CACHE": commands.cache, "RUN": twenty_steps[0]})
    body = re.sub(r"<(svg|style)\b.*?</\1>", "", page.partition("<body>")[2], flags=re.DOTALL)
    body = re.sub(_CELL, "|", " ".join(body.split()))
    lines = [re.sub(r"[\s|]*\|[\s|]*", " | ", html.unescape(line)).strip(" |") for line in re.split(r"<[^>]*>", body)]
    for pattern, masked_text in (
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\dZ)?", "TIME"),
        (r"\| .*, without baselines", "| TIME, without baselines"),
    ):
        lines = [re.sub(pattern, masked_text, line) for line in lines]
    store.check("run_page", [without_versions(line) for line in lines if line and not line.startswith("settings |")])
