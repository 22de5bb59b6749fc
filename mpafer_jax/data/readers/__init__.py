"""Dataset readers, one module each; modules in this folder are imported and so registered."""

import importlib
import pkgutil

from mpafer_jax.data.reader import READERS

__all__ = ["READERS"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
