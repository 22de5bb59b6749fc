"""The predictor: the numbers of an evaluation, from any kind of input, in any batch, lazily."""

import dataclasses
import io
import itertools
import json
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.artifacts.loaded import load_model
from mpafer_jax.backbones.clip.model import CLIP
from mpafer_jax.backbones.registry import load_backbone
from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.data.normalize import normalize_images
from mpafer_jax.data.preprocess import resize
from mpafer_jax.inference import Failure, Prediction, Predictor
from mpafer_jax.jobs import evaluate
from mpafer_jax.method.forward import Forward
from mpafer_jax.method.prompts import tokenize
from mpafer_jax.runtime.errors import CheckpointError, ConfigError, ImageError, NonFiniteError, PromptError
from tests.jobs import runs


def test_the_numbers_are_those_of_an_evaluation(sample, trained, predictor, faces, tmp_path):
    config = runs.config(sample, **{"eval.checkpoint": str(trained)})
    evaluated = evaluate.evaluate_checkpoint(config, tmp_path)["test"]
    predictions = predictor.predict_batch(faces)
    names = evaluated["class_names"]
    assert predictor.class_names == tuple(names)
    truth = [names.index(canonical_name(path.parent.name)) for path in faces]
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (truth, [prediction.top_index for prediction in predictions]), 1)
    assert confusion.tolist() == evaluated["confusion"]
    loss = -np.mean([np.log(p.probabilities[label]) for p, label in zip(predictions, truth, strict=True)])
    assert loss == pytest.approx(evaluated["cross_entropy"], rel=1e-4)


def test_every_kind_of_input_is_the_same_image(predictor, faces):
    path = faces[7]
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
        kinds = [path, str(path), path.read_bytes(), image, rgb]
        one_by_one = [predictor.predict(kind) for kind in kinds]
    together = predictor.predict_batch(np.stack([rgb, rgb]))
    for found in (*one_by_one, *together):
        np.testing.assert_allclose(found.logits, one_by_one[0].logits, rtol=1e-4, atol=1e-4)
    assert [found.source.file for found in one_by_one] == [str(path)] * 2 + ["image 0", str(path), "image 0"]
    assert [found.source.index for found in together] == [0, 1]


def test_an_image_whose_logits_are_not_finite_is_no_class(trained, faces):
    experiment, params, description, _ = load_model(trained, "best", "")
    clip = experiment.frozen.backbone
    # Black is 0 with this mean, and stays finite under weights that everything else overflows with.
    embedding = {"kernel": clip["visual"]["patch_embedding"]["kernel"] * np.float32(1e38)}
    clip = {**clip, "visual": {**clip["visual"], "patch_embedding": embedding}}
    broken = Predictor(
        experiment.with_frozen(backbone=clip),
        params,
        Predictor.from_checkpoint(trained).text_features,
        trained_on=description.trained_on,
        forward=Forward(experiment.model, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        batch_sizes=(1, 4),
    )
    black = np.zeros((64, 64, 3), np.uint8)
    found = list(broken.stream([black, faces[0], black]))
    assert [type(result) for result in found] == [Prediction, Failure, Prediction]
    assert [result.source.index for result in found] == [0, 1, 2]
    assert "logits are NaN or infinite" in found[1].reason
    np.testing.assert_array_equal(found[0].logits, found[2].logits)
    with pytest.raises(ImageError, match="logits are NaN or infinite"):
        broken.predict(faces[0])
    pixels = np.stack([np.zeros((broken.image_size, broken.image_size, 3), np.uint8)] * 2)
    pixels[1] = 200
    with pytest.raises(NonFiniteError, match=r"logits of 1 of 2 images are NaN or infinite, first those of b\.png"):
        broken.logits(pixels, ["a.png", "b.png"])


def test_prompts_of_another_shape_are_named(trained):
    params, _, _ = checkpoints.load(trained, "best")
    learner = Predictor.from_checkpoint(trained).model.learner
    learner.check(params)
    other = {
        "ctx": params["ctx"][1:],
        "visual_prompts": params["visual_prompts"].astype(np.float64),
        "more": np.ones(2),
    }
    with pytest.raises(CheckpointError) as error:
        learner.check(other)
    rows, width = params["ctx"].shape
    assert f"ctx: found float32 [{rows - 1}, {width}], expected float32 [{rows}, {width}]" in str(error.value)
    assert "visual_prompts: found float64" in str(error.value)
    assert "more: found float64 [2], expected nothing" in str(error.value)


def test_channels_are_red_green_blue_and_photos_upright(predictor, faces):
    rgb = np.asarray(Image.open(faces[0]).convert("RGB"))
    assert np.abs(predictor.predict(rgb).logits - predictor.predict(rgb[..., ::-1].copy()).logits).max() > 1e-3
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(rgb).copy()).save(buffer, "PNG", exif=exif)  # stored on its side, to be turned clockwise
    for stored in (buffer.getvalue(), Image.open(buffer)):
        np.testing.assert_allclose(predictor.predict(stored).logits, predictor.predict(rgb).logits, atol=1e-4)


