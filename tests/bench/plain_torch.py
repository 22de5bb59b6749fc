"""Baseline MPA-FER in plain PyTorch with transformers' `CLIPModel`, to compare speed and results.

In the style of the public code of CoOp, VPT and MaPLe: the text encoder reads all 77 positions at every step, visual
prompts are concatenated to the sequence at every layer and cut off after it, frozen weights need no gradient, texts
are encoded once per evaluation. Attention is PyTorch's fused one, transformers' default.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel

from tests.bench.problem import Arrays, Problem, mean, std


class PlainMpaFer(nn.Module):
    """The model, with trained `ctx` [M, W] and `visual_prompts` [K, N_p, W]."""

    token_prefix: torch.Tensor
    token_suffix: torch.Tensor
    ends: torch.Tensor
    hard_text_features: torch.Tensor
    hard_token_features: torch.Tensor
    prototypes: torch.Tensor

    def __init__(self, clip: CLIPModel, problem: Problem) -> None:
        super().__init__()
        arrays, setting = problem.arrays, problem.setting
        self.clip = clip.eval().requires_grad_(False)
        self.ctx = nn.Parameter(torch.from_numpy(arrays["ctx"].copy()))
        self.visual_prompts = nn.Parameter(torch.from_numpy(arrays["visual_prompts"].copy()))
        self.top_k, self.temperature = setting.top_k, setting.temperature
        with torch.no_grad():
            ids = torch.from_numpy(arrays["ids"].astype("int64"))
            embeddings = self.clip.text_model.embeddings.token_embedding(ids)  # [C, 77, W]
        self.register_buffer("token_prefix", embeddings[:, :1])
        self.register_buffer("token_suffix", embeddings[:, 1 + setting.num_ctx :])
        self.register_buffer("ends", torch.from_numpy(arrays["ends"].astype("int64")))
        for name in ("hard_text_features", "hard_token_features", "prototypes"):
            self.register_buffer(name, torch.from_numpy(arrays[name]))

    def encode_texts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """theta(t) [C, D] and the pooled token embeddings t [C, W] of the soft prompts."""
        tower, classes = self.clip.text_model, len(self.ends)
        ctx = self.ctx.expand(classes, -1, -1)
        embeddings = torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)  # [C, 77, W]
        x = embeddings + tower.embeddings.position_embedding.weight[: embeddings.shape[1]]
        x = tower.encoder(inputs_embeds=x, attention_mask=None, is_causal=True).last_hidden_state
        x = tower.final_layer_norm(x)
        features = self.clip.text_projection(x[torch.arange(classes), self.ends])
        position = torch.arange(embeddings.shape[1], device=embeddings.device)
        content = (position > 0) & (position < self.ends[:, None])  # [C, 77]
        tokens = (embeddings * content[:, :, None]).sum(dim=1) / content.sum(dim=1, keepdim=True)
        return features, tokens

    def encode_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z^g [B, D] and Z^l [B, N, D] of normalised images [B, 3, S, S]."""
        tower = self.clip.vision_model
        x = tower.pre_layrnorm(tower.embeddings(images))  # [B, 1 + N, W]
        length = x.shape[1]
        for layer, prompts in zip(tower.encoder.layers, self.visual_prompts, strict=True):
            x = torch.cat([x, prompts.expand(len(x), -1, -1)], dim=1)
            x = layer(x, attention_mask=None)[:, :length]
        features = self.clip.visual_projection(tower.post_layernorm(x))
        return features[:, 0], features[:, 1:]

    def encode_images_frozen(self, images: torch.Tensor) -> torch.Tensor:
        """z^g [B, D] without prompts, of normalised images [B, 3, S, S]."""
        return cast(Any, self.clip).get_image_features(images).pooler_output

    def logits(
        self, image_features: torch.Tensor, patch_features: torch.Tensor, text_features: torch.Tensor
    ) -> torch.Tensor:
        """Global-local logits [B, C] (Eq. 8-10)."""
        texts = F.normalize(text_features, dim=-1)
        global_scores = F.normalize(image_features, dim=-1) @ texts.T
        patch_scores = F.normalize(patch_features, dim=-1) @ texts.T  # [B, N, C]
        local_scores = patch_scores.topk(self.top_k, dim=1).values.mean(dim=1)
        return self.clip.logit_scale.exp() * (global_scores + local_scores)

    def alignment(self, text_features: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """L_ta and L_pa (Eq. 1-4), [] each."""
        return {
            "token_alignment": self._contrast(tokens, self.hard_token_features),
            "prompt_alignment": self._contrast(text_features, self.hard_text_features),
        }

    def _contrast(self, soft: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
        similarity = F.normalize(hard, dim=-1) @ F.normalize(soft, dim=-1).T / self.temperature
        return F.cross_entropy(similarity, torch.arange(len(hard), device=hard.device))

    def classify(self, images: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of images and encoded texts."""
        image_features, patch_features = self.encode_images(images)
        return self.logits(image_features, patch_features, text_features)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits [B, C] and all terms of the loss with 'loss' (Eq. 12, beta = gamma = 1), [] each."""
        text_features, tokens = self.encode_texts()
        image_features, patch_features = self.encode_images(images)
        logits = self.logits(image_features, patch_features, text_features)
        cosine = F.cosine_similarity(image_features, self.prototypes[labels], dim=-1)
        terms = {
            "cross_entropy": F.cross_entropy(logits, labels),
            **self.alignment(text_features, tokens),
            "prototype_alignment": (1 - cosine).mean(),
        }
        return logits, {**terms, "loss": torch.stack(list(terms.values())).sum()}


def load(problem: Problem, device: torch.device) -> PlainMpaFer:
    """The model with the problem's CLIP and prompts, on the device."""
    return PlainMpaFer(CLIPModel.from_pretrained(str(problem.clip_folder)), problem).to(device)


def make_optimizer(model: PlainMpaFer, problem: Problem) -> torch.optim.SGD:
    """SGD of the prompts alone."""
    setting = problem.setting
    return torch.optim.SGD(
        [model.ctx, model.visual_prompts],
        lr=setting.learning_rate,
        momentum=setting.momentum,
        weight_decay=setting.weight_decay,
    )


def to_pixels(arrays: Arrays) -> torch.Tensor:
    """Normalised images [B, 3, S, S] float32, as from a data loader's transform."""
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 255
    return ((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).contiguous()
