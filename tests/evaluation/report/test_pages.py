"""The pages: whole, self-contained, and saying what the files say."""

import json
import re
import shutil

import pytest

from mpafer_jax.cli import report as cli
from mpafer_jax.data.splits import CLIPS
from mpafer_jax.evaluation import protocol
from mpafer_jax.evaluation.calibration import calibrate
from mpafer_jax.evaluation.predictions import Predictions
from mpafer_jax.evaluation.report import pages, plots
from mpafer_jax.evaluation.report.contents import Measurement
from mpafer_jax.jobs import evaluate
from mpafer_jax.runtime.errors import ReportError
from tests.evaluation.report.page import Page
from tests.jobs import runs


def percent(share, digits=2):
    return f"{100 * share:.{digits}f}"


def copied(finished, folder, *, without=()):
    shutil.copytree(finished[0], folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", *without))
    return folder


def test_a_runs_page_holds_its_numbers(finished):
    workdir, summary = finished
    page = Page.of(workdir / "report.html")
    page.check()
    found = summary["best"]["test"]
    shown = [element.text.split() for element in page.all("dd")]
    assert shown[:3] == [[percent(found[name]), "%"] for name in ("war", "uar", "macro_f1")]
    stored = Predictions.load(workdir / "predictions.npz")
    assert shown[3] == [percent(calibrate(stored.probabilities, stored.labels).ece), "%"]
    rows = page.rows("Rows: the true class")
    assert rows[0][1:] == found["class_names"]
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == found["confusion"]
    recalls = {row[0]: row[2] for row in page.rows('scope="col">recall')[1:]}
    assert recalls == {name: percent(recall) for name, recall in found["recall"].items()}
    baselines = page.rows("accuracy, %")
    assert [row[0] for row in baselines[1:]] == [
        "chance",
        f"MPA-FER, last step ({summary['last']['step']})",
        f"MPA-FER, best on validation ({summary['best']['step']})",
    ]
    titles = [element.text.strip() for element in page.all("figcaption")]
    for title in ("Reliability", "Frozen CLIP", "With visual prompts", "Loss, all terms", "Token-level alignment"):
        assert len([found for found in titles if found.startswith(title)]) == 1
    metrics = {name for line in runs.metrics(workdir) for name in line} - {"step", "kind", "war"}
    curves = [element for element in page.all("svg") if "over the steps" in element.attributes["aria-label"]]
    assert len(curves) == len(metrics)
    assert len(page.all("img")) == 3 * len(stored.mistakes)
    assert summary["versions"]["jax"] in page.text
    assert summary["clip"]["hash"][:16] in page.text
    assert "label_smoothing" in page.text


def test_images_can_be_left_out_and_the_page_made_anew(finished, tmp_path, capsys):
    workdir = copied(finished, tmp_path / "run")
    before = (workdir / "report.html").read_text()
    (workdir / "report.html").unlink()
    assert cli.report([str(workdir), "--noimages"]) == 0
    assert capsys.readouterr().out == f"{workdir / 'report.html'}\n"
    page = Page.of(workdir / "report.html")
    page.check()
    assert not page.all("img")
    assert "made without the dataset's images" in page.text
    assert cli.report([str(workdir)]) == 0
    again = (workdir / "report.html").read_text()
    assert again.split("Made ")[0] == before.split("Made ")[0].replace(finished[0].name, "run")


def test_what_is_not_there_is_said(finished, tmp_path):
    workdir = copied(finished, tmp_path / "run", without=("predictions.npz",))
    summary = json.loads((workdir / "summary.json").read_text())
    name = "<b>&\"joy'"  # a folder of class folders can be called anything
    names = [name, *summary["best"]["test"]["class_names"][1:]]
    for which in ("best", "last"):
        summary[which]["test"]["class_names"] = names
    (workdir / "summary.json").write_text(json.dumps(summary))
    page = Page.of(pages.write_report(workdir))
    page.check()
    assert page.text.count("no predictions were kept") == 3
    assert "&lt;b&gt;&amp;&#34;joy&#39;" in page.text
    with pytest.raises(ReportError, match=r"holds neither summary.json nor evaluation.json"):
        pages.write_report(tmp_path)
    with (workdir / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 99, "kind": "tr')  # killed in the middle of a line
    pages.write_report(workdir)
    (workdir / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ReportError, match=r"metrics.jsonl line 1 is no line of metrics"):
        pages.write_report(workdir)
    (workdir / "summary.json").write_text("{")
    with pytest.raises(ReportError, match=r"summary.json is not JSON"):
        pages.write_report(workdir)


def test_predictions_of_another_step_or_other_images_are_not_used(finished, tmp_path, caplog):
    workdir = copied(finished, tmp_path / "run")
    summary = json.loads((workdir / "summary.json").read_text())
    for change in ({"best": {**summary["best"], "step": 99}}, {"fingerprints": {"test": "another"}}):
        (workdir / "summary.json").write_text(json.dumps({**summary, **change}))
        page = Page.of(pages.write_report(workdir))
        assert "it is not used" in caplog.text
        assert page.text.count("no predictions were kept") == 3
        caplog.clear()


def test_an_evaluation_leaves_one_too_and_both_are_shown(finished, sample, tmp_path):
    workdir = copied(finished, tmp_path / "run")
    config = runs.config(sample, **{"eval.checkpoint": str(finished[0]), "eval.report": "numbers"})
    result = evaluate.evaluate_checkpoint(config, workdir)
    stored = Predictions.load(workdir / "evaluation_predictions.npz")
    assert len(stored.mistake_pixels) == 0
    assert len(stored.mistakes) > 0
    assert stored.logits.shape == (result["test"]["count"], 5)
    page = Page.of(workdir / "report.html")
    page.check()
    assert len(page.all("dl")) == 2
    assert str(finished[0]) in page.text


@pytest.mark.parametrize("report", ["none", "predictions"])
def test_a_page_of_earlier_results_is_removed(finished, sample, tmp_path, caplog, report):
    workdir = copied(finished, tmp_path / "run")
    config = runs.config(sample, **{"eval.checkpoint": str(finished[0]), "eval.report": report})
    with caplog.at_level("INFO"):
        evaluate.evaluate_checkpoint(config, workdir)
    assert not (workdir / "report.html").exists()
    assert f"report.html showed earlier results and is removed, as eval.report is '{report}'" in caplog.text


def test_confidences_of_clips_are_counted_in_clips(finished):
    stored = Predictions.load(finished[0] / "predictions.npz")
    metrics = finished[1]["best"]["test"]
    for unit in ("images", "clips"):
        part = Measurement("Test", "test", 1, metrics, stored, "", chosen_on_test=False, unit=unit)
        assert f">{unit}</text>" in pages._measured(part, with_images=False)["confidence"].svg


def test_clips_are_not_called_images(finished, tmp_path):
    workdir, other = copied(finished, tmp_path / "run"), copied(finished, tmp_path / "other")
    summary = {**finished[1], "data": [CLIPS]}
    group = {"count": 3, "war": 0.8, "war_interval": (0.7, 0.9), "uar": 0.7, "uar_interval": (0.6, 0.8)}
    counts = dict.fromkeys(summary["class_names"], 1)
    groups = {"age": [{"value": "old", **group, "hits": counts, "support": counts}]}
    best = {**summary["best"], "test": {**summary["best"]["test"], "groups": groups}}
    (workdir / "summary.json").write_text(json.dumps({**summary, "best": best}))
    page = Page.of(pages.write_report(workdir))
    page.check()
    section = page.text.partition('id="groups-1">')[2].partition("</section>")[0]
    assert (section.count("clips"), section.count("images")) == (4, 0)
    changed = {**summary, "fingerprints": {"test": "another"}}
    (other / "summary.json").write_text(json.dumps(changed))
    for runs_of, unit in (([workdir, other], "clips"), ([workdir, finished[0]], "clips or images")):
        pages.write_comparison(runs_of, tmp_path / "out.html")
        page = Page.of(tmp_path / "out.html")
        assert page.rows("macro F1, %")[0][-2] == unit
        assert (f"measured on other {unit} than run." in page.text) == (unit == "clips")


def test_runs_are_compared(finished, tmp_path, capsys):
    one, two = copied(finished, tmp_path / "a" / "run"), copied(finished, tmp_path / "b" / "run")
    summary, config = (json.loads((two / name).read_text()) for name in ("summary.json", "config.json"))
    summary["fingerprints"]["test"] = "another"  # so its predictions do not count either
    summary["process"]["resumed_after_step"] = 4
    config["loss"]["beta"] = 0.5
    (two / "summary.json").write_text(json.dumps(summary))
    (two / "config.json").write_text(json.dumps(config))
    out = tmp_path / "comparison.html"
    pages.write_comparison([one, two], out)
    page = Page.of(out)
    page.check()
    rows = page.rows("macro F1, %")
    found = finished[1]["best"]["test"]
    assert [row[0] for row in rows[1:]] == ["a/run", "b/run"]
    assert {tuple(row[2:5]) for row in rows[1:]} == {tuple(percent(found[n]) for n in ("war", "uar", "macro_f1"))}
    assert rows[1][-1] != "-"
    assert rows[2][-1] == "-"
    assert rows[1][5] != "-"
    assert rows[2][5] == "-"
    assert page.rows(">field</th>")[1:] == [["loss.beta", "1.0", "0.5"]]
    assert "b/run was measured on other images than a/run" in " ".join(page.text.split())
    assert protocol.TEST_SELECTED not in page.text
    # A folder with a run and an evaluation has two rows; of other images, or chosen on the test split, is one of them.
    evaluation = {"checkpoint": "elsewhere", "step": 3, "chosen_on_test": True, "unit": "images"}
    evaluation = {**summary, **evaluation, "test": found, "fingerprints": {"test": "a third"}}
    (one / "evaluation.json").write_text(json.dumps(evaluation))
    both = tmp_path / "both.html"
    pages.write_comparison([one, two], both)
    text = " ".join(Page.of(both).text.split())
    rows = Page.of(both).rows("macro F1, %")[1:]
    run, evaluated = (f"a/run ({row[1]})" for row in rows[:2])
    assert evaluated == "a/run (test split, elsewhere (step 3))"
    assert f"{evaluated}, b/run were measured on other images than {run}." in text
    assert [row[0] for row in Page.of(both).rows('<th scope="col">anger')[1:]] == [run, evaluated, "b/run"]
    assert [row[-1] == "-" for row in rows] == [False, True, True]  # the time is the training's alone
    assert f"a/run (test split, elsewhere (step 3)): {protocol.TEST_SELECTED}" in text
    assert protocol.TEST_SELECTED in Page.of(pages.write_report(one)).text
    legends = [element for element in page.all("svg") if "a/run" in element.attributes["aria-label"]]
    assert len(legends) == len(page.all("svg")) > 8
    assert cli.report([str(one), str(one)]) == 2
    assert "named twice" in capsys.readouterr().err


def test_a_run_whose_name_begins_with_an_underscore_has_its_legend():
    plot = plots.curves("loss", {"_old": {1: 1.0, 2: 2.0}, "new": {1: 2.0, 2: 3.0}})
    assert re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)[-2:] == ["_old", "new"]


def test_configurations_are_compared_where_they_are_stored(finished, tmp_path):
    """A run of an earlier version has the defaults of fields that it did not know; an evaluation stores none."""
    one, two, three = (copied(finished, tmp_path / name) for name in ("one", "two", "three"))
    config = json.loads((two / "config.json").read_text())
    del config["train"]["text_chunk"]
    config["loss"]["beta"] = 0.5
    (two / "config.json").write_text(json.dumps(config))
    evaluated = [copied(finished, tmp_path / name, without=("config.json", "summary.json")) for name in ("a", "b")]
    summary = {**finished[1], "checkpoint": "elsewhere", **finished[1]["best"]}
    for folder in evaluated:
        (folder / "evaluation.json").write_text(json.dumps(summary))

    def compared(*workdirs):
        pages.write_comparison(workdirs, tmp_path / "out.html")
        page = Page.of(tmp_path / "out.html")
        page.check()
        section = " ".join(page.text.partition('<h2 id="fields">')[2].partition("</section>")[0].split())
        return page.rows(">field</th>") if ">field</th>" in page.text else None, section

    rows, section = compared(one, two, evaluated[0])
    assert rows == [["field", "one", "two"], ["loss.beta", "1.0", "0.5"]]
    assert "a holds an evaluation and no training run, so no configuration is stored there." in section
    rows, section = compared(*evaluated)
    assert (rows, "Nowhere" in section) == (None, False)
    assert "a, b hold an evaluation and no training run" in section
    rows, section = compared(one, three)
    assert (rows, "Nowhere." in section, "evaluation" in section) == (None, True, False)


def test_the_page_says_how_sure_the_checkpoint_is(finished, tmp_path):
    summary = json.loads((finished[0] / "summary.json").read_text())
    sure = summary["confidence"]
    rows = Page.of(finished[0] / "report.html").rows("cross-entropy before")
    assert [row[0] for row in rows[1:]] == ["validation", "test"]
    for row in rows[1:]:
        split = sure["splits"][row[0]]
        before, after = split["uncalibrated"], split["calibrated"]
        entropies = [f"{measured['cross_entropy']:.3f}" for measured in (before, after)]
        assert row[1:] == [*entropies, *(percent(share) for share in (before["ece"], after["ece"], split["aurc"]))]
    workdir = copied(finished, tmp_path / "run")
    one = {"min_confidence": 0.71, "count": 50, "coverage": 0.64, "accuracy": 0.9, "interval": [0.78, 0.96]}
    none = {**one, "count": 0, "coverage": 0.0, "accuracy": None, "interval": None}
    sure["answered"][2] |= {"min_confidence": 0.71, "validation": one, "test": none}
    (workdir / "summary.json").write_text(json.dumps(summary))
    page = Page.of(pages.write_report(workdir))
    page.check()
    rows = {row[0]: row[1:] for row in page.rows("wanted accuracy")}
    assert rows["90"] == ["0.71", "64.0", "90.0", "78.0 \u2013 96.0", "0.0", "-", "-"]
    assert rows["95"] == ["not reachable"]


def test_thresholds_are_of_the_training_runs_validation_split(finished, sample, tmp_path):
    """On other images the page calls them so; only those that chose them flatter the checkpoint."""
    fitted_here = "the answers on validation have a wanted accuracy", "was chosen the accuracy is a little too good"
    fitted_there = (
        "the answers on validation of the training run, not of these images, have a wanted accuracy",
        "99% of the validation images' of the training run, not of these images (Mahalanobis",
    )
    for fraction, own in ((0.2, True), (0.3, False)):
        changes = {"eval.checkpoint": str(finished[0]), "data.validation_fraction": fraction, "eval.report": "numbers"}
        result = evaluate.evaluate_checkpoint(runs.config(sample, **changes), tmp_path / str(own))
        assert result["confidence"]["own"] is own
        text = " ".join(Page.of(tmp_path / str(own) / "report.html").text.split())
        assert [said in text for said in fitted_here] == [own] * 2
        assert [said in text for said in fitted_there] == [not own] * 2
