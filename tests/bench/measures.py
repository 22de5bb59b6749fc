"""Names of the measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.bench.problem import Problem

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


def product_shape(problem: Problem) -> tuple[int, int, int]:
    """Rows, inner size and columns of the matrix product: a batch's tokens times the image tower's first MLP matrix."""
    vision = problem.clip_config.vision
    return problem.setting.batch_size * (1 + vision.num_patches), vision.hidden_size, vision.intermediate_size
