"""Whether a run, or a part of it, comes out the same when it is done again: bit for bit, in all that it recorded."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.reproduce import conditions, diff, repeat, results, sections
from bigmodel_jax.reproduce.results import Comparison
from bigmodel_jax.reproduce.sections import Finding, Section
from bigmodel_jax.run_directory import code, lineage
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train.state import ITEMS

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Verification:
    """What verify() found."""

    run: directory.Run
    after: int  # The steps after this one were repeated,
    until: int  # to this one.
    conditions: tuple[Section, ...]  # Code, versions, flags and devices: of then, and of now.
    sections: tuple[Section, ...]  # What came of it.
    step: int | None  # The first recorded step that differs; 0: before the first.
    first: Finding | None  # What differs there.
    equal_until: int  # The last step known to be equal.
    stopped: str | None  # What ended the repetition before `until`.

    @property
    def compared(self) -> bool:
        """Whether the run recorded anything of these steps."""
        return any(section.compared for section in self.sections)

    @property
    def identical(self) -> bool:
        """Whether all of it is the same bit for bit."""
        return self.compared and self.step is None and self.stopped is None

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        names = ('identical', 'after', 'until', 'step', 'equal_until', 'stopped')
        plain = {name: getattr(self, name) for name in names}
        parts = {
            part: {each.title: each.to_json() for each in getattr(self, part)} for part in ('conditions', 'sections')
        }
        first = None if self.first is None else self.first._asdict()
        return {'run': str(self.run.path), **plain, 'first': first, **parts}


def verify(
    run: directory.Run,
    *,
    steps: int | None = None,
    between: tuple[int, int] | None = None,
    experiment_file: str | None = None,
    keep: str | None = None,
    say: Say = lambda _: None,
) -> Verification:
    """Repeats what a run did, and compares.

    Args:
      run: it is only read.
      steps: the first so many steps; None: all that it recorded.
      between: instead, from the checkpoint of the first of these steps to the second.
      experiment_file: needed only if it defines parts of the experiment; see repeat.experiment_of().
      keep: a new directory to repeat in; None: a temporary one.
      say: is told, before it begins, what differs here from where the run was done.

    Raises:
      InputError: the run has no such steps or checkpoint, or there are too few devices.
    """
    after, until = _stretch(run, steps, between)
    asked, sessions = repeat.experiment_of(run, experiment_file), repeat.sessions_of(run, after, until)
    meshes = [repeat.on_mesh(asked, session).mesh for _, session in sessions]
    around = tuple(_conditions(run, asked, sessions))
    for line in warnings(around):
        say(line)
    with repeat.folder(keep) as into:
        first = config.vary(repeat.made(run, max(after, 1)), {'mesh': meshes[0]})
        repeat.begin_at(run, first, into, after)
        stopped = repeat.train(run, sessions, into, until)
        again = directory.open_run(into)
        reached = min(until, again.step)
        found = [*_damaged(run, until), *_outcomes(run, again, after)]
        found.append(_stored(run, again, after, repeat.on_mesh(asked, sessions[-1][1])))
    parted = min((each for each in found if each.step is not None), key=lambda each: each.step or 0, default=None)
    step = None if parted is None else parted.step
    return Verification(
        run=run,
        after=after,
        until=reached,
        conditions=around,
        sections=tuple(outcome.section for outcome in found),
        step=step,
        first=None if parted is None else _telling(parted.section),
        equal_until=_equal_until(found, step, after),
        stopped=stopped,
    )


def _conditions(
    run: directory.Run, asked: Experiment, recorded: Sequence[tuple[int, conditions.Entry]]
) -> list[Section]:
    """What is other here than where the run was done."""
    here = [repeat.here(asked, session) for _, session in recorded]
    now = [(step, entry) for (step, _), (entry, _) in zip(recorded, here)]
    known = {digest: content for _, contents in here for digest, content in contents.items()}
    return conditions.compare(recorded, now, code.Contents(known, [run.path]))


def _equal_until(found: Sequence[Comparison], step: int | None, after: int) -> int:
    known = [each.equal_until for each in found if each.section.compared]
    return max((each for each in known if step is None or each < step), default=after)


def _telling(section: Section) -> Finding:
    return next(each for each in section.findings if each.speaks_for != sections.NOTHING)


def warnings(around: Sequence[Section]) -> list[str]:
    """A line for all under which a repetition may round differently."""
    return [
        f'warning: recorded -> here: {line}'
        for section in around
        for finding in section.findings
        if finding.speaks_for != sections.NOTHING
        for line in (f'{section.title}: {finding}', *(f'  {each}' for each in finding.lines))
    ]


def _stretch(run: directory.Run, steps: int | None, between: tuple[int, int] | None) -> tuple[int, int]:
    """The step after which to begin, and the last one."""
    if not run.step:
        raise config.InputError(f'{run.path} recorded no step; there is nothing to verify.')
    if between is None:
        if steps is not None and not 0 < steps <= run.step:
            raise config.InputError(f'--steps {steps}: the run recorded steps 1 to {run.step}.')
        return 0, run.step if steps is None else steps
    first, last = between
    if first not in run.checkpoints:
        there = ', '.join(map(str, run.checkpoints)) or 'none'
        raise config.InputError(
            f'--between {first} {last}: there is no checkpoint of step {first}; there are: {there}.'
        )
    if not first < last <= run.step:
        raise config.InputError(f'--between {first} {last}: use a second step from {first + 1} to {run.step}.')
    return first, last


def _outcomes(run: directory.Run, again: directory.Run, after: int) -> list[Comparison]:
    """What was compared of the steps after `after`, but for the stored states."""
    one, other = run.trace, again.trace
    if one is None or other is None:
        return [results.metrics(run, again, after), results.digests(run, again, after)]
    sources = [each.environment[-1] for each in (run, again)]
    data = diff.data(one, other, sources, after)
    last = max((step for step in other.certificates if step in one.certificates), default=after)
    keys = diff.keys(one, other, same_seed=True, after=after)
    return [
        _as_outcome(data, last),
        _as_outcome(keys, after),
        results.initial(one, other, after),
        results.metrics(run, again, after),
        results.layers(one, other, after),
        results.digests(run, again, after),
    ]


def _damaged(run: directory.Run, until: int) -> list[Comparison]:
    """The lines of the run's records that cannot be read, if there are any; one may be of any step."""
    findings = tuple(Finding('', sentence, sections.RESULT, until) for sentence in run.damage)
    return [Comparison(Section('log', findings, ''), until)] if findings else []


