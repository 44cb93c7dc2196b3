"""What came of two runs: where their metrics, layers and final states part, and by how much. No JAX."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bigmodel_jax.reproduce import sections
from bigmodel_jax.reproduce.sections import Finding, Section
from bigmodel_jax.runs import directory, traces
from bigmodel_jax.train.monitoring.sessions import ENDINGS

CLOSE = 1e-3  # Values closer than this, as a fraction, are shown to all digits of float32.
SHOWN = 3  # Metrics of a step, or layers, that are shown.
FIRST = ('loss', 'grad_norm')  # The metrics that tell most.
NEGLIGIBLE = 1e-3  # Of the norm of the whole gradient: rounding errors of a piece are not smaller with the piece.


class Deviation(NamedTuple):
    """Two values of one metric that should be equal."""

    name: str  # 'loss', 'validation/loss'.
    step: int
    left: float
    right: float
    scale: float  # The largest value of the metric up to here.

    @property
    def by(self) -> float:
        """How far apart; inf if only one is finite."""
        apart = abs(self.left - self.right)
        return math.inf if math.isnan(apart) else apart

    @property
    def relative(self) -> float:
        """How far apart, as a fraction of the scale."""
        return self.by / self.scale if self.scale else math.inf

    def __str__(self) -> str:
        digits = 9 if self.relative < CLOSE else 4
        sizes = f'  ({self.right - self.left:+.1e}, relative {self.relative:.1e})' if math.isfinite(self.by) else ''
        return f'{self.left:.{digits}g} -> {self.right:.{digits}g}{sizes}'


class Comparison(NamedTuple):
    """A section on what came of two runs, with what the verdict needs of it."""

    section: Section
    step: int | None = None  # The first that was seen to differ.
    equal_until: int = 0  # The last step known to be equal.
    deviations: tuple[Deviation, ...] = ()  # All of the first step that differs.
    training: bool = True  # False: only evaluations differ.


def same(left: float, right: float) -> bool:
    """Whether two numbers are the same; nan is nan."""
    return left == right or (math.isnan(left) and math.isnan(right))


# ---- metrics ----------------------------------------------------------------------------------------------------


# The steps (since, until] of which values are means, and the values of either run by name.
Pair = tuple[tuple[int, int], Mapping[str, float], Mapping[str, float]]


class MetricSeries(NamedTuple):
    """The values of all metrics of a run, by interval: the steps (since, until] of which they are means."""

    training: dict[tuple[int, int], dict[str, float]]
    evaluations: dict[tuple[int, int], dict[str, float]]


def series(run: directory.Run, after: int) -> MetricSeries:
    """The metrics of the steps after `after`."""
    found, since = MetricSeries({}, {}), 0
    for record in run.records:
        until, metrics = record['step'], record.get('metrics', {})
        if record['kind'] == 'train':
            if until > after:
                found.training[since, until] = metrics
            since = until
        elif record['kind'] == 'evaluation' and until > after:
            own = found.evaluations.setdefault((until, until), {})
            own |= {f'{record["name"]}/{name}': value for name, value in metrics.items()}
    return found


def metrics(left: directory.Run, right: directory.Run, after: int = 0) -> Comparison:
    """Where the metrics of two runs part, of the steps after `after`."""
    series_of = [series(run, after) for run in (left, right)]
    pairs = [
        (interval, one[interval], other[interval])
        for one, other in zip(*series_of)
        for interval in one
        if interval in other
    ]
    if not pairs:
        return Comparison(Section('metrics', (), _nothing_common(series_of), compared=False))
    return of_metrics(sorted(pairs, key=lambda pair: pair[0][1]), after)


def of_metrics(pairs: Sequence[Pair], after: int) -> Comparison:
    """Where metrics part, in the order of the steps; there is one pair at least."""
    wrong, last = _deviations(pairs), pairs[-1][0][1]
    if not wrong:
        names = {name for _, one, _ in pairs for name in one}
        about = f'{sections.counted(len(names), "metric")} in {sections.counted(len(pairs), "report")} to step {last:,}'
        return Comparison(Section('metrics', (), about), equal_until=last)
    step, first = wrong[0]
    before = max((interval[1] for interval, _, _ in pairs if interval[1] < step), default=after)
    training = any('/' not in each.name for _, found in wrong for each in found)
    section = Section('metrics', tuple(_shown(step, first, wrong)), '')
    return Comparison(section, step, before, first, training)


def _nothing_common(series_of: Sequence[MetricSeries]) -> str:
    counts = [len(each.training) for each in series_of]
    if not all(counts):
        return 'no report of training on one side'
    return 'no report of the same steps on both sides (watch.log_every differs)'


def _deviations(pairs: Sequence[Pair]) -> list[tuple[int, tuple[Deviation, ...]]]:
    """Each step with metrics that differ, and these, the most telling first."""
    found, scales = [], {}
    for (_, step), one, other in pairs:
        for name, value in (*one.items(), *other.items()):
            if math.isfinite(value):
                scales[name] = max(scales.get(name, 0.0), abs(value))
        common = [name for name in one if name in other and not same(one[name], other[name])]
        each = [Deviation(name, step, one[name], other[name], scales.get(name, 0.0)) for name in common]
        if each:
            found.append((step, tuple(sorted(each, key=_telling))))
    return found


def _telling(deviation: Deviation) -> tuple[int, float]:
    order = FIRST.index(deviation.name) if deviation.name in FIRST else len(FIRST)
    return order, -deviation.relative


def _shown(
    step: int, first: Sequence[Deviation], wrong: Sequence[tuple[int, Sequence[Deviation]]]
) -> Iterable[Finding]:
    # Of metrics that say the same, as loss and nll of a plain language model, one is enough.
    values = {(each.left, each.right): each for each in reversed(first)}
    shown = [each for each in first if values[each.left, each.right] is each]
    for each in shown[:SHOWN]:
        yield Finding(f'step {step:,} {each.name}', str(each), sections.RESULT, step)
    if shown[SHOWN:]:
        others = sections.listed([each.name for each in shown[SHOWN:]], 6)
        yield Finding(f'step {step:,} also', others, sections.RESULT, step)
    later = [each for _, found in wrong[1:] for each in found if each.name == shown[0].name]
    if later:
        most = max(later, key=lambda each: each.by)
        yield Finding(f'most, step {most.step:,} {most.name}', str(most), sections.RESULT, step)


# ---- fingerprints -----------------------------------------------------------------------------------------------


def initial(left: traces.RunTrace, right: traces.RunTrace, after: int = 0) -> Comparison:
    """Whether two runs begin with the same parameters, or went on from the same after step `after`."""
    title = 'initial' if not after else f'step {after:,}'
    pair = [trace.fingerprints.get(after) for trace in (left, right)]
    one, other = pair
    if one is None or other is None:
        return Comparison(Section(title, (), f'no fingerprint of step {after} on both sides', compared=False))
    findings = tuple(_pieces(after, one, other))
    about = f'{sections.counted(len(one.checksums), "piece")} of the parameters'
    return Comparison(Section(title, findings, about), after if findings else None)


def layers(left: traces.RunTrace, right: traces.RunTrace, after: int = 0) -> Comparison:
    """The first recorded step after which gradients or parameters differ, and in which layers."""
    steps = sorted(step for step in left.fingerprints if step in right.fingerprints and step > after)
    if not steps:
        return Comparison(Section('layers', (), 'no fingerprint of the same step on both sides', compared=False))
    before = after
    for step in steps:
        one, other = left.fingerprints[step], right.fingerprints[step]
        findings = tuple(_pieces(step, one, other))
        if findings:
            return Comparison(Section('layers', findings, ''), step, before)
        before = step
    count = len(left.fingerprints[before].checksums)
    about = f'{count} checksums and norms at {sections.counted(len(steps), "step")}, the last {before:,}'
    return Comparison(Section('layers', (), about), equal_until=before)


def _pieces(step: int, one: traces.RecordedFingerprint, other: traces.RecordedFingerprint) -> Iterable[Finding]:
    """What differs between two fingerprints."""
    names = list(dict.fromkeys([*one.checksums, *other.checksums]))
    values = [name for name in names if one.checksums.get(name) != other.checksums.get(name)]
    if values:
        yield Finding(f'step {step:,} parameters', _some(values, len(names)), sections.RESULT, step)
    grads = [] if one.norms is None or other.norms is None else _norms(step, one.norms, other.norms)
    if grads:
        text = _some([each.name for each in grads], len(names))
        yield Finding(f'step {step:,} gradients', text, sections.RESULT, step)
        for each in sorted(grads, key=lambda each: -each.relative)[:SHOWN]:
            yield Finding(f'  {each.name}', str(each), sections.RESULT, step)
    if one.optimizer != other.optimizer and not values and not grads:
        yield Finding(f'step {step:,} optimizer', 'only its state differs', sections.RESULT, step)


def _norms(step: int, one: Mapping[str, float], other: Mapping[str, float]) -> list[Deviation]:
    """The gradient norms that differ. What is next to nothing beside the whole gradient is noise whatever its size."""
    finite = [value for each in (one, other) for value in each.values() if math.isfinite(value)]
    floor = NEGLIGIBLE * math.sqrt(sum(value * value for value in finite) / 2)
    found = []
    for name in one:
        if name in other and not same(one[name], other[name]):
            sizes = [abs(value) for value in (one[name], other[name]) if math.isfinite(value)]
            found.append(Deviation(name, step, one[name], other[name], max([floor, *sizes])))
    return found


def _some(names: list[str], every: int) -> str:
    """'all 36 pieces differ', '3 of 36 pieces differ: ffn.up[0-2]'."""
    if len(names) == every:
        return f'all {every} pieces differ'
    return f'{len(names)} of {every} pieces differ: {sections.listed(_ranges(names), SHOWN)}'


def _ranges(names: list[str]) -> list[str]:
    """Layers of one array that follow one another become one: 'up[0]', 'up[1]' -> 'up[0-1]'."""
    found: list[tuple[str, list[int]]] = []
    for name in names:
        base, _, number = name.removesuffix(']').partition('[')
        if found and number and found[-1][0] == base and found[-1][1][-1] + 1 == int(number):
            found[-1][1].append(int(number))
        else:
            found.append((base, [int(number)] if number else []))
    return [base + (f'[{_range(layers)}]' if layers else '') for base, layers in found]


def _range(layers: list[int]) -> str:
    return f'{layers[0]}-{layers[-1]}' if len(layers) > 1 else str(layers[0])


# ---- the end ----------------------------------------------------------------------------------------------------


def digests(left: directory.Run, right: directory.Run, after: int = 0) -> Comparison:
    """Whether the digests of the states in which sessions ended are equal."""
    pair = [
        {record['step']: record['digest'] for record in run.records if record['kind'] in ENDINGS}
        for run in (left, right)
    ]
    steps = sorted(step for step in pair[0].keys() & pair[1].keys() if step > after)
    if not steps:
        return Comparison(Section('digest', (), 'no digest of the same step on both sides', compared=False))
    different = [step for step in steps if pair[0][step] != pair[1][step]]
    if not different:
        about = f'of the whole state at step {steps[-1]:,}: {pair[0][steps[-1]][:12]}'
        return Comparison(Section('digest', (), about), equal_until=steps[-1])
    step = different[0]
    text = sections.change(pair[0][step][:12], pair[1][step][:12])
    before = max((at for at in steps if at < step), default=after)
    return Comparison(Section('digest', (Finding(f'step {step:,}', text, sections.RESULT, step),), ''), step, before)
