"""Ranks of rows over the tables of sweeps, by hand."""

import pathlib

import pytest

from mpafer_jax.cli import study
from mpafer_jax.jobs.sweeps import ranks, report
from mpafer_jax.runtime.errors import ReportError
from tests.jobs.sweeps import made


def sweep(root, scores, **values):
    """A sweep with two tables of three rows; `scores` of full, no_local and linear_probe, by table."""
    made.record(root)
    for table, (full, no_local, probe) in scores.items():
        for seed in (0, 1):
            baselines = {"linear_probe": {"test": {"war": probe, "uar": 0.5}}}
            made.run(root, f"{table}/full/seed_{seed}", full + 0.02 * seed, full, baselines=baselines, **values)
            made.run(root, f"{table}/no_local/seed_{seed}", no_local, no_local, **values)
    return root


def test_tables_of_sweeps_are_datasets(tmp_path, capsys):
    one = sweep(tmp_path / "drawn", {"all": (0.8, 0.6, 0.7), "few": (0.5, 0.3, 0.4)})
    two = sweep(tmp_path / "photographs", {"all": (0.9, 0.7, 0.8), "few": (0.7, 0.5, 0.6)})
    made.run(two, "all/no_local/seed_2", 0.7, baselines={"majority": {"test": {"war": 0.1, "uar": 0.5}}})
    assert study.ranks([str(one), str(two)]) == 0
    text = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    names = ["drawn: All training images, %", "drawn: few, %", "photographs: All training images, %"]
    assert cells[0] == ["", "mean rank", "group", *names, "photographs: few, %"]
    assert cells[2:] == [
        ["full method", "1.00", "a", "81.00", "51.00", "91.00", "71.00"],
        ["linear probe on frozen features", "2.00", "ab", "70.00", "40.00", "80.00", "60.00"],
        ["without the local score", "3.00", "b", "60.00", "30.00", "70.00", "50.00"],
    ]
    assert "accuracy over the seeds, 1 the best, of 3 methods on 4 datasets" in text
    assert "chi-square 8.00 with 2 degrees of freedom, p = 0.018" in text
    assert "critical difference at 0.05: 1.66;" in text
    assert "Left out, as not in all of them: majority." in text

    assert study.ranks([str(one), str(two), "--metric=uar"]) == 0
    assert "Ranks of the mean UAR" in capsys.readouterr().out


def test_the_current_folder_is_called_by_its_name(tmp_path, monkeypatch):
    one, two = (sweep(tmp_path / name, {"all": (0.8, 0.6, 0.7)}) for name in ("drawn", "photographs"))
    monkeypatch.chdir(one)
    reports = [report.read(pathlib.Path()), report.read(two)]
    assert "| drawn: All training images, % | photographs: All training images, % |" in ranks.render(reports, "war")


def test_what_cannot_be_ranked_is_refused(tmp_path):
    one = sweep(tmp_path / "drawn", {"all": (0.8, 0.6, 0.7)}, selected_by="test war")
    found = report.read(one)
    with pytest.raises(ReportError, match="found All training images with the rows full, no_local, linear_probe"):
        ranks.render([found], "war")
    with pytest.raises(ReportError, match="two tables are called 'drawn: All training images'; name each folder once"):
        ranks.render([found, found], "war")
    two = tmp_path / "photographs"
    made.record(two)
    made.run(two, "few/full/seed_0", 0.5)
    with pytest.raises(ReportError, match="with the rows full in all of them; two rows are compared by"):
        ranks.render([found, report.read(two)], "war")
    three = sweep(tmp_path / "other", {"few": (0.8, 0.6, 0.7)})
    assert "**" in ranks.render([found, report.read(three)], "war")  # the warning of a choice on the test split
