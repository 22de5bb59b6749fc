"""The page of all results: measured sweeps as tables, the others as commands that can be run."""

import dataclasses
import functools
import json
import pathlib
import re
import shlex
import shutil

import pytest

from mpafer_jax.artifacts import run_dir
from mpafer_jax.config import redaction
from mpafer_jax.config.flags import own_files
from mpafer_jax.config.schema import Config
from mpafer_jax.config.search_space import draw
from mpafer_jax.jobs.sweeps import plan, report, sweep
from mpafer_jax.runtime.errors import ConfigError, ReportError
from tests.jobs import runs
from tests.jobs.sweeps import made

make = sweep.load_module(runs.ROOT / "docs" / "results" / "make.py")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(runs.ROOT)


def add(page, *folders):
    make.publish(page.with_suffix(""), [report.read(folder) for folder in folders], [])
    make.write_page(page)


def made_of(root, source):
    found = sweep.load(source)
    made.record(root, found, source)
    for point in found.points:
        for seed in (0, 1):
            made.run(root, f"{point.key}/seed_{seed}", 0.5 + 0.1 * seed)
    return found


def test_what_was_measured_and_the_commands_for_the_rest(tmp_path):
    made_of(tmp_path / "k", "configs/sweeps/top_k.py:quickstart")
    made_of(tmp_path / "b", "configs/sweeps/backbones.py:ferplus")
    made.record(tmp_path / "own", source="elsewhere/mine.py:quickstart")
    small = "configs/sweeps/methods.py:ferplus,tiny_clip"
    held_out = ("data.test_split=validation", "data.validation_fraction=0.1", "data.validation_split=")
    made.record(tmp_path / "s", sweep.load(small), small, tuple(f"--config.{change}" for change in held_out))
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "peers.md").write_text("| ours | 12.3 |\n")
    out = tmp_path / "docs" / "results.md"
    make.main([f"--page={out}", *(str(tmp_path / name) for name in ("k", "b", "own", "s", "p"))])
    text = out.read_text()
    drawn, small, rest = text.split("\n## On photographs")
    photographs, others = rest.split("\n## Other sweeps")

    assert re.search(r"\n### Patches of the local score\n.*\n\| k = 6 +\|    2 \| 55\.00 ± 7\.07", drawn, re.DOTALL)
    assert "![Accuracy over k, patches averaged for each class](images/results_top_k_quickstart.png)" in drawn
    assert (tmp_path / "docs" / "images" / "results_top_k_quickstart.png").is_file()
    assert "<summary>12 runs, 0.2 hours of wall time together; protocol</summary>" in drawn
    assert "measured on: test, 10 images" in drawn
    # The main table stands there whether or not it was run, with what the paper reports.
    assert re.search(r"\| ViT-L/14 +\|    0 \| +\| +\| +93\.74 \|", photographs)
    assert re.search(r"\| ViT-L/14 +\|    2 \| 55\.00.* 91\.81 \|", photographs)
    assert "### What it brings" in others
    # With what its runs were given beside the folder of the data.
    assert small.endswith("\n| ours | 12.3 |\n")
    assert "ferplus_tiny_clip \\\n  --config.data.dir=/data/FERPlus \\\n  --config.data.test_split=validation" in small

    commands = re.findall(r"^mpafer-jax study sweep (.*?[^\\])$", text.replace("\\\n", ""), re.MULTILINE)
    sources = [line.split()[0].removeprefix("--sweep=") for line in commands]
    assert len(set(sources)) == len(sources)
    own = {path.stem for path in own_files(runs.ROOT / "configs" / "sweeps")} - {"alignment"}  # names folders
    assert {sweep.split_source(source)[0].stem for source in sources} == own | {"mine"}
    for line, source in zip(commands, sources, strict=True):
        if source.startswith("configs/"):
            _, workdir, *overrides = shlex.split(line)
            assert workdir.startswith("--workdir=runs/")
            assert plan.plan(sweep.load(source), overrides, [0])


def test_one_sweep_in_two_folders_is_refused(tmp_path):
    for name, source in (("a", "configs/sweeps/top_k.py"), ("b", "configs/sweeps/top_k.py:rafdb")):
        made.record(tmp_path / name, source=source)
    with pytest.raises(ConfigError, match=r"/a and .*/b hold the same sweep configs/sweeps/top_k\.py:rafdb"):
        add(tmp_path / "page.md", tmp_path / "a", tmp_path / "b")


