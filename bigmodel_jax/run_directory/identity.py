"""What the data and the tokenizer of a run are: recorded with each session, and compared when the run is used again.

A run has one tokenizer, which its directory and its checkpoints hold. It is trained once; whatever resumes, evaluates
or samples the run reads it from there, so that a token id always stands for the same text.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import batches, records, saved
from bigmodel_jax.data.tabular import fitting, tabular
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.data.text.tokenizer import Tokenizer
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives import distillation
from bigmodel_jax.run_directory import run_files
from bigmodel_jax.run_directory import workdir as directories
from bigmodel_jax.storage import appending, durable_files, integrity, sums

CONTINUE = '--new-segment'  # The flag of `train` that consents to what changes the coming steps.
HASH_DIGITS = 12

T = TypeVar('T')


def of(data: batches.Batches, experiment: Experiment, evaluators: Sequence[evaluation.Evaluator]) -> dict[str, Any]:
    """What a session records: fingerprints of the training data, its tokenizer, and the data of each evaluation."""
    tokenizer, named = data.examples.tokenizer, zip(experiment.evaluations, evaluators)
    known = {
        'data': dict(data.examples.fingerprint),
        'tokenizer': None if tokenizer is None else tokenizer.fingerprint,
        'evaluations': {each.name: dict(evaluator.fingerprint) for each, evaluator in named if evaluator.fingerprint},
    }
    if isinstance(experiment.objective, distillation.Distillation):
        known['teacher'] = experiment.objective.teacher.identity()
    return json.loads(json.dumps(known))


def recorded(workdir: epath.Path) -> dict[str, Any]:
    """The newest session of a run that recorded its data, from the run or else its newest checkpoint; else empty."""
    path = workdir / durable_files.ENVIRONMENT
    try:
        sessions = run_files.environment(workdir) if durable_files.exists(path) else _of_checkpoints(workdir)
    except durable_files.DamagedFile:
        sessions = _of_checkpoints(workdir)
    return next((each for each in reversed(sessions) if 'data' in each), {})


def _of_checkpoints(workdir: epath.Path) -> list[dict[str, Any]]:
    """The session that saved the newest checkpoint that holds it."""
    folder = workdir / durable_files.CHECKPOINTS
    for step in reversed(durable_files.saved_steps(workdir)):
        path = folder / str(step) / durable_files.SESSION
        try:
            if durable_files.exists(path):
                integrity.check_folder(folder / str(step), durable_files.SESSION)
                return [durable_files.read_json(path)]
        except (integrity.DamagedCheckpoint, durable_files.DamagedFile):
            continue
    return []


# ---- the run's own tokenizer and fitted values ----------------------------------------------------------------------


def tokenizer_of(workdir: epath.Path, checkpoint: epath.Path | None = None) -> Tokenizer | None:
    """The tokenizer that a run holds; None if it holds none.

    Args:
      checkpoint: the directory of one, whose copy is used where the files of the run are damaged.

    Raises:
      InputError: it is damaged, or not the one that the run recorded.
    """
    folder = workdir / tokenizers.FOLDER
    if not saved.is_saved(folder):
        return None
    try:
        sums.check(workdir, tokenizers.FOLDER)
    except durable_files.DamagedFile as error:
        folder = _copy(error, checkpoint)
    known = recorded_tokenizer(workdir)
    found = tokenizers.load(folder)
    lines = list(_differences(known, json.loads(json.dumps(found.fingerprint)), 'tokenizer'))
    if lines:
        raise config.InputError(
            f'{folder} is not the tokenizer that this run was trained with. Recorded -> there:\n'
            + '\n'.join(lines)
            + f'\nReplace it by the tokenizer/ of a checkpoint, a directory in {workdir / durable_files.CHECKPOINTS}.'
        )
    return found


def _copy(error: durable_files.DamagedFile, checkpoint: epath.Path | None) -> epath.Path:
    """The tokenizer of a checkpoint, since that of the run is damaged, as `error` says."""
    if checkpoint is None or not durable_files.exists(checkpoint / tokenizers.FOLDER):
        raise error
    try:
        integrity.check_folder(checkpoint, tokenizers.FOLDER)
    except integrity.DamagedCheckpoint as other:
        raise config.InputError(f'{error} The copy in {checkpoint} is damaged as well: {other}.') from other
    appending.say(f'{error} The copy in {checkpoint / tokenizers.FOLDER} is used.')
    return checkpoint / tokenizers.FOLDER


def recorded_tokenizer(workdir: epath.Path) -> Any:
    """The fingerprint that the newest session recorded of the tokenizer; None if none did."""
    session = recorded(workdir)
    return session.get('tokenizer', session.get('data', {}).get('tokenizer'))


def with_own(experiment: Experiment, workdir: epath.Path | None) -> Experiment:
    """The experiment with what the run in `workdir` holds, if it does: its tokenizer instead of any that would be
    trained, and the fitted values of its table.

    Tokenizers of evaluations with other settings than those of the training data stay, and are refused later; tables of
    evaluations with other columns are fitted anew.
    """
    return _with_own_fit(_with_own_tokenizer(experiment, workdir), workdir)


def _with_own_tokenizer(experiment: Experiment, workdir: epath.Path | None) -> Experiment:
    if workdir is None or tokenizer_of(workdir) is None:
        return experiment
    path = workdir / durable_files.EXPERIMENT
    stored = run_files.experiment(workdir) if durable_files.exists(path) else config.to_json(experiment)
    own, kinds = saved.Saved(directory=str(workdir / tokenizers.FOLDER)), saved.kinds_in(stored['data'])
    parts = {name: saved.substitute(getattr(experiment, name), own, kinds) for name in ('data', 'evaluations')}
    return config.vary(experiment, parts)


def store_tokenizer(
    tokenizer: Tokenizer | None, workdir: epath.Path, attempt: directories.Attempt = directories.at_once
) -> None:
    """Writes the tokenizer of a run into its directory, unless it is there.

    Args:
      attempt: see workdir.add_session().
    """
    folder = workdir / tokenizers.FOLDER
    if tokenizer is not None and not saved.is_saved(folder):
        directories.add_tokenizer(workdir, tokenizer.stored(), attempt)


def _with_own_fit(experiment: Experiment, workdir: epath.Path | None) -> Experiment:
    found = None if workdir is None else fitted_of(workdir)
    if workdir is None or found is None:
        return experiment
    own = fitting.SavedFit(directory=str(workdir / fitting.FOLDER))
    parts = {name: tabular.with_fit(getattr(experiment, name), own, found.columns) for name in ('data', 'evaluations')}
    return config.vary(experiment, parts)


def fitted_of(workdir: epath.Path) -> fitting.FittedValues | None:
    """The fitted values of the table of a run; None if it holds none.

    Raises:
      InputError: they are damaged.
    """
    folder = workdir / fitting.FOLDER
    if not durable_files.exists(folder / fitting.FILE):
        return None
    try:
        sums.check(workdir, fitting.FOLDER)
    except durable_files.DamagedFile as error:
        raise config.InputError(
            f'{error} Replace it by the fitted/ of a checkpoint, a directory in {workdir / durable_files.CHECKPOINTS}.'
        ) from error
    return fitting.SavedFit(directory=str(folder)).read()


def store_fitted(
    values: fitting.FittedValues | None, workdir: epath.Path, attempt: directories.Attempt = directories.at_once
) -> None:
    """Writes the fitted values of a table into the directory of a run, unless they are there; see store_tokenizer()."""
    if values is not None and fitted_of(workdir) is None:
        named = {f'{fitting.FOLDER}/{fitting.FILE}': values.content}
        attempt(workdir / fitting.FOLDER, lambda: sums.write(workdir, named))


# ---- comparison -----------------------------------------------------------------------------------------------------


def opened(read: Callable[[], T], experiment: Experiment, workdir: epath.Path | None) -> T:
    """What `read` gives, which reads the data of a run with the tokenizer that the run holds.

    Raises:
      InputError: as `read` does. If the text is not that of the run, so that its tokenizer may not know all of it, that
        is said first.
    """
    try:
        return read()
    except config.InputError as error:
        lines = [] if workdir is None or tokenizer_of(workdir) is None else list(_text_changes(experiment, workdir))
        if not lines:
            raise
        raise config.InputError(
            f'{_not_this_data(workdir, lines)}\n{_files_read(experiment)}'
            f'The tokenizer of the run cannot read it: {error}'
        ) from error


def _text_changes(experiment: Experiment, workdir: epath.Path) -> Iterator[str]:
    """A line for each text that is not as the newest session recorded it; without tokenizing it."""
    session = recorded(workdir)
    of_evaluations = session.get('evaluations', {})
    known: list[tuple[Any, Any, str]] = [(experiment.data, session.get('data', {}), 'data')]
    known += [
        (getattr(each, 'data', None), of_evaluations.get(each.name, {}), f'evaluation {each.name}')
        for each in experiment.evaluations
    ]
    for data, fingerprint, path in known:
        if isinstance(data, text.Text):
            with contextlib.suppress(config.InputError):  # It cannot be opened, which `read` says.
                now = {'source': dict(records.texts(data.source).fingerprint)}
                yield from _differences(_untokenized(fingerprint), _untokenized(json.loads(json.dumps(now))), path)


def _not_this_data(workdir: epath.Path | None, lines: Sequence[str]) -> str:
    return '\n'.join(
        [f'{workdir} was not trained and evaluated on this data; nothing was changed. Recorded -> now:', *lines]
    )


def check(
    now: Mapping[str, Any],
    workdir: epath.Path,
    experiment: Experiment,
    *,
    consent: bool = False,
    session: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Compares the data and the tokenizer with those that the run recorded.

    Args:
      now: as of() gives it; only what it holds is compared.
      consent: the data may be other; the tokenizer may not.
      session: the one that recorded it; None: the newest.

    Returns:
      The differences to which there was consent, a line each.

    Raises:
      InputError: they are others.
    """
    lines = changes(now, workdir, recorded(workdir) if session is None else session)
    tokenizer = any(line.lstrip().startswith('tokenizer') for line in lines)
    if not lines or (consent and not tokenizer):
        return tuple(line.strip() for line in lines)
    if tokenizer:
        advice = (
            'The tokenizer of a run cannot change, since its weights belong to token ids. Use the tokenizer settings '
            'that the run began with, or another --workdir.'
        )
    else:
        advice = (
            f'Restore the files as they were. To continue with the data as it is now, give `train` the flag '
            f'{CONTINUE}; to evaluate on other data, give the evaluation another name.'
        )
    raise config.InputError(f'{_not_this_data(workdir, lines)}\n{_files_read(experiment)}{advice}')


