"""Real faces in four forms, class folders, a list, Parquet and the owners' layout, give the same numbers."""

import pytest

from tests.data import layouts
from tests.measurements import same_faces


@pytest.mark.training
@pytest.mark.skipif(not (layouts.FERPLUS / "unpack.py").is_file(), reason="needs FERPlus; set MPAFER_FERPLUS_DIR")
def test_forms_give_the_same_numbers(tmp_path):
    same_faces.write_forms(layouts.FERPLUS, tmp_path, limit=600)
    owners, *others = same_faces.measure(tmp_path, steps=1).values()
    assert sum(map(sum, owners["images"])) > 1000
    assert others == [owners] * 3
