"""Values that are written down once and compared ever after: `tests/golden/data/*.json`.

A change of behaviour that is meant is written down anew with `pytest tests/golden --update-goldens`; the difference of
the files is then read and committed with it.
"""

import json
import math
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).parent / "data"
RUN_V1 = FOLDER / "run_v1"  # see test_checkpoint.py
EXPORTED = RUN_V1 / "exported"
_SHOWN = 12  # differences
_WIDTH = 120

updating = False  # set by --update-goldens


def check(name: str, value: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Compares a value to what is written down under its name, or writes it down.

    Args:
      name: of the file without its ending; "file/key" for one of several values in a file.
      value: what JSON can hold; tuples are lists. With a tolerance, numbers are stored with 7 digits.
      rtol, atol: floats may differ by `atol + rtol * abs(stored)`; all else has to be equal.

    Raises:
      AssertionError: names the first places that differ, with what is stored and what was found.
    """
    stem, _, key = name.partition("/")
    path = FOLDER / f"{stem}.json"
    value = json.loads(json.dumps(value))
    if updating:
        _write(path, key, _short(value) if rtol or atol else value)
        return
    if not path.exists():
        raise AssertionError(f"{path} does not exist; run pytest with --update-goldens")
    stored = json.loads(path.read_text())
    if key:
        if key not in stored:
            raise AssertionError(f"{path} holds no {key!r}; run pytest with --update-goldens")
        stored = stored[key]
    different = list(_differences(stored, value, rtol, atol, ""))
    if different:
        more = len(different) - _SHOWN
        lines = [f"{name}: {len(different)} values differ from {path.name}", *different[:_SHOWN]]
        lines += [f"... and {more} more"] if more > 0 else []
        raise AssertionError("\n".join(lines))


def _differences(stored: Any, found: Any, rtol: float, atol: float, path: str):
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in [*stored, *(key for key in found if key not in stored)]:
            place = f"{path}[{key!r}]"
            if key not in found:
                yield f"{place}: stored {_brief(stored[key])}, now missing"
            elif key not in stored:
                yield f"{place}: not stored, now {_brief(found[key])}"
            else:
                yield from _differences(stored[key], found[key], rtol, atol, place)
    elif isinstance(stored, list) and isinstance(found, list):
        if len(stored) != len(found):
            yield f"{path or 'all'}: {len(stored)} items stored, now {len(found)}"
        for i, (one, two) in enumerate(zip(stored, found, strict=False)):
            yield from _differences(one, two, rtol, atol, f"{path}[{i}]")
    elif isinstance(stored, str) and isinstance(found, str):
        if stored != found:
            pairs = enumerate(zip(stored, found, strict=False))
            same = next((i for i, (one, two) in pairs if one != two), min(len(stored), len(found)))
            start = max(0, same - 40)
            yield (
                f"{path or 'all'}: texts differ at character {same}: stored {_brief(stored[start:])}, "
                f"now {_brief(found[start:])}"
            )
    elif not _equal(stored, found, rtol, atol):
        yield f"{path or 'all'}: stored {_brief(stored)}, now {_brief(found)}"


def _equal(stored: Any, found: Any, rtol: float, atol: float) -> bool:
    if type(stored) is not type(found):
        return False
    if isinstance(stored, float):
        same = stored == found or (math.isnan(stored) and math.isnan(found))
        return same or (math.isfinite(found) and abs(stored - found) <= atol + rtol * abs(stored))
    return stored == found


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:100] + "..."


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value


def _write(path: pathlib.Path, key: str, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if key:
        others = json.loads(path.read_text()) if path.exists() else {}
        value = dict(sorted((others | {key: value}).items()))
    path.write_text(_lines(value, 0, 0) + "\n")


def _lines(value: Any, indent: int, used: int) -> str:
    """JSON on one line where it fits, else an item a line; `used` characters stand before it."""
    text = json.dumps(value, ensure_ascii=False)
    if (indent and indent + used + len(text) < _WIDTH) or not value or not isinstance(value, dict | list):
        return text
    inner = " " * (indent + 1)
    if isinstance(value, list):
        items = [inner + _lines(item, indent + 1, 0) for item in value]
        return "[\n" + ",\n".join(items) + "\n" + " " * indent + "]"
    items = []
    for name, item in value.items():
        start = json.dumps(name, ensure_ascii=False) + ": "
        items.append(inner + start + _lines(item, indent + 1, len(start)))
    return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
