"""Names of the measures, and the interface of a contender."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from tests.bench.problem import Arrays, Problem

TRAIN = "train_step"
EVAL = "eval_step"
SINGLE = "single_image"
TEXT_TRAIN = "text_tower_gradient"
TEXT = "text_tower"
PROBE = "linear_probe_step"
PRODUCT = "matrix_product"

# In the table's order.
TITLES = {
    TRAIN: "training step",
    EVAL: "evaluation step, texts encoded before",
    SINGLE: "one image, texts encoded before",
    TEXT: "text tower",
    TEXT_TRAIN: "text tower, with the context's gradient",
    PROBE: "linear-probe step on the frozen image tower",
    PRODUCT: "matrix product of an MLP's size",
}

LOSSES = ("cross_entropy", "token_alignment", "prompt_alignment", "prototype_alignment", "loss")
Calls = Mapping[str, Callable[[], object]]


class Contender(Protocol):
    """An implementation of the problem, loaded; functions compile on their first call."""

    @property
    def device(self) -> str:
        """The device: "cpu", or the accelerator's name."""
        ...

    def peak_memory(self) -> int:
        """Peak bytes: of the process on a CPU, else of the device."""
        ...

    def check(self) -> Arrays:
        """Outputs, losses and gradients at the initial prompts, from the functions that are timed; resets the prompts.

        'logits' [B, C], 'image_features' [B, D], 'patch_features' [B, N, D], 'text_features' [C, D], 'losses' [5]
        (in the order of `LOSSES`), 'gradient_ctx', 'gradient_visual_prompts', 'eval_cross_entropy' [] (mean).
        """
        ...

    def calls(self) -> Calls:
        """Timed functions by measure; each waits for its results."""
        ...


def product_shape(problem: Problem) -> tuple[int, int, int]:
    """Rows, inner size and columns of the matrix product: a batch's tokens times the image tower's first MLP matrix."""
    vision = problem.clip_config.vision
    return problem.setting.batch_size * (1 + vision.num_patches), vision.hidden_size, vision.intermediate_size