def changes(now: Mapping[str, Any], workdir: epath.Path, session: Mapping[str, Any]) -> list[str]:
    """A line for each part of the data or tokenizer that is not as a session of the run recorded it."""
    tokenizer = recorded_tokenizer(workdir)
    if tokenizer is None and saved.is_saved(workdir / tokenizers.FOLDER):
        tokenizer = json.loads(json.dumps(tokenizers.load(workdir / tokenizers.FOLDER).fingerprint))
    lines = list(_differences(tokenizer, now.get('tokenizer'), 'tokenizer'))
    if 'data' in now:
        lines += _differences(_untokenized(session.get('data', {})), _untokenized(now['data']), 'data')
    lines += _differences(session.get('teacher'), now.get('teacher'), 'teacher')
    for name, known in session.get('evaluations', {}).items():
        there = now.get('evaluations', {}).get(name, {})
        lines += _differences(_untokenized(known), _untokenized(there), f'evaluation {name}')
    return lines


def _untokenized(fingerprint: Mapping[str, Any]) -> Any:
    """All but the tokenizer; configs in it as this version writes them, since another may have recorded it."""
    return config.normalized({name: value for name, value in fingerprint.items() if name != 'tokenizer'})


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    """Where two fingerprints differ. What only one of them holds says nothing: another version may have written it."""
    if before is None or now is None:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        common = [name for name in before if name in now]
        if before and now and not common:
            yield f'  {path}: {_short(before)} -> {_short(now)}'
        for name in common:
            yield from _differences(before[name], now[name], f'{path}.{name}')
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now)):
            yield from _differences(one, other, f'{path}.{number}')
    elif before != now:
        yield f'  {path}: {_short(before)} -> {_short(now)}'


def _short(value: Any) -> str:
    if isinstance(value, str):
        return f'{value[:HASH_DIGITS]}...' if len(value) > 4 * HASH_DIGITS else value
    if isinstance(value, int) and not isinstance(value, bool):
        return f'{value:,}'
    text = json.dumps(value)
    return text if len(text) <= 80 else f'{text[:76]} ...'


def _files_read(experiment: Experiment) -> str:
    """A sentence that names the files of the experiment's data, if it names any."""
    named: list[str] = []
    for part in ('data', 'evaluations'):
        named += _paths(getattr(experiment, part))
    return f'The experiment reads {", ".join(dict.fromkeys(named))}. ' if named else ''


def _paths(node: Any) -> Iterator[str]:
    for name, value in config.walk(node):
        if isinstance(value, str) and name.rpartition('.')[2] in ('path', 'pattern', 'file', 'folder', 'directory'):
            yield value
        elif config.is_config(value):
            yield from _paths(value)
