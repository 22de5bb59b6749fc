"""Batches: functions of (seed, step), cut into processes; captions, their noise and their length."""

import dataclasses

import numpy as np
import pytest

from configs import pretrain_tiny_clip
from mpafer_jax.backbones.clip.tokenizer import load_tokenizer
from mpafer_jax.backbones.files import SHIPPED
from mpafer_jax.data import pipeline
from mpafer_jax.jobs.pretraining import batches
from mpafer_jax.jobs.pretraining.config import PretrainConfig
from mpafer_jax.jobs.pretraining.sources import CaptionedImages
from mpafer_jax.runtime.errors import PromptError

SIZE, NUMBER, VOCABULARY = 8, 20, 200
SOS, EOS = VOCABULARY - 2, VOCABULARY - 1
CAPTIONS = [tuple(f"p{i} " + "w " * (1 + (i + j) % 4) for j in range(1 + i % 3)) for i in range(NUMBER)]


def encode(texts):
    """A word is its number: 'p7' is 7, 'w' is 100."""
    return [[SOS, *(100 if word == "w" else int(word[1:]) for word in text.split()), EOS] for text in texts]


def make(*, noise=0.0, seed=0, batch_size=6, process=0, processes=1, kept=16) -> batches.TrainBatches:
    rng = np.random.default_rng(9)
    data = CaptionedImages(
        images=rng.integers(0, 256, (NUMBER, 12, 12, 3)).astype(np.uint8),
        captions=CAPTIONS,
        statements=(),
        truth=np.arange(NUMBER, dtype=np.float32)[:, None] / NUMBER,
        fingerprint="",
    )
    return batches.TrainBatches(
        data=data,
        captions=batches.CaptionTable.of(CAPTIONS, encode, 16),
        order=pipeline.ShuffledOrder(seed, NUMBER),
        augment=PretrainConfig.from_config_dict(pretrain_tiny_clip.get_config()).data.augment,
        image_size=SIZE,
        batch_size=batch_size,
        seed=seed,
        local=pipeline.local_positions(batch_size, process, processes),
        fill=(1, 2, 3),
        token_noise=noise,
        vocab_size=VOCABULARY,
        num_patches=16,
        kept_patches=kept,
        kept_until=2,
    )


def image_of(batch):
    return np.round(batch["truth"][:, 0] * NUMBER).astype(int)


def test_a_batch_depends_on_seed_and_step_alone():
    first, again = make(noise=0.3), make(noise=0.3)
    later = [again(step) for step in (5, 2, 0)]  # in another order, with others before
    for step, batch in zip((5, 2, 0), later, strict=True):
        for name, value in first(step).items():
            np.testing.assert_array_equal(value, batch[name], err_msg=name)
    other = make(noise=0.3, seed=1)(0)
    assert any(not np.array_equal(value, later[-1][name]) for name, value in other.items())
    shapes = {name: (value.shape, value.dtype.name) for name, value in later[0].items()}
    assert shapes["image"] == ((6, SIZE, SIZE, 3), "uint8")
    assert shapes["caption_hash"] == ((6,), "uint32")
    assert (shapes["ids"][1], shapes["ends"], shapes["truth"]) == (
        "int32",
        ((6,), "int32"),
        ((6, 1), "float32"),
    )


def test_processes_share_a_global_batch():
    for step in (0, 4):
        whole = make(noise=0.3)(step)
        parts = [make(noise=0.3, process=i, processes=2)(step) for i in range(2)]
        for name, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([part[name] for part in parts]), err_msg=name)


def test_captions_belong_to_their_image_and_each_is_drawn():
    seen = set()
    for step in range(40):
        batch = make()(step)
        for image, ids, eos in zip(image_of(batch), batch["ids"], batch["ends"], strict=True):
            assert ids[0] == SOS
            assert ids[1] == image
            assert ids[eos] == EOS
            assert (ids[eos + 1 :] == 0).all()
            seen.add((int(image), tuple(ids[: eos + 1])))
    assert seen == {(i, tuple(encode([text])[0])) for i, own in enumerate(CAPTIONS) for text in own}


def test_equal_captions_have_equal_hashes():
    table = batches.tokenize_all(["p1 w", "p2 w", "p1 w"], encode, 16)
    assert table.hashes[0] == table.hashes[2] != table.hashes[1]
    # What counts is what the tower reads: capitals, spaces and typographic quotes make no other caption.
    read = load_tokenizer(SHIPPED["tiny-face-clip"].folder).encode_many
    assert len(set(batches.tokenize_all(["It's  a face", "it\u2019s a Face"], read, 77).hashes.tolist())) == 1


def test_noise_spares_start_end_and_padding():
    plain, noisy = make(), make(noise=0.5)
    changed = total = 0
    for step in range(60):
        one, other = plain(step), noisy(step)
        np.testing.assert_array_equal(one["caption_hash"], other["caption_hash"])  # of what was meant
        np.testing.assert_array_equal(one["ends"], other["ends"])
        for before, after, eos in zip(one["ids"], other["ids"], one["ends"], strict=True):
            assert after[0] == SOS
            np.testing.assert_array_equal(after[eos:], before[eos:])
            assert (after[1:eos] < SOS).all()
            changed, total = changed + int((before != after)[1:eos].sum()), total + int(eos) - 1
    assert 0.44 < changed / total < 0.56


def test_a_caption_that_is_too_long_is_named():
    with pytest.raises(PromptError, match=r"6 tokens does not fit the 5 positions: 'p1 w w w'; shorten it or raise"):
        batches.tokenize_all(["p1 w", "p1 w w w"], encode, 5)
    assert batches.tokenize_all(["p1 w w w"], encode, 6).ids.shape == (1, 6)


def test_one_phrasing_of_each_statement_is_drawn_for_an_update():
    phrasings = [("p1", "p2 w"), ("p3",), ("p4", "p5", "p6")]
    texts = batches.StatementTexts(batches.CaptionTable.of(phrasings, encode, 16), seed=0)
    drawn = [texts.draw(step) for step in range(40)]
    for name, value in texts.draw(7).items():
        np.testing.assert_array_equal(value, drawn[7][name])
    for column, own in enumerate(phrasings):
        found = {tuple(draw["ids"][column][: draw["ends"][column] + 1]) for draw in drawn}
        assert found == {tuple(ids) for ids in encode(own)}
    other = dataclasses.replace(texts, seed=1)
    assert any(not np.array_equal(other.draw(step)["ids"], drawn[step]["ids"]) for step in range(40))


def test_the_first_steps_keep_other_patches_of_each_image():
    made = make(kept=5)
    first, second = made(0)["kept"], made(1)["kept"]
    assert (first.shape, first.dtype) == ((6, 5), np.int32)
    assert (np.diff(first) > 0).all()  # ascending, none twice
    assert 0 <= first.min() <= first.max() < 16
    assert len({tuple(row) for row in [*first.tolist(), *second.tolist()]}) == 12
    assert "kept" not in {**made(2), **make()(0)}
    np.testing.assert_array_equal(make(kept=5, process=1, processes=2)(0)["kept"], first[3:])
