"""The plain PyTorch way as a contender, as it is or through `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mpafer_jax.benchmark import measures, plain_torch
from mpafer_jax.benchmark.problem import Arrays, Problem


class TorchContender:
    """See `measures.Contender`."""

    def __init__(self, problem: Problem, *, compiled: bool) -> None:
        """Loads the problem.

        Args:
          problem: its folder was written before.
          compiled: whether the functions pass through `torch.compile`.
        """
        self._problem, self._compiled = problem, compiled
        self._model = plain_torch.load(problem)
        self._optimizer = plain_torch.make_optimizer(self._model, problem)
        self._pixels = plain_torch.to_pixels(problem.arrays)
        self._labels = torch.from_numpy(problem.arrays["labels"].astype("int64"))
        self._forward = self._wrap(self._model)
        self._classify = self._wrap(self._model.classify)
        self._encode_texts = self._wrap(self._model.encode_texts)
        self._encode_frozen = self._wrap(self._model.encode_images_frozen)
        self._text_features: torch.Tensor | None = None

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function) if self._compiled else function

    def check(self) -> Arrays:
        """See `measures.Contender`."""
        logits, terms = self._train_step()
        decay, arrays = self._problem.setting.weight_decay, self._problem.arrays
        gradients = {  # after the first update SGD's buffer is the gradient with the weight decay
            f"gradient_{name}": self._optimizer.state[getattr(self._model, name)]["momentum_buffer"].numpy()
            - decay * arrays[name]
            for name in ("ctx", "visual_prompts")
        }
        with torch.no_grad():
            for name in ("ctx", "visual_prompts"):
                getattr(self._model, name).copy_(torch.from_numpy(arrays[name]))
            self._optimizer = plain_torch.make_optimizer(self._model, self._problem)
            image_features, patch_features = self._model.encode_images(self._pixels)
            text_features, _ = self._model.encode_texts()
        return {
            "logits": logits.detach().numpy(),
            "image_features": image_features.numpy(),
            "patch_features": patch_features.numpy(),
            "text_features": text_features.numpy(),
            "losses": np.array([terms[name].item() for name in measures.LOSSES], np.float32),
            "eval_cross_entropy": np.array(self._evaluate(self._pixels, self._labels)[1], np.float32),
            **gradients,
        }

    def calls(self) -> measures.Calls:
        """See `measures.Contender`."""
        return {
            measures.TRAIN: self._train_step,
            measures.EVAL: lambda: self._evaluate(self._pixels, self._labels),
            measures.SINGLE: lambda: self._evaluate(self._pixels[:1], self._labels[:1]),
            measures.TEXT: self._text_forward,
            measures.TEXT_TRAIN: self._text_gradient,
            measures.PROBE: self._make_probe(),
            measures.PRODUCT: self._make_product(),
        }

    def _train_step(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self._text_features = None
        self._optimizer.zero_grad()
        logits, terms = self._forward(self._pixels, self._labels)
        terms["loss"].backward()
        self._optimizer.step()
        _ = terms["loss"].item()  # every loop reads it, for its log and for NaN
        return logits, terms

    @torch.no_grad()
    def _evaluate(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[int, float]:
        """Correct predictions and mean cross-entropy."""
        if self._text_features is None:
            self._text_features, _ = self._encode_texts()
        logits = self._classify(pixels, self._text_features)
        return int((logits.argmax(dim=-1) == labels).sum()), float(F.cross_entropy(logits, labels))

    @torch.no_grad()
    def _text_forward(self) -> None:
        self._encode_texts()

    def _text_gradient(self) -> None:
        terms = self._model.alignment(*self._encode_texts())
        torch.autograd.grad(terms["token_alignment"] + terms["prompt_alignment"], self._model.ctx)

    def _make_probe(self) -> Callable[[], None]:
        probe = torch.nn.Linear(self._problem.clip_config.projection_dim, self._problem.setting.num_classes)
        optimizer = torch.optim.SGD(probe.parameters(), lr=self._problem.setting.learning_rate)

        def step() -> None:
            with torch.no_grad():
                features = self._encode_frozen(self._pixels)
            optimizer.zero_grad()
            F.cross_entropy(probe(features), self._labels).backward()
            optimizer.step()

        return step

    def _make_product(self) -> Callable[[], None]:
        rows, inner, columns = measures.product_shape(self._problem)
        left, right = torch.ones(rows, inner), torch.ones(columns, inner)

        @torch.no_grad()
        def product() -> None:
            F.linear(left, right)

        return product
