"""CLIP's tokenizer on its real vocabulary, and small ones trained here."""

from __future__ import annotations

import functools
import html
import itertools
import json
import os
import re
import subprocess
import sys

import ftfy
import pytest
import regex
from tokenizers import AddedToken
from transformers import CLIPTokenizer

from mpafer_jax.backbones.clip.tokenizer import load_tokenizer, train_tokenizer
from mpafer_jax.backbones.files import CLIPS_TOKENIZER, SHIPPED
from mpafer_jax.runtime.texts import clean_text

TEXTS = ["a photo of a happy face", "a photo of a sad face, its mouth closed", "It's 12 o'clock: déjà vu"]


class Reference:
    """Byte-pair encoding as OpenAI published it for CLIP (simple_tokenizer.py), in plain Python; slow."""

    WORDS = regex.compile(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
    )

    def __init__(self, folder):
        self.ids = json.loads((folder / "vocab.json").read_text("utf-8"))
        merges = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
        self.ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
        # Every byte has a printable letter: its own, or one of those from 256 on.
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        self.letters = {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(others)}

    def encode(self, text):
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = re.sub(r"\s+", " ", text).strip().lower()
        words = [part for word in self.WORDS.findall(text) for part in self._parts(word)]
        return [self.ids[part] for part in ("<|startoftext|>", *words, "<|endoftext|>")]

    def _parts(self, word):
        if word in ("<|startoftext|>", "<|endoftext|>"):
            return [word]
        parts = [self.letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while pairs := [pair for pair in itertools.pairwise(parts) if pair in self.ranks]:
            first = min(pairs, key=self.ranks.__getitem__)
            merged = []
            while parts:
                length = 2 if tuple(parts[:2]) == first else 1
                merged.append("".join(parts[:length]))
                parts = parts[length:]
            parts = merged
        return parts


@functools.cache
def loaded(folder):
    """(the reference, ours)"""
    return Reference(folder), load_tokenizer(folder)


@pytest.mark.parametrize("folder", [SHIPPED["tiny-face-clip"].folder, CLIPS_TOKENIZER], ids=["tiny-face-clip", "CLIP"])
@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("the nose\u2019s bridge, \u201csquinting\u201d eyes", 'the nose\'s bridge, "squinting" eyes'),
        ("\u201elow\u201c \u2018brows\u2019 \u00absmile\u00bb", "\"low\" 'brows' \u00absmile\u00bb"),
        ("\ufb01ne lines, \ufb02at lips, ba\ufb04ed", "fine lines, flat lips, baffled"),
        ("brows \u2014 raised \u2013 eyes\u2026 wide\u2011open", None),
        ("D\u00e9j\u00e0 vu", None),
        (
            "De\u0301ja\u0300 vu, NA\u00cfVE, \u0130stanbul, \u03a3\u039f\u03a6\u039f\u03a3, Stra\u00dfe",
            "D\u00e9j\u00e0 vu, NA\u00cfVE, \u0130stanbul, \u03a3\u039f\u03a6\u039f\u03a3, Stra\u00dfe",
        ),
        ("it&#39;s &quot;open&quot; &amp;amp; wide &lt;3", 'it\'s "open" & wide <3'),
        ("a <b>caf\u00e9&eacute;</b>", "a <b>caf\u00e9\u00e9</b>"),
        ("\U0001f600 \U0001f469\U0001f3fd\u200d\U0001f9b0 \u263a\ufe0f face", None),
        ("AU12 at 0.5, 100% (\u00bd) of 2024", None),
        ("don't they'll we've I'M she'd you're it's 'tis rock'n'roll ''s", None),
        ("笑顔 улыбка ابتسامة 웃음", None),
        ("\uff46\uff55\uff4c\uff4c\u3000\uff57\uff49\uff44\uff54\uff48", "full width"),
        ("sch\u00c3\u00b6n", "sch\u00f6n"),
        (" tab\tline\nno\u00a0break\u2003em ", "tab line no break em"),
        ("<|startoftext|> a <|ENDOFTEXT|>", None),
        ("", None),
    ],
)
def test_texts_become_the_tokens_of_openais_tokenizer(folder, text, cleaned):
    reference, tokenizer = loaded(folder)
    expected = reference.encode(text)
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode_many([text, "x"])[0] == expected
    assert clean_text(text) == (text if cleaned is None else cleaned)
    assert tokenizer.encode(clean_text(text)) == expected  # as hard prompts are stored


