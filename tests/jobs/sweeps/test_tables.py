"""What is read from a sweep's folder, what is refused, and the tables by hand."""

import csv
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest

from mpafer_jax.cli import study
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.statistics import Estimate
from mpafer_jax.jobs.sweeps import report, tables
from mpafer_jax.jobs.sweeps.sweep import Point
from mpafer_jax.runtime.errors import ConfigError, ReportError
from tests.jobs.sweeps import made


def lines(root, baseline=""):
    return {(line.table, line.row): line for line in report.read(root, baseline).lines}


def brief(estimate):
    return estimate.mean, estimate.deviation, estimate.count


def test_mean_spread_and_paired_difference_by_hand(tmp_path):
    made.record(tmp_path)
    for seed, war in enumerate((0.70, 0.80, 0.90)):
        probe = {"linear_probe": {"test": {"war": war - 0.1, "uar": 0.5}, "l2": 0.1}}
        minutes = None if seed == 2 else 1.0 + seed  # the third was interrupted
        made.run(tmp_path, f"all/full/seed_{seed}", war, war, baselines=probe, minutes=minutes)
    made.run(tmp_path, "all/no_local/seed_1", 0.79)
    made.run(tmp_path, "all/no_local/seed_2", 0.86)
    made.run(tmp_path, "all/no_local/seed_10", 0.10)  # the full method has no such seed
    made.run(tmp_path, "few/no_local/seed_0", 0.5, 0.4, selected_by="validation war")
    made.run(tmp_path, "all/of_another_time/seed_0", 0.5)
    (tmp_path / "all" / "no_local" / "seed_3").mkdir()  # has not ended

    found = lines(tmp_path)
    assert list(found) == [
        ("all", "full"),
        ("all", "no_local"),
        ("all", "linear_probe"),
        ("few", "full"),
        ("few", "no_local"),
    ]
    full, no_local, probe, few = (found[key] for key in list(found) if key != ("few", "full"))
    assert full.seeds == (0, 1, 2)
    assert brief(full.scores["war"]) == (pytest.approx(0.8), pytest.approx(0.1), 3)
    assert full.difference == {}
    assert full.minutes == pytest.approx((1.0 + 2.0) / 2)
    assert no_local.seeds == (1, 2, 10)
    assert no_local.scores["war"].mean == pytest.approx((0.79 + 0.86 + 0.10) / 3)
    gap = no_local.difference["war"]
    assert brief(gap) == (pytest.approx((-0.01 - 0.04) / 2), pytest.approx(0.03 / np.sqrt(2)), 2)
    assert probe.title == "linear probe on frozen features"
    assert brief(probe.difference["war"]) == (pytest.approx(-0.1), pytest.approx(0, abs=1e-12), 3)
    assert probe.minutes is None
    assert few.scores["war"] == Estimate(0.5, None, 1)
    assert few.difference == {}
    assert found["few", "full"].seeds == ()

    against = lines(tmp_path, "linear_probe")
    assert against["all", "full"].difference["war"].mean == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="'no_locale' is no row here; the rows are full, no_local, linear_probe"):
        lines(tmp_path, "no_locale")


