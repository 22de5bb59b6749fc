"""What the quickstart rests on."""

from configs import quickstart
from mpafer_jax.backbones.files import SHIPPED
from mpafer_jax.data.synthface.styles import STYLES


def test_its_style_is_none_that_the_clip_was_trained_on():
    card = (SHIPPED["tiny-face-clip"].folder / "README.md").read_text()
    trained_on = {name for name in STYLES if f"`{name}`" in card}
    assert trained_on == {"colour", "paint", "grey"}
    assert quickstart.get_config().data.synthface.style not in trained_on