def test_it_needs_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="ConfigError: there is no folder configs/sweeps here; run this from the root"):
        make.main([])


def test_a_page_is_made_of_what_was_published(tmp_path, capsys):
    root, page_path = tmp_path / "k", tmp_path / "docs" / "results.md"
    source = "configs/sweeps/top_k.py:quickstart"
    found = sweep.load(source)
    made.record(root, found, source)
    hits = [True] * 6 + [False] * 4
    for point in found.points:
        for seed, war in ((0, 0.6), (1, 0.7)):
            correct = hits if point.name == "full" else hits[::-1]
            made.run(root, f"{point.key}/seed_{seed}", war, correct=correct)
    add(page_path, root)
    text = page_path.read_text()
    one = tmp_path / "docs" / "results" / "top_k_quickstart.jsonl"
    assert "[results/](results)" in text

    # The file holds all that the tables need, and takes the folder's place.
    before = report.read(root)
    make.main([f"--print={one}", "--format=csv"])
    assert capsys.readouterr().out == before.text("csv") + "\n"
    assert [line.by_image for line in make.read_sweep(one).lines] == [line.by_image for line in before.lines]
    assert any(line.by_image for line in before.lines)
    shutil.rmtree(root)
    page_path.unlink()
    make.write_page(page_path)
    assert page_path.read_text() == text

    # What is published later takes its place; other sweeps stay.
    made_of(tmp_path / "b", "configs/sweeps/backbones.py:ferplus")
    made_of(tmp_path / "k", source)
    add(page_path, tmp_path / "b", tmp_path / "k")
    assert sorted(path.name for path in one.parent.iterdir()) == ["backbones_ferplus.jsonl", one.name]
    assert re.search(r"\| k = 6 +\|    2 \| 55\.00 ", page_path.read_text())


def test_runs_join_those_of_the_same_sweep(tmp_path):
    path = tmp_path / "mine.jsonl"

    def joined(name, sweep, overrides=(), **wars):
        made.record(tmp_path / name, sweep, overrides=overrides)
        for key, war in wars.items():
            made.run(tmp_path / name, f"all/{key}", war)
        new = report.read(tmp_path / name)
        make.write_sweep(path, new.record, make.joined(path, new.record, new.runs))
        return [(run.name, run.summary["best"]["test"]["war"]) for run in make.read_sweep(path).runs]

    assert joined("a", made.SWEEP) == []
    first = joined("b", made.SWEEP, **{"full/seed_0": 0.1, "full/seed_10": 0.2, "no_local/seed_0": 0.3})
    assert first == [("all/full/seed_0", 0.1), ("all/full/seed_10", 0.2), ("all/no_local/seed_0", 0.3)]
    # Another seed joins them, one that is there is replaced.
    second = joined("c", made.SWEEP, **{"full/seed_2": 0.4, "no_local/seed_0": 0.5})
    assert second == [("all/full/seed_0", 0.1), ("all/full/seed_2", 0.4), first[1], ("all/no_local/seed_0", 0.5)]
    # A point that is another now loses its runs, other settings of all lose everything.
    full, no_local, *others = made.SWEEP.points
    other = dataclasses.replace(no_local, changes={"head.local_weight": 0.5})
    changed = dataclasses.replace(made.SWEEP, points=(full, other, *others), notes=("new",))
    assert joined("d", changed) == second[:3]
    assert joined("e", changed, ("--config.train.num_steps=3",), **{"full/seed_1": 0.6}) == [("all/full/seed_1", 0.6)]


def test_what_cannot_join_leaves_what_is_published(tmp_path):
    source, out = "configs/sweeps/top_k.py:quickstart", tmp_path / "docs" / "results.md"
    for name, clip in (("a", "c"), ("b", "other")):
        made.record(tmp_path / name, sweep.load(source), source)
        made.run(tmp_path / name, f"all/full/seed_{len(clip)}", 0.5, clip=clip)
    add(out, tmp_path / "a")
    before = {path: path.read_text() for path in out.parent.rglob("*.*") if path.suffix != ".png"}
    with pytest.raises(ReportError, match="all/full/seed_5 do not have the same CLIP"):
        add(out, tmp_path / "b")
    assert {path: path.read_text() for path in before} == before


