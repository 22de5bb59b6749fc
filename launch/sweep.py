"""Runs all configurations of a sweep over several seeds: `mpafer-jax study sweep`, from the root of a checkout."""

from __future__ import annotations

import pathlib
import runpy
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # where the package is not installed
    sys.argv[1:1] = ["study", "sweep"]
    runpy.run_module("mpafer_jax.cli", run_name="__main__", alter_sys=True)
