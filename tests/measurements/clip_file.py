"""What becomes of each form of a CLIP file (docs/clip.md), and what loading a full ViT-B/16 costs.

    python -m tests.measurements.clip_file

Writes stand-ins with random numbers, loads them, and compares features and logits with the literal PyTorch module that
wrote them; prints errors of what is not read. Before that the same with OpenAI's ViT-B/16 shape, each in a process of
its own: seconds, with the import of PyTorch where it is needed, and peak memory with all libraries as a multiple of the
file's size in float32.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import CLIPTokenizer

from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.files import CLIPS_TOKENIZER
from mpafer_jax.backbones.registry import load_backbone
from tests.backbones import openai_clip, torch_clip
from tests.backbones.openai_clip import VIT_B16, Shape

SMALL = Shape(vocabulary=49408)
GELU = Shape(vocabulary=49408, activation="gelu")
PLUS = Shape(240, 16, 896, 14, 1, 640, 10, 1, 49408, 77, 640, "gelu")

_LOAD = """
import json, re, sys, time
from mpafer_jax.runtime import without_torch
without_torch.prefer()
import jax
from mpafer_jax.backbones.registry import load_backbone
def peak():  # getrusage's would begin with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
start, cpu = time.perf_counter(), time.process_time()
load_backbone(sys.argv[1])
print(json.dumps([time.perf_counter() - start, time.process_time() - cpu, before, peak()]))
"""


def difference(name: str, reference: torch.nn.Module, shape: Shape, **options: str) -> float:
    """Largest difference of features and logits."""
    images, ids = openai_clip.inputs(shape)
    clip = load_backbone(name, **options)
    logits, found = jax.jit(CLIP(clip.backbone.config).apply)({"params": clip.params}, images, ids)
    expected = openai_clip.outputs(reference, images, ids)
    found = {"logits": logits, **found}
    return max(float(np.abs(np.asarray(found[name]) - value).max()) for name, value in expected.items())


def forms(folder: Path) -> None:
    """Prints a line for each form."""
    home = folder / "home"
    cache = home / ".cache" / "clip"
    cache.mkdir(parents=True)
    os.environ["HOME"] = str(home)
    half, gelu, plus = openai_clip.model(SMALL, half=True), openai_clip.model(GELU), openai_clip.model(PLUS)
    archive = str(openai_clip.save_torchscript(half, SMALL, cache / "ViT-B-16.pt"))
    torch.save(openai_clip.farl(half, SMALL), folder / "FaRL-Base-Patch16-LAIONFace20M-ep64.pth")
    for prefix in ("module.", "model.", "clip_model."):
        state = {prefix + name: value for name, value in gelu.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, folder / f"{prefix}pt")
    timms = openai_clip.save_open_clip(half, SMALL, folder / "timm", half=True)
    (timms / "config.json").write_text('{"architecture": "vit_base_patch16_clip_224"}')
    (timms / "model.safetensors").write_bytes(b"the image tower")
    stand_ins: dict[str, Callable[[], float]] = {
        "ViT-B-16.pt by path": lambda: difference(archive, half, SMALL),
        "ViT-B-16.pt by name": lambda: difference("ViT-B/16", half, SMALL),
        "ViT-B-16.pt by folder": lambda: difference(str(cache), half, SMALL),
        "open_clip, safetensors, GELU": lambda: difference(
            str(openai_clip.save_open_clip(gelu, GELU, folder / "gelu")), gelu, GELU
        ),
        "open_clip, .bin, float16, QuickGELU": lambda: difference(
            str(openai_clip.save_open_clip(half, SMALL, folder / "quick", binary=True, half=True)), half, SMALL
        ),
        "open_clip, 240 pixels, 896 wide": lambda: difference(
            str(openai_clip.save_open_clip(plus, PLUS, folder / "plus")), plus, PLUS
        ),
        "timm's repository": lambda: difference(str(timms), half, SMALL),
        "FaRL": lambda: difference(str(folder / "FaRL-Base-Patch16-LAIONFace20M-ep64.pth"), half, SMALL),
        "dump, module.": lambda: difference(str(folder / "module.pt"), gelu, GELU, activation="gelu"),
        "dump, model.": lambda: difference(str(folder / "model.pt"), gelu, GELU, activation="gelu"),
        "dump, clip_model.": lambda: difference(str(folder / "clip_model.pt"), gelu, GELU, activation="gelu"),
        "dump without the activation": lambda: difference(str(folder / "module.pt"), gelu, GELU),
        "transformers' folder, shards, float16": lambda: of_transformers(folder / "hub"),
        "name without its file": lambda: difference("ViT-L/14", half, SMALL),
    }
    for label, value in stand_ins.items():
        try:
            print(f"{label}: differs by at most {value():.1e}", flush=True)
        except (ValueError, OSError) as error:
            print(f"{label}: {error}", flush=True)
    for label, config in OTHERS.items():
        other = folder / label
        other.mkdir()
        is_open_clip = "model_cfg" in config
        (other / ("open_clip_config.json" if is_open_clip else "config.json")).write_text(json.dumps(config))
        (other / ("open_clip_model.safetensors" if is_open_clip else "model.safetensors")).write_bytes(b"")
        try:
            load_backbone(str(other))
        except ValueError as error:
            print(f"{label}: {error}", flush=True)


OTHERS = {
    "SigLIP": {"model_type": "siglip"},
    "SigLIP 2": {"model_type": "siglip2"},
    "MetaCLIP 2": {"model_type": "metaclip_2"},
    "EVA02-CLIP": {"model_cfg": {"vision_cfg": {"timm_model_name": "eva02_base_patch16_clip_224"}}},
    "MobileCLIP": {"model_cfg": {"vision_cfg": {"timm_model_name": "fastvit_mci1"}}},
    "CLIPA": {"model_cfg": {"vision_cfg": {"no_ln_pre": True, "pool_type": "avg"}}},
    "PE-Core": {"model_cfg": {"vision_cfg": {"timm_model_name": "vit_pe_core_base_patch16_224"}}},
}


def of_transformers(folder: Path) -> float:
    """As `difference`, of transformers' own model, written by `save_pretrained` in float16 and shards."""
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = torch_clip.config(text={"vocab_size": 49408, **ends})
    reference = torch_clip.model(config).half()
    reference.save_pretrained(folder, max_shard_size="1MB")
    CLIPTokenizer.from_pretrained(CLIPS_TOKENIZER).save_pretrained(folder)
    images, ids = torch_clip.inputs(config)
    clip = load_backbone(str(folder))
    logits, found = jax.jit(CLIP(clip.backbone.config).apply)({"params": clip.params}, images, ids)
    found = {"logits": logits, **found}
    expected = torch_clip.outputs(reference.float(), images, ids)
    return max(float(np.abs(np.asarray(found[name]) - value).max()) for name, value in expected.items())


def full_shape(folder: Path) -> None:
    """Prints a line for each file of a full ViT-B/16."""
    for label, half in (("TorchScript, float16", True), ("TorchScript, float32", False), ("open_clip, float32", False)):
        reference = openai_clip.model(VIT_B16, half=half)
        size = 4 * sum(parameter.numel() for parameter in reference.parameters())
        if label.startswith("open_clip"):
            path = openai_clip.save_open_clip(reference, VIT_B16, folder / "open_clip")
        else:
            path = openai_clip.save_torchscript(reference, VIT_B16, folder / "ViT-B-16.pt", half=half)
        run = subprocess.run([sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True, check=True)
        seconds, cpu, before, peak = json.loads(run.stdout)
        print(
            f"{label}: {seconds:.1f} s ({cpu:.1f} of computing), peak {peak / 2**20:.0f} MiB, {peak / size:.2f} times "
            f"the {size / 2**20:.0f} of the numbers ({before / 2**20:.0f} MiB before), differs by at most "
            f"{difference(str(path), reference, VIT_B16):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        full_shape(Path(name))
        forms(Path(name))
