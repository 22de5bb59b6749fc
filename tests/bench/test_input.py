"""What the input command measures: every stage of the pipeline that runs, on images as the datasets store them."""

import pytest
from PIL import Image

from tests.bench import benchmark_input as input_lib
from tests.golden import cases

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("kind", list(input_lib.KINDS))
def test_images_are_stored_as_the_datasets_store_theirs(tmp_path, kind):
    chosen = input_lib.KINDS[kind]
    input_lib.write_faces(tmp_path, chosen, 9)
    paths = sorted(tmp_path.glob("train/*/*"))
    assert len(paths) == 9
    assert len({path.parent.name for path in paths}) > 1
    for path in paths:
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((chosen.size,) * 2, chosen.mode, chosen.format)


def test_stages_and_rates(tmp_path):
    input_lib.write_faces(tmp_path, input_lib.KINDS["ferplus"], 9)
    changes = {"data.dataset": "folder", "data.dir": str(tmp_path), "data.test_split": ""}
    data = cases.build("rafdb", **changes, **{"data.validation_fraction": 0.0}).data
    found = input_lib.stages(data, image_size=32, batch_size=16, repeats=2)
    assert {"read the record", "decode", "crop and resize", "batch", "to the device"} <= found.keys()
    assert all(0 < spread.low <= spread.median <= spread.high < 1 for spread in found.values())
    for cached in (False, True):
        rate = input_lib.rate(data, input_lib.Pipeline(0, cached), image_size=32, batch_size=16, seconds=0.1)
        assert rate > 1
    encoded = [path.read_bytes() for path in tmp_path.glob("train/*/*.png")]
    assert {"Pillow", "Pillow, with our checks"} <= input_lib.decoders(encoded, repeats=1).keys()