def test_real_vocabulary(capsys):
    _, real = loaded(CLIPS_TOKENIZER)
    ids = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert real.encode("a photo of a cat") == real.encode("A  photo\nof a CAT ") == ids
    assert real.decode(ids) == "a photo of a cat"
    assert (real.sos_id, real.eos_id, real.vocab_size) == (49406, 49407, 49408)
    assert real.encode("") == [49406, 49407]
    assert len(real.encode("face " * 200)) == 202  # long texts are never cut
    assert capsys.readouterr().err == ""


def test_trained_tokenizer_reads_back_the_same_with_transformers(tmp_path):
    tokenizer = train_tokenizer(TEXTS, tmp_path, 560)
    library = CLIPTokenizer.from_pretrained(tmp_path)
    same = train_tokenizer([text.replace("'", "\u2019") for text in TEXTS], tmp_path / "typographic", 560)
    for text in [*TEXTS, "words never seen: ☃ 喜", "A HAPPY FACE"]:
        assert same.encode(text) == tokenizer.encode(text)
        ids = tokenizer.encode(text)
        assert library(text)["input_ids"] == ids
        assert ids[0] == tokenizer.sos_id
        assert ids[-1] == tokenizer.eos_id == max(ids)
    assert (tokenizer.sos_id, tokenizer.eos_id) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)
    assert tokenizer.decode(tokenizer.encode("A happy face")) == "a happy face"


@pytest.mark.parametrize("form", ["two files", "saved", "one file", "old file", "other names", "added", "old added"])
def test_every_form_of_files_gives_the_tokens_of_transformers(form, tmp_path):
    names = ("vocab.json", "merges.txt")
    for name in names:
        (tmp_path / name).write_bytes((SHIPPED["tiny-face-clip"].folder / name).read_bytes())
    words = {
        "bos_token": {"content": "face</w>", "normalized": True, "special": True},
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "eyes</w>"),
    }
    if form == "other names":
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "brows</w>"}))
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(words))
    elif form != "two files":
        library = CLIPTokenizer.from_pretrained(tmp_path)
        if "added" in form:
            library.add_tokens(["<joy>", AddedToken("grin", single_word=True), AddedToken("Ünlike")])
        library.save_pretrained(tmp_path)
        for name in names:
            (tmp_path / name).unlink(missing_ok=True)
    whole, config = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    if form in ("one file", "old file"):
        config.unlink()
    if "old" in form:  # merges as text, and nothing of what was added beside tokenizer.json
        content = json.loads(whole.read_text("utf-8"))
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
        whole.write_text(json.dumps(content), "utf-8")
        config.unlink(missing_ok=True)
    library, tokenizer = CLIPTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    texts = [
        *TEXTS,
        "",
        "A <joy>, a grin, grinning; ünlike!",
        "☃ 喜 <|endoftext|> e\u0301 <|startoftext|>",
        " face eyes",
    ]
    expected = library([clean_text(text).lower() for text in texts])["input_ids"]
    assert tokenizer.encode_many(texts) == [tokenizer.encode(text) for text in texts] == expected
    assert (tokenizer.sos_id, tokenizer.eos_id) == (library.bos_token_id, library.eos_token_id)
    assert tokenizer.vocab_size == len(library)
    for ids in expected:
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True)


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
        "from mpafer_jax.backbones.clip.tokenizer import train_tokenizer\n"
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
