"""The store of golden values finds what differs and says where."""

import pytest

from tests.golden import store


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FOLDER", tmp_path)
    monkeypatch.setattr(store, "updating", True)
    store.check("file/one", {"a": [1, 2.0, "text"], "b": {"c": None}}, rtol=1e-4)
    store.check("file/two", (True, "x" * 200))
    monkeypatch.setattr(store, "updating", False)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, 2.1, "text"], "b": {"c": None}}, r"\['a'\]\[1\]: stored 2.0, now 2.1"),
        ({"a": [1, float("nan"), "text"], "b": {"c": None}}, r"\['a'\]\[1\]: stored 2.0, now NaN"),
        ({"a": [1.0, 2.0, "text"], "b": {"c": None}}, r"\['a'\]\[0\]: stored 1, now 1.0"),
        ({"a": [1, 2.0, "test"], "b": {"c": None}}, r"\['a'\]\[2\]: texts differ at character 2"),
        ({"a": [1, 2.0], "b": {"c": None}}, r"\['a'\]: 3 items stored, now 2"),
        ({"a": [1, 2.0, "text"], "b": {"d": None}}, r"(?s)\['b'\]\['c'\]: stored null.*\['b'\]\['d'\]: not stored"),
    ],
)
def test_what_differs_is_named(value, message):
    with pytest.raises(AssertionError, match=message):
        store.check("file/one", value, rtol=1e-4)


@pytest.mark.usefixtures("stored")
def test_what_is_equal_passes_and_what_was_never_written_down_does_not():
    store.check("file/one", {"b": {"c": None}, "a": (1, 2.0001, "text")}, rtol=1e-4)
    store.check("file/two", [True, "x" * 200])
    for name in ("other", "file/three"):
        with pytest.raises(AssertionError, match="--update-goldens"):
            store.check(name, 1)
