"""The page of all results: measured sweeps as tables, the others as commands that can be run."""

import re
import shlex

import pytest

from mpafer_jax.config import ConfigError
from mpafer_jax.sweeps import page, plan, report, sweep
from mpafer_jax.tools import results as command
from tests.end_to_end import runs
from tests.sweeps import made


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(runs.ROOT)


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
    small = "configs/sweeps/baselines.py:ferplus,tiny_clip"
    held_out = ("data.test_split=validation", "data.validation_fraction=0.1", "data.validation_split=")
    made.record(tmp_path / "s", sweep.load(small), small, tuple(f"--config.{change}" for change in held_out))
    out = tmp_path / "docs" / "results.md"
    assert command.main([f"--page={out}", *(str(tmp_path / name) for name in ("k", "b", "own", "s"))]) == 0
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
    assert "ferplus_tiny_clip \\\n  --config.data.dir=/data/FERPlus \\\n  --config.data.test_split=validation" in small

    commands = re.findall(r"^python launch/sweep\.py (.*?[^\\])$", text.replace("\\\n", ""), re.MULTILINE)
    sources = [line.split()[0].removeprefix("--sweep=") for line in commands]
    assert len(set(sources)) == len(sources)
    own = {path.stem for path in sweep.own_files(runs.ROOT / "configs" / "sweeps")}
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
        page.write(tmp_path / "page.md", [report.read(tmp_path / name) for name in "ab"])


def test_it_needs_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no folder configs/sweeps here; run this from the root"):
        page.write(tmp_path / "page.md", [])
