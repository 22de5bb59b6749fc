"""Baselines of a run, one module for each kind; a new module is added to the list here."""

import importlib

from mpafer_jax.evaluation.baselines.registry import BASELINES

__all__ = ["BASELINES"]

# In the order of the tables' rows.
for _name in ("majority", "zero_shot", "linear_probe", "text_context", "adapters"):
    importlib.import_module(f"{__name__}.{_name}")
