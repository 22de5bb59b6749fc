"""Prompts that ship with the package: exported prompts (see `prompt_file`) that are named in place of a path."""

from __future__ import annotations

from pathlib import Path

DEFAULT = "ferplus-prompts"  # the checkpoint of commands that are given none
PROMPTS = {DEFAULT: Path(__file__).resolve().parent / "ferplus_prompts"}
# What is measured of their heat maps (the card has the numbers), said where maps are made: first of the patches' alone,
# then of all.
PATCH_MAPS = {DEFAULT: "of 500 photographs the patch maps were no better than a random order of the patches, or hardly"}
HEAT_MAPS = {
    DEFAULT: f"{PATCH_MAPS[DEFAULT]}, and the attention rollout only at deletion; see Heat maps in "
    f"{PROMPTS[DEFAULT] / 'README.md'}"
}


def in_words(checkpoint: str) -> str:
    """A checkpoint in a message: its path, or its name and where it comes from."""
    return f"{checkpoint} (ships with the package)" if checkpoint in PROMPTS else checkpoint
