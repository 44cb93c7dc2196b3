"""What is known of the runs that a walk found: from an index where nothing has changed, else from their directories."""

import json
import time
from collections.abc import Callable, Sequence

from etils import epath

from bigmodel_jax.catalogue import catalogued_run, index, walking
from bigmodel_jax.catalogue.catalogued_run import CataloguedRun
from bigmodel_jax.run_directory import locking

MANY = 100  # Runs; reading more takes long enough to say so.

Say = Callable[[str], None]


def refresh(
    runs: Sequence[walking.FoundRun], kept: index.RunIndex, *, rebuild: bool, say: Say | None
) -> list[CataloguedRun]:
    """Each of the runs as it is now; the index then holds them.

    Args:
      rebuild: read every directory.
      say: told before many directories are read.
    """
    there = kept.load()
    keys, stamps = [walking.key(each) for each in runs], [walking.stamp(each.path) for each in runs]
    known: dict[bytes, CataloguedRun] = {}
    for key, stamp in zip(keys, stamps) if not rebuild else ():
        entry = _decoded(there.get(key), stamp)
        if entry is not None:
            known[key] = entry
    unread = len(runs) - len(known)
    if say is not None and unread > MANY:
        say(f'Reading {unread:,} runs that are new or have changed.')
    changed: dict[bytes, index.StoredEntry] = {}
    for each, key, stamp in zip(runs, keys, stamps):
        if key not in known:
            known[key], settled = _read(each, stamp)
            if settled:
                changed[key] = index.StoredEntry(stamp.text, json.dumps(catalogued_run.to_json(known[key])))
    current = {key: stamp.text for key, stamp in zip(keys, stamps)}
    kept.update(
        changed, [key for key, entry in there.items() if key not in changed and entry.stamp != current.get(key)]
    )
    return [_placed(each, known[key]) for each, key in zip(runs, keys)]


def _decoded(entry: index.StoredEntry | None, stamp: walking.FileStamp) -> CataloguedRun | None:
    """What an entry says, if it is of these files and has the right form."""
    if entry is None or entry.stamp != stamp.text:
        return None
    try:
        return catalogued_run.from_json(json.loads(entry.content))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _read(found: walking.FoundRun, stamp: walking.FileStamp) -> tuple[CataloguedRun, bool]:
    """(what its directory says, whether that may be kept: nothing was written while it was read, or just before)."""
    now_ns = time.time_ns()
    if stamp.problem is not None:
        return catalogued_run.damaged(stamp.problem), walking.is_settled(stamp, now_ns)
    from bigmodel_jax.catalogue import reading  # Only now: it needs NumPy, and a listing from the index does not.

    run = reading.read(found.path)
    return run, walking.is_settled(stamp, now_ns) and walking.stamp(found.path).text == stamp.text


def _placed(found: walking.FoundRun, run: CataloguedRun) -> CataloguedRun:
    """With what no file of the run says: where it is, whether a process works on it, and the sweep it belongs to."""
    facts = {**run.facts, 'path': found.path, 'sweep': found.sweep, 'arm': found.arm}
    # A process that went on with a run may not have recorded anything yet.
    if found.is_locked and locking.in_use(epath.Path(found.path)) is not None:
        facts |= {'state': catalogued_run.RUNNING, 'ending': catalogued_run.RUNNING}
    return run._replace(facts=facts)
