"""A folder of captioned images, and a configuration of a CLIP that trains on it in seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from configs import pretrain_tiny_clip
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from tests.data import layouts
from tests.jobs import runs

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200), "grey": (128, 128, 128)}
SIDES = ("left", "right", "top")
CHANGES = {
    "model.vision": {"hidden_size": 24, "num_layers": 2, "num_heads": 3},
    "model.text": {"hidden_size": 16, "num_layers": 2, "num_heads": 2},
    "model.projection_dim": 12,
    "model.image_size": 16,
    "model.patch_size": 4,
    "model.vocab_size": 620,
    "model.vocabulary_banks": (),
    "model.max_position_embeddings": 24,
    "data.source": "folder",
    "data.held_out": 6,
    "loss.attributes_alone_steps": 3,
    "optimizer.warmup_steps": 2,
    "train.batch_size": 8,
    "train.num_steps": 10,
    "train.log_every": 2,
    "train.eval_every": 5,
    "train.checkpoint_every": 2,
    "train.keep": 20,
}
TAUGHT = {  # with a teacher
    "data.grayscale_at_use": True,
    "model.initial": "mimetic",
    "model.max_position_embeddings": 48,
    "train.kept_patches": 0.5,
    "teacher.num_steps": 4,
    "teacher.widths": (4, 6),
    "teacher.layers": 1,
}


def write_folder(folder: Path, number: int = 30, *, attributes: bool = True) -> Path:
    """Images with a bright bar on one side, in sub-folders, and their metadata.jsonl."""
    rng = np.random.default_rng(0)
    lines: list[str] = []
    for index in range(number):
        name, side = f"part{index % 2}/{index}.png", SIDES[index % len(SIDES)]
        colour = list(COLOURS)[index % len(COLOURS)]
        pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 12, (20, 20, 3)), 0, 255).astype(np.uint8)
        bar = {"left": np.s_[:, :5], "right": np.s_[:, -5:], "top": np.s_[:5]}[side]
        pixels[bar] = 250
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
        row = {"file_name": name, "text": [f"a {colour} image", f"{colour} with a bar at the {side}"], "id": index}
        if attributes:
            row["attributes"] = {f"a bar at the {name}": name == side for name in SIDES} | {"a bar": 0.9}
            if index % 5 == 0:
                del row["attributes"]["a bar at the top"]
        lines.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


# Names of FERPlus' images -> votes of ten annotators: all for one class, or three for another.
VOTES = {
    f"fer{i:07d}.png": tuple((7 + 3 * (i % 2)) * (c == i % 4) + 3 * (1 - i % 2) * (c == 4 + i % 4) for c in range(10))
    for i in range(16)
}
CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")


def write_labelled(folder: Path) -> dict[str, str]:
    """FERPlus with 16 images of noise, and a bank in few words; returns fields of `LabelledSection`."""
    layouts.write_label_csv(folder / "FER2013Train", VOTES)
    classes = {
        name: {"holistic": [f"face {letter}"], "mouth": [f"mouth {letter}", f"lips {letter}"]}
        for name, letter in zip(CLASSES, "abcdefgh", strict=True)
    }
    classes["neutral"]["chin"] = ["chin a"]
    bank = folder / "bank.json"
    bank.write_text(json.dumps({"name": "letters", "source": "none", "question": "none", "classes": classes}))
    return {"dataset": "ferplus", "dir": str(folder), "label_rule": "distribution", "bank": str(bank)}


def labelled_image(folder: str, name: str) -> Path:
    """An image of `VOTES`."""
    return Path(folder) / "FER2013Train" / name


def config(folder: Path, **changes) -> PretrainConfig:
    """The tiny run on a folder; changes are named with dots."""
    values = pretrain_tiny_clip.get_config()
    with values.unlocked():
        values.update_from_flattened_dict({**CHANGES, "data.dir": str(folder), **changes})
    return PretrainConfig.from_config_dict(values)


def words(folder: Path, workdir: Path, **changes) -> list[str]:
    """The same run as words of `mpafer-jax clip pretrain`."""
    flat: dict[str, object] = {}
    for name, value in {**CHANGES, "data.dir": str(folder), **changes}.items():
        flat.update(
            {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    fields = [f"--config.{name}={value}" for name, value in flat.items()]
    return [f"--config={runs.ROOT / 'configs' / 'pretrain_tiny_clip.py'}", f"--workdir={workdir}", *fields]


def command(folder: Path, workdir: Path) -> list[str]:
    """The same in a process of its own."""
    return [sys.executable, "-m", "mpafer_jax.cli", "clip", "pretrain", *words(folder, workdir)]
