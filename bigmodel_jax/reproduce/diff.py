"""Where two runs differ, and why: read from their directories, without running either again. No JAX.

result = diff.compare(directory.open_run('runs/a'), directory.open_run('runs/b'))
result.verdict.word  # 'identical', 'different data' ...
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigmodel_jax import differences
from bigmodel_jax.reproduce import conditions, results, sections, verdict
from bigmodel_jax.reproduce.sections import Finding, Section
from bigmodel_jax.run_directory import code
from bigmodel_jax.runs import directory, traces
from bigmodel_jax.storage import durable_files

# Of the circumstances, which may change within a run (differences.CIRCUMSTANCES), only these can change a number.
NO_EFFECT = ('name', 'checkpoints', 'watch', 'workers', 'claims', 'requires')
MESH, POLICY = 'mesh', 'watch.anomalies'
# What a session records of its data: the field, the word for it, and for what a difference speaks if not for the data.
FINGERPRINTS = (
    ('data', 'source', None),
    ('tokenizer', 'tokenizer', None),
    ('evaluations', 'evaluation', sections.EVALUATION),
)
ANOMALIES = ('skipped', 'rollback')  # The kinds of record in metrics.jsonl of what a policy did.


@dataclasses.dataclass(frozen=True)
class Diff:
    """What compare() found."""

    runs: tuple[directory.Run, directory.Run]
    sections: tuple[Section, ...]
    verdict: verdict.Verdict

    @property
    def identical(self) -> bool:
        """Whether nothing that came of the runs differs."""
        return self.verdict.word == verdict.IDENTICAL

    def section(self, title: str) -> Section:
        """One of 'experiment', 'code', 'versions', 'XLA flags', 'devices', 'data', 'keys', 'initial', 'metrics',
        'layers' and 'digest'."""
        return next(each for each in self.sections if each.title == title)

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {
            'runs': [str(run.path) for run in self.runs],
            'verdict': self.verdict._asdict(),
            'damage': [sentence for run in self.runs for sentence in run.damage],
            'sections': {section.title: section.to_json() for section in self.sections},
        }


def compare(left: directory.Run, right: directory.Run) -> Diff:
    """Compares two runs, of different length over their common steps."""
    pair = (left, right)
    last = min(run.step for run in pair)
    forces = [conditions.in_force(run.environment, last) for run in pair]
    one, other = (run.trace for run in pair)
    contents = code.Contents({}, [run.path for run in pair])
    around = [_experiment(left, right), *conditions.compare(forces[0], forces[1], contents)]
    entries = [force[-1][1] if force else {} for force in forces]
    if one is None or other is None:
        missing = ' and '.join(name for name, trace in (('A', one), ('B', other)) if trace is None)
        reason = (
            f'{missing} {"has" if len(missing) == 1 else "have"} no {durable_files.TRACE}, as made by an older version'
        )
        findings = tuple(_sources(*entries, step=0, speaks_for=sections.DATA))
        causes = [*around, Section('data', findings, f'the same source; {reason}'), _untold('keys', reason)]
        untold = [results.Comparison(_untold(title, reason)) for title in ('initial', 'layers')]
        outcomes = [untold[0], results.metrics(*pair), untold[1], results.digests(*pair)]
    else:
        causes = [*around, data(one, other, entries), keys(one, other, same_seed=_seed(left) == _seed(right))]
        outcomes = [
            results.initial(one, other), results.metrics(*pair), results.layers(one, other), results.digests(*pair)
        ]  # fmt: skip
    answer = verdict.judge(causes, outcomes, left.stored)
    return Diff(pair, (*causes, *(outcome.section for outcome in outcomes)), answer)


def _untold(title: str, reason: str) -> Section:
    return Section(title, (), reason, compared=False)


def _seed(run: directory.Run) -> Any:
    return run.stored.get('seed')


# ---- the experiment ---------------------------------------------------------------------------------------------


def _experiment(left: directory.Run, right: directory.Run) -> Section:
    found = [
        _field(change.path, sections.change(change.left, change.right), (left, right))
        for change in differences.between(left.stored, right.stored)
    ]
    # What may change within a run comes last.
    found.sort(key=lambda finding: finding.what.partition('.')[0] in differences.CIRCUMSTANCES)
    return Section('experiment', tuple(found), f'every field of {left.name}')


def _field(path: str, text: str, runs: Sequence[directory.Run]) -> Finding:
    top = path.partition('.')[0]
    if f'{path}.'.startswith(f'{POLICY}.'):
        acted = [each['step'] for run in runs for each in run.records if each['kind'] in ANOMALIES]
        return Finding(path, text, sections.EXPERIMENT if acted else sections.NOTHING, min(acted, default=0))
    if top in NO_EFFECT:
        return Finding(path, f'{text} (changes no number)', sections.NOTHING)
    if top == MESH:
        # Of its shape the sessions say what was in force; the rest, such as its rules, they leave out.
        shape = any(path.endswith(f'.{axis}') for run in runs for each in run.environment for axis in each['mesh'])
        return Finding(path, f'{text} (a circumstance)', sections.NOTHING if shape else sections.ROUNDING)
    return Finding(path, text, sections.EVALUATION if top == 'evaluations' else sections.EXPERIMENT)


# ---- data and keys ----------------------------------------------------------------------------------------------


def data(
    left: traces.RunTrace, right: traces.RunTrace, sources: Sequence[Mapping[str, Any]], after: int = 0
) -> Section:
    """The source of the data, and the first step after `after` whose batch differs.

    Args:
      sources: the sessions of either run, which say what the data and the tokenizer are.
    """
    steps = sorted(step for step in left.certificates if step in right.certificates and step > after)
    findings = tuple(_batches(left, right, steps))
    # Another source of which no batch differs changed nothing.
    first = min((finding.step for finding in findings), default=0)
    speaks_for = sections.DATA if findings or not steps else sections.NOTHING
    about = (
        f'the same ids{_content_compared(left, right, steps)} at {sections.counted(len(steps), "step")}'
        if steps
        else 'no common step recorded'
    )
    return Section('data', (*_sources(*sources, step=first, speaks_for=speaks_for), *findings), about)


def _sources(left: Mapping[str, Any], right: Mapping[str, Any], *, step: int, speaks_for: str) -> Iterable[Finding]:
    for part, what, meaning in FINGERPRINTS:
        # An older version recorded the data alone.
        one, other = (each.get(part, {}) if part == 'data' else each.get(part) for each in (left, right))
        if part == 'data' or (part in left and part in right):
            for change in differences.between(one, other):
                text = sections.change(change.left, change.right)
                yield Finding(f'{what} {change.path}'.strip(), text, meaning or speaks_for, step)


def _content_compared(left: traces.RunTrace, right: traces.RunTrace, steps: Sequence[int]) -> str:
    """What is to be said of the content of batches none of which differs."""
    if all(_comparable(left.certificates[step], right.certificates[step]) for step in steps):
        return ' and content'
    return ' (not their content: an older version took its checksum of other arrays)'


def _batches(left: traces.RunTrace, right: traces.RunTrace, steps: Sequence[int]) -> Iterable[Finding]:
    pairs = [(step, left.certificates[step], right.certificates[step]) for step in steps]
    other_ids = [each for each in pairs if each[1].ids != each[2].ids]
    if other_ids:
        step, one, other = other_ids[0]
        moved = one.skipped != other.skipped
        why = f'; batches left out before it: {one.skipped} -> {other.skipped}' if moved else ''
        text = f'other example ids, here and in {len(other_ids)} of {sections.counted(len(steps), "step")}{why}'
        yield Finding(f'step {step:,} ids', text, sections.DATA, step)
    other_content = [
        each
        for each in pairs
        if each[1].ids == each[2].ids and _comparable(*each[1:]) and each[1].content != each[2].content
    ]
    if other_content:
        step = other_content[0][0]
        text = (
            f'other content of the same ids, here and in {len(other_content)} of {sections.counted(len(steps), "step")}'
        )
        yield Finding(f'step {step:,} content', text, sections.DATA, step)


def _comparable(one: traces.StepCertificate, other: traces.StepCertificate) -> bool:
    """Whether the checksums of two batches are of the same arrays, as far as the versions decide that."""
    return (one.fields is None) == (other.fields is None)


def keys(left: traces.RunTrace, right: traces.RunTrace, *, same_seed: bool, after: int = 0) -> Section:
    """The first step whose key differs."""
    steps = sorted(step for step in left.fingerprints if step in right.fingerprints and step >= after)
    before = after
    for step in steps:
        one, other = left.fingerprints[step].key, right.fingerprints[step].key
        if one != other:
            why = ', although the seed is the same: the code that makes keys differs' if same_seed else ''
            text = f'{sections.change(one, other)}{why}'
            # The fingerprint of step 0 holds the key of step 1.
            finding = Finding(f'step {max(step, 1):,} key', text, sections.CODE, before + 1 if before else 0)
            return Section('keys', (finding,), '')
        before = step
    about = f'the same at {sections.counted(len(steps), "step")}' if steps else 'no fingerprint of the same step'
    return Section('keys', (), about, compared=bool(steps))


def about(run: directory.Run) -> str:
    """A run in a few words: how far it came, and how."""
    force = conditions.in_force(run.environment, run.step)
    later = [f'resumed at {step:,}' for step, _ in force[1:]]
    parts = [
        run.name,
        f'{run.step:,} of {run.steps:,} steps',
        run.state,
        *later[-2:],
        *conditions.changes(force, code.Contents({}, [run.path])),
    ]
    for segment in run.segments[1:]:
        changed = sections.listed(list(segment.changes), 3)
        parts.append(f'continued after step {segment.after:,} with another experiment or other data ({changed})')
    return ', '.join(parts)
