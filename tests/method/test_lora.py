"""LoRA: its layers and gradients against PyTorch, and a run with it from training to export."""

import contextlib
import copy
import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import METHODS
from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.run_checkpoints import Checkpoints
from mpafer_jax.backbones.clip import model as clip_lib
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.schema import ModelSections
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.attribution import Explainer
from mpafer_jax.inference.export import check, onnx, programs, whole
from mpafer_jax.jobs import evaluate, train
from mpafer_jax.method import build
from mpafer_jax.method.hard_prompts.features import text_encoder
from mpafer_jax.method.lora import LoraUpdates
from mpafer_jax.method.prompts import Prompts
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError
from tests import needs, tiny
from tests.jobs import runs

SPEC = clip_lib.CLIP(tiny.CLIP).spec
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def learner(spec=SPEC, rank=2, alpha=3.0) -> LoraUpdates:
    return LoraUpdates(spec.text, spec.vision, rank, alpha, "a photo of a")


def random_params(of: LoraUpdates) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: 0.3 * rng.standard_normal(x.shape).astype(np.float32) for name, x in of.param_shapes().items()}


def test_the_initial_update_is_zero():
    params = learner().initial_params(0)
    shapes = {name: value.shape for name, value in params.items()}
    assert shapes == {
        "visual_a": (3, 3, 32, 2),
        "visual_b": (3, 3, 2, 32),
        "text_a": (2, 3, 24, 2),
        "text_b": (2, 3, 2, 24),
    }
    for name, width in (("visual", 32), ("text", 24)):
        np.testing.assert_array_equal(params[f"{name}_b"], 0)
        assert 0.8 * width**-0.5 < np.abs(params[f"{name}_a"]).max() <= width**-0.5
    frozen = tiny.clip_params()
    merged = learner().merge(params, clip_lib.CLIP(tiny.CLIP), frozen)
    jax.tree.map(np.testing.assert_array_equal, merged, frozen)


def test_only_queries_keys_and_values_change():
    frozen, params = tiny.clip_params(), random_params(learner())
    merged = learner().merge(params, clip_lib.CLIP(tiny.CLIP), frozen)
    changed = jax.tree_util.tree_map_with_path(lambda path, x, y: np.any(x != y) and str(path), merged, frozen)
    names = {path for path in jax.tree.leaves(changed) if path}
    assert len(names) == 6
    assert all("kernel" in name and any(projection in name for projection in PROJECTIONS) for name in names)
    kernel = frozen["text"]["blocks"]["attn"]["v_proj"]["kernel"][1]
    expected = kernel + 1.5 * params["text_a"][1, 2] @ params["text_b"][1, 2]
    np.testing.assert_allclose(merged["text"]["blocks"]["attn"]["v_proj"]["kernel"][1], expected, rtol=1e-5, atol=1e-6)


def test_weights_stay_in_bfloat16():
    frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny.clip_params())
    merged = learner().merge(random_params(learner()), clip_lib.CLIP(tiny.CLIP), frozen)
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}


def test_bfloat16_towers_of_every_cpu_have_gradients(monkeypatch):
    """Those with a unit for bfloat16 read layers' weights as bits, which have none, for learners of prompts."""
    lora, frozen = learner(), jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny.clip_params())
    params, images = random_params(lora), jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

    def gradient(unit):
        monkeypatch.setattr(devices, "bfloat16_unit", lambda: unit)
        backbone = build.for_this_device(tiny.model(dtype=jnp.dtype(jnp.bfloat16), learner=lora)).backbone

        def loss(params):
            merged = {"params": lora.merge(params, backbone, frozen)}
            return jnp.sum(jnp.sin(backbone.apply(merged, images, method="encode_image")[0]))

        return jax.jit(jax.grad(loss))(params)

    found, expected = gradient("amx_bf16"), gradient("")
    for name in ("visual_a", "visual_b"):
        largest = np.abs(expected[name]).max()
        assert largest > 1e-3
        np.testing.assert_allclose(found[name], expected[name], atol=0.1 * float(largest))