def test_a_batch_of_any_size_compiles_one_of_the_few(trained, faces):
    predictor = Predictor.from_checkpoint(trained, batch_sizes=(2, 8))
    assert not predictor._classify._compiled
    whole = predictor.predict_batch(faces)  # 8 + 8 + 8 + 1
    assert sorted(predictor._classify._compiled) == [2, 8]
    for size in (1, 2, 3, 7):
        for found, expected in zip(predictor.predict_batch(faces[:size]), whole[:size], strict=True):
            np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
            assert found.source.file == expected.source.file
    assert sorted(predictor._classify._compiled) == [2, 8]
    pixels = np.stack([np.asarray(resize(Image.open(path).convert("RGB"), predictor.image_size)) for path in faces])
    np.testing.assert_allclose(predictor.logits(pixels), np.stack([p.logits for p in whole]), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"batch_sizes must be positive and ascend, found \[8, 2\]"):
        Predictor.from_checkpoint(trained, batch_sizes=(8, 2))
    with pytest.raises(TypeError, match=r"one image, expected several: \[image\], or predict\(image\)"):
        predictor.predict_batch(str(faces[0]))
    with pytest.raises(ValueError, match="batch_size must be 1 to 8, the largest compiled, found 9"):
        next(predictor.stream(faces, batch_size=9))


def test_what_an_iterator_fills_anew_for_each_image_is_not_mixed_up(predictor, faces, tmp_path):
    images = [Image.open(face).convert("RGB").resize((48, 48)) for face in faces[:6]]
    arrays = [np.asarray(image) for image in images]
    buffer = np.zeros_like(arrays[0])

    def refilled():
        for array in arrays:
            buffer[:] = array
            yield buffer

    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], lossless=True)
    with Image.open(tmp_path / "a.webp") as animation:
        found = [
            [prediction.probabilities for prediction in predictor.stream(source)]
            for source in (arrays, refilled(), ImageSequence.Iterator(animation))
        ]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_an_opened_image_may_be_closed_once_it_is_handed_over(predictor, faces, tmp_path):
    (tmp_path / "broken.png").write_bytes(faces[0].read_bytes()[:-200])

    def opened():
        for path in (faces[0], tmp_path / "broken.png", faces[1]):
            with Image.open(path) as image:
                yield image
            image.close()  # its pixels too

    first, broken, last = predictor.stream(opened())
    assert isinstance(broken, Failure)
    assert broken.source.file == str(tmp_path / "broken.png")
    assert "cut short or damaged" in broken.reason
    for found, path in ((first, faces[0]), (last, faces[1])):
        np.testing.assert_allclose(found.logits, predictor.predict(path).logits, rtol=1e-4, atol=1e-4)
    with Image.open(tmp_path / "broken.png") as image, pytest.raises(ImageError, match="cut short or damaged"):
        predictor.predict(image)