def _as_outcome(section: Section, last: int) -> Comparison:
    steps = [finding.step for finding in section.findings if finding.speaks_for != sections.NOTHING]
    return Comparison(section, max(min(steps), 1) if steps else None, last if not steps else 0)


# ---- stored states ----------------------------------------------------------------------------------------------


def _stored(run: directory.Run, again: directory.Run, after: int, asked: Experiment) -> Comparison:
    """Whether the checkpoints that both have are the same, array by array."""
    common = sorted(step for step in run.checkpoints if step in again.checkpoints and step > after)
    equal = after
    for step in common:
        findings = tuple(_arrays(run, again, step, asked))
        if findings:
            return Comparison(Section('checkpoints', findings, ''), step, equal)
        equal = step
    if not common:
        return Comparison(Section('checkpoints', (), 'none of the same step on both sides', compared=False))
    return Comparison(
        Section('checkpoints', (), f'every array at step {", ".join(map(str, common))}'), equal_until=equal
    )


def _arrays(run: directory.Run, again: directory.Run, step: int, asked: Experiment) -> Sequence[Finding]:
    """The arrays that differ in two checkpoints of one step; or that the run's is damaged."""
    try:
        one, other = (_checksums(each.path, step) for each in (run, again))
        repeat.restore(run, asked, step)  # Compares what is stored with the checksums.
    except integrity.DamagedCheckpoint as error:
        return [Finding(f'checkpoint {step}', f'damaged: {error}', sections.RESULT, step)]
    except config.InputError as error:
        if not isinstance(error.__cause__, integrity.DamagedCheckpoint):
            raise
        return [Finding(f'checkpoint {step}', f'damaged: {error.__cause__}', sections.RESULT, step)]
    names = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
    if not names:
        return []
    text = f'{len(names)} of {len(one)} arrays differ: {sections.listed(names)}'
    return [Finding(f'checkpoint {step}', text, sections.RESULT, step)]


def _checksums(path: epath.Path, step: int) -> dict[str, str]:
    """Array -> checksum, of the record of a checkpoint whose files are as it says."""
    ours, items = lineage.Lineage.of(path).made, tuple(ITEMS)
    record = integrity.check(path / durable_files.CHECKPOINTS / str(step), step=step, ours=ours, items=items)
    return {name: facts['checksum'] for item in record['arrays'].values() for name, facts in item.items()}