@pytest.mark.torch
def test_both_towers_and_the_gradients_are_those_of_pytorch(tmp_path):
    """Of transformers' CLIP, whose projections compute W x + alpha / r B A x."""
    torch = needs.module("torch")
    from tests.backbones import torch_clip

    class LoraLinear(torch.nn.Module):
        def __init__(self, frozen, a, b):
            super().__init__()
            self.frozen = frozen
            self.a, self.b = (torch.nn.Parameter(torch.tensor(x.T.copy())) for x in (a, b))  # [r, in], [out, r]

        def forward(self, x):
            return self.frozen(x) + 3.0 / 2 * (x @ self.a.t()) @ self.b.t()

    config = torch_clip.config()
    reference = torch_clip.model(config)
    reference.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    images, ids = torch_clip.inputs(config)
    lora = learner(loaded.backbone.spec)
    params = random_params(lora)

    @jax.jit
    def ours(params):
        merged = {"params": lora.merge(params, loaded.backbone, loaded.params)}
        image, _ = loaded.backbone.apply(merged, images, method="encode_image")
        text, _ = loaded.backbone.apply(merged, ids, method="encode_text")
        return jnp.sum(jnp.sin(image)) + jnp.sum(jnp.sin(text)), (image, text)

    (_, found), gradients = jax.value_and_grad(ours, has_aux=True)(params)

    layers = {}
    for tower, module in (("visual", reference.vision_model), ("text", reference.text_model)):
        for number, layer in enumerate(module.encoder.layers):
            for index, name in enumerate(PROJECTIONS):
                a, b = (params[f"{tower}_{letter}"][number, index] for letter in "ab")
                layers[tower, number, index] = LoraLinear(getattr(layer.self_attn, name), a, b)
                setattr(layer.self_attn, name, layers[tower, number, index])
    pixels, tokens = torch.tensor(images.transpose(0, 3, 1, 2).copy()), torch.tensor(ids.astype(np.int64))
    image = reference.visual_projection(reference.vision_model(pixel_values=pixels).pooler_output)
    text = reference.text_projection(reference.text_model(input_ids=tokens).pooler_output)
    (torch.sin(image).sum() + torch.sin(text).sum()).backward()
    for one, other in zip(found, (image, text), strict=True):
        np.testing.assert_allclose(one, other.detach(), rtol=1e-4, atol=1e-4)
    for (tower, number, index), layer in layers.items():
        for letter in "ab":
            gradient = gradients[f"{tower}_{letter}"][number, index].T
            np.testing.assert_allclose(gradient, getattr(layer, letter).grad, rtol=1e-3, atol=1e-3)
            assert index == 1 or np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("changes", [{"ctx.class_specific": True}, {"visual_prompts.num_prompts": 3}])
def test_prompts_are_refused(sample, changes):
    config = runs.config(sample, **{**METHODS["lora"], **changes})
    with pytest.raises(ConfigError, match=r"'lora' has no prompts: set ctx.class_specific to False, and visual"):
        LoraUpdates.configured(ModelSections.model_construct(**dict(config)), SPEC, 3)


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory):
    """A run of three steps, large enough to change predictions: (workdir, configuration's changes, summary)."""
    few = {"train.num_steps": 3, "optimizer.warmup_steps": 0, "optimizer.learning_rate": 0.05}
    changes = {**METHODS["lora"], **few, "head.local_weight": 1.0}
    workdir = tmp_path_factory.mktemp("lora")
    return workdir, changes, train.train_and_evaluate(runs.config(sample, **changes), workdir)


def last(workdir):
    return checkpoints.load(workdir, "last")[0]


@pytest.mark.training
def test_training_moves_every_layer(run):
    workdir, _, summary = run
    names = ("text_a", "text_b", "visual_a", "visual_b")
    assert summary["trained_parameters"] == dict.fromkeys(names, 3 * 3 * 64 * 2)
    for name in ("text_b", "visual_b"):
        assert np.all(np.any(last(workdir)[name] != 0, axis=(2, 3))), name


