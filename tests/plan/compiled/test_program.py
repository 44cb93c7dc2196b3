"""What is read from compiled programs: on eight simulated devices always, on TPU slices where the compiler is there."""

import collections
import functools

import jax
import jax.numpy as jnp
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.parallel import per_device, sharding
from bigmodel_jax.plan import estimates
from bigmodel_jax.plan.compiled import collectives, hlo, memory_estimate, program
from bigmodel_jax.plan.hardware import slices

EIGHT = slices.parse('v5e:2x4')
FSDP = sharding.MeshShape(data=2, fsdp=4)


@functools.cache
def traced(**changes) -> program.TracedProgram:
    changes = {name.replace('__', '.'): value for name, value in changes.items()}
    experiment = config.vary(tiny.experiment(), {'mesh': FSDP, **changes})
    return program.trace(experiment, jax.devices()[:8])


@functools.cache
def measured(**changes) -> tuple[estimates.Counts, estimates.Memory]:
    step = traced(**changes)
    compiled = program.read(step.program.lower().compile(), seconds=1.0, cpu_seconds=2.0)
    return program.measure(step, compiled, limit=10**9)


def test_the_collectives_of_a_loop_are_those_that_were_written():
    place = sharding.MeshShape(data=2, fsdp=4).build(jax.devices()[:8])

    def body(x_bD, _):
        whole_BD = jax.lax.all_gather(x_bD, 'fsdp', axis=0, tiled=True)
        part_bD = jax.lax.psum_scatter(whole_BD, 'fsdp', scatter_dimension=0, tiled=True)
        part_bD = jax.lax.ppermute(part_bD, 'data', [(0, 1), (1, 0)])
        return x_bD + jax.lax.psum(part_bD, ('data', 'fsdp')), None

    def local(x_bD):
        return jax.lax.scan(lambda x, _: (jax.lax.scan(body, x, None, length=5)[0], None), x_bD, None, length=3)[0]

    with sharding.use(place):
        run = jax.jit(per_device.shard_map(local, inputs=(('batch', None),), outputs=('batch', None)))
        text = run.lower(jax.ShapeDtypeStruct((64, 128), jnp.float32)).compile().as_text()
    module = hlo.parse(text)
    found = collectives.collectives(
        module, hlo.executions(module), collectives.DeviceLayout(tuple(place.sizes.items()))
    )
    shard = 8 * 128 * 4
    assert sorted((c.kind, c.axes, c.group, c.bytes, c.times) for c in found) == [
        ('all-gather', ('fsdp',), 4, 4 * shard, 15),
        ('all-reduce', ('data', 'fsdp'), 8, shard, 15),
        ('collective-permute', ('data',), 2, shard, 15),
        ('reduce-scatter', ('fsdp',), 4, shard, 15),
    ]


def by_kind(counts: estimates.Counts) -> dict[str, int]:
    total = collections.Counter()
    for each in counts.collectives:
        total[each.kind] += each.bytes * each.times
    return total


@pytest.mark.parametrize('scan', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_layer_is_gathered_whether_scanned_or_not(scan):
    few, many = (measured(model__layers=layers, model__stack__scan=scan)[0] for layers in (2, 5))
    layer = 12 * 16**2 * 4  # Bytes of the matrices of one layer, whole.
    growth = by_kind(many)['all-gather'] - by_kind(few)['all-gather']
    # Forward and backward each need a layer whole once; biases and norms come on top, and the compiler may keep some.
    assert 0.9 * 3 * layer <= growth <= 3 * 3 * layer
    assert many.flops > 2 * few.flops
    assert many.hbm_bytes > 1.5 * few.hbm_bytes


def test_the_state_is_counted_exactly_and_the_parts_add_up():
    step = traced()
    memory_of = measured()[1]
    held = sum(leaf.size * 4 for leaf in jax.tree.leaves(step.spec.abstract.params))
    # The matrices are cut in four; biases of the heads and the like may not be.
    assert held / 4 <= memory_of.parameters <= held / 3
    assert memory_of.optimizer == 2 * memory_of.parameters + 2 * 4  # Two moments, and two counters of steps.
    assert memory_of.other_state == 4 * 4  # The step, two levels, and how many steps they are of.
    assert memory_of.batch == (3 * tiny.LENGTH + 1) * 4  # One row of three fields, and its weight.
    parts = {'parameters', 'optimizer', 'other_state', 'batch', 'gradients', 'saved', 'temporaries'}
    assert sum(getattr(memory_of, part) for part in parts) == memory_of.peak


@pytest.mark.slow
def test_more_layers_keep_more_and_recomputation_keeps_less():
    def saved(**changes) -> int:
        step = traced(**changes)
        return memory_estimate.kept(hlo.parse(step.program.lower().compile().as_text()))[0]

    few, many = saved(model__layers=2), saved(model__layers=6)
    again = saved(model__layers=6, model__stack__remat='full')
    assert again < many
    assert many > 2 * few
    # With full recomputation a layer leaves its input alone: [6 layers, 1 row, 16, 16] float32.
    assert again >= 6 * tiny.LENGTH * 16 * 4


def test_a_program_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path))
    said = []
    first = program.compile_step(traced(), EIGHT, say=said.append)
    assert said[0] == 'v5e:2x4: compiling for 8 devices'
    said.clear()
    assert program.compile_step(traced(name='other', watch__log_every=7), EIGHT, say=said.append) == first
    assert said == []
    program.compile_step(traced(model__layers=3), EIGHT, say=said.append)
    assert said


