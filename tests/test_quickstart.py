"""The quickstart is a benchmark: what its numbers in docs/quickstart.md rest on changes only together with them."""

from configs import quickstart
from mpafer_jax.backbones.clip.load import load_clip
from mpafer_jax.backbones.files import SHIPPED
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES

VERSION_1 = {
    "renderer": "2",
    "clip": "3dc7817d04ab25094cd6dd78094ec49aacb0c3a17884e68bdc1144d9388f3dd7",
    "faces": {"style": "poster", "seed": 3, "train": 2800, "validation": 400, "test": 1400, "image_size": 96},
    "split": ("validation", 0.0, "test", ()),
}


def test_the_benchmark_is_version_1():
    config = quickstart.get_config()
    data = config.data
    assert {
        "renderer": generate.VERSION,
        "clip": load_clip(config.clip.name).content_hash,
        "faces": data.synthface.to_dict(),
        "split": (data.validation_split, data.validation_fraction, data.test_split, data.class_names),
    } == VERSION_1


def test_its_style_is_none_that_the_clip_was_trained_on():
    card = (SHIPPED["tiny-face-clip"] / "README.md").read_text()
    trained_on = {name for name in STYLES if f"`{name}`" in card}
    assert trained_on == {"colour", "paint", "grey"}
    assert quickstart.get_config().data.synthface.style not in trained_on
