"""CLIP's tokenizer on its real vocabulary, and small ones trained here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from mpafer_jax.weights.tokenizer import load_tokenizer, train_tokenizer

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("MPAFER_CLIP_BPE_DIR", REPOSITORY.parent / "shared" / "data" / "clip_bpe"))
TEXTS = ["a photo of a happy face", "a photo of a sad face, its mouth closed", "It's 12 o'clock: déjà vu"]


@pytest.fixture(scope="module")
def real():
    if not (REAL / "vocab.json").is_file():
        pytest.skip(f"CLIP's vocabulary is not at {REAL}; set MPAFER_CLIP_BPE_DIR to a folder with vocab.json")
    return load_tokenizer(REAL)


def test_real_vocabulary(real):
    assert real.encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (real.sos_id, real.eos_id, real.vocab_size) == (49406, 49407, 49408)


def test_real_vocabulary_lower_cases_and_folds_spaces(real):
    assert real.encode("A  photo\nof a CAT ") == real.encode("a photo of a cat")
    assert real.decode(real.encode("A photo of a cat")) == "a photo of a cat"


def test_long_texts_are_never_cut(real, capsys):
    assert len(real.encode("face " * 200)) == 202
    assert capsys.readouterr().err == ""


def test_empty_text_is_start_and_end(real):
    assert real.encode("") == [49406, 49407]


def test_trained_tokenizer_reads_back_the_same_with_transformers(tmp_path):
    tokenizer = train_tokenizer(TEXTS, tmp_path, 560)
    library = CLIPTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "words never seen: ☃ 喜", "A HAPPY FACE"]:
        ids = tokenizer.encode(text)
        assert library(text)["input_ids"] == ids
        assert ids[0] == tokenizer.sos_id
        assert ids[-1] == tokenizer.eos_id == max(ids)
    assert (tokenizer.sos_id, tokenizer.eos_id) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)
    assert tokenizer.decode(tokenizer.encode("A happy face")) == "a happy face"


def test_training_learns_words_and_keeps_to_its_size(tmp_path):
    large = train_tokenizer(TEXTS * 3, tmp_path / "large", 2000)
    assert len(large.encode("photo happy face")) == 2 + 3
    assert large.vocab_size < 2000  # the texts have no more pairs
    assert train_tokenizer(TEXTS * 3, tmp_path / "small", 530).vocab_size == 530
    bytes_only = train_tokenizer(TEXTS * 3, tmp_path / "bytes", 514)
    assert bytes_only.vocab_size == 514
    assert len(bytes_only.encode("photo")) == 2 + 5


def test_training_is_deterministic_over_processes(tmp_path):
    train_tokenizer(TEXTS, tmp_path / "here", 560)
    code = (
        "from mpafer_jax.weights.tokenizer import train_tokenizer\n"
        f"train_tokenizer({TEXTS!r}, {str(tmp_path / 'there')!r}, 560)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env={**os.environ, "PYTHONHASHSEED": "7"})
    for path in sorted((tmp_path / "here").iterdir()):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_too_small_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vocab_size is 513, expected at least 514"):
        train_tokenizer(TEXTS, tmp_path, 513)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer; expected vocab.json and merges.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match=r"has no token '<\|startoftext\|>' and '<\|endoftext\|>'; is it a CLIP's\?"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("not json")
    with pytest.raises(ValueError, match=f"the tokenizer in {tmp_path} cannot be read"):
        load_tokenizer(tmp_path)