def test_no_place_of_the_machine_is_published(sample, tmp_path):
    full, no_local, *others = made.SWEEP.points
    started = {"train.warm_start": "/home/alice/runs/one", "clip.name": "/home/alice/clip"}
    elsewhere = {"data.dir": "/home/alice/faces", "hard_prompts.bank": ("/home/alice/bank.json", "expressions")}
    points = (full, dataclasses.replace(no_local, changes=started), dataclasses.replace(others[0], changes=elsewhere))
    own = dataclasses.replace(made.SWEEP, points=points)
    overrides = ("--config.eval.checkpoint=/home/alice/x", "--config.hard_prompts.bank=('/home/alice/bank.json',)")
    root, path = tmp_path / "s", tmp_path / "mine.jsonl"
    made.record(root, own, "configs/sweeps/mine.py:rafdb,owner=/home/alice/RAF-DB,aligned=../alice/b", overrides)
    config = json.loads(runs.config(sample).to_json())
    for field in redaction.LOCAL_PATHS:
        *sections, name = field.split(".")
        section = functools.reduce(dict.__getitem__, sections, config)
        section[name] = ["/home/alice/a.json"] if field == "hard_prompts.bank" else f"/home/alice/{name}"
    for point in points:
        folder = root / point.key / "seed_0"
        made.run(root, f"{point.key}/seed_0", 0.7)
        (folder / "config.json").write_text(json.dumps(config))
        summary = json.loads((folder / "summary.json").read_text())
        summary["clip"]["name"] = "/home/alice/clip"
        (folder / "summary.json").write_text(json.dumps(summary))
    found = report.read(root)
    make.write_sweep(path, found.record, found.runs)
    assert "alice" not in path.read_text()
    again = make.read_sweep(path)
    assert again.record.source == "configs/sweeps/mine.py:rafdb,owner=RAF-DB,aligned=b"
    assert again.text("csv") == found.text("csv")
    assert again.record.overrides == ("--config.eval.checkpoint=x", "--config.hard_prompts.bank=('bank.json',)")
    assert [point.changes for point in again.record.sweep.points[1:]] == [
        {"train.warm_start": "one", "clip.name": "clip"},
        {"data.dir": "faces", "hard_prompts.bank": ["bank.json", "expressions"]},
    ]
    assert again.runs[0].config["data.test_subset"] == "test_subset"
    # The machine's own record still is that of the same sweep: another run joins those that are published.
    assert len(make.joined(path, found.record, [])) == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "ValueError: not enough values"), ("{", "JSONDecodeError"), ('{"source": "a"}', "ValidationError")],
)
def test_a_damaged_published_file_is_named(tmp_path, text, found):
    path = tmp_path / "top_k.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"top_k.jsonl holds no sweep's results .{found}"):
        make.read_sweep(path)
    with pytest.raises(ConfigError, match=r"missing\.jsonl cannot be read .No such file"):
        make.read_sweep(tmp_path / "missing.jsonl")


def test_a_search_is_published_beside_its_sweep_and_its_choice_can_be_taken_from_there(tmp_path, monkeypatch):
    root, out = tmp_path / "m", tmp_path / "docs" / "results.md"
    source = "configs/sweeps/methods.py:ferplus_prompts"
    words = ["python", "-m", "mpafer_jax.main", "--config=configs/ferplus_prompts.py", "--workdir=runs/again"]
    local = ["--config.data.dir=/home/alice/my faces", "--config.clip.name=/home/alice/clip", "--config.loss.beta=0.02"]
    command = shlex.join([*words, *local])
    found = sweep.load(source)
    made.record(root, found, source)
    methods = {point.name: {"values": {}, "command": command} for point in found.points}
    values = {"methods": {**methods, "full": {"values": {"loss.beta": 0.02}, "command": command}}}
    (root / "search.json").write_text(json.dumps(values))
    (root / "search.md").write_text(f"The chosen one again:\n\n```bash\n{command}\n```\n")
    add(out, root)
    assert "[All trials](results/methods_ferplus_prompts/search.md)" in out.read_text()
    folder = tmp_path / "docs" / "results" / "methods_ferplus_prompts"
    shown = "--config.clip.name=clip --config.loss.beta=0.02 --config.data.dir=/data/FERPlus"
    assert shown in (folder / "search.md").read_text()
    assert "alice" not in "".join(path.read_text() for path in folder.iterdir())
    del methods["lora"]
    (root / "search.json").write_text(json.dumps({"methods": methods}))
    with pytest.raises(SystemExit, match=r"search\.json has no trials of lora; .* published when the search of all"):
        make.main([f"--page={out}", str(root)])
    monkeypatch.chdir(tmp_path)
    tuned = sweep.load(f"{runs.ROOT}/configs/sweeps/components.py:ferplus_prompts,tuned")
    assert {point.changes["loss.beta"] for point in tuned.points if point.key == "all/full"} == {0.02}


