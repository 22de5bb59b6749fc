"""Typed wrapper around transformers' CLIP tokenizer, and training of small ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mpafer_jax.backbones.files import TOKENIZER, file_names, has_tokenizer
from mpafer_jax.backbones.hub_library import import_transformers
from mpafer_jax.runtime.files import write_json, write_text
from mpafer_jax.runtime.texts import clean_text

SOS = "<|startoftext|>"
EOS = "<|endoftext|>"
_END_OF_WORD = "</w>"
CLIPS_VOCABULARY = 49408  # tokens of `files.CLIPS_TOKENIZER`


class Tokenizer:
    """Texts to token ids and back; create one with `load_tokenizer`.

    Texts are cleaned and lower-cased as in OpenAI's tokenizer (`texts.clean_text`).

    Attributes:
      vocab_size: number of tokens, special ones included.
    """

    def __init__(self, library_tokenizer: Any) -> None:
        self._tokenizer = library_tokenizer
        self.sos_id: int = library_tokenizer.bos_token_id
        self.eos_id: int = library_tokenizer.eos_token_id
        self.vocab_size: int = len(library_tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids with SOS and EOS, never truncated."""
        # verbose would warn of lengths, which callers check.
        return list(self._tokenizer(_normalized(text), truncation=False, padding=False, verbose=False)["input_ids"])

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, much faster than one by one."""
        cleaned = [_normalized(text) for text in texts]
        return [list(ids) for ids in self._tokenizer(cleaned, truncation=False, padding=False)["input_ids"]]

    def decode(self, ids: Iterable[int]) -> str:
        """Lower-case text of token ids, without SOS and EOS."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _normalized(text: str) -> str:
    return clean_text(text).lower()


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Reads a CLIP tokenizer from vocab.json and merges.txt, or from tokenizer.json.

    Raises:
      FileNotFoundError: both are missing.
      ValueError: the files are invalid, or lack CLIP's special tokens.
    """
    folder = Path(folder)
    if not folder.is_dir() or not has_tokenizer(file_names(folder)):
        raise FileNotFoundError(
            f"{folder} holds no tokenizer; expected vocab.json and merges.txt, or tokenizer.json, as the Hub's CLIP "
            "repositories have them"
        )
    transformers = import_transformers()
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the Rust library raises bare Exceptions
        raise ValueError(f"the tokenizer in {folder} cannot be read: {error}") from error
    # Without the special tokens that transformers adds if missing.
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    if absent := [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token not in vocabulary]:
        raise ValueError(f"the tokenizer in {folder} has no token {' and '.join(map(repr, absent))}; is it a CLIP's?")
    return Tokenizer(tokenizer)


def train_tokenizer(texts: Iterable[str], folder: Path | str, vocab_size: int) -> Tokenizer:
    """Trains a small tokenizer like CLIP's and writes it in the Hub's layout.

    Byte-level BPE of lower-cased text, words end with '</w>', SOS and EOS have the two highest ids as in CLIP's
    vocabulary. Deterministic.

    Args:
      texts: training texts.
      folder: gets vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json.
      vocab_size: maximum number of tokens, at least 514 (256 bytes, the same at the end of a word, SOS, EOS); fewer
        if the texts have no more pairs to merge.

    Raises:
      ValueError: `vocab_size` is too small.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    folder = Path(folder)
    alphabet = sorted(ByteLevel.alphabet())
    symbols = [*alphabet, *(byte + _END_OF_WORD for byte in alphabet)]
    smallest = len(symbols) + 2
    if vocab_size < smallest:
        raise ValueError(f"vocab_size is {vocab_size}, expected at least {smallest}")
    merges = _learn_merges(texts, alphabet, vocab_size)[: vocab_size - smallest]
    # Different merges can give the same token: keep the first id.
    tokens = dict.fromkeys([*symbols, *("".join(pair) for pair in merges), SOS, EOS])
    specials = {"bos_token": SOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    write_json(folder / "special_tokens_map.json", specials)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", **specials})
    return load_tokenizer(folder)


def _learn_merges(texts: Iterable[str], alphabet: list[str], count: int) -> list[tuple[str, str]]:
    """BPE merges in order; `count` or more if the texts allow."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    backend = Backend(BPE(end_of_word_suffix=_END_OF_WORD))
    # An untrained CLIPTokenizer has CLIP's rules for normalising texts and splitting them into words.
    clip: Any = import_transformers().CLIPTokenizer().backend_tokenizer
    backend.normalizer = clip.normalizer
    backend.pre_tokenizer = clip.pre_tokenizer
    trainer: Any = BpeTrainer(
        vocab_size=count, initial_alphabet=alphabet, end_of_word_suffix=_END_OF_WORD, show_progress=False
    )
    backend.train_from_iterator(map(_normalized, texts), trainer)
    return [(left, right) for left, right in json.loads(backend.to_str())["model"]["merges"]]


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies a tokenizer's files into an existing folder."""
    for name in TOKENIZER:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