def test_records_survive_json():
    counts, waterfall = measured()
    record = estimates.Program(
        chip='v5e',
        slice='v5e:2x4',
        mesh={'data': 2, 'fsdp': 4},
        memory=waterfall,
        counts=counts,
        compile_seconds=1.5,
        compile_cpu_seconds=2.5,
        versions=program.versions(),
        source='compiled',
    )
    assert estimates.from_json(estimates.to_json(record)) == record


@pytest.mark.parametrize(
    ('mesh', 'message'),
    [
        (sharding.MeshShape(data=2), 'leaves 6 of 8 devices idle'),
        (sharding.MeshShape(data=3, fsdp=3), 'needs 9 devices'),
        (sharding.MeshShape(data=-1, fsdp=3), 'must divide 8'),
    ],
)
def test_a_mesh_that_does_not_fill_the_slice_is_refused(mesh, message):
    with pytest.raises(config.InputError, match=message):
        traced(mesh=mesh)


def test_the_number_of_slices_must_be_that_of_the_mesh():
    with pytest.raises(config.InputError, match=r'mesh.slices=1; set mesh.slices=2'):
        program.program(tiny.experiment(), slices.parse('2*v5e:2x4'))


# ---- with the TPU compiler --------------------------------------------------------------------------------------


def compiled_for(name: str, function, **mesh: int) -> list[estimates.Collective]:
    on = slices.parse(name)
    place = sharding.MeshShape(**mesh).build(on.devices())
    x = jax.ShapeDtypeStruct((4_096, 1_024), jnp.bfloat16, sharding=place.sharding(('embed', None)))
    w = jax.ShapeDtypeStruct((on.size * 128, 4_096), jnp.bfloat16, sharding=place.sharding(('batch', None)))
    module = hlo.parse(jax.jit(function).lower(w, x).compile().as_text())
    return list(
        collectives.collectives(module, hlo.executions(module), collectives.DeviceLayout((*place.sizes.items(),)))
    )


def test_a_gather_over_a_wrapped_slice_is_a_gather():
    """On a slice described without its wrap-around links it would be an all-reduce of eight times the bytes sent."""
    pytest.importorskip('libtpu')
    (found,) = compiled_for('v5p:4x4x4', lambda w, x: w @ x, data=1, fsdp=64)
    assert (found.kind, found.axes, found.group) == ('all-gather', ('fsdp',), 64)
    assert found.bytes == 4_096 * 1_024 * 2


def test_a_step_too_large_for_the_chip_says_by_how_much():
    pytest.importorskip('libtpu')
    on = slices.parse('v5e:2x2')
    place = sharding.MeshShape(data=4).build(on.devices())
    x = jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32, sharding=place.replicated)
    lowered = jax.jit(lambda x: jnp.sort(x, axis=1)).trace(x)
    step = program.TracedProgram(lowered, None, {}, place, sharding.MeshShape())
    with pytest.raises(program.DoesNotFit) as error:
        program.compile_step(step, on, say=str)
    assert error.value.needed > error.value.limit == on.chip.hbm_bytes
