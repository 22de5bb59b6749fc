"""What is counted in traced and compiled programs, and that the steps without content are those of a run."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpafer_jax.jobs import train
from mpafer_jax.runtime import devices
from mpafer_jax.runtime.errors import ConfigError
from tests.bench import chips, hlo, shapes
from tests.jobs import runs
from tests.runtime.test_flops import LAYERS, ROWS, WIDTH, gradients

pytestmark = pytest.mark.bench

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


@pytest.fixture(scope="module")
def scanned():
    """(function, arguments): each device has its share of the rows."""
    arguments = (
        jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((jax.device_count() * ROWS, WIDTH), jnp.float32),
    )
    return devices.data_parallel(gradients, on=jax.devices()), arguments


def test_traffic_of_a_compiled_program(scanned):
    function, arguments = scanned
    traffic = hlo.measure_traffic(function.lower(*arguments).compile().as_text())
    (exchange,) = traffic.collectives
    assert (exchange.kind, exchange.count, exchange.num_bytes) == ("all-reduce", 1, 4 * LAYERS * WIDTH * WIDTH)
    assert exchange.link_bytes(8) == pytest.approx(4 * exchange.num_bytes * 7 / 8)
    assert traffic.unknown_loops == 0
    # Forwards every layer writes its output, backwards it is read; both often, neither a whole stack for each layer.
    activations = 4 * LAYERS * ROWS * WIDTH
    # (Were bodies of loops counted once, it would be 11 of them.)
    assert 20 * activations < traffic.memory_bytes < 40 * activations


PROGRAM = """HloModule test
%slice_of_layer (p0: f32[6,10], p1: s32[]) -> f32[10] {
  %p0 = f32[6,10]{1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  %part = f32[1,10]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,10}
  ROOT %flat = f32[10]{0} bitcast(%part)
}
%body (state: (s32[], f32[6,10], f32[10])) -> (s32[], f32[6,10], f32[10]) {
  %state = (s32[], f32[6,10]{1,0}, /*index=2*/f32[10]{0:T(128)S(1)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stack = f32[6,10]{1,0} get-tuple-element(%state), index=1
  %layer = f32[10]{0:T(128)S(1)} fusion(%stack, %i), kind=kLoop, calls=%slice_of_layer
  %sum = f32[10]{0:T(128)S(1)} all-reduce(%layer), replica_groups={{0,1}}, to_apply=%add
  ROOT %next = (s32[], f32[6,10]{1,0}, f32[10]{0:T(128)S(1)}) tuple(%i, %stack, %sum)
}
%condition (state.1: (s32[], f32[6,10], f32[10])) -> pred[] {
  %state.1 = (s32[], f32[6,10]{1,0}, f32[10]{0:T(128)S(1)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}
ENTRY %main (arguments: (s32[], f32[6,10], f32[10])) -> (s32[], f32[6,10], f32[10]) {
  %arguments = (s32[], f32[6,10]{1,0}, f32[10]{0:T(128)S(1)}) parameter(0)
  ROOT %loop = (s32[], f32[6,10]{1,0}, f32[10]{0:T(128)S(1)}) while(%arguments), condition=%condition, body=%body
}
"""


def test_a_layer_of_a_stack_counts_as_a_layer_and_what_stays_on_the_chip_as_nothing():
    traffic = hlo.measure_traffic(PROGRAM)
    compared = 4 + 4 + 1  # the loop's condition
    index = 4
    assert traffic.memory_bytes == 6 * (40 + index + compared)  # not 6 * 240 for the stack, nothing for S(1)
    assert traffic.collectives == (hlo.Collective("all-reduce", 6, 6 * 40),)
    unknown = hlo.measure_traffic(PROGRAM.replace("direction=LT", "direction=NE"))
    assert unknown.unknown_loops == 1
    assert unknown.collectives == (hlo.Collective("all-reduce", 1, 40),)
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.measure_traffic("HloModule test")


def test_sizes_of_arrays():
    assert hlo.array_bytes("bf16[6,1024]{1,0:T(8,128)(2,1)S(1)}") == 2 * 6 * 1024
    assert hlo.array_bytes("bf16[6,1024]{1,0:T(8,128)(2,1)S(1)}", main_memory_only=True) == 0
    assert hlo.array_bytes("(f32[3]{0}, pred[5]{0}, s32[])") == 12 + 5 + 4


def test_steps_without_content_are_those_of_a_run(sample):
    """Same trees, shapes and types as the arrays of a real run, but for the length of the class names."""
    config = runs.config(sample, **{"loss.gamma": 0.0})
    run = train.prepare(config, sample / "unused")
    clip = shapes.find_clip_config(config)
    made = shapes.train_step(config, clip, 5, jax.devices())

    class Nothing:
        def restore_latest(self, state, description):
            return None

    real = (train.start(run, Nothing()), run.experiment.frozen, next(iter(train.training_batches(run, 0))))

    def described(tree):
        leaves, structure = jax.tree.flatten_with_path(tree)
        named = {jax.tree_util.keystr(path): (leaf.shape, np.dtype(leaf.dtype)) for path, leaf in leaves}
        return structure, {name: value for name, value in named.items() if "soft_prompts" not in name}

    assert described(real) == described(made.arguments)
    assert shapes.count_classes(config, 5) == 5
    with pytest.raises(ConfigError, match="are known from its files alone; give --num_classes"):
        shapes.count_classes(config)


@pytest.mark.parametrize("name", ["v5e", "v5e:4x", "v5e:0x4", "gpu:8", "v5e:ax4"])
def test_slices_that_do_not_exist(name):
    with pytest.raises(chips.TopologyError, match="expected GENERATION:CHIPSxCHIPS"):
        chips.describe_slice(name)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_check_says_what_to_install():
    with pytest.raises(ModuleNotFoundError, match=r"libtpu, which is not installed: pip install -e '\.\[tpu\]'"):
        chips.describe_slice("v5e:4x4")


@needs_libtpu
@pytest.mark.slow
def test_a_small_clip_compiles_for_several_hosts(sample, tmp_path):
    command = runs.command(sample, tmp_path)
    arguments = [x for x in command[3:] if not x.startswith(("--workdir", "--mode"))]
    flags = ["--topology=v5e:4x4,v6e:2x2", "--num_classes=5", "--images_per_device=4", "--table"]
    done = runs.run([command[0], "-m", "tests.bench.compile_check", *arguments, *flags])
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| v")]
    assert [row.split(" |")[0] for row in rows] == ["| v5e:4x4 (4)"] * 2 + ["| v6e:2x2 (1)"] * 2
