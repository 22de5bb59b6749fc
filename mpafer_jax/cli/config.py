"""`mpafer-jax config`: the fields of configurations."""

from __future__ import annotations

import argparse

from mpafer_jax.cli.parser import UsageError
from mpafer_jax.cli.runner import argument, command
from mpafer_jax.runtime.errors import did_you_mean

_DOCUMENT = """\
# Configuration

Every field of a configuration, with its default. A run is configured by a file of `configs/`, which changes a few of
them, by the arguments after its colon, and by `--config.FIELD=VALUE` on the command line:

    python -m mpafer_jax.main --config=configs/rafdb.py:vit_l14 --workdir=runs/rafdb_beta --config.loss.beta=0.5

From Python, `Config()` of `mpafer_jax.config.schema` holds the defaults. `mpafer-jax config FIELD` shows
one field or one section.

In brackets stands where a default comes from: *paper* is MPA-FER (arXiv 2506.21017); *relative* is what CoOp, MaPLe,
PromptSRC, KgCoOp and VPT use where the paper is silent; *ours* is a choice made here.

<!-- Written by `mpafer-jax config --document > docs/configuration.md`. -->

## A run

{run}
## Pre-training of a CLIP

What `configs/pretrain_tiny_clip.py` configures ([pretraining.md](pretraining.md)).

{pretraining}"""


@command(
    "config",
    argument("field", nargs="?", default="", help="a field or a section; none: all fields"),
    argument("--pretraining", action="store_true", help="of pre-training, not of a run"),
    argument("--document", action="store_true", help="print the text of docs/configuration.md"),
)
def config(arguments: argparse.Namespace) -> None:
    """Shows the fields of a configuration: what each means, its default, and where that comes from.

        mpafer-jax config                       all fields of a run
        mpafer-jax config train                 a section
        mpafer-jax config loss.beta             one field
        mpafer-jax config --pretraining loss    of the pre-training of a CLIP

    The value of a run is set with --config.FIELD=VALUE, as in --config.loss.beta=0.5.
    """
    from mpafer_jax.config.fields import settings
    from mpafer_jax.config.reference import matching, to_markdown, to_text
    from mpafer_jax.config.schema import Config
    from mpafer_jax.jobs.pretraining.config import PretrainConfig

    if arguments.document:
        print(_DOCUMENT.format(run=to_markdown(Config), pretraining=to_markdown(PretrainConfig)), end="")
        return
    kind = PretrainConfig if arguments.pretraining else Config
    name = arguments.field.removeprefix("--").removeprefix("config.")
    found = matching(kind, name)
    if not found:
        known = [*settings(kind), *dict.fromkeys(field.rpartition(".")[0] for field in settings(kind))]
        raise UsageError(f"there is no field {name!r}{did_you_mean(name, known)}")
    print(to_text(found))
