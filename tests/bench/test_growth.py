"""The growth command's points: what is measured, that memory is the compiler's own count, and what is written."""

import dataclasses

import jax
import pytest

from tests.bench import benchmark_growth as growth
from tests.bench import shapes
from tests.bench.timing import Spread
from tests.golden import cases

pytestmark = pytest.mark.bench

TINY = growth.Point(clip="tiny", image_size=32, batch_size=2, num_prompts=2, top_k=4, classes=3)


@pytest.fixture(scope="module")
def config():
    return cases.build("rafdb")


def test_series_vary_what_their_name_says_and_fit_their_clip():
    for name, points in growth.SERIES.items():
        field = growth.varied(name)
        assert len({getattr(point, field) for point in points}) == len(points)
        rest = {dataclasses.replace(point, **{field: getattr(points[0], field)}) for point in points}
        assert len(rest) == 1
        for point in points:
            assert point.top_k <= growth.clip_config(point).vision.num_patches


def test_a_point_is_measured_in_a_process_of_its_own(config):
    found = growth.measure(config, TINY, repeats=2)
    assert found.point == TINY
    assert 0 < found.seconds.low <= found.seconds.median <= found.seconds.high
    assert found.compile_seconds > 0
    assert found.temporaries > 0
    assert found.peak_memory > 50e6  # Python and JAX alone
    with pytest.raises(ValueError, match=r"top_k is 40, this CLIP has 16 patches"):
        growth.measure_here(config, dataclasses.replace(TINY, top_k=40), repeats=1)


def test_text_chunks_keep_memory_from_growing_with_the_classes(config):
    """Temporaries of the compiled steps; prompts, features and losses of 300 more classes remain."""

    def temporaries(classes, chunk):
        point = dataclasses.replace(TINY, classes=classes, text_chunk=chunk)
        clip, on = growth.clip_config(point), jax.local_devices()[:1]
        step = shapes.train_step(growth.configured(config, point), clip, classes, on)
        return step.function.lower(*step.arguments).compile().memory_analysis().temp_size_in_bytes

    chunked, whole = temporaries(400, 20), temporaries(400, 0)
    assert chunked - temporaries(100, 20) < 0.2 * (whole - chunked)


def test_what_is_written(tmp_path):
    def measured(point, seconds):
        return growth.Measured(point, Spread(seconds, 0.5, 2.0), 3.0, 2_000_000, 700_000_000)

    found = {
        name: [measured(point, 1.0 + n) for n, point in enumerate(growth.SERIES[name])]
        for name in ("classes", "classes, text_chunk 32", "remat")
    }
    lines = growth.table(found).splitlines()
    assert lines[0].startswith("| classes ")
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells == ["7", "1 (0.5 to 2)", "2", "700", "3.0"]
    growth.plot(found, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    growth.write(tmp_path / "growth.json", found)
    assert growth.read(tmp_path / "growth.json") == found
