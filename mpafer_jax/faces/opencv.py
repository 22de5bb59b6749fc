"""OpenCV, an extra: detection of faces and videos need it."""

from __future__ import annotations

import importlib
from typing import Any


def import_opencv() -> Any:
    """Imports OpenCV.

    Raises:
      ModuleNotFoundError: it is not installed; names the extra to install.
    """
    try:
        return importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("faces and videos need OpenCV; install it with: pip install -e '.[faces]'") from error
