"""What the pages of a run say besides its curves and claims: report.html, and the live page. No JAX."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from bigmodel_jax import tree
from bigmodel_jax.report import artifact_views, facts, figures, key_numbers, next_commands
from bigmodel_jax.report.profile import stored
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory, goodput

DIFF_CHARACTERS = 60_000  # Keeps the page small, whatever the run.
SHOWN_MESSAGES = 100  # The last ones.
# Kinds of record -> how such a message is called.
MESSAGES = {
    'warning': 'warning', 'damage': 'damage', 'skipped': 'step skipped', 'slow': 'slow', 'gap': 'gap in the log',
    'checkpoint_failed': 'checkpoint failed', 'code': 'code changed', 'rollback': 'rolled back',
    'resume': 'resumed', 'stop': 'stopped', 'end': 'finished',
}  # fmt: skip
QUIET = ('resume', 'stop', 'end')  # What is no warning.


class RunMessage(NamedTuple):
    """Something that happened in a run, in words."""

    step: int
    time_s: float
    what: str
    text: str
    is_warning: bool


def message(record: event_log.Record) -> RunMessage | None:
    """What a record says in words; None if it only holds numbers."""
    kind = record['kind']
    if kind not in MESSAGES:
        return None
    text = record.get('text') or record.get('reason') or ''
    return RunMessage(record['step'], record['time'], MESSAGES[kind], str(text), kind not in QUIET)


def messages(records: Sequence[event_log.Record]) -> list[RunMessage]:
    """The messages among some records, newest first."""
    return [found for found in map(message, reversed(records)) if found is not None]


def header(run: directory.Run) -> dict[str, Any]:
    """For templates/run_header.html: where the run stands, and its key numbers."""
    return {
        'run': run,
        'now_s': time.time(),
        'last_record_s': max((record['time'] for record in run.records), default=None),
        'tiles': list(key_numbers.tiles(run)),
    }


def details(
    run: directory.Run, rows: Sequence[tree.TreeLine], embed: artifact_views.Embed | None = None
) -> dict[str, Any]:
    """For templates/run_details.html: everything below the curves.

    Args:
      rows: of the experiment.
      embed: where the files of artifacts are to be found; by default they are embedded as far as there is room.
    """
    said = messages(run.records)
    return {
        'run': run,
        'evaluations': key_numbers.evaluation_table(run),
        'shown': artifact_views.by_evaluation(run, embed) | stored.shown(run.path),
        'heading': key_numbers.title,
        'messages': said[:SHOWN_MESSAGES],
        'message_count': len(said),
        'changed': [row for row in rows if row.origin is not None],
        'rows': rows,
        'facts': facts.facts(run),
        'git': run.environment[-1].get('git') if run.environment else None,
        'diff_characters': DIFF_CHARACTERS,
        'fingerprint': facts.fingerprint(run),
        'time_spent': run.time_spent,
        'time_bar': goodput.bar(run.time_spent or [], figures.LARGE[0]),
        'commands': next_commands.next_commands(run),
    }
