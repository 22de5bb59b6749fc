"""The one door to transformers: imported when first needed, and silent about what we do without."""

from __future__ import annotations

import logging
from typing import Any

from mpafer_jax.runtime import without_torch


def import_transformers() -> Any:
    """Imports transformers without its advice to install PyTorch, whose models we do not use.

    Everything else that it logs stays. It takes seconds to import, the longer where PyTorch is installed (it then
    imports PyTorch itself): import it in functions only.
    """
    logger = logging.getLogger("transformers")

    def drop_advice(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("PyTorch was not found")

    logger.addFilter(drop_advice)
    try:
        with without_torch.hidden():
            import transformers

            _ = transformers.CLIPConfig, transformers.CLIPTokenizer  # imported when looked up
    finally:
        logger.removeFilter(drop_advice)
    return transformers
