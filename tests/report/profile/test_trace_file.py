"""Traces as the profiler writes them, of each kind of device; those of GPU and TPU are made by hand."""

import jax.profiler
import numpy as np
import pytest
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.report.profile import breakdown, op_kinds, program_ops, trace_file

# A step of 8 us, in picoseconds: 4 of a fusion in a loop, an all-gather of 3 of which 2 lie beside it, a copy of 1.
HOST = """
planes { name: "/host:CPU"
  lines { name: "python" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 0 duration_ps: 8000000 stats { metadata_id: 1 int64_value: 7 } }
    events { metadata_id: 2 offset_ps: 0 duration_ps: 1000000 } }
  event_metadata { key: 1 value { id: 1 name: "training step" } }
  event_metadata { key: 2 value { id: 2 name: "phase: data" } }
  stat_metadata { key: 1 value { id: 1 name: "step_num" } } }
"""
TPU = """
planes { name: "/device:TPU:3"
  lines { name: "XLA Ops" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 1000000 duration_ps: 4000000 }
    events { metadata_id: 2 offset_ps: 1000000 duration_ps: 4000000 stats { metadata_id: 1 str_value: "loop fusion" } }
    events { metadata_id: 4 offset_ps: 6000000 duration_ps: 1000000 stats { metadata_id: 1 str_value: "copy" } } }
  lines { name: "Async XLA Ops" timestamp_ns: 1000
    events { metadata_id: 3 offset_ps: 3000000 duration_ps: 3000000 } }
  lines { name: "Steps" timestamp_ns: 1000 events { metadata_id: 1 offset_ps: 0 duration_ps: 8000000 } }
  event_metadata { key: 1 value { id: 1 name: "%while.1 = (bf16[8]{0}) while(%tuple), body=%b" } }
  event_metadata { key: 2 value { id: 2 name: "%fusion.2 = bf16[8]{0} fusion(%p), kind=kLoop" } }
  event_metadata { key: 3 value { id: 3 name: "%all-gather-start.3 = (bf16[8], bf16[32]) all-gather-start(%p)" } }
  event_metadata { key: 4 value { id: 4 name: "%copy.4 = bf16[8]{0} copy(%fusion.2)" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_category" } } }
"""
GPU = """
planes { name: "/device:GPU:3"
  lines { name: "Stream #16(Compute)" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 1000000 duration_ps: 4000000 stats { metadata_id: 1 str_value: "fusion.2" } } }
  lines { name: "Stream #17(Compute)" timestamp_ns: 1000
    events { metadata_id: 2 offset_ps: 3000000 duration_ps: 3000000
      stats { metadata_id: 1 str_value: "all-gather-start.3" } } }
  lines { name: "Stream #18(MemcpyD2D)" timestamp_ns: 1000
    events { metadata_id: 3 offset_ps: 6000000 duration_ps: 1000000 } }
  event_metadata { key: 1 value { id: 1 name: "loop_fusion_kernel" } }
  event_metadata { key: 2 value { id: 2 name: "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)" } }
  event_metadata { key: 3 value { id: 3 name: "MemcpyD2D" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } } }
"""
CPU = """
  lines { name: "tf_XLAEigen/1" timestamp_ns: 1000
    events { metadata_id: 3 offset_ps: 1000000 duration_ps: 4000000
      stats { metadata_id: 2 str_value: "fusion.2" } stats { metadata_id: 3 int64_value: 3 } }
    events { metadata_id: 3 offset_ps: 6000000 duration_ps: 1000000
      stats { metadata_id: 2 str_value: "copy.4" } stats { metadata_id: 3 int64_value: 3 } } }
  lines { name: "tf_XLAEigen/2" timestamp_ns: 1000
    events { metadata_id: 3 offset_ps: 3000000 duration_ps: 3000000
      stats { metadata_id: 2 str_value: "all-gather.3" } stats { metadata_id: 3 int64_value: 3 } } }
  event_metadata { key: 3 value { id: 3 name: "an operation" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_op" } }
  stat_metadata { key: 3 value { id: 3 name: "device_ordinal" } } }
"""
TEXTS = {'tpu:3': HOST + TPU, 'gpu:3': HOST + GPU, 'cpu:3': HOST.rstrip().removesuffix('}') + CPU}
PROGRAM = """HloModule jit_step, is_scheduled=true

FileNames
1 "/opt/checkout/bigmodel_jax/layers/norms.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=107 end_line=107 column=0 end_column=0}

StackFrames
1 {file_location_id=1 parent_frame_id=1}


%moved (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %copy.9 = f32[8]{0} copy(%p)
}

%joined (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  %all-reduce.9 = f32[8]{0} all-reduce(%q), to_apply=%add
  ROOT %slice.9 = f32[8]{0} slice(%all-reduce.9)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %psum.2 = f32[8]{0} all-reduce(%x), metadata={op_name="jit(step)/norm/psum" stack_frame_id=1}
  %fusion.3 = f32[8]{0} fusion(%psum.2), kind=kLoop, calls=%moved
  %fusion.4 = f32[8]{0} fusion(%fusion.3), kind=kCustom, calls=%joined
  ROOT %all-gather_add.1 = f32[8]{0} add(%fusion.4, %x), metadata={op_name="x" source_file="a/b/c.py" source_line=3}
}
"""


