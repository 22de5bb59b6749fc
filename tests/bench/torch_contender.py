"""Plain PyTorch as a contender, eager or with `torch.compile`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.bench import measures, plain_torch, timing
from tests.bench.problem import Arrays, Problem


class TorchContender:
    """See `JaxContender`."""

    def __init__(self, problem: Problem, *, compiled: bool) -> None:
        self._problem, self._compiled = problem, compiled
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rounded = problem.setting.precision != "float32"
        torch.set_float32_matmul_precision("high" if rounded else "highest")
        torch.backends.cudnn.allow_tf32 = rounded
        self._model = plain_torch.load(problem, self._device)
        self._optimizer = plain_torch.make_optimizer(self._model, problem)
        self._pixels = plain_torch.to_pixels(problem.arrays).to(self._device)
        self._labels = torch.from_numpy(problem.arrays["labels"].astype("int64")).to(self._device)
        self._forward = self._wrap(self._model)
        self._classify = self._wrap(self._model.classify)
        self._encode_texts = self._wrap(self._model.encode_texts)
        self._encode_frozen = self._wrap(self._model.encode_images_frozen)
        self._text_features: torch.Tensor | None = None

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def cast(*arguments: torch.Tensor) -> Any:
            with self._autocast():
                return function(*arguments)

        return torch.compile(cast) if self._compiled else cast

    def _autocast(self) -> torch.autocast:
        lower = self._problem.setting.precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=lower)

    @property
    def device(self) -> str:
        return "cpu" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)

    def peak_memory(self) -> int:
        if self._device.type == "cpu":
            return timing.peak_memory_bytes()
        return torch.cuda.max_memory_allocated(self._device)

    def check(self) -> Arrays:
        logits, terms = self._train_step()
        decay, arrays = self._problem.setting.weight_decay, self._problem.arrays
        gradients = {  # after the first update SGD's buffer is the gradient plus weight decay
            f"gradient_{name}": _array(self._optimizer.state[getattr(self._model, name)]["momentum_buffer"])
            - decay * arrays[name]
            for name in ("ctx", "visual_prompts")
        }
        with torch.no_grad():
            for name in ("ctx", "visual_prompts"):
                getattr(self._model, name).copy_(torch.from_numpy(arrays[name]))
            self._optimizer = plain_torch.make_optimizer(self._model, self._problem)
            with self._autocast():
                image_features, patch_features = self._model.encode_images(self._pixels)
                text_features, _ = self._model.encode_texts()
        return {
            "logits": _array(logits),
            "image_features": _array(image_features),
            "patch_features": _array(patch_features),
            "text_features": _array(text_features),
            "losses": np.array([terms[name].item() for name in measures.LOSSES], np.float32),
            "eval_cross_entropy": np.array(self._evaluate(self._pixels, self._labels)[1], np.float32),
            **gradients,
        }

    def calls(self) -> measures.Calls:
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
        _ = terms["loss"].item()  # training loops read it, for logs and NaN checks
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
        self._finish()

    def _text_gradient(self) -> None:
        terms = self._model.alignment(*self._encode_texts())
        torch.autograd.grad(terms["token_alignment"] + terms["prompt_alignment"], self._model.ctx)
        self._finish()

    def _make_probe(self) -> Callable[[], None]:
        setting = self._problem.setting
        probe = torch.nn.Linear(self._problem.clip_config.projection_dim, setting.num_classes, device=self._device)
        optimizer = torch.optim.SGD(probe.parameters(), lr=setting.learning_rate)

        def step() -> None:
            with torch.no_grad():
                features = self._encode_frozen(self._pixels)
            optimizer.zero_grad()
            F.cross_entropy(probe(features.float()), self._labels).backward()
            optimizer.step()
            self._finish()

        return step

    def _make_product(self) -> Callable[[], None]:
        rows, inner, columns = measures.product_shape(self._problem)
        dtype = torch.bfloat16 if self._problem.setting.precision == "bfloat16" else torch.float32
        left, right = (torch.randn(size, inner).to(self._device, dtype) for size in (rows, columns))

        @torch.no_grad()
        def product() -> None:
            F.linear(left, right)
            self._finish()

        return product

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().float().cpu().numpy()