def test_the_test_over_images_is_of_each_images_mean_over_seeds(tmp_path):
    made.record(tmp_path)
    one, two = np.array([1, 1, 1, 1, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    for seed in (0, 1):
        made.run(tmp_path, f"all/full/seed_{seed}", 0.8, correct=one)
        made.run(tmp_path, f"all/no_local/seed_{seed}", 0.6, correct=two if seed else ~one)
    # Differences: seed 0 (-1, -1, -1, -1, 1), seed 1 (0, 0, -1, 0, 0).
    expected = Estimate.of([-0.5, -0.5, -1.0, -0.5, 0.5])
    assert lines(tmp_path)["all", "no_local"].by_image == expected
    assert expected.count == 5

    # Of another checkpoint, or not kept: then nothing is said.
    made.predictions(one, "t", step=9).save(tmp_path / "all" / "no_local" / "seed_1" / "predictions.npz")
    assert lines(tmp_path)["all", "no_local"].by_image is None
    (tmp_path / "all" / "full" / "seed_0" / "predictions.npz").write_bytes(b"damaged")
    with pytest.raises(ReportError, match="run the evaluation again"):
        lines(tmp_path)


def test_p_values_are_corrected_over_the_rows_of_a_table(tmp_path):
    made.record(tmp_path)
    for seed in (0, 1):
        probe = {"linear_probe": {"test": {"war": 0.8 - 0.1 * (seed + 1), "uar": 0.5}}}
        made.run(tmp_path, f"all/full/seed_{seed}", 0.8, baselines=probe)
        made.run(tmp_path, f"all/no_local/seed_{seed}", 0.4 + 0.1 * seed)
        for name, war in (("full", 0.8), ("no_local", 0.7 + 0.1 * seed)):
            made.run(tmp_path, f"few/{name}/seed_{seed}", war)
    found = lines(tmp_path)
    # Differences of -10 and -20 points: p 2 arctan(1/3) / pi; of -40 and -30: 2 arctan(1/7) / pi.
    probe, no_local = 2 * np.arctan(1 / 3) / np.pi, 2 * np.arctan(1 / 7) / np.pi
    assert found["all", "no_local"].adjusted == {"war": pytest.approx(2 * no_local)}
    assert found["all", "linear_probe"].adjusted == {"war": pytest.approx(max(probe, 2 * no_local))}
    assert found["all", "full"].adjusted == {}
    assert found["few", "no_local"].adjusted == {}  # the only one that is compared
    header, cells = tables.header_and_cells(made.SWEEP, "all", list(found.values()))
    assert header[5:8] == ["accuracy, difference", "p, seeds", "p, seeds, Holm"]
    assert [row[6:8] for row in cells] == [["", ""], ["0.090", "0.181"], ["0.205", "0.205"]]
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(list(found.values())))))
    assert float(rows[1]["war_p_seeds_holm"]) == pytest.approx(2 * no_local)
    assert rows[4]["war_p_seeds_holm"] == ""


def test_folds_have_held_out_images_of_their_own(tmp_path):
    made.record(tmp_path, dataclasses.replace(made.SWEEP, over="folds", seeds=(1, 2)))
    one, two = np.array([1, 1, 1, 0], bool), np.array([1, 0], bool)
    for fold, correct in ((1, one), (2, two)):
        made.run(tmp_path, f"all/full/fold_{fold}", 0.6 + fold / 10, correct=correct, test=f"fold {fold}")
        made.run(tmp_path, f"all/no_local/fold_{fold}", 0.5, correct=~correct, test=f"fold {fold}")
    made.run(tmp_path, "all/full/seed_0", 0.1)  # is none of the folds
    found = report.read(tmp_path)
    full, no_local = found.lines[:2]
    assert brief(full.scores["war"]) == (pytest.approx(0.75), pytest.approx(0.1 / np.sqrt(2)), 2)
    # Six images, each in one fold.
    assert no_local.by_image == Estimate.of([-1.0, -1.0, -1.0, 1.0, -1.0, 1.0])
    text = found.text("markdown")
    assert "Mean ± sample standard deviation over folds" in text
    assert "p, folds" in text
    made.run(tmp_path, "few/full/fold_1", 0.5, test="fold 1")
    made.run(tmp_path, "few/no_local/fold_1", 0.5, test="fold 2")
    with pytest.raises(ReportError, match="do not have the same validation or test images"):
        report.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"clip": "d"}, "CLIP"),
        ({"test": "u"}, "validation or test images"),
        ({"selected_by": "test war"}, "way to choose the checkpoint"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, changes, what):
    made.record(tmp_path)
    made.run(tmp_path, "all/full/seed_0", 0.5)
    made.run(tmp_path, "few/full/seed_0", 0.5)
    report.read(tmp_path)
    made.run(tmp_path, "few/no_local/seed_0", 0.5, **changes)
    with pytest.raises(ReportError, match=f"all/full/seed_0 and .*few/no_local/seed_0 do not have the same {what}"):
        report.read(tmp_path)


