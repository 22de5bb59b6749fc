"""The command that shows fields, and the documentation that it writes."""

from pathlib import Path

import pytest

from mpafer_jax.cli.config import config
from mpafer_jax.config.fields import settings
from mpafer_jax.config.schema import Config


def test_the_documentation_is_current(capsys):
    config(["--document"])
    written = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert written == capsys.readouterr().out, "mpafer-jax config --document > docs/configuration.md"
    assert written.count("\n| `") > len(settings(Config))


@pytest.mark.parametrize("name", ["loss.beta", "config.loss.beta", "--config.loss.beta"])
def test_one_field(name, capsys):
    config(["--", name])
    assert capsys.readouterr().out == "loss.beta = 1.0\n    beta, weight of the hard-soft alignment. [paper]\n"


def test_a_section_and_all(capsys):
    config(["loss"])
    section = capsys.readouterr().out.splitlines()[::2]
    assert section == [f"{name} = {s.default!r}" for name, s in settings(Config).items() if name.startswith("loss.")]
    config([])
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(settings(Config))
    config(["--pretraining", "loss.top_k"])
    assert capsys.readouterr().out == "loss.top_k = 4\n    k of the local statements.\n"


def test_an_unknown_field_names_the_near_one(capsys):
    with pytest.raises(SystemExit) as ended:
        config(["loss.bta"])
    assert ended.value.code == 2
    assert "error: there is no field 'loss.bta'; did you mean loss.beta?" in capsys.readouterr().err
