"""The newest profile of a run as a table, for the report and the live page. No JAX."""

import os

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.report import artifact_views
from bigmodel_jax.storage import durable_files

NAME = 'time of a step'
FOLDERS = ('profile', 'plugins', 'profile')  # Where jax.profiler writes, within the run's directory.
BREAKDOWN = 'breakdown.json'
COLUMNS = ('part', 'seconds of a step', 'share')


def shown(directory: epath.Path) -> dict[str, list[artifact_views.Shown]]:
    """What the newest profile says, in the form of artifact_views.by_evaluation(); {} if there is none.

    Links are not followed, so that a run shows nothing that lies elsewhere.
    """
    folder = directory
    for name in FOLDERS:
        folder /= name
        if os.path.islink(folder) or not durable_files.is_directory(folder):
            return {}
    found = [folder / name / BREAKDOWN for name in sorted(durable_files.names_in(folder))]
    found = [path for path in found if durable_files.exists(path) and not _is_link(path)]
    if not found:
        return {}
    try:
        data = durable_files.read_json(found[-1])
        step_s, steps = float(data['step_s']), [int(each) for each in data['steps']]
        parts = [(str(name), float(seconds)) for name, seconds in data['seconds'].items() if name != 'hidden']
        rows = tuple(
            (name, f'{seconds:.4g}', f'{seconds / step_s:.1%}') for name, seconds in [*parts, ('step', step_s)]
        )
        title = f'steps {steps[0]} to {steps[1]}, traced by the profiler'
    except (config.InputError, KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f'{found[-1]} is damaged ({type(error).__name__}). Delete it.'
        return {NAME: [artifact_views.Shown(0, [artifact_views.View('table', NAME, None, problem=problem)])]}
    table = artifacts.Table(title=title, columns=COLUMNS, rows=rows)
    return {NAME: [artifact_views.Shown(steps[1], [artifact_views.View('table', title, table)])]}


def _is_link(path: epath.Path) -> bool:
    return os.path.islink(path) or os.path.islink(path.parent)
