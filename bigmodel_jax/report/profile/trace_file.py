"""Reads what jax.profiler wrote (xplane.pb) into plain records.

Which lines of a trace hold the operations of the devices follows xla/tsl/profiler/utils/xplane_schema.cc:

* CPU: the threads of the plane '/host:CPU'; an event with the stat 'hlo_op' is an operation, of the device in its stat
  'device_ordinal'. Seen with jax 0.10.2, on one and on several simulated devices.
* GPU: the lines 'Stream #...' of each plane '/device:GPU:N'; kernels carry 'hlo_op', copies are named 'Memcpy...'.
* TPU: the lines 'XLA Ops' and 'Async XLA Ops' of each plane '/device:TPU:N'; an event is named by the text of its
  instruction, and carries its 'hlo_category'.

Those of GPU and TPU are handled as documented; no trace of them has been read. Their clocks are aligned with the host's
by the profiler.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.profiler
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.report.profile import intervals, op_kinds
from bigmodel_jax.report.profile.breakdown import DeviceOp, HostSpan, StepTrace
from bigmodel_jax.report.profile.program_ops import ProgramOps
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train.monitoring import profiling, watching

DEVICE = re.compile(r'/device:(GPU|TPU):(\d+)$')
HOST = '/host:CPU'
SYNCHRONOUS, ASYNCHRONOUS = 'XLA Ops', 'Async XLA Ops'
STREAM = 'Stream #'
# '%fusion.3 = bf16[8]{0} fusion(...)' or 'fusion.3'.
OP_NAME = re.compile(r'%?([\w.\-]+)(?: = |$)')


def newest(folder: epath.Path) -> epath.Path:
    """The folder of the newest trace below the folder that the profiler wrote to.

    Raises:
      InputError: there is none.
    """
    found = sorted((path for path in folder.glob('plugins/profile/*') if list(path.glob('*.xplane.pb'))), key=str)
    if not found:
        raise config.InputError(f'{folder} holds no trace (plugins/profile/*/*.xplane.pb).')
    return found[-1]


def read(folder: epath.Path, program: ProgramOps | None) -> StepTrace:
    """The steps that a trace of one process holds.

    Args:
      folder: of newest().
      program: of the traced steps; None: what an operation does is told by its name.

    Raises:
      InputError: the trace cannot be read, or holds no steps of a training session.
    """
    (path, *_) = sorted(folder.glob('*.xplane.pb'))
    try:
        data = jax.profiler.ProfileData.from_serialized_xspace(path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise config.InputError(
            f'{path} cannot be read: {durable_files.brief(error)}. Trace the steps again.'
        ) from error
    ops: list[DeviceOp] = []
    steps: list[tuple[int, HostSpan]] = []
    phases: list[HostSpan] = []
    for plane in data.planes:
        device = DEVICE.search(plane.name)
        if device is not None:
            ops += _of_device(plane, f'{device[1].lower()}:{device[2]}', program)
        elif plane.name == HOST:
            _of_host(plane, program, ops=ops, steps=steps, phases=phases)
    if not steps or not ops:
        missing = 'steps of a training session' if not steps else 'operations of a device'
        raise config.InputError(f'{path} holds no {missing}. Trace the steps again.')
    numbers, spans = zip(*steps)
    # Evaluations and checkpoints lie between steps, as for the seconds per step in the run's log.
    between = intervals.union(each[1:] for each in phases if each.name in watching.BETWEEN_STEPS)
    window = intervals.minus([(min(each.start for each in spans), max(each.end for each in spans))], between)
    return StepTrace((min(numbers), max(numbers)), len(steps), tuple(window), tuple(ops), phases=tuple(phases))


def _of_host(
    plane: Any,
    program: ProgramOps | None,
    *,
    ops: list[DeviceOp],
    steps: list[tuple[int, HostSpan]],
    phases: list[HostSpan],
) -> None:
    """Adds what the threads of the host did."""
    for number, line in enumerate(plane.lines):
        for event in line.events:
            name = event.name
            if name.startswith(watching.TRACED):
                phases.append(HostSpan(name.removeprefix(watching.TRACED), *_times(event)))
            elif name == profiling.STEP:
                steps.append((int(dict(event.stats)['step_num']), HostSpan(name, *_times(event))))
            elif not name.startswith('end: ') and 'hlo_op' in (stats := dict(event.stats)):
                device = f'cpu:{stats.get("device_ordinal", 0)}'
                ops.append(_op(event, stats, program, device=device, line=str(number)))


def _of_device(plane: Any, device: str, program: ProgramOps | None) -> Iterator[DeviceOp]:
    for line in plane.lines:
        if not (line.name in (SYNCHRONOUS, ASYNCHRONOUS) or line.name.startswith(STREAM)):
            continue
        for number, event in enumerate(line.events):
            # Asynchronous operations lie over each other: none of them interrupts another.
            own_line = f'{line.name} {number}' if line.name == ASYNCHRONOUS else line.name
            yield _op(event, dict(event.stats), program, device=device, line=own_line)


def _op(event: Any, stats: Mapping[str, Any], program: ProgramOps | None, *, device: str, line: str) -> DeviceOp:
    found = OP_NAME.match(str(stats.get('hlo_op') or event.name))
    name = found[1] if found else event.name
    module = str(stats.get('hlo_module', '')).partition('(')[0]
    if program is not None and module in ('', program.module) and name in program.kinds:
        kind = program.kinds[name]
    else:
        kind = _named_kind(name, event.name, str(stats.get('hlo_category', '')))
        # An operation of another program than the step.
        name = f'{module}/{name}' if program is not None and module not in ('', program.module) else name
    return DeviceOp(device, line, name, kind, *_times(event))


def _named_kind(*names: str) -> op_kinds.Kind:
    """What the first of the names says that speaks of anything else than computing."""
    kinds = [op_kinds.kind_of(name) for name in names]
    return next((kind for kind in kinds if kind != 'compute'), 'compute')


def _times(event: Any) -> tuple[int, int]:
    return round(event.start_ns), round(event.end_ns)
