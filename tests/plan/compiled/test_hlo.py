"""Loops, groups and asynchronous pieces of compiled programs are read as the compiler means them."""

import pytest

from bigmodel_jax.plan.compiled import collectives, hlo, traffic

# Cut from programs of libtpu 0.0.52: a loop whose count only its condition tells, a collective that runs beside two
# fusions, a reduce-scatter written as an all-reduce and a slice, a copy to the memory on the chip (S(1)).
TPU = """\
HloModule step, is_scheduled=true

%cond (p: (s32[], bf16[4,8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(24)
  %p = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%start_gather (x: bf16[4,8]) -> (bf16[4,8], bf16[32,8], u32[]) {
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %gather.1 = bf16[32,8]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, replica_groups=mesh['axis_0'=2,'axis_1'=4] \
{'axis_0','axis_1'}, dimensions={0}, use_global_device_ids=true, backend_config={"async_collective_fusion_config":{}}
  ROOT %custom.1 = (bf16[4,8]{1,0}, bf16[32,8]{1,0}, u32[]{:S(2)}) custom-call(%gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion (x: bf16[4,8]) -> bf16[32,8] {
  %x.2 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[32,8]{1,0:T(8,128)(2,1)} all-gather(%x.2), channel_id=1, replica_groups=mesh['axis_0'=2,\
'axis_1'=4] {'axis_0','axis_1'}, dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2"}}
}

%all-reduce-scatter (g: bf16[32,8]) -> bf16[8,8] {
  %g = bf16[32,8]{1,0:T(8,128)(2,1)} parameter(0)
  %reduce = bf16[32,8]{1,0:T(8,128)(2,1)} all-reduce(%g), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice = bf16[8,8]{1,0:T(8,128)(2,1)} dynamic-slice(%reduce, %zero, %zero), dynamic_slice_sizes={8,8}
}

%body (p.1: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p.1 = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %w = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p.1), index=1
  %three = s32[]{:T(128)} constant(3)
  %next = s32[]{:T(128)} add(%i.1, %three)
  %f.1 = (bf16[4,8]{1,0}, bf16[32,8]{1,0}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%start_gather
  %f.2 = bf16[32,8]{1,0} fusion(%w), kind=kOutput, calls=%async_collective_fusion
  %f.3 = bf16[8,8]{1,0} fusion(%f.2), kind=kCustom, calls=%all-reduce-scatter
  %ring = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%w), channel_id=3, \
source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  %ring.done = bf16[4,8]{1,0} collective-permute-done(%ring)
  ROOT %out = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%next, %ring.done)
}

ENTRY %main (a: bf16[4,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %first = s32[]{:T(128)} constant(2)
  %state = (s32[]{:T(128)}, bf16[4,8]{1,0}) tuple(%first, %a)
  %while.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}) while(%state), condition=%cond, body=%body
  %last = bf16[4,8]{1,0} get-tuple-element(%while.1), index=1
  %near = (bf16[4,8]{1,0:S(1)}, bf16[4,8]{1,0}, u32[]{:S(2)}) copy-start(%last)
  %near.done = bf16[4,8]{1,0:S(1)} copy-done(%near)
  ROOT %sum = f32[]{:T(128)} all-reduce(%near.done), replica_groups={}, to_apply=%add
}
"""
# A fusion in a fusion that reads one of 16 slices, and a constant over several lines.
NESTED = """\
%inner (s: bf16[16,8], i: s32[]) -> bf16[1,8] {
  %s = bf16[16,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %slice = bf16[1,8]{1,0} dynamic-slice(%s, %i), dynamic_slice_sizes={1,8}
}

%outer (t: bf16[16,8], j: s32[]) -> bf16[1,8] {
  %t = bf16[16,8]{1,0} parameter(0)
  %j = s32[] parameter(1)
  %part = bf16[1,8]{1,0} fusion(%t, %j), kind=kLoop, calls=%inner
  ROOT %twice = bf16[1,8]{1,0} add(%part, %part)
}

ENTRY %main (a: bf16[16,8], k: s32[]) -> bf16[1,8] {
  %a = bf16[16,8]{1,0} parameter(0)
  %k = s32[]{:S(2)} parameter(1)
  %table = s32[2,2]{1,0:S(2)} constant({ { 1, 2 },
{ 3, 4
}})
  ROOT %f = bf16[1,8]{1,0} fusion(%a, %k), kind=kLoop, calls=%outer
}
"""
MESH = collectives.DeviceLayout((('data', 2), ('fsdp', 4)))


def test_a_loop_runs_as_often_as_its_condition_says():
    times = hlo.executions(hlo.parse(TPU))
    assert times['body'] == 8  # From 2 to below 24 in steps of 3.
    assert times['start_gather'] == 8
    assert 'add' not in times


