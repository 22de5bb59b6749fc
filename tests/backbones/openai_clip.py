"""A literal CLIP in PyTorch under the names of OpenAI's program and open_clip: the reference for files of both.

Written from the paper and the names of published tensors; it shares no code with the package.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np

from tests import needs

torch = needs.module("torch")
nn = torch.nn


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes; the defaults differ from each other, so that mixed-up tensors have the wrong shape."""

    image_size: int = 24
    patch_size: int = 8
    width: int = 128
    heads: int = 2
    layers: int = 3
    text_width: int = 64
    text_heads: int = 1
    text_layers: int = 2
    vocabulary: int = 30
    positions: int = 9
    embedding: int = 20
    activation: str = "quick_gelu"

    def open_clip(self, **preprocess) -> dict:
        """open_clip_config.json."""
        vision = {"image_size": self.image_size, "layers": self.layers, "width": self.width}
        vision |= {"patch_size": self.patch_size}
        if self.width != 64 * self.heads:
            vision["head_width"] = self.width // self.heads
        text = {"context_length": self.positions, "vocab_size": self.vocabulary, "width": self.text_width}
        text |= {"heads": self.text_heads, "layers": self.text_layers}
        model = {"embed_dim": self.embedding, "vision_cfg": vision, "text_cfg": text}
        if self.activation == "quick_gelu":
            model["quick_gelu"] = True
        return {"model_cfg": model, "preprocess_cfg": preprocess}


VIT_B16 = Shape(224, 16, 768, 12, 12, 512, 8, 12, 49408, 77, 512)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads, activation):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        layers = [
            ("c_fc", nn.Linear(width, 4 * width)),
            ("gelu", QuickGELU() if activation == "quick_gelu" else nn.GELU()),
            ("c_proj", nn.Linear(4 * width, width)),
        ]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x, mask=None):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, heads, layers, activation):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTransformer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width = shape.width
        self.conv1 = nn.Conv2d(3, width, shape.patch_size, shape.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((shape.image_size // shape.patch_size) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, shape.heads, shape.layers, shape.activation)
        self.proj = nn.Parameter(torch.zeros(width, shape.embedding))

    def forward(self, x):  # [B, 3, S, S] -> [B, 1 + N, D]
        x = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)) @ self.proj


class CLIP(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.visual = VisionTransformer(shape)
        self.transformer = Transformer(shape.text_width, shape.text_heads, shape.text_layers, shape.activation)
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.text_width)
        self.positional_embedding = nn.Parameter(torch.zeros(shape.positions, shape.text_width))
        self.ln_final = nn.LayerNorm(shape.text_width)
        self.text_projection = nn.Parameter(torch.zeros(shape.text_width, shape.embedding))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_text(self, ids):
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection

    def forward(self, images, ids):
        return self.visual(images), self.encode_text(ids)


def model(shape: Shape, seed: int = 0, *, half: bool = False) -> CLIP:
    """A random CLIP, float32; `half` rounds its numbers to float16's."""
    torch.manual_seed(seed)
    clip = CLIP(shape).eval()
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if parameter.ndim < 2:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embedding" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
            else:
                fan_in = len(parameter) if name.endswith("proj") or "projection" in name else parameter[0].numel()
                parameter.copy_(torch.randn_like(parameter) * fan_in**-0.5)
    return clip.half().float() if half else clip


def inputs(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Images [2, S, S, 3] and ids [3, L] that end with the largest id."""
    rng = np.random.default_rng(1)
    ids = np.zeros((3, shape.positions), np.int32)
    for row, words in zip(ids, (2, shape.positions - 2, 3), strict=True):
        row[: words + 2] = [shape.vocabulary - 2, *rng.integers(3, shape.vocabulary - 2, words), shape.vocabulary - 1]
    return rng.standard_normal((2, shape.image_size, shape.image_size, 3)).astype(np.float32), ids


@torch.no_grad()
def outputs(clip: CLIP, images: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Features before normalisation, as our `CLIP.__call__` names them, and the logits."""
    vision, text = clip(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(ids.astype(np.int64)))
    unit = nn.functional.normalize
    return {
        "image_features": vision[:, 0].numpy(),
        "patch_features": vision[:, 1:].numpy(),
        "text_features": text.numpy(),
        "logits": (clip.logit_scale.exp() * unit(vision[:, 0]) @ unit(text).T).numpy(),
    }


def save_torchscript(clip: CLIP, shape: Shape, path: Path, *, half: bool = True, constants: bool = True) -> Path:
    """An archive like OpenAI's: TorchScript in float16, with three constants among its tensors."""
    if constants:
        for name in ("image_size", "positions", "vocabulary"):
            openais = {"image_size": "input_resolution", "positions": "context_length", "vocabulary": "vocab_size"}
            clip.register_buffer(openais[name], torch.tensor(getattr(shape, name)))
    images, ids = inputs(shape)
    example = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(ids.astype(np.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and tracing names each branch
        traced = torch.jit.trace(clip, example, check_trace=False)
        (traced.half() if half else traced).save(str(path))
    if half:
        clip.float()
    return path


def save_open_clip(
    clip: CLIP, shape: Shape, folder: Path, *, binary: bool = False, half: bool = False, **preprocess
) -> Path:
    """A folder as open_clip's `push_to_hf_hub` writes it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(shape.open_clip(**preprocess)))
    tensors = {name: value.half() if half else value for name, value in clip.state_dict().items()}
    if binary:
        torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


def farl(clip: CLIP, shape: Shape) -> dict:
    """What FaRL's .pth holds: a CLIP beside the tensors of masked image modelling."""
    width = shape.width
    extra = {
        "visual.mask_token": torch.ones(width),
        "visual.ln_lm.weight": torch.ones(width),
        "visual.ln_lm.bias": torch.ones(width),
        "visual.lm_head.weight": torch.ones(8, width),
        "visual.lm_head.bias": torch.ones(8),
    }
    block = Block(width, shape.heads, shape.activation).state_dict()
    extra |= {f"visual.lm_transformer.resblocks.0.{name}": value for name, value in block.items()}
    return {"state_dict": {**clip.state_dict(), **extra}, "epoch": 64}
