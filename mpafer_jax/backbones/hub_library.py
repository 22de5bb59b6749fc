"""Lazy import of transformers, without its advice to install PyTorch."""

from __future__ import annotations

import logging
from typing import Any

from mpafer_jax.runtime import without_torch


def import_transformers() -> Any:
    """Imports transformers with PyTorch hidden and the advice to install it filtered from the log.

    Call it inside functions only: the import takes seconds.
    """
    logger = logging.getLogger("transformers")

    def drop_advice(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("PyTorch was not found")

    logger.addFilter(drop_advice)
    try:
        with without_torch.hidden():
            import transformers

            _ = transformers.CLIPConfig  # a lazy attribute
    finally:
        logger.removeFilter(drop_advice)
    return transformers
