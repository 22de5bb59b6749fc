"""Prompts that ship with the package: exported prompts (see `prompt_file`) that are named in place of a path."""

from __future__ import annotations

from pathlib import Path

DEFAULT = "ferplus-prompts"  # the checkpoint of commands that are given none
PROMPTS = {DEFAULT: Path(__file__).resolve().parent / "ferplus_prompts"}


def in_words(checkpoint: str) -> str:
    """A checkpoint in a message: its path, or its name and where it comes from."""
    return f"{checkpoint} (ships with the package)" if checkpoint in PROMPTS else checkpoint