def test_crops_of_the_same_images_stand_in_one_table(tmp_path):
    points = (Point("full", "owner", {"data.dir": "/a"}), Point("aligned", "aligned", {"data.dir": "/b"}))
    made.record(tmp_path, dataclasses.replace(made.SWEEP, points=points))
    right = np.array([1, 1, 1, 0], bool)
    made.run(tmp_path, "all/full/seed_0", 0.5, correct=right)
    made.run(tmp_path, "all/aligned/seed_0", 0.5, correct=~right, test="u")
    assert report.read(tmp_path).lines[1].by_image == Estimate.of([-1.0, -1.0, -1.0, 1.0])
    made.run(tmp_path, "all/aligned/seed_1", 0.5, correct=right[:3], test="u")  # one was dropped
    with pytest.raises(ReportError, match="do not have the same names and labels of test images"):
        report.read(tmp_path)


def test_what_a_point_changes_may_differ(tmp_path):
    points = (
        Point("full", "B/16"),
        Point("l14", "L/14", {"clip.name": "l14"}),
        Point("full", "paint", {"data.synthface.style": "paint"}, table="paint"),
    )
    made.record(tmp_path, dataclasses.replace(made.SWEEP, points=points))
    made.run(tmp_path, "all/full/seed_0", 0.5)
    made.run(tmp_path, "all/l14/seed_0", 0.5, clip="d")
    made.run(tmp_path, "paint/full/seed_0", 0.5, test="u")
    assert len(report.read(tmp_path).results) == 3
    made.run(tmp_path, "all/l14/seed_1", 0.5, clip="e")  # within a row nothing may
    with pytest.raises(ReportError, match=r"l14/seed_0 and .*l14/seed_1 do not have the same CLIP"):
        report.read(tmp_path)


def test_parameters_and_operations_stand_where_they_differ(tmp_path):
    made.record(tmp_path)
    made.run(tmp_path, "all/full/seed_0", 0.8, parameters=78848, gflop=1234.5)
    made.run(tmp_path, "all/no_local/seed_0", 0.7, parameters=5120, gflop=1234.5)
    made.run(tmp_path, "few/full/seed_0", 0.6, parameters=78848, gflop=9.87)
    made.run(tmp_path, "few/no_local/seed_0", 0.5, parameters=78848, gflop=None)  # an earlier version did not count
    whole = report.read(tmp_path)
    header, rows = tables.header_and_cells(whole.record.sweep, "all", whole.lines)
    assert "GFLOP an update" not in header
    assert [row[header.index("trained parameters")] for row in rows] == ["78,848", "5,120"]
    assert "trained parameters" not in tables.header_and_cells(whole.record.sweep, "few", whole.lines)[0]
    rows = list(csv.DictReader(io.StringIO(whole.text("csv"))))
    assert [(row["trained_parameters"], row["gflop_per_update"]) for row in rows] == [
        ("78848", "1234.5"),
        ("5120", "1234.5"),
        ("78848", "9.87"),
        ("78848", ""),
    ]