def written(text, folder):
    content = jax.profiler.ProfileData.text_proto_to_serialized_xspace(text)
    path = epath.Path(folder) / 'plugins' / 'profile' / 'now'
    path.mkdir(parents=True)
    (path / 'host.xplane.pb').write_bytes(content)
    return path


@pytest.mark.parametrize('device', TEXTS)
def test_the_operations_of_each_kind_of_device_are_found(device, tmp_path):
    folder = written(TEXTS[device], tmp_path)
    assert trace_file.newest(epath.Path(tmp_path)) == folder
    trace = trace_file.read(folder, None)
    assert (trace.steps, trace.count, trace.window) == ((7, 7), 1, ((1_000, 9_000),))
    found = breakdown.of(trace)
    (time,) = found.devices
    assert time.device == device
    assert time.parts == {'compute': 4_000, 'collectives': 1_000, 'copies': 1_000, 'input': 1_000, 'idle': 1_000}
    assert time.hidden == 2_000
    assert found.ops[0].name == 'fusion.2'


def test_evaluations_are_no_part_of_a_step(tmp_path):
    span = 'events { metadata_id: 4 offset_ps: 7500000 duration_ps: 500000 } }\n  event_metadata { key: 1'
    text = TEXTS['tpu:3'].replace('}\n  event_metadata { key: 1', span, 1)
    name = 'event_metadata { key: 4 value { id: 4 name: "phase: evaluation" } }\n  stat_metadata'
    text = text.replace('stat_metadata', name, 1)
    trace = trace_file.read(written(text, tmp_path), None)
    assert trace.window == ((1_000, 8_500),)


def test_a_program_tells_what_its_operations_are_and_where_they_come_from():
    found = program_ops.read(PROGRAM)
    kinds = {name: found.kinds[name] for name in ('psum.2', 'fusion.3', 'fusion.4', 'all-gather_add.1')}
    assert kinds == {
        'psum.2': 'collective',
        'fusion.3': 'copy',
        'fusion.4': 'collective',
        'all-gather_add.1': 'compute',
    }
    assert found.origins == {'psum.2': 'norm/psum, bigmodel_jax/layers/norms.py:107', 'all-gather_add.1': 'x, b/c.py:3'}
    with pytest.raises(ValueError, match='HloModule'):
        program_ops.read('something else')


@pytest.mark.parametrize(
    ('kind', 'names'),
    {
        'compute': ['fusion.3', 'convolution fusion', 'async-collective-fusion.2', 'copy_add_fusion', 'custom-call.1'],
        'collective': ['all-reduce-scatter.2', 'reduce_scatter.14', 'psum_invariant.7', 'collective-permute-done.1']
        + ['ncclDevKernel_AllReduce_Sum_bf16', 'all-to-all', 'recv-done', 'async-collective-start', 'ppermute.3'],
        'copy': ['copy.4', 'copy-start.3', 'MemcpyH2D', 'Memset', 'slice-start.2', 'transpose.3'],
        'control': ['while.3', 'conditional'],
    }.items(),
)
def test_an_operation_is_known_by_its_name(kind, names):
    assert {name: op_kinds.kind_of(name) for name in names} == dict.fromkeys(names, kind)


def test_what_is_no_trace_is_refused(tmp_path):
    with pytest.raises(config.InputError, match='holds no trace'):
        trace_file.newest(epath.Path(tmp_path))
    folder = written(HOST, tmp_path)
    with pytest.raises(config.InputError, match='holds no operations'):
        trace_file.read(folder, None)
    (folder / 'host.xplane.pb').write_bytes(np.random.default_rng(0).bytes(100))
    with pytest.raises(config.InputError, match='cannot be read'):
        trace_file.read(folder, None)
