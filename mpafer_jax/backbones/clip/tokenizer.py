"""CLIP's tokenizer, and training of small ones.

It is built of the Rust library's parts: transformers, which has the same one, takes seconds to import.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from mpafer_jax.backbones.files import TOKENIZER, WHOLE_TOKENIZER, file_names, has_tokenizer, read_json
from mpafer_jax.runtime.files import write_json, write_text
from mpafer_jax.runtime.texts import clean_text

SOS = "<|startoftext|>"
EOS = "<|endoftext|>"
_END_OF_WORD = "</w>"
# What is kept apart before byte pairs are merged: special tokens, English contractions, words, digits, other signs.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
CLIPS_VOCABULARY = 49408  # tokens of `files.CLIPS_TOKENIZER`


class Tokenizer:
    """Texts to token ids and back; create one with `load_tokenizer`.

    Texts are cleaned and lower-cased as in OpenAI's tokenizer (`texts.clean_text`).

    Attributes:
      vocab_size: number of tokens, special ones included.
    """

    def __init__(self, backend: Backend, sos: str, eos: str) -> None:
        """Wraps the library's tokenizer, in whose vocabulary the two special tokens are."""
        self._backend = backend
        self.sos_id, self.eos_id = (cast(int, backend.token_to_id(token)) for token in (sos, eos))
        self.vocab_size = backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids with SOS and EOS, never truncated."""
        return self._with_ends(self._backend.encode(_normalized(text), add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, much faster than one by one."""
        encodings = self._backend.encode_batch([_normalized(text) for text in texts], add_special_tokens=False)
        return [self._with_ends(encoding.ids) for encoding in encodings]

    def _with_ends(self, ids: list[int]) -> list[int]:
        return [self.sos_id, *ids, self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Lower-case text of token ids, without SOS and EOS."""
        return self._backend.decode(list(ids), skip_special_tokens=True).replace(_END_OF_WORD, " ").strip()


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
    try:
        vocabulary, merges, added, (sos, eos) = _read(folder)
        backend = _backend(BPE(vocabulary, merges, end_of_word_suffix=_END_OF_WORD, unk_token=eos))
        backend.add_tokens(added)
    except Exception as error:  # the Rust library raises bare Exceptions
        raise ValueError(f"the tokenizer in {folder} cannot be read: {error}") from error
    if absent := [token for token in (sos, eos) if token not in vocabulary]:
        raise ValueError(f"the tokenizer in {folder} has no token {' and '.join(map(repr, absent))}; is it a CLIP's?")
    # Written in a text, after lowering, they are themselves.
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (sos, eos)])
    return Tokenizer(backend, sos, eos)


def _read(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[AddedToken], tuple[str, str]]:
    """What the files of a tokenizer say, with the precedence that they have in transformers.

    Returns:
      Ids of the tokens; the pairs that are merged, in order; tokens beside those of the pairs; SOS and EOS.
    """
    names = (WHOLE_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")
    whole, config, special = (read_json(folder / name) if (folder / name).is_file() else {} for name in names)
    if whole:
        vocabulary: dict[str, int] = whole["model"]["vocab"]
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in whole["model"]["merges"])
        merges = [(left, right) for left, right in pairs]
    else:
        vocabulary, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    named = {"bos_token": SOS, "eos_token": EOS, **config}
    added: dict[str, dict[str, Any]] | None = config.get("added_tokens_decoder")
    if added is None:  # as transformers wrote it before 4.34
        added = {token.pop("id"): token for token in whole.get("added_tokens", [])}
        named |= special
    ends = (named["bos_token"], named["eos_token"])
    sos, eos = (cast("dict[str, str]", token)["content"] if isinstance(token, dict) else str(token) for token in ends)
    return vocabulary, merges, [AddedToken(**added[index]) for index in sorted(added, key=int)], (sos, eos)


def _backend(model: BPE) -> Backend:
    """CLIP's rules for normalising texts and splitting them into words, before a model that splits words."""
    backend = Backend(model)
    rules: Any = backend  # whose setters have no types
    rules.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words: Any = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    rules.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    rules.decoder = decoders.ByteLevel()
    return backend


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
    folder = Path(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
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
    backend = _backend(BPE(end_of_word_suffix=_END_OF_WORD))
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
