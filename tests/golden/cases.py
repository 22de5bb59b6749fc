"""The configurations that are frozen: every config file with every argument, and some arguments joined."""

import importlib
import itertools
import pathlib

from mpafer_jax.config.schema import Config

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
FIRST = "rafdb"  # the paper's main dataset; the other configs are stored as what differs from it
NAMES = [
    FIRST,
    *("affectnet7", "affectnet8", "ckplus", "clips", "dfew", "expw", "fer2013", "ferplus", "ferv39k", "folder"),
    *("jaffe", "kdef", "list", "mafw", "parquet", "quickstart", "rafd", "rafdb_compound", "sample", "sfew"),
    "ferplus_prompts",
]
PRETRAINING = ("pretrain_tiny_clip", "pretrain_small_clip")
CLIPS = ["vit_b32", "vit_l14", "vit_l14_336", "tiny_clip", "small_clip"]
METHODS = ["coop", "vpt_deep", "ivlp", "kgcoop", "maple", "ceprompt", "promptsrc", "cafe", "lora"]
SINGLE = [*CLIPS, "bf16", "no_validation", "whole", "16_per_class", "runlocal", *METHODS]
# A later argument may change what an earlier one set, so some are joined, in more than one order.
JOINED = [
    *(",".join(pair) for pair in itertools.product(["tiny_clip", "vit_l14"], METHODS)),
    "vit_l14,bf16",
    "vit_b32,runlocal,no_validation",
    "runlocal,tiny_clip",
    "tiny_clip,runlocal",
    "whole,no_validation",
    "no_validation,whole",
    "tiny_clip,bf16,no_validation,runlocal,coop",
    "kgcoop,4_per_class",
]
ARGUMENTS = ["", *SINGLE, *JOINED]


def build(name: str, argument: str = "", **changes) -> Config:
    """What `--config=configs/NAME.py:ARGUMENT` gives, checked."""
    values = importlib.import_module(f"configs.{name}").get_config(argument or None)
    if not values.data.dir and values.data.dataset != "synthface":
        changes = {"data.dir": "somewhere", **changes}
    with values.unlocked():
        values.update_from_flattened_dict(changes)
    return Config.from_config_dict(values)
