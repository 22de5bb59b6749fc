"""Shows the fields of a configuration: what each means, its default, and where that comes from.

    python -m mpafer_jax.cli.config                       all fields of a run
    python -m mpafer_jax.cli.config train                 a section
    python -m mpafer_jax.cli.config loss.beta             one field
    python -m mpafer_jax.cli.config --pretraining loss    of the pre-training of a CLIP
    python -m mpafer_jax.cli.config --document            the text of docs/configuration.md

The value of a run is set with --config.FIELD=VALUE, as in --config.loss.beta=0.5.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mpafer_jax.cli import usage
from mpafer_jax.config.fields import settings
from mpafer_jax.config.flags import did_you_mean
from mpafer_jax.config.reference import matching, to_markdown, to_text
from mpafer_jax.config.schema import Config
from mpafer_jax.jobs.pretraining.config import PretrainConfig

_DOCUMENT = """\
# Configuration

Every field of a configuration, with its default. A run is configured by a file of `configs/`, which changes a few of
them, by the arguments after its colon, and by `--config.FIELD=VALUE` on the command line:

    python -m mpafer_jax.main --config=configs/rafdb.py:vit_l14 --workdir=runs/rafdb --config.loss.beta=0.5

From Python, `Config()` of `mpafer_jax.config.schema` holds the defaults. `python -m mpafer_jax.cli.config FIELD` shows
one field or one section.

In brackets stands where a default comes from: *paper* is MPA-FER (arXiv 2506.21017); *relative* is what CoOp, MaPLe,
PromptSRC, KgCoOp and VPT use where the paper is silent; *ours* is a choice made here.

<!-- Written by `python -m mpafer_jax.cli.config --document > docs/configuration.md`. -->

## A run

{run}
## Pre-training of a CLIP

What `configs/pretrain_tiny_clip.py` configures ([pretraining.md](pretraining.md)).

{pretraining}"""


def document() -> str:
    """The text of docs/configuration.md."""
    return _DOCUMENT.format(run=to_markdown(Config), pretraining=to_markdown(PretrainConfig))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the fields that are asked for."""
    parser = usage.Parser(prog="python -m mpafer_jax.cli.config", description=__doc__ or "")
    parser.add_argument("field", nargs="?", default="", help="a field or a section; none: all fields")
    parser.add_argument("--pretraining", action="store_true", help="of pre-training, not of a run")
    parser.add_argument("--document", action="store_true", help="print the text of docs/configuration.md")
    asked = parser.parse_args(arguments)
    if asked.document:
        sys.stdout.write(document())
        return
    kind = PretrainConfig if asked.pretraining else Config
    name = asked.field.removeprefix("--").removeprefix("config.")
    found = matching(kind, name)
    if not found:
        known = [*settings(kind), *dict.fromkeys(field.rpartition(".")[0] for field in settings(kind))]
        usage.refuse(f"there is no field {name!r}{did_you_mean(name, known)}")
    print(to_text(found))


if __name__ == "__main__":
    main()
