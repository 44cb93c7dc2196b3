"""The segments of a run: its experiment may change as the run continues, and each one is kept with its steps.

experiment.json holds the current experiment. segments.json is there once it has changed: a list with, for each segment,
the step `after` which it begins, the `changes` with which it began, and the `experiment` of all but the current one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax.storage import durable_files, sums


class Segment(NamedTuple):
    """The steps after `after`, as far as the next segment, made by one experiment."""

    after: int
    experiment: dict[str, Any]  # As JSON.
    changes: tuple[str, ...] = ()  # A line for each difference from the segment before it.


def read(workdir: epath.Path) -> list[Segment]:
    """The segments of a run, oldest first; none if the directory holds no run.

    Raises:
      DamagedFile: a file is not as it was written.
    """
    path = workdir / durable_files.EXPERIMENT
    if not durable_files.exists(path):
        return []
    current = durable_files.read_json(path)
    stored: list[dict[str, Any]] = (
        durable_files.read_json(workdir / durable_files.SEGMENTS)
        if durable_files.exists(workdir / durable_files.SEGMENTS)
        else [{'after': 0}]
    )
    try:
        return [
            Segment(int(each['after']), each.get('experiment', current), tuple(each.get('changes', ())))
            for each in stored
        ]
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise durable_files.DamagedFile(
            f'{workdir / durable_files.SEGMENTS} is damaged: it is not a list of segments. Restore it from a backup.'
        ) from error


def at(segments: Sequence[Segment], step: int) -> Segment:
    """The segment that made step `step`, the first step being 1."""
    return next((each for each in reversed(segments) if each.after < step), segments[0])


def of_an_earlier(segments: Sequence[Segment], step: int) -> bool:
    """Whether the checkpoint of `step` was made by another experiment than the current one."""
    return len(segments) > 1 and step <= segments[-1].after


def encoded(segments: Sequence[Segment]) -> dict[str, bytes]:
    """The content of the files that read() reads."""
    *earlier, last = segments
    entries = [each._asdict() for each in earlier] + [{'after': last.after, 'changes': last.changes}]
    several = {durable_files.SEGMENTS: durable_files.encode_json(entries)} if earlier else {}
    return {**several, durable_files.EXPERIMENT: durable_files.encode_json(last.experiment)}


def write(workdir: epath.Path, segments: Sequence[Segment]) -> None:
    """Writes them; what is there already is left as it is."""
    sums.write(workdir, encoded(segments))


def begun(segments: Sequence[Segment], after: int, experiment: dict[str, Any], changes: Sequence[str]) -> list[Segment]:
    """`segments`, and one more that begins after step `after`; the steps that others made after it are made again."""
    kept = [each for each in segments if each.after < after]
    return [*kept, Segment(after, experiment, tuple(changes))] if kept else [Segment(0, experiment)]
