"""trace.jsonl as it is read: the certificate of each step, and the fingerprints. No JAX."""

from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax.run_directory import event_log
from bigmodel_jax.storage import durable_files


class StepCertificate(NamedTuple):
    """What tells the batch of a step apart."""

    ids: str  # 16 hexadecimal digits: of the ids of its examples, in order.
    content: str  # 16 hexadecimal digits: of all its bits.
    skipped: int  # Batches left out before it.
    fields: tuple[str, ...] | None  # The arrays that `content` is of; None where an older version did not record them.


class RecordedFingerprint(NamedTuple):
    """What tells the state after a step apart."""

    key: str  # Hexadecimal: the key from which all that was random in the step follows.
    checksums: dict[str, str]  # Piece of the parameters -> 16 hexadecimal digits.
    norms: dict[str, float] | None  # Piece -> norm of its gradient in the step; None where the step was not run.
    optimizer: str


class RunTrace(NamedTuple):
    """Of the steps that hold; those that were taken back are left out."""

    certificates: dict[int, StepCertificate]  # By step.
    fingerprints: dict[int, RecordedFingerprint]  # By step.
    damage: tuple[str, ...] = ()  # A sentence for each line that could not be read.


def read(workdir: epath.Path) -> RunTrace | None:
    """The trace of a run; None if it has none, as one that an older version made."""
    if not durable_files.exists(workdir / durable_files.TRACE):
        return None
    log = event_log.scan(workdir / durable_files.TRACE)
    trace, fields = RunTrace({}, {}, tuple(log.damage)), None
    for record in log.records:
        step = record['step']
        if record['kind'] in event_log.BACK:
            if record['kind'] in event_log.BEGINNINGS:
                fields = tuple(record['fields']) if 'fields' in record else None
            # Not as event_log.current(): of the steps of one record some may hold.
            _forget(trace.certificates, step)
            _forget(trace.fingerprints, step)
        elif record['kind'] == 'certificates':
            first = step - len(record['ids']) + 1
            pairs = zip(record['ids'], record['content'])
            for at, (ids, content) in enumerate(pairs, first):
                trace.certificates[at] = StepCertificate(ids, content, record['skipped'], fields)
        elif record['kind'] == 'fingerprint':
            known = trace.fingerprints.get(step)
            trace.fingerprints[step] = _fingerprint(record, known)
    return trace


def _forget(table: dict[int, Any], step: int) -> None:
    """Takes out what is of a later step; the steps rise in the order in which they were put in."""
    while table and next(reversed(table)) > step:
        table.popitem()


def _fingerprint(record: event_log.Record, known: RecordedFingerprint | None) -> RecordedFingerprint:
    names, norms = record['names'], record['norms']
    by_name = None if norms is None else dict(zip(names, map(float, norms)))
    if by_name is None and known is not None:
        by_name = known.norms  # Of a step that was run, and after which a session resumed.
    return RecordedFingerprint(record['key'], dict(zip(names, record['checksums'])), by_name, record['optimizer'])
