"""Prompts in the sequence of both towers (MaPLe, PromptSRC), and their gradients, against plain PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.method.maple import MaplePrompts
from mpafer_jax.method.model import variables
from mpafer_jax.method.promptsrc import PromptSrcPrompts
from tests import needs, tiny

pytestmark = pytest.mark.torch

torch = needs.module("torch")

IMAGES = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
SPEC = clip_lib.CLIP(tiny.CLIP).spec


def to_torch(tree):
    return jax.tree.map(lambda x: torch.tensor(np.array(x, np.float32)), tree)


def layer_norm(x, p):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], p["scale"], p["bias"])


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", torch.zeros(()))


def tower(x, blocks, prompts, start, causal):
    """The paper's figure 2: prompts stand at `start`; those of layers 2 to J take the place of what came before."""
    for layer in range(len(blocks["ln_1"]["scale"])):
        p = jax.tree.map(lambda leaf, layer=layer: leaf[layer], blocks)
        if 0 < layer < len(prompts):
            end = start + prompts.shape[1]
            x = torch.cat([x[:, :start], prompts[layer].expand(len(x), -1, -1), x[:, end:]], dim=1)
        y = layer_norm(x, p["ln_1"])
        q, k, v = (dense(y, p["attn"][f"{n}_proj"]).unflatten(-1, (4, -1)).transpose(1, 2) for n in "qkv")
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + dense(mixed.transpose(1, 2).flatten(2), p["attn"]["out_proj"])
        hidden = dense(layer_norm(x, p["ln_2"]), p["mlp"]["fc1"])
        x = x + dense(hidden * torch.sigmoid(1.702 * hidden), p["mlp"]["fc2"])
    return x


def visual_prompts(params):
    if "coupling" in params:
        return params["text_prompts"] @ params["coupling"] + params["coupling_bias"][:, None]
    return params["visual_prompts"]


def reference(clip, params, texts, before_norm):
    """Text features [C, D], and image and patch features [B, 1 + N, D]."""
    ids, ends = torch.tensor(np.array(texts.ids)), torch.tensor(np.array(texts.ends))
    p, prompts = clip["text"], params["text_prompts"]
    x = p["token_embedding"]["embedding"][ids]
    x = (
        torch.cat([x[:, :1], prompts[0].expand(len(x), -1, -1), x[:, 3:]], dim=1)
        + p["position_embedding"][: x.shape[1]]
    )
    x = tower(x, p["blocks"], prompts, 1, True)
    text = dense(layer_norm(x[torch.arange(len(x)), ends], p["ln_final"]), p["projection"])

    p = clip["visual"]
    visual = visual_prompts(params)
    rows = torch.tensor(IMAGES).reshape(-1, 4, 8, 4, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 192)
    patches = rows @ p["patch_embedding"]["kernel"].reshape(192, -1)
    x = torch.cat([p["class_embedding"].expand(len(rows), 1, -1), patches], dim=1) + p["position_embedding"]
    first = visual[0].expand(len(x), -1, -1)
    if before_norm:
        x = layer_norm(torch.cat([x, first], dim=1), p["ln_pre"])
    else:
        x = torch.cat([layer_norm(x, p["ln_pre"]), first], dim=1)
    x = tower(x, p["blocks"], visual, 17, False)
    return text, dense(layer_norm(x[:, :17], p["ln_post"]), p["projection"])


@pytest.mark.parametrize(
    ("learner", "before_norm"),
    [
        (MaplePrompts(SPEC.text, SPEC.vision, 1, 2, 0.02, "", True), True),
        (MaplePrompts(SPEC.text, SPEC.vision, 2, 2, 0.02, "", False), False),
        (PromptSrcPrompts(SPEC.text, SPEC.vision, 2, 2, 0.02, "", True, num_visual=3, visual_std=0.02), True),
    ],
)
def test_both_towers_and_their_gradients_are_those_of_plain_pytorch(learner, before_norm):
    model = tiny.model(learner=learner)
    rng = np.random.default_rng(1)
    params = {
        name: rng.standard_normal(x.shape).astype(np.float32) * 0.3 for name, x in model.learner.param_shapes().items()
    }
    texts, clip = tiny.soft_texts(num_ctx=2), tiny.clip_params()

    @jax.jit
    def ours(params):
        embedded = model.apply(variables(clip, {}), texts, method="embed")
        _, out = model.apply(variables(clip, params), IMAGES, embedded)
        image = jnp.concatenate([out["image_features"][:, None], out["patch_features"]], axis=1)
        loss = jnp.sum(jnp.sin(out["text_features"])) + jnp.sum(jnp.sin(image))
        return loss, (out["text_features"], image)

    (_, found), gradients = jax.value_and_grad(ours, has_aux=True)(params)
    leaves = {name: x.requires_grad_() for name, x in to_torch(params).items()}
    expected = reference(to_torch(clip), leaves, texts, before_norm)
    sum(torch.sin(value).sum() for value in expected).backward()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.detach(), rtol=1e-4, atol=1e-4)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(gradients[name], leaf.grad, rtol=1e-3, atol=1e-3, err_msg=name)
        assert np.abs(gradients[name]).max() > 1e-2
