"""Whether two runs are the same run: in the final state, and in all that was recorded on the way there."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from bigmodel_jax.run_directory import event_log
from bigmodel_jax.storage import durable_files

KINDS = ('train', 'evaluation')  # Of the records whose metrics are compared.
SHOWN = 3  # Differences of one kind that are named.


def differences(left: pathlib.Path, right: pathlib.Path) -> list[str]:
    """What differs between two finished runs, a line each; none if they are equal bit for bit."""
    kinds = {'final state': digest, 'metrics': metrics, 'examples and batches': certificates, 'states': fingerprints}
    found = [line for what, read in kinds.items() for line in _compared(what, read(left), read(right))]
    kept = [sorted(path.name for path in (each / durable_files.CHECKPOINTS).iterdir()) for each in (left, right)]
    if kept[0] != kept[1]:
        found.append(f'checkpoints: {", ".join(kept[0])} against {", ".join(kept[1])}')
    return found


def digest(workdir: pathlib.Path) -> dict[str, Any]:
    """The digest of the state at the end."""
    ends = [record for record in event_log.read(workdir / event_log.FILE) if record['kind'] == 'end']
    return {f'step {record["step"]}': record['digest'] for record in ends[-1:]}


def metrics(workdir: pathlib.Path) -> dict[str, Any]:
    """'step 9, train' -> metrics."""
    kept = [record for record in event_log.read(workdir / event_log.FILE) if record['kind'] in KINDS]
    named = _unique((f'step {each["step"]}, {each.get("name", each["kind"])}', each['metrics']) for each in kept)
    # What an evaluation took is no result.
    return {
        name: {key: value for key, value in values.items() if not key.endswith('seconds')}
        for name, values in named.items()
    }


def certificates(workdir: pathlib.Path) -> dict[str, Any]:
    """'step 9' -> the hashes of the ids and of the content of its batch."""
    kept = [record for record in event_log.read(workdir / durable_files.TRACE) if record['kind'] == 'certificates']
    steps = [
        (f'step {each["step"] - len(each["ids"]) + 1 + i}', pair)
        for each in kept
        for i, pair in enumerate(zip(each['ids'], each['content']))
    ]
    return _unique(steps)


def fingerprints(workdir: pathlib.Path) -> dict[str, Any]:
    """'step 100, norm.scale' -> its checksum. Those that only a resumption took are left out."""
    kept = [record for record in event_log.read(workdir / durable_files.TRACE) if record['kind'] == 'fingerprint']
    run = [record for record in kept if record['norms'] is not None]
    return {
        f'step {record["step"]}, {name}': checksum
        for record in run
        for name, checksum in zip(record['names'], record['checksums'])
    }


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; what comes a second time has a name that says so."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[f'{name}, a second time' if name in found else name] = value
    return found


def _compared(what: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    names = [*left, *[name for name in right if name not in left]]
    odd = [name for name in names if left.get(name) != right.get(name)]
    lines = [f'{what}: {name}: {left.get(name, "absent")} against {right.get(name, "absent")}' for name in odd[:SHOWN]]
    return lines + ([f'{what}: and {len(odd) - SHOWN} more of {len(names)}'] if len(odd) > SHOWN else [])
