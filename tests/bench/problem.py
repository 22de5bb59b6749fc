"""What every contender is given: one CLIP with random weights, one batch, the same initial prompts, in one folder.

The CLIP lies there in the Hub's layout, the arrays as NumPy's .npz. The times do not depend on what the weights are.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import tempfile
from typing import Any

import numpy as np

from mpafer_jax.backbones.clip.export import save_clip
from mpafer_jax.backbones.clip.model import ClipConfig, TextConfig
from mpafer_jax.backbones.clip.random_clip import DEFAULT_TEXTS, OPENAI_MEAN, OPENAI_STD, random_params
from mpafer_jax.backbones.clip.sizes import SIZES
from mpafer_jax.backbones.clip.tokenizer import train_tokenizer
from mpafer_jax.runtime import files

Arrays = dict[str, np.ndarray[Any, Any]]

# What products are computed in, by what `Setting.precision` names.
PRECISIONS = ("float32", "tf32", "bfloat16")

_SMALL_VOCABULARY = 600
CLIPS = ("vit_b16", "vit_l14", "tiny")  # of `sizes.SIZES`


@functools.cache
def clip_config(clip: str) -> ClipConfig:
    """The shape of one of CLIPS; the tiny one with a small vocabulary, to be written fast."""
    config = SIZES[clip]
    if clip != "tiny":
        return config
    text = dataclasses.replace(config.text, vocab_size=_SMALL_VOCABULARY, eos_token_id=_SMALL_VOCABULARY - 1)
    return dataclasses.replace(config, text=text)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes and numbers that all contenders share; the defaults are the paper's, or of `Config`.

    Attributes:
      clip: one of `CLIPS`.
      batch_size: B.
      num_classes: C.
      num_ctx: M, context tokens.
      num_visual: N_p, visual prompts a layer.
      top_k: k, patches that the local score averages.
      temperature: tau of the alignments.
      learning_rate, momentum, weight_decay: of SGD.
      precision: one of `PRECISIONS`. "float32": all of float32's digits; "tf32": float32 numbers whose products a GPU
        may round to TensorFloat-32 (on a CPU the same as float32); "bfloat16": `:bf16` of our configs and PyTorch's
        autocast, and TensorFloat-32 for what stays float32.
      seed: of weights, images, labels and prompts.
    """

    clip: str = "vit_b16"
    batch_size: int = 16
    num_classes: int = 7
    num_ctx: int = 10
    num_visual: int = 8
    top_k: int = 16
    temperature: float = 0.01
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "float32"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Problem:
    """A folder's content.

    Attributes:
      folder: where it lies.
      setting: its sizes.
      arrays: images [B, S, S, 3] uint8, labels [B] int32, ids [C, P] int32 (P all of the tower's positions; 0 where
        context will stand and after the end), ends [C] int32, hard_text_features [C, D], hard_token_features
        [C, W], prototypes [C, D], ctx [M, W], visual_prompts [K, N_p, W], all float32 unless said.
    """

    folder: pathlib.Path
    setting: Setting
    arrays: Arrays

    @property
    def clip_folder(self) -> pathlib.Path:
        """The CLIP in the Hub's layout."""
        return self.folder / "clip"

    @property
    def clip_config(self) -> ClipConfig:
        """The CLIP's shape."""
        return clip_config(self.setting.clip)


mean, std = OPENAI_MEAN, OPENAI_STD


def write(folder: pathlib.Path, setting: Setting) -> Problem:
    """Makes a problem in a new folder.

    Raises:
      FileExistsError: the folder holds a CLIP already.
    """
    config = clip_config(setting.clip)
    with tempfile.TemporaryDirectory() as tokenizer_folder:  # no text is read, but a CLIP's folder has a tokenizer
        train_tokenizer(DEFAULT_TEXTS, tokenizer_folder, _SMALL_VOCABULARY)
        save_clip(
            folder / "clip",
            config=config,
            params=random_params(config, setting.seed),
            tokenizer_folder=tokenizer_folder,
            image_mean=mean,
            image_std=std,
        )
    files.write_json(folder / "setting.json", dataclasses.asdict(setting))
    with files.replacing(folder / "arrays.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **_draw(setting, config))
    return read(folder)


def read(folder: pathlib.Path) -> Problem:
    """The problem that `write` left in a folder."""
    setting = Setting(**json.loads((folder / "setting.json").read_text(encoding="utf-8")))
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        return Problem(folder, setting, dict(stored))


def _draw(setting: Setting, config: ClipConfig) -> Arrays:
    rng = np.random.default_rng(setting.seed)
    classes, size = setting.num_classes, config.vision.image_size
    ids, ends = _class_prompts(setting, config.text)

    def normal(*shape: int, std: float = 1.0) -> np.ndarray[Any, Any]:
        return std * rng.standard_normal(shape, np.float32)

    return {
        "images": rng.integers(0, 256, (setting.batch_size, size, size, 3)).astype(np.uint8),
        "labels": rng.integers(0, classes, setting.batch_size).astype(np.int32),
        "ids": ids,
        "ends": ends,
        "hard_text_features": normal(classes, config.projection_dim),
        "hard_token_features": normal(classes, config.text.hidden_size),
        "prototypes": normal(classes, config.projection_dim),
        "ctx": normal(setting.num_ctx, config.text.hidden_size, std=0.02),
        "visual_prompts": normal(config.vision.num_layers, setting.num_visual, config.vision.hidden_size, std=0.02),
    }


def _class_prompts(setting: Setting, text: TextConfig) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """[SOS] v_1 .. v_M [name] . [EOS], as `method.prompts.tokenize_soft` lays them out; every third name has two
    tokens. As in CLIP's vocabulary SOS and EOS are the two largest ids."""
    sos, eos = text.vocab_size - 2, text.vocab_size - 1
    dot, first_name = 2, 3
    ids = np.zeros((setting.num_classes, text.max_position_embeddings), np.int32)
    ends: list[int] = []
    for row, tokens in enumerate(ids):
        name = [first_name + row] * (2 if row % 3 == 2 else 1)
        prompt = [sos, *[0] * setting.num_ctx, *name, dot, eos]
        tokens[: len(prompt)] = prompt
        ends.append(len(prompt) - 1)
    return ids, np.array(ends, np.int32)
