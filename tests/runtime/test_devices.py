"""Batches on their way to the devices: the same batches, in order, ahead of their use, and no more after the end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.runtime import devices


def numbers(made, closed, count=6):
    try:
        for number in range(count):
            made.append(number)
            yield {"x": np.full((16, 2), number, np.float32)}
    finally:
        closed.append(True)


@pytest.mark.devices
def test_prefetched_batches_are_cut_over_the_devices_and_in_order():
    count = jax.local_device_count()
    found = list(devices.prefetch(numbers([], [])))
    assert len(found) == 6
    for number, batch in enumerate(found):
        assert batch["x"].shape == (count, 16 // count, 2)
        assert len(batch["x"].sharding.device_set) == count
        np.testing.assert_array_equal(batch["x"], np.full((count, 16 // count, 2), number))


def test_batches_are_made_ahead_of_their_use_and_not_all_at_once():
    made, closed = [], []
    stream = devices.prefetch(numbers(made, closed, count=100))
    next(stream)
    assert 1 < len(made) < 6
    stream.close()
    assert closed == [True]
    assert len(made) < 6


def test_a_step_takes_what_was_prefetched_without_moving_it_again():
    step = devices.data_parallel(lambda s, batch: devices.sum_over_devices(s * jnp.sum(batch["x"])))
    scale = devices.replicate(jnp.asarray(2.0))
    batches = list(devices.prefetch(numbers([], [])))
    step(scale, batches[0])
    with jax.transfer_guard("disallow"):
        found = [step(scale, batch) for batch in batches]
    assert [float(value) for value in found] == [2 * 32 * number for number in range(6)]


def test_results_are_those_of_the_step_one_by_one():
    step = devices.data_parallel(lambda batch: devices.sum_over_devices(jnp.sum(batch["x"])))
    closed = []
    assert [float(value) for value in devices.results(step, numbers([], closed))] == [32.0 * n for n in range(6)]
    assert closed == [True]
    assert list(devices.results(step, [])) == []


def test_the_name_of_what_products_are_computed_in():
    assert devices.matmul_precision() == "float32"  # a CPU
    with jax.default_matmul_precision("tensorfloat32"):
        assert devices.matmul_precision() == "tensorfloat32"
    jax.config.update("jax_default_matmul_precision", "default")
    try:
        assert devices.matmul_precision() == "float32"
    finally:
        jax.config.update("jax_default_matmul_precision", None)


@pytest.mark.parametrize(
    ("flags", "unit"),
    [
        ("fpu sse2 avx512f avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8", "amx_bf16"),
        ("fpu avx512_bf16 flush_l1d", "avx512_bf16"),
        ("fpu avx512f avx512_vnni", ""),
    ],
)
def test_the_unit_for_bfloat16_is_read_from_the_processors_flags(tmp_path, flags, unit):
    each = "processor\t: {}\nvmx flags\t: amx_bf16\nflags\t\t: {}\nbugs\t\t: spectre_v1\n\n"
    (tmp_path / "cpuinfo").write_text("".join(each.format(number, flags) for number in range(2)))
    assert devices.bfloat16_unit(tmp_path / "cpuinfo") == unit


def test_a_system_that_does_not_tell_its_flags_has_no_unit(tmp_path):
    assert devices.bfloat16_unit(tmp_path / "cpuinfo") == ""
    (tmp_path / "of_arm").write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert devices.bfloat16_unit(tmp_path / "of_arm") == ""


@pytest.fixture
def usual_settings(monkeypatch):
    """Without those of the tests (conftest.py), but for the number of devices."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_settings_that_change_numbers_are_named_and_no_others(usual_settings, monkeypatch):
    assert devices.unusual_settings() == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=true")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "")
    with jax.enable_x64(True):
        found = devices.unusual_settings()
    assert found == {"jax_enable_x64": "True", "XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/x --xla_gpu_per_fusion_autotune_cache_dir=/tmp/y")
    assert devices.unusual_settings() == {}
