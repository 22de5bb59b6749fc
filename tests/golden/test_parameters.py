"""Names, shapes, types and counts of all parameters, of what is trained, and of the optimizer's state.

Shapes are traced; no weights are made.
"""

import json

import jax
import numpy as np
import pytest

from mpafer_jax.backbones.clip.model import ClipConfig, TextConfig, VisionConfig
from mpafer_jax.method import optim
from tests.bench import shapes
from tests.golden import cases, store

# The random CLIP of configs/sample.py is a folder that `make_sample` writes.
SAMPLE_CLIP = ClipConfig(
    VisionConfig(64, 256, 3, 4, 64, 8, "quick_gelu", 1e-5),
    TextConfig(1500, 64, 256, 3, 4, 77, 1499, "quick_gelu", 1e-5),
    64,
)
CLASSES = {"clips": 3, "folder": 3, "list": 3, "parquet": 3}  # as many as the files have


def leaves(tree) -> dict[str, str]:
    """Path -> type and shape, as in 'float32 [10, 512]'."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype} {list(x.shape)}" for path, x in flat}


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def describe(config) -> tuple[str, dict, dict]:
    """The CLIP's name and type; its parameters; the prompts and the optimizer's state of a configuration."""
    sample = config.clip.name == "sample/clip"
    clip = SAMPLE_CLIP if sample else shapes.find_clip_config(config)
    classes = shapes.count_classes(config, CLASSES.get(config.data.dataset))
    state, frozen, batch = shapes.train_step(config, clip, classes, jax.devices()[:1]).arguments
    trained = optim.trained(state.params, config.optimizer.lr_scales)
    prompts = {
        "classes": classes,
        "image": f"{batch['image'].dtype} {list(batch['image'].shape[1:])}",
        "prompts": leaves(state.params),
        "trained": sorted(trained),
        "count": {
            "trained": sum(count(state.params[name]) for name in trained),
            "frozen": sum(count(x) for name, x in state.params.items() if name not in trained),
        },
        "optimizer": leaves(state.opt_state),
    }
    return (
        f"{config.clip.name} {config.clip.dtype}",
        {"count": count(frozen.backbone), **leaves(frozen.backbone)},
        prompts,
    )


@pytest.fixture(scope="module")
def described() -> dict:
    once = {}  # most arguments change nothing that a shape depends on
    found = {}
    for name in cases.NAMES:
        for argument in cases.ARGUMENTS:
            config = cases.build(name, argument)
            kind = repr(
                (config.clip, config.learner, config.ctx, config.visual_prompts, config.optimizer, config.data.dataset)
            )
            kind += repr((config.hard_prompts, config.data.class_names))
            if kind not in once:
                once[kind] = describe(config)
            found[f"{name}:{argument}"] = once[kind]
    return found


def test_clips(described):
    clips = {}
    for name, clip, _ in described.values():
        assert clips.setdefault(name, clip) == clip
    assert clips["openai/clip-vit-base-patch16 float32"]["count"] == 149_620_737  # the published one's
    store.check("parameters/1 clip", dict(sorted(clips.items())))


def test_prompts(described):
    """Configurations with the same parameters are listed together."""
    groups: dict[str, list[str]] = {}
    for name, (_, _, prompts) in described.items():
        groups.setdefault(json.dumps(prompts), []).append(name.removesuffix(":"))
    values = [{"configs": " ".join(names), **json.loads(prompts)} for prompts, names in groups.items()]
    store.check("parameters/2 prompts", values)