@pytest.mark.training
def test_a_run_resumes_to_the_bit_and_starts_another(run, sample, tmp_path):
    workdir, changes, _ = run
    shutil.copytree(workdir, tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step_3")
    (tmp_path / "resumed" / "summary.json").unlink()
    train.train_and_evaluate(runs.config(sample, **changes), tmp_path / "resumed")
    jax.tree.map(np.testing.assert_array_equal, last(tmp_path / "resumed"), last(workdir))
    changes = {**changes, "train.warm_start": str(workdir), "eval.which": "last"}
    prepared = train.prepare(runs.config(sample, **changes), tmp_path / "other")
    with contextlib.closing(Checkpoints(tmp_path / "other", keep=1, select_by="war")) as store:
        jax.tree.map(np.testing.assert_array_equal, dict(train.start(prepared, store).params), last(workdir))


@pytest.mark.training
def test_evaluation_prediction_and_explanation_agree(run, sample, tmp_path):
    workdir, _, summary = run
    result = evaluate.evaluate_checkpoint(runs.config(sample, **{"eval.checkpoint": str(workdir)}), tmp_path)
    assert result["test"] == summary["best"]["test"]
    files = sorted((sample / "faces" / "test").glob("*/*.png"))
    predictor = Predictor.from_checkpoint(workdir, batch_sizes=(25,))
    predictions = list(predictor.stream(files, keep_pixels=True))
    right = [found.expression == found.source.file.split("/")[-2] for found in predictions]
    assert np.mean(right) == pytest.approx(summary["best"]["test"]["war"])
    # The training step's forward pass gives the same logits.
    frozen = dataclasses.replace(predictor.frozen, backbone=load_backbone(str(sample / "clip")).params)
    pixels = np.stack([found.pixels for found in predictions])
    logits, _ = jax.jit(predictor.forward)(predictor.params, frozen, {"image": pixels})
    np.testing.assert_allclose(logits, [found.logits for found in predictions], rtol=1e-3, atol=1e-3)
    # Before the first update they are zero-shot CLIP's.
    fresh = predictor.model.learner.initial_params(0)
    first, _ = jax.jit(predictor.forward)(fresh, frozen, {"image": pixels})
    encode = text_encoder(predictor.model, frozen.backbone, predictor.tokenizer.encode)
    texts, _ = encode([f"a photo of a {name}." for name in predictor.class_names])
    zero_shot, _ = jax.jit(predictor.forward.classify)(Prompts(), frozen, pixels, texts)
    np.testing.assert_allclose(first, zero_shot, rtol=1e-4, atol=1e-4)
    assert np.abs(first - logits).max() > 0.1


@pytest.mark.training
def test_phrases_are_ranked_by_the_frozen_clip(run, sample):
    predictor = Predictor.from_checkpoint(run[0], batch_sizes=(2,))
    jax.tree.map(np.testing.assert_array_equal, predictor.untrained, load_backbone(str(sample / "clip")).params)
    predictions = list(predictor.stream(sorted((sample / "faces" / "test").glob("*/*.png"))[:2], keep_pixels=True))
    untrained = copy.copy(predictor)
    untrained.frozen = dataclasses.replace(predictor.frozen, backbone=predictor.untrained)
    for found, bare in zip(*(Explainer(one).explain(predictions) for one in (predictor, untrained)), strict=True):
        assert dict(found.phrases) == pytest.approx(dict(bare.phrases), abs=1e-5)
        assert np.abs(found.rollout - bare.rollout).max() > 1e-6
        assert found.prompt_share == 0


@pytest.mark.training
@pytest.mark.parametrize("form", ["prompts", "stablehlo", pytest.param("onnx", marks=pytest.mark.onnx)])
def test_an_export_says_what_the_predictor_says(run, sample, tmp_path, form):
    predictor = Predictor.from_checkpoint(run[0], batch_sizes=(5,))
    pixels = check.drawn_faces(5, predictor.image_size)
    whole.export(str(run[0]), (form,), tmp_path / "out")
    if form == "prompts":
        again = Predictor.from_checkpoint(tmp_path / "out", batch_sizes=(5,), clip=str(sample / "clip"))
        np.testing.assert_array_equal(again.logits(pixels), predictor.logits(pixels))
        return
    expected = predictor.logits(pixels)
    loaded = (programs.load_stablehlo if form == "stablehlo" else onnx.load_onnx)(tmp_path / "out")
    np.testing.assert_allclose(loaded(pixels)["logits"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
