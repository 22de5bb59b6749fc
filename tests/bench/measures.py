"""What is measured, by name, and what a contender is."""

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

# In the table's order, with what a call does.
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
    """One way to compute the problem, loaded and ready; nothing is compiled before it is called."""

    @property
    def device(self) -> str:
        """What it computes on: "cpu", or the accelerator's name."""
        ...

    def peak_memory(self) -> int:
        """Bytes that were held at once: by the process on a CPU, on the device otherwise."""
        ...

    def check(self) -> Arrays:
        """Outputs, losses and the prompts' gradients at the initial prompts, of the very functions that are timed.

        'logits' [B, C], 'image_features' [B, D], 'patch_features' [B, N, D], 'text_features' [C, D], 'losses' [5]
        (in the order of `LOSSES`), 'gradient_ctx', 'gradient_visual_prompts', 'eval_cross_entropy' [] (the
        evaluation's mean). Afterwards the prompts are the initial ones again.
        """
        ...

    def calls(self) -> Calls:
        """What can be timed, by the names of this file; each has finished its work when it returns."""
        ...


def product_shape(problem: Problem) -> tuple[int, int, int]:
    """Rows, inner size and columns of the bare product: a batch's tokens through the image tower's first MLP matrix."""
    vision = problem.clip_config.vision
    return problem.setting.batch_size * (1 + vision.num_patches), vision.hidden_size, vision.intermediate_size