def test_a_stream_is_lazy_ordered_and_goes_on_after_failures(predictor, faces, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(faces[0].read_bytes()[:200])
    taken = 0

    def endless():
        nonlocal taken
        for index in itertools.count():
            taken += 1
            yield {3: tmp_path / "broken.jpg", 5: tmp_path / "absent.jpg"}.get(index, faces[index % len(faces)])

    before = threading.active_count()
    stream = predictor.stream(endless())
    results = list(itertools.islice(stream, 40))
    assert taken <= 40 + 4 * predictor.batch_sizes[-1]
    stream.close()
    assert threading.active_count() == before
    assert [result.source.index for result in results] == list(range(40))
    assert [i for i, result in enumerate(results) if isinstance(result, Failure)] == [3, 5]
    assert "cut short or damaged" in results[3].reason
    assert results[5].to_dict() == {
        "file": str(tmp_path / "absent.jpg"),
        "index": 5,
        "frame": None,
        "seconds": None,
        "status": "error",
        "reason": "no such file",
    }
    expected = predictor.predict_batch(faces)
    for index, result in enumerate(results):
        if isinstance(result, Prediction):
            np.testing.assert_allclose(result.logits, expected[index % len(faces)].logits, rtol=1e-4, atol=1e-4)


def test_one_at_a_time_no_image_is_taken_before_the_last_result_is_out(predictor, faces):
    taken = []
    stream = predictor.stream((taken.append(path) or path for path in [*faces[:2], "absent", faces[3]]), batch_size=1)
    for number, _ in enumerate(stream, start=1):
        assert len(taken) == number
    assert number == 4


def test_what_fails_is_named(predictor, faces, tmp_path):
    with pytest.raises(ImageError, match=r"nobody\.png: no such file"):
        predictor.predict(tmp_path / "nobody.png")
    with pytest.raises(ImageError, match="expected a file, found a folder"):
        predictor.predict(tmp_path)
    with pytest.raises(ImageError, match="image 1: the file is empty"):
        predictor.predict_batch([faces[0], b""])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "arrays of uint8 from 0 to 255, found float32"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\[height, width, 3\] .*found \[4, 4\]"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"red, green, blue, found \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"found \[0, 4, 3\]"),
        (3, TypeError, "input 0 is a int; expected a path"),
    ],
)
def test_mistakes_of_a_program_are_raised(predictor, image, error, message):
    with pytest.raises(error, match=message):
        predictor.predict(image)


def test_a_prediction_says_what_it_rests_on(predictor, faces):
    prediction = predictor.predict(faces[3])
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert prediction.expression == predictor.class_names[int(np.argmax(prediction.logits))]
    assert prediction.grid == (8, 8)
    assert prediction.patch_scores.shape == (64, 5)
    for scores, patches in zip(prediction.patch_scores.T, prediction.top_patches, strict=True):
        assert patches.tolist() == np.argsort(-scores, kind="stable")[:16].tolist()
    values = json.loads(json.dumps(prediction.to_dict(), allow_nan=False))
    assert values["expression"] == prediction.expression
    assert values["confidence"] == max(values["probabilities"].values())
    assert list(values["logits"]) == list(values["top_patches"]) == list(predictor.class_names)
    assert values["face"] is None
    assert str(prediction) == f"{faces[3]}: {prediction.expression}, {100 * prediction.confidence:.1f}%"
    assert repr(prediction) == f"<Prediction of {prediction}>"  # no arrays
    assert prediction.pixels is None
    (kept,) = predictor.stream([faces[3]], keep_pixels=True)
    np.testing.assert_array_equal(kept.pixels, np.asarray(resize(Image.open(faces[3]).convert("RGB"), 64)))


def test_a_predictor_says_what_it_was_trained_on(trained, predictor, sample):
    seen = predictor.trained_on
    train = sum(checkpoints.load(trained, "best")[1].data["counts"]["train"])
    assert train > 0
    assert (seen.dataset, seen.images, seen.clip) == ("folder", train, str(sample / "clip"))
    assert str(seen) == f"trained on {train} images of folder; CLIP {sample / 'clip'}"
    assert seen.warning == ""
    assert repr(predictor) == f"<Predictor of {', '.join(predictor.class_names)}; {seen}>"
    drawn = TrainedOn("synthface", 2800, "openai/clip-vit-base-patch16")
    assert str(drawn) == "trained on 2,800 drawn faces of synthface; CLIP openai/clip-vit-base-patch16"
    assert "cannot read photographs" in drawn.warning
    untrained = TrainedOn("", 0, "tiny-face-clip")
    assert str(untrained) == "not trained (zero-shot); CLIP tiny-face-clip"
    assert "of no use for photographs" in untrained.warning


def test_the_clip_may_have_moved_but_must_be_the_same(trained, sample, faces, predictor, tmp_path):
    shutil.copytree(sample / "clip", tmp_path / "clip")
    moved = Predictor.from_checkpoint(trained, clip=str(tmp_path / "clip"), batch_sizes=(8,))
    np.testing.assert_array_equal(
        moved.predict_batch(faces[:3])[1].logits, predictor.predict_batch(faces[:3])[1].logits
    )
    with pytest.raises(CheckpointError, match=r"its CLIP, '/nowhere/clip', cannot be loaded: .*--clip"):
        Predictor.from_checkpoint(trained, clip="/nowhere/clip")
    with pytest.raises(CheckpointError, match="prompts fit no other CLIP"):
        Predictor.from_checkpoint(trained, clip=str(runs.other_clip(sample, tmp_path / "other")))
    with pytest.raises(CheckpointError, match="no checkpoint at /nowhere"):
        Predictor.from_checkpoint("/nowhere")


