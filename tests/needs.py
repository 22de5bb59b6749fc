"""What some tests need beside the package: without it they are skipped and say why, or fail where CI=true."""

import importlib
import importlib.util
import os
from typing import Any, NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skips the test or the module that calls this, or fails where nothing may be missing."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def installed(package: str, how: str) -> None:
    """Asks for a package without importing it; `how` says how to install it."""
    if importlib.util.find_spec(package) is None:
        missing(f"{package} is not installed: {how}")


def module(package: str, how: str = "pip install -e '.[test]'") -> Any:
    """A package that is imported where it is installed."""
    installed(package, how)
    return importlib.import_module(package)