def test_matrices_stand_on_the_page(tmp_path):
    out, folder = tmp_path / "docs" / "results.md", tmp_path / "styles"
    folder.mkdir()
    place = {"row": "poster", "dataset": "neon", "dropped": {}, "unknown": [], "class_names": ["a", "b"], "count": 10}
    place["step"] = 300
    cells = [
        {**place, "checkpoint": f"poster.{war}", "path": f"/somewhere/{war}", "war": war, "uar": war}
        for war in (0.5, 0.6)
    ]
    flags = ["--workdir=runs/styles", "--dataset=neon=configs/quickstart.py data.synthface.style=neon"]
    (folder / "matrix.json").write_text(json.dumps({"flags": flags, "classes": "common", "cells": cells}))
    make.main([f"--page={out}", str(folder)])
    shutil.rmtree(folder)
    make.write_page(out)
    _, text = out.read_text().split("\n## Trained on one dataset, tested on others\n")
    assert re.search(r"^\| poster +\| 55\.00 ± 7\.07 \|$", text, re.MULTILINE)
    assert re.search(r"^\| poster +\| +2 \| +300 \|$", text, re.MULTILINE)
    assert re.search(r"^\| neon +\| +10 \| +2 \|", text, re.MULTILINE)
    (shown,) = re.findall(r"```bash\nmpafer-jax study cross-dataset (.*?)\n```", text, re.DOTALL)
    assert shlex.split(shown.replace("\\\n", "")) == flags
    assert "somewhere" not in (tmp_path / "docs" / "results" / "styles.json").read_text()

    folder.mkdir()
    (folder / "matrix.json").write_text(json.dumps({"classes": "common", "cells": cells}))
    with pytest.raises(SystemExit, match=r"styles/matrix\.json holds no matrix .KeyError: 'flags'.; run the command"):
        make.main([f"--page={out}", str(folder)])


def test_the_projects_page_is_that_of_its_published_files(tmp_path, monkeypatch):
    shutil.copytree(runs.ROOT / "configs", tmp_path / "configs")
    shutil.copytree(runs.ROOT / "docs" / "results", tmp_path / "docs" / "results")
    monkeypatch.chdir(tmp_path)
    make.main([])
    assert pathlib.Path("docs/results.md").read_text() == (runs.ROOT / "docs" / "results.md").read_text()


# Terms of the loss are left out by their names today; before, by weights of 0.
LEFT_OUT = {"loss.terms", "loss.beta", "loss.gamma"}


@pytest.mark.parametrize("path", sorted((runs.ROOT / "docs" / "results").glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_command_of_a_published_sweep_makes_the_runs_that_are_published(path):
    published = make.read_sweep(path)
    record = published.record
    found = sweep.load(record.source)
    chosen = path.with_suffix("") / "search.json"
    searched = json.loads(chosen.read_text())["methods"] if chosen.is_file() else {}
    spaces = {point.name: point.space for point in found.points if point.space}
    overrides = [*record.overrides, *make._data_flag(record.source)]
    seeds = sorted({run.seed for run in published.runs})
    planned = {run.name: run for run in plan.plan(dataclasses.replace(found, trials=0), overrides, seeds)}
    for run in published.runs:
        name = run.key.rpartition("/")[2]
        now = run_dir.flatten(json.loads(planned[run.name].config.to_json()))
        if name in searched:  # the same multiples of other defaults, where a table has others than the search
            space, trial = spaces[name], searched[name]["chosen"]
            now |= draw(space, {at: now[at] for at in space}, seed=found.search_seed, method=name, trial=trial)
        differ = set(run_dir.differences(Config, redaction.redact(run.config), redaction.redact(now)))
        differ -= {"eval.report", "data.dir", "data.grayscale"}  # a grey photograph stays as it is
        if "loss.terms" in differ and not run_dir.flatten(run.config).get("loss.terms"):
            assert name in ("text_only", "add_visual_prompts", "add_prototypes")
            differ -= LEFT_OUT
        assert not differ, f"{run.name}: {differ}"
