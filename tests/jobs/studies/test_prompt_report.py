"""The report on hard prompts: numbers by hand, and the command on the sample."""

import csv
import json

import numpy as np
import pytest

from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.data.splits import load_dataset
from mpafer_jax.evaluation.metrics import from_confusion
from mpafer_jax.jobs.studies import prompt_report_text
from mpafer_jax.jobs.studies.prompt_report import (
    CONFIGURED,
    Length,
    PromptReport,
    PromptSet,
    cosines,
    make_report,
    prompt_sets,
)
from mpafer_jax.method.hard_prompts.bank import GRANULARITIES, load_bank
from mpafer_jax.method.hard_prompts.templates import described
from mpafer_jax.runtime.errors import ConfigError, PromptError
from tests.jobs import runs

NAMES = ("anger", "boredom", "fear")


def by_hand() -> PromptReport:
    similarity = cosines(np.array([[2.0, 0.0], [0.0, 0.5], [3.0, 3.0]]) @ np.array([[1.0, 0.0], [0.6, 0.8]]))
    metrics = from_confusion([[6, 2, 0], [0, 0, 0], [1, 0, 3]], 0.0, NAMES)  # boredom has no images
    lengths = [Length(name, "mouth", tokens, "x, y") for name, tokens in zip(NAMES, (9, 14, 11), strict=True)]
    lengths.append(Length("fear", "nose", 8, "z"))
    found = PromptSet((1, 1, 2), similarity, metrics)
    absent = {"nose": ("anger", "boredom")}
    return PromptReport(
        NAMES, tuple(lengths), 77, {CONFIGURED: found}, absent, ("test", 12), ("CLIP: none",), "12 images"
    )


def test_cosines_and_pairs_by_hand():
    found = by_hand().sets[CONFIGURED]
    # Directions (1, 0), (0.6, 0.8) and their sum at equal lengths, (1.6, 0.8).
    np.testing.assert_allclose(found.similarity, [[1, 0.6, 2 / 5**0.5], [0.6, 1, 2 / 5**0.5], [2 / 5**0.5] * 2 + [1]])
    assert [pair.classes for pair in found.pairs()][2] == ("anger", "boredom")
    shares = {pair.classes: pair.taken_for for pair in found.pairs()}
    assert shares == {("anger", "boredom"): (0.25, None), ("anger", "fear"): (0, 0.25), ("boredom", "fear"): (None, 0)}
    assert found.mean_cosine() == pytest.approx((0.6 + 4 / 5**0.5) / 3)


def test_the_page_by_hand():
    text = prompt_report_text.render(by_hand(), ("a.png",))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert [CONFIGURED, "1-2", "75.00", "75.00", "0.796"] in [row[:5] for row in cells]
    assert ["anger / boredom", "0.600", "25.0", "no images"] in cells
    assert ["mouth", "3", "9", "11", "14", "boredom"] in cells
    assert ["anger", "9 / 9 / 9", "-"] in cells
    assert "Of the nose the banks say nothing for anger, boredom: left out." in text
    assert "](a.png)" in text
    assert "- CLIP: none\n" in text
    assert "```\n12 images\n```" in text
    assert prompt_report_text.lengths_csv(by_hand()).splitlines()[1] == 'anger,mouth,9,"x, y"'


def test_every_choice_of_texts_that_the_banks_allow(sample, tmp_path):
    bank = json.loads((runs.ROOT / "mpafer_jax" / "method" / "hard_prompts" / "expressions.json").read_text())
    del bank["classes"]["fear"]["nose"]
    (tmp_path / "b.json").write_text(json.dumps(bank))
    config = runs.config(sample, **{"hard_prompts.bank": (str(tmp_path / "b.json"),), "hard_prompts.type": 1})
    sets = prompt_sets(config, ("fear", "anger"))
    assert sets[CONFIGURED] == sets["type 1"]
    assert sets["type 2"].of_class(0) == ("a photo of a person making a facial expression of fear",)
    assert not any("nose" in name for name in sets)
    said = [text["text"] for text in bank["classes"]["anger"]["mouth"]]
    assert sets["type 3, mouth, first text"].of_class(1) == (described("anger", said[0]),)
    assert sets["type 3, mouth, all texts"].of_class(1) == tuple(described("anger", text) for text in said)
    every = sets["type 3, every granularity, first text"].of_class(0)
    assert len(every) == len(GRANULARITIES) - 1
    # Of two classes, each gets the other's.
    other = sets["permuted, every granularity, first text"].of_class(1)
    assert [text.replace("fear", "anger") for text in every] == list(other)
    assert "nose" in str(list(prompt_sets(config, ("sadness", "anger"))))


@pytest.fixture(scope="session")
def reported(sample, shared):
    def build(folder):
        done = runs.call("prompts report", *runs.words(sample), f"--out={folder / 'report'}")
        assert done.code == 0, done.err
        (folder / "shown").write_text(done.out)

    folder = shared("prompt_report", build)
    return (folder / "shown").read_text(), folder / "report"


def test_the_command_measures_the_validation_images(reported, sample):
    stdout, out = reported
    text = (out / "report.md").read_text()
    validation = load_dataset(runs.config(sample).data).validation
    assert f"Measured on the {len(validation)} images of the validation split" in stdout
    assert stdout.split("\n\n")[0] in text
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in map(split_row, stdout.splitlines())}
    assert rows[CONFIGURED] == rows["type 3, holistic, first text"]
    assert rows["type 3, holistic, all texts"][0] == "4"
    assert rows["type 3, every granularity, all texts"][0] == str(4 + 3 * 6)
    assert all(0 <= float(row[1]) <= 100 for name, row in rows.items() if name not in ("", "hard prompts") and row[1:])


def split_row(line):
    return line.split("|") if line.startswith("| ") else ["", "", ""]


def test_its_lengths_are_those_of_the_clip(reported, sample):
    _, out = reported
    tokenizer, bank = load_tokenizer(sample / "clip"), load_bank("expressions")
    names = [path.name for path in (sample / "faces" / "train").iterdir()]
    with (out / "token_lengths.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names) * (1 + 4 + 3 * 6)
    for row in rows:
        assert int(row["tokens"]) == len(tokenizer.encode(row["text"]))
    assert {row["text"] for row in rows if (row["class"], row["granularity"]) == ("anger", "mouth")} == {
        described("anger", said.text) for said in bank.texts("anger", "mouth")
    }


def test_without_the_split_there_is_nothing_to_measure_on(sample):
    config = runs.config(sample, **{"data.validation_fraction": 0.0})
    with pytest.raises(ConfigError, match=r"no validation split to measure on; set data.validation_split"):
        make_report(config, "validation")


def test_a_bank_that_lacks_a_class_is_refused_before_anything_is_computed(sample):
    config = runs.config(sample, **{"hard_prompts.bank": ("compound",)})
    with pytest.raises(PromptError, match="has no class"):
        make_report(config, "validation")


def test_types_that_need_no_bank_are_measured_without_one(sample, caplog):
    config = runs.config(sample, **{"hard_prompts.bank": ("compound",), "hard_prompts.type": 2})
    assert list(prompt_sets(config, NAMES)) == [CONFIGURED, "type 1", "type 2"]
    assert "no descriptions are measured: the description bank 'compound' has no class 'anger'" in caplog.text
