"""The unfinished file of a table."""

import functools

import pytest

from mpafer_jax.inference import tables, temporal
from mpafer_jax.runtime.errors import InputError


@pytest.mark.parametrize("content", ["file,index\n", '{"subject": {"inputs": ["a"]}}\n\0\0\0\n', "[]\n"])
def test_an_unfinished_file_that_holds_no_results_is_named(tmp_path, content):
    path = tmp_path / "out.csv.unfinished"
    path.write_text(content)
    smooth = functools.partial(temporal.smooth_rows, seconds=0.0)
    number = content.count("\n")
    with (
        pytest.raises(
            InputError, match=rf"out\.csv\.unfinished, line {number}: expected a result in JSON.*--overwrite"
        ),
        tables.open_table(tmp_path / "out.csv", ("a", "b"), {"inputs": ["a"]}, overwrite=False, smooth=smooth),
    ):
        pass
    assert path.read_text() == content