def test_each_collective_is_found_once_with_its_axes_and_size():
    module = hlo.parse(TPU)
    found = collectives.collectives(module, hlo.executions(module), MESH)
    assert [(c.kind, c.axes, c.group, c.bytes, c.times, c.asynchronous) for c in found] == [
        ('all-gather', ('data', 'fsdp'), 8, 32 * 8 * 2, 8, True),
        ('reduce-scatter', ('fsdp',), 4, 8 * 8 * 2, 8, False),
        ('collective-permute', ('fsdp',), 4, 4 * 8 * 2, 8, True),
        ('all-reduce', ('data', 'fsdp'), 8, 4, 1, False),
    ]
    assert not any(c.over_dcn for c in found)


def test_bytes_on_the_chip_are_not_those_of_the_memory():
    module = hlo.parse(TPU)
    small, large = 4 * 8 * 2, 32 * 8 * 2
    # Read and written by the fusions and the ring of the body, then a copy out of HBM and the sum back into it. The
    # second fusion only stands beside the gather that the first began.
    body = (small + small + large) + 0 + (large + 8 * 8 * 2) + 2 * small
    counter = 3 * 4
    assert traffic.hbm_bytes(module, hlo.executions(module)) == 8 * (body + counter) + small + 4


def test_a_slice_read_by_a_fusion_in_a_fusion_is_a_slice():
    module = hlo.parse(NESTED)
    assert set(module.computations['main']) == {'a', 'k', 'table', 'f'}
    assert traffic.hbm_bytes(module, hlo.executions(module)) == 2 * 8 * 2  # Read, written.


def test_values_that_are_reached_in_many_ways_are_found_once():
    chain = ''.join(
        f'  %t{n} = (s32[], s32[]) tuple(%x{n - 1}, %x{n - 1})\n'
        f'  %y{n} = s32[] get-tuple-element(%t{n}), index=0\n  %x{n} = s32[] add(%y{n}, %y{n})\n'
        for n in range(1, 200)
    )
    text = (
        f'ENTRY %main (x0: s32[]) -> s32[] {{\n  %x0 = s32[] parameter(0)\n{chain}  ROOT %r = s32[] copy(%x199)\n}}\n'
    )
    assert hlo.executions(hlo.parse(text)) == {'main': 1}


@pytest.mark.parametrize(
    ('text', 'axes', 'group'),
    [
        ('replica_groups={{0,4},{1,5},{2,6},{3,7}}', ('data',), 2),
        ('replica_groups={}', ('data', 'fsdp'), 8),
        ('replica_groups=[2,4]<=[8]', ('fsdp',), 4),
        ('replica_groups=[4,2]<=[2,4]T(1,0)', ('data',), 2),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}", ('fsdp',), 4),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", ('data',), 2),  # The outer part of an axis of eight.
        ("replica_groups=mesh['a'=8] {'a':(2)4}", ('fsdp',), 4),
        ('replica_groups=mesh[a=4,b=2], device_ids=([2,4]T(1,0)) {b}', ('data',), 2),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=(0,4,1,5,2,6,3,7) {'a'}", ('fsdp',), 2),
        ('source_target_pairs={{0,4},{4,0}}', ('data',), 2),
        ('channel_id=3', (), 0),
    ],
)
def test_groups_are_read_in_every_way_they_are_written(text, axes, group):
    assert collectives.reach(f', channel_id=1, {text}, dimensions={{0}}', MESH)[:2] == (axes, group)


@pytest.mark.parametrize(('slices', 'expected'), [(1, False), (2, True)])
def test_what_leaves_a_slice_goes_over_the_data_centre_network(slices, expected):
    layout = MESH._replace(slices=slices)
    assert collectives.reach('replica_groups=[4,2]<=[2,4]T(1,0)', layout)[2] is expected
    assert collectives.reach('replica_groups=[2,4]<=[8]', layout)[2] is False


def test_bytes_between_slices_are_carried_by_the_hosts():
    text = """\
ENTRY %main (a: f32[4]) -> f32[4] {
  %token = token[] after-all()
  %recv = (f32[4]{0}, u32[]{:S(2)}, token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes=\
{_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.1_0"}
  ROOT %g = f32[4]{0} all-reduce(%recv), replica_groups={{0,1},{2,3}}, to_apply=%add
}
"""
    module = hlo.parse(text)
    # Two slices of four devices: the program is that of one slice, in which 'data' has one device.
    layout = collectives.DeviceLayout((('data', 2), ('fsdp', 2), ('tensor', 2)), slices=2)
    between, within = collectives.collectives(module, hlo.executions(module), layout)
    assert (between.kind, between.axes, between.group, between.bytes) == ('all-reduce', ('data',), 2, 16)
    assert between.over_dcn
    assert (within.axes, within.group, within.over_dcn) == (('tensor',), 2, False)


@pytest.mark.parametrize(
    ('text', 'size'),
    [
        ('bf16[2,3]{1,0:T(8,128)(2,1)S(1)}', 12),
        ('(f32[4]{0}, (s8[3], pred[]), /*index=2*/u4[5])', 16 + 3 + 1 + 3),
        ('token[]', 0),
    ],
)
def test_a_type_has_its_size(text, size):
    assert hlo.size_bytes(text) == size