def test_zero_shot_without_patches_is_clips_own_classification(sample, faces):
    loaded = load_backbone(str(sample / "clip"))
    names = ("anger", "happiness", "boredom")
    predictor = Predictor.zero_shot(loaded, names, None, local_weight=0.0, batch_sizes=(4,))
    tokens = tokenize(
        [f"a photo of a person making a facial expression of {name}" for name in names],
        predictor.tokenizer.encode,
        loaded.backbone.spec.tokens,
    )
    pixels = np.stack([np.asarray(resize(Image.open(path).convert("RGB"), 64)) for path in faces[:3]])
    images = normalize_images(jnp.asarray(pixels), loaded.image_mean, loaded.image_std)
    logits, _ = jax.jit(CLIP(loaded.backbone.config).apply)({"params": loaded.params}, images, tokens.ids)
    found = predictor.predict_batch(faces[:3])
    np.testing.assert_allclose(np.stack([p.logits for p in found]), logits, rtol=1e-4, atol=1e-4)
    assert found[0].patch_scores is found[0].top_patches is None
    assert found[0].to_dict()["top_patches"] is None


def test_words_of_folders_are_printed_and_canonical_names_read(trained, monkeypatch):
    own = Predictor.from_checkpoint(trained, batch_sizes=(1,))
    params, description, step = checkpoints.load(trained, "best")
    words = ("Angry", "joy", "Neutral", "SAD", "surprised")
    called = description.model_copy(update={"class_names": words})
    monkeypatch.setattr(checkpoints, "load", lambda *_: (params, called, step))
    other = Predictor.from_checkpoint(trained, batch_sizes=(1,))
    assert other.class_names == words
    np.testing.assert_array_equal(other.text_features, own.text_features)


def test_zero_shot_reads_a_bank_and_refuses_what_it_cannot_do(sample, faces):
    clip = str(sample / "clip")
    predictor = Predictor.zero_shot(clip, ("fear", "Joy"), paraphrases=2, batch_sizes=(1,))
    (texts,) = {len(predictor.hard_prompts.of_class(index)) for index in (0, 1)}
    assert texts == 2
    assert predictor.hard_prompts.of_class(1)[0].startswith("a photo of a person making a facial expression of Joy, ")
    prediction = predictor.predict(faces[0])
    assert prediction.top_patches.shape == (2, 5)  # of 64 patches as many as 16 of 196
    with pytest.raises(PromptError, match="has no class 'boredom', 'calm'; it has"):
        Predictor.zero_shot(clip, ("fear", "boredom", "calm"))
    with pytest.raises(ConfigError, match="class_names: 'joy' and 'Happy' are the same class, 'happiness'"):
        Predictor.zero_shot(clip, ("joy", "Happy"))
    with pytest.raises(ConfigError, match="class_names: found 'joy', expected at least 2"):
        Predictor.zero_shot(clip, ("joy",))
    with pytest.raises(PromptError, match="'level 12' and 'level 1 2' become the same tokens"):
        Predictor.zero_shot(clip, ("level 12", "level 1 2"), None)
    with pytest.raises(ConfigError, match=r"top_k is 65, .* has 64 patches"):
        Predictor.zero_shot(clip, ("fear", "anger"), None, top_k=65)
    with pytest.raises(PromptError, match="do not fit"):
        Predictor.zero_shot(clip, ("fear", "very " * 80), None)
    unknown = dataclasses.replace(load_backbone(clip), image_mean=None)
    with pytest.raises(ConfigError, match=r"says no mean and std of its images; put a preprocessor_config\.json"):
        Predictor.zero_shot(unknown, ("fear", "anger"), None)


def test_a_large_model_predicts_the_same(predictor, trained, faces, monkeypatch):
    """Its image tower is unrolled, which is why the size is set to nothing here."""
    monkeypatch.setattr("mpafer_jax.inference.predictor._LARGE", 0)
    unrolled = Predictor.from_checkpoint(trained)
    for found, expected in zip(unrolled.predict_batch(faces[:3]), predictor.predict_batch(faces[:3]), strict=True):
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.patch_scores, expected.patch_scores, rtol=1e-4, atol=1e-4)