def test_files_in_all_forms(tmp_path, capsys):
    made.record(tmp_path, overrides=("--config.loss.beta=0.5",))
    for seed, war in enumerate((0.8, 0.6)):
        made.run(tmp_path, f"all/full/seed_{seed}", war)
        made.run(tmp_path, f"all/no_local/seed_{seed}", war - 0.1 * (seed + 1))
        made.run(tmp_path, f"few/no_local/seed_{seed}", 0.4)
    assert study.tables([str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert "# What it brings\n\n## All training images\n" in text
    assert "\n## few\n" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    # t = 12.706 with one degree of freedom: 70 +- 127.06 points; p of 10 and 20 points: 2 arctan(1/3) / pi.
    assert cells[1] == ["full method", "2", "70.00 ± 14.14", "-57.06 to 197.06", "50.00 ± 0.00", "", ""]
    assert cells[2][5:] == ["-15.00 ± 7.07", "0.205"]
    assert cells[3] == ["", "runs", "accuracy, %", "UAR, %", "the paper, %"]  # nothing to compare with
    assert cells[4] == ["full method", "0", "", "", ""]
    assert cells[5] == ["without", "2", "40.00 ± 0.00", "50.00 ± 0.00", "91.50"]
    for expected in (
        "- checkpoint: best by validation war\n",
        "- measured on: test, 10 images, in the order of the labels: a 5, b 5\n",
        "- dataset: folder, label rule owner\n",
        "- seed: 0 (3 of 6 runs); 1 (3 of 6 runs)\n",
        f"- CLIP: tiny, SHA-256 of its content {'c' * 16}\n",
        "- changed for all runs: --config.loss.beta=0.5\n",
    ):
        assert expected in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")

    assert study.tables([str(tmp_path), "--format=csv", "--baseline=no_local"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["table"], row["row"], row["seeds"]) for row in rows][:2] == [
        ("all", "full", "0 1"),
        ("all", "no_local", "0 1"),
    ]
    assert float(rows[0]["war_mean"]) == pytest.approx(0.7)
    assert float(rows[0]["war_difference"]) == pytest.approx(0.15)
    assert float(rows[0]["war_p_seeds"]) == pytest.approx(2 * np.arctan(1 / 3) / np.pi)
    assert rows[2]["war_mean"] == ""
    assert rows[3]["reported_percent"] == "91.5"

    assert study.tables([str(tmp_path), "--format=latex"]) == 0
    latex = capsys.readouterr().out
    assert latex.count(r"\begin{tabular}{lrrrrrr}") == 1
    assert r" & runs & accuracy, \% & 95\% interval & UAR, \% &" in latex
    assert r"full method & 2 & 70.00 $\pm$ 14.14 &" in latex
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "sweep.json",
        "results.md",
        "results.csv",
        "results.tex",
        "results.png",
    }


def test_latex_prints_titles_as_they_are(tmp_path, capsys):
    title = r"full ~ a\b {x} $5 > 3_% & <#^±"
    point = dataclasses.replace(made.SWEEP.points[0], title=title)
    made.record(tmp_path, dataclasses.replace(made.SWEEP, points=(point,)))
    made.run(tmp_path, "all/full/seed_0", 0.8)
    assert study.tables([str(tmp_path), "--format=latex"]) == 0
    written = r"full \textasciitilde{} a\textbackslash{}b \{x\} \$5 $>$ 3\_\% \& $<$\#\^{}$\pm$ & 1 & 80.00"
    assert written in capsys.readouterr().out


def test_an_interval_near_zero_has_no_sign(tmp_path):
    made.record(tmp_path)
    for seed in range(2):
        made.run(tmp_path, f"all/full/seed_{seed}", 0.5)
    (line, *_) = report.read(tmp_path).lines
    near = dataclasses.replace(line, scores={"war": Estimate(0.25, 0.1, 3, (-0.00001, 0.5), 0.05)})
    header, (cells,) = tables.header_and_cells(made.SWEEP, "all", [near])
    assert cells[header.index("95% interval")] == "0.00 to 50.00"


def test_a_choice_on_the_test_split_is_shouted_in_every_table(tmp_path):
    made.record(tmp_path)
    made.run(tmp_path, "all/full/seed_0", 0.8, selected_by="test war")
    whole = report.read(tmp_path)
    assert f"**{protocol.TEST_SELECTED}**" in whole.text("markdown")
    shouted = protocol.TEST_SELECTED.replace("_", r"\_")
    for tabular in re.findall(r"\\begin{tabular}.*?\\end{tabular}", whole.text("latex"), re.DOTALL):
        columns = len(tabular.splitlines()[2].split(" & "))
        note = rf"\multicolumn{{{columns}}}{{p{{0.9\linewidth}}}}{{\textbf{{{shouted}}}}} \\"
        assert tabular.splitlines()[-2:] == [note, r"\end{tabular}"]
    assert whole.text("latex").count(shouted) == len(made.SWEEP.table_names()) == 2
    for name in ("chosen", "last"):
        made.record(tmp_path / name)
    made.run(tmp_path / "chosen", "all/full/seed_0", 0.8)
    made.run(tmp_path / "last", "all/full/seed_0", 0.8, selected_by="nothing: last step only")
    for name in ("chosen", "last"):
        for form in ("markdown", "latex"):
            assert "CHOSE" not in report.read(tmp_path / name).text(form)
    assert "- checkpoint: best by test war" in whole.text("markdown")
    assert "- checkpoint: last step, nothing chosen" in report.read(tmp_path / "last").text("markdown")


def test_the_protocol_says_what_products_were_rounded_to():
    config = {"data.dataset": "d", "data.label_rule": "owner"}
    made_on = {**made.summary(0.5, 0.5), "devices": ["a GPU", 1]}
    name = "products of float32 numbers"
    assert name not in protocol.items(made_on, config)  # written by an earlier version
    assert "TensorFloat-32" in protocol.items({**made_on, "matmul_precision": "default"}, config)[name]
    assert protocol.items({**made_on, "matmul_precision": "float32"}, config)[name] == "float32"
    name, on = "products of bfloat16 numbers", {**made_on, "bfloat16_unit": "amx_bf16"}
    assert protocol.items(on, {**config, "clip.dtype": "bfloat16"})[name] == "on the CPU's amx_bf16"
    assert name not in protocol.items(on, {**config, "clip.dtype": "float32"})
    for earlier_or_none in (made_on, {**made_on, "bfloat16_unit": ""}):
        assert name not in protocol.items(earlier_or_none, {**config, "clip.dtype": "bfloat16"})
    for note in (
        "there is no test split: 20% of train are split off",
        "faces cropped: 224x224 pixels",
        "images that cannot be read are skipped: 2 in train",
    ):
        described = protocol.items({**made_on, "data": ["dataset folder", f"  {note}"]}, config)
        assert described["dataset"].endswith(note)


def test_the_protocol_names_settings_only_where_they_are_unusual():
    config, name = {"data.dataset": "d", "data.label_rule": "owner"}, "unusual settings"
    summary = made.summary(0.5, 0.5)
    usual = protocol.items({**summary, "settings": {}}, config)
    assert name not in usual
    assert name not in protocol.items(summary, config)  # written by an earlier version
    found = protocol.items({**summary, "settings": {"jax_enable_x64": "True", "XLA_FLAGS": "--a --b"}}, config)
    assert found[name] == "jax_enable_x64=True, XLA_FLAGS=--a --b"
    assert protocol.merge([usual, found])[name].endswith("(1 of 2 runs)")


def test_a_folder_that_is_no_sweeps_is_named(tmp_path, capsys):
    assert study.tables([str(tmp_path)]) == 2
    assert f"{tmp_path} is no sweep's folder" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text(json.dumps({"source": "x.py"}))
    assert study.tables([str(tmp_path)]) == 2
    assert "sweep.json cannot be read (overrides: Field required); remove it and give" in capsys.readouterr().err


def test_a_damaged_file_of_a_run_is_named_and_what_is_put_aside_is_not_read(tmp_path):
    made.record(tmp_path)
    for name in ("all/full/seed_0", "all/full/seed_1"):
        made.run(tmp_path, name, 0.5)
    shutil.copytree(tmp_path / "all/full/seed_1", tmp_path / "all/full/seed_1.old")
    shutil.copytree(tmp_path / "all/full/seed_1", tmp_path / "all/full/seed_old")
    assert [run.name for run in report.read(tmp_path).runs] == ["all/full/seed_0", "all/full/seed_1"]
    damaged = tmp_path / "all/full/seed_1/summary.json"
    damaged.write_text(damaged.read_text()[:100])
    with pytest.raises(
        ConfigError, match=rf"{damaged} cannot be read \(JSONDecodeError: .* remove the folder .*seed_1"
    ):
        report.read(tmp_path)


def test_seeds_that_were_made_with_other_settings_are_no_row(tmp_path):
    made.record(tmp_path)
    for seed in (0, 1):
        made.run(tmp_path, f"all/full/seed_{seed}", 0.5)
        folder = tmp_path / f"all/full/seed_{seed}"
        config = {"seed": seed, "data": {"dir": f"/somewhere/{seed}"}}
        if seed:
            config["loss"] = {"beta": 1.0}  # the default, written by a version that had it
        (folder / "config.json").write_text(json.dumps(config))
    assert [*report.read(tmp_path).lines[0].seeds] == [0, 1]
    (folder / "config.json").write_text(json.dumps({**config, "loss": {"beta": 0.1}}))
    with pytest.raises(
        ReportError, match=r"seed_0 and .*seed_1 would be .* differ in config\.loss\.beta: 1\.0 and 0\.1;"
    ):
        report.read(tmp_path)
