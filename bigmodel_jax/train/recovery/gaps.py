"""What is missing in the logs of a run that resumes from a checkpoint, as after a loss of power or a full disk."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from bigmodel_jax.hosts import processes
from bigmodel_jax.run_directory import event_log, run_files
from bigmodel_jax.storage import durable_files

KIND = 'gap'  # Of the record that says so.


def missing(workdir: epath.Path, position: Mapping[str, Any]) -> str | None:
    """A sentence on the steps up to that of a checkpoint which the logs know nothing of; None if there are none.

    The first process reads the logs; on the others it is None.

    Args:
      position: of the checkpoint.
    """
    if not processes.is_first():
        return None
    step, told, log = int(position['step']), [], event_log.read(workdir / event_log.FILE)
    # An earlier session said the rest; and a run that began at a checkpoint of another has no steps before that.
    said = max(_began(workdir), *(each['step'] for each in log if each['kind'] == KIND), 0)
    traced = [each for each in event_log.read(workdir / durable_files.TRACE) if each['kind'] == 'certificates']
    known = {
        number for each in traced for number in range(each['step'] - len(each.get('ids', ())) + 1, each['step'] + 1)
    }
    unknown = [number for number in range(said + 1, step + 1) if number not in known]
    if unknown:
        told.append(f'{durable_files.TRACE} lacks {_listed(unknown)}')
    reported = int(position.get('reported', 0))
    reports = [each['step'] for each in log if each['kind'] == 'time']
    last = max((number for number in reports if number <= step), default=0)
    if max(last, said) < reported:
        told.append(f'{event_log.FILE} ends at step {last:,}, before the report of step {reported:,}')
    if not told:
        return None
    return (
        f'The logs are older than the checkpoint of step {step:,}: {"; ".join(told)}. The run continues; what is '
        'missing was lost, as by a loss of power, a full disk or by removing a file.'
    )


def _began(workdir: epath.Path) -> int:
    """The step of the run's first session."""
    try:
        sessions = run_files.environment(workdir)
    except durable_files.DamagedFile:  # Adding a session to it says so.
        sessions = []
    return int(sessions[0]['step']) if sessions else 0


def _listed(steps: list[int]) -> str:
    """Steps as ranges: 'steps 3 to 6, 9'."""
    ranges: list[list[int]] = []
    for step in steps:
        if ranges and ranges[-1][1] == step - 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    texts = [f'{first:,}' if first == last else f'{first:,} to {last:,}' for first, last in ranges]
    shown = ', '.join(texts[:5]) + (f' and {len(texts) - 5} more parts' if len(texts) > 5 else '')
    return f'step{"s" if len(steps) > 1 else ""} {shown}'
