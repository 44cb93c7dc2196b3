"""README.md of an exported model, its card: what it was trained on, how well it does, and what was claimed of it."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.papers import judge
from bigmodel_jax.report import facts
from bigmodel_jax.runs import directory, requirements, restored_model

FILE, ORIGIN = 'README.md', 'origin.json'
LICENSE = re.compile(r'[A-Za-z0-9][A-Za-z0-9.+-]{0,99}')  # An SPDX identifier.
MOST_LINES = 60  # Of the fingerprints of the data.


def check_license(name: str | None) -> None:
    """Raises InputError if it is no SPDX identifier."""
    if name is not None and not LICENSE.fullmatch(name):
        raise config.InputError(f'--license {name!r} is no SPDX identifier, such as apache-2.0 or cc-by-sa-4.0.')


def code(value: object) -> str:
    """Any text as Markdown code on one line, which holds neither Markdown nor HTML."""
    plain = ' '.join(str(value).split()).replace('`', "'").replace('|', '\\|')
    return f'`{plain or " "}`'


def origin(run: directory.Run, trained: restored_model.Trained) -> dict[str, Any]:
    """origin.json: what the model was made from, JSON-ready; the experiment as the run stores it."""
    session = run.environment[-1] if run.environment else {}
    judged = requirements.judge(run, trained.step)
    return {
        'experiment': run.stored,
        'step': trained.step,
        'digest': run.digest,
        'versions': session.get('versions', {}),
        'data': session.get('data', {}),
        'evaluations': session.get('evaluations', {}),
        'metrics': {name: value for name, value, _ in evaluated(run, trained.step)},
        'requirements': [each.to_json() | {'clause': f'{each.requirement} ({each.shown})'} for each in judged],
        'claims': [
            {'quantity': each.quantity, 'where': each.claim.where, 'paper': each.said, 'ours': each.ours,
             'verdict': each.verdict, 'reason': each.reason}
            for each in judge.judge(run)
        ],
    }  # fmt: skip


def evaluated(run: directory.Run, step: int) -> Iterator[tuple[str, float, str]]:
    """(name, value, in which direction it is better) of what evaluations measured at a step."""
    for name in run.metric_names:
        steps, values = run.metrics(name)
        if '/' in name and step in steps:
            value = values[steps.tolist().index(step)].item()
            yield name, value, run.measured(name).direction or ''


def fingerprints(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fingerprint of data, a path a line; of a file its name alone, since its folder is that of one machine."""
    found = []
    for path, value in facts.flatten(dict(data)):
        if isinstance(value, str) and pathlib.PurePath(value).is_absolute():
            value = pathlib.PurePath(value).name
        found.append((path, str(value)))
    return found[:MOST_LINES]


def render(
    run: directory.Run,
    trained: restored_model.Trained,
    signature: Mapping[str, Any],
    *,
    license: str | None,
    digests: Mapping[str, str],
) -> str:
    """The card.

    Args:
      signature: the content of signature.json.
      license: an SPDX identifier; None: the card says that none is named.
      digests: SHA-256 of each file of weights.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / 'templates'),
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    made.filters |= {'code': code, 'number': quantities.number, 'whole': quantities.whole, 'size': quantities.size}
    about = origin(run, trained)
    return made.get_template('card.md').render(
        run=run,
        step=trained.step,
        signature=signature,
        license=license,
        digests=digests,
        origin=about,
        metrics=list(evaluated(run, trained.step)),
        data=fingerprints(about['data']),
        evaluations={name: fingerprints(each) for name, each in about['evaluations'].items()},
    )
