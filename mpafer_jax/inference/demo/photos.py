"""Photos that were sent are deleted in time, whatever becomes of the requests that brought them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path


def delete_in_time(folder: Path, kept: Callable[[], float]) -> None:
    """Begins to delete, in a thread that ends with the program, what lies in a folder longer than `kept()` seconds.

    Every file, whoever wrote it and whether its upload came to an end: nothing has to be kept account of.
    """

    def run() -> None:
        while True:
            time.sleep(kept() / 2)
            delete_older(folder, kept())

    threading.Thread(target=run, name="photos", daemon=True).start()


def delete_older(folder: Path, seconds: float) -> None:
    """Deletes the files under a folder that were last written to so long ago, and the folders that are left empty."""
    limit = time.time() - seconds
    for root, _, names in os.walk(folder, topdown=False):
        for path in (Path(root, name) for name in names):
            with contextlib.suppress(OSError):  # gone already, or being moved
                if path.lstat().st_ctime < limit:
                    path.unlink()
        with contextlib.suppress(OSError):  # holds something
            if Path(root) != folder and os.lstat(root).st_ctime < limit:
                Path(root).rmdir()
