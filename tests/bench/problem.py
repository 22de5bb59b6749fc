"""Input of all contenders, in a folder: a CLIP with random weights in the Hub's layout, a batch and initial prompts
as .npz."""

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
from mpafer_jax.backbones.clip.tokenizer import train_tokenizer
from mpafer_jax.runtime import files
from tests.bench.sizes import SIZES

Arrays = dict[str, np.ndarray[Any, Any]]

# See `Setting.precision`.
PRECISIONS = ("float32", "tf32", "bfloat16")

_SMALL_VOCABULARY = 600
CLIPS = ("vit_b16", "vit_l14", "tiny")  # of `sizes.SIZES`


@functools.cache
def clip_config(clip: str) -> ClipConfig:
    """The shape of one of `CLIPS`; "tiny" has a small vocabulary, to be written fast."""
    config = SIZES[clip]
    if clip != "tiny":
        return config
    text = dataclasses.replace(config.text, vocab_size=_SMALL_VOCABULARY, eos_token_id=_SMALL_VOCABULARY - 1)
    return dataclasses.replace(config, text=text)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes and hyperparameters; the defaults are the paper's, or those of `Config`.

    Attributes:
      clip: one of `CLIPS`.
      num_ctx: M, context tokens.
      num_visual: N_p, visual prompts per layer.
      top_k: k, patches of the local score.
      temperature: tau of the alignments.
      learning_rate, momentum, weight_decay: of SGD.
      precision: one of `PRECISIONS`. "float32": full precision; "tf32": GPUs may round products to TensorFloat-32 (on
        a CPU as float32); "bfloat16": `:bf16` of our configs and PyTorch's autocast, TensorFloat-32 for the rest.
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
    """A problem in a folder.

    Attributes:
      arrays: images [B, S, S, 3] uint8, labels [B] int32, ids [C, P] int32 (P: all positions of the tower; 0 for
        context and padding), ends [C] int32, and in float32 hard_text_features [C, D], hard_token_features [C, W],
        prototypes [C, D], ctx [M, W], visual_prompts [K, N_p, W].
    """

    folder: pathlib.Path
    setting: Setting
    arrays: Arrays

    @property
    def clip_folder(self) -> pathlib.Path:
        return self.folder / "clip"

    @property
    def clip_config(self) -> ClipConfig:
        return clip_config(self.setting.clip)


mean, std = OPENAI_MEAN, OPENAI_STD


def write(folder: pathlib.Path, setting: Setting) -> Problem:
    config = clip_config(setting.clip)
    with tempfile.TemporaryDirectory() as tokenizer_folder:  # not used, but `save_clip` needs a tokenizer
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
    """[SOS] v_1 .. v_M [name] . [EOS] in the layout of `method.prompts.tokenize_soft`; every third name has two
    tokens. SOS and EOS are the two largest ids, as in CLIP."""
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
