"""Why two runs differ: the first cause that explains it, or that nothing which was recorded does."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bigmodel_jax.reproduce import sections
from bigmodel_jax.reproduce.results import Comparison, Deviation
from bigmodel_jax.reproduce.sections import Finding, Section

IDENTICAL = 'identical'
REASSOCIATION = 'float reassociation of the expected size'
UNEXPLAINED = 'unexplained'
NOT_COMPARABLE = 'not comparable'
WORDS = {
    sections.EXPERIMENT: 'different experiment',
    sections.EVALUATION: 'different experiment',
    sections.DATA: 'different data',
    sections.CODE: 'different code',
}

# Half the distance from 1 to the next number: what one rounding changes at most, as a fraction.
UNIT = {'float64': 2.0**-53, 'float32': 2.0**-24, 'bfloat16': 2.0**-8, 'float16': 2.0**-11}
ROUNDINGS = 8  # Of a term of the loss in one step, forward and backward, in the precision of the computation.
MESHES = ('mesh', 'devices', 'processes')  # What may differ between runs of a fixed order of sums.
SUM_ROUNDINGS = 16  # Of a sum in float32, which is taken in a tree: log2 of 65,536 terms on one device.


class Verdict(NamedTuple):
    """The answer, and why."""

    word: str  # 'identical', 'different data' ...
    cause: str  # In a few words; '' if there is none.
    reason: str  # A sentence.
    also: str = ''  # What else differs; '' if nothing.


def judge(causes: Sequence[Section], outcomes: Sequence[Comparison], experiment: Mapping[str, Any]) -> Verdict:
    """The verdict.

    Args:
      causes: the sections on what may be a cause, in the order in which they are named.
      outcomes: on what came of the runs.
      experiment: of either run, as in experiment.json; for the precision.
    """
    found = [finding for section in causes for finding in section.findings if finding.speaks_for != sections.NOTHING]
    parted = [outcome for outcome in outcomes if outcome.step is not None]
    if not any(outcome.section.compared for outcome in outcomes):
        return Verdict(NOT_COMPARABLE, '', 'they recorded nothing of the same steps', _names(found))
    if not parted:
        what = sections.listed([each.section.title for each in outcomes if each.section.compared], 9)
        last = max(each.equal_until for each in outcomes)
        return Verdict(IDENTICAL, f'to step {last:,}', f'bit for bit to step {last:,} ({what})', _names(found))
    training = [outcome for outcome in parted if outcome.training]
    first = min(training or parted, key=lambda outcome: outcome.step or 0)
    where = f'first seen at {_where(first)}'
    acting = [each for each in found if each.step <= (first.step or 0)]
    rounding = [each for each in acting if each.speaks_for == sections.ROUNDING]
    kinds = (sections.EXPERIMENT, sections.DATA, sections.CODE) + (() if training else (sections.EVALUATION,))
    for kind in kinds:
        own = [each for each in acting if each.speaks_for == kind]
        if own:
            others = [each for each in found if each not in own]
            small = _rounded(rounding, outcomes, experiment) if kind == sections.CODE and rounding else None
            if small and small.word == REASSOCIATION:
                where += f'; {small.cause} would explain a difference of this size too'
            return Verdict(WORDS[kind], _texts(own), f'{_texts(own)}; {where}', _names(others))
    if not rounding:
        reason = f'nothing that was recorded differs before the runs do; {where}'
        return Verdict(UNEXPLAINED, 'no recorded cause', reason, _names(found))
    return _rounded(rounding, outcomes, experiment)._replace(also=_names([f for f in found if f not in rounding]))


def _where(first: Comparison) -> str:
    step = first.step or 0
    if step == 0:
        return 'the initial parameters'
    equal = f', equal to step {first.equal_until:,}' if first.equal_until else ''
    return f'step {step:,} ({first.section.title}{equal})'


def _texts(findings: Sequence[Finding]) -> str:
    return sections.listed([str(each) for each in findings], 2)


def _names(findings: Iterable[Finding]) -> str:
    return sections.listed(list(dict.fromkeys(each.what for each in findings)), 8)


# ---- rounding ---------------------------------------------------------------------------------------------------


def bound(steps: int, dtype: str, terms: int) -> float:
    """How far apart, as a fraction, rounding alone may bring the losses of two runs in their first so many steps.

    The loss is a mean over many terms, such as tokens. Each term has the rounding errors of a few operations in the
    precision of the computation; these are independent from term to term, so that in the mean they shrink with the root
    of their number. The mean is itself a sum in float32, in another order. From step to step errors add up as a random
    walk, with the root of the number of steps.

    Args:
      terms: of which the loss of a batch is the mean.
    """
    one_step = ROUNDINGS * UNIT[dtype] / math.sqrt(terms) + SUM_ROUNDINGS * UNIT['float32']
    return one_step * math.sqrt(steps)


def _terms(data: Mapping[str, Any]) -> int:
    """Rows of a batch, times their length where it is known."""
    sizes = [data.get(name, 1) for name in ('batch', 'length')]
    return math.prod(size for size in sizes if isinstance(size, int))


def _rounded(rounding: Sequence[Finding], outcomes: Sequence[Comparison], experiment: Mapping[str, Any]) -> Verdict:
    """The verdict where only conditions differ under which sums are rounded."""
    cause = _texts(rounding)
    method = str((experiment.get('gradients') or {}).get('class', ''))
    if method.endswith(':FixedOrder') and all(each.what in MESHES for each in rounding):
        return Verdict(UNEXPLAINED, f'not {cause}', f'gradients=FixedOrder gives equal bits on every mesh; {cause}')
    deviation = _judged([each for outcome in outcomes for each in outcome.deviations])
    if deviation is None:
        reason = f'{cause}; no metric differs, only states: by how much was not recorded'
        return Verdict(REASSOCIATION, cause, reason)
    steps = max(deviation.step - min(each.step for each in rounding if each.step <= deviation.step), 1)
    dtype, terms = precision(experiment), _terms(experiment.get('data', {}))
    limit = bound(steps, dtype, terms)
    fits = deviation.relative <= limit
    size = (
        f'{deviation.name} at step {deviation.step:,} differs by {deviation.relative:.1e} of its size, '
        f'{"within" if fits else f"{deviation.relative / limit:,.0f} times"} the {limit:.1e} that '
        f'{dtype} rounding explains in {sections.counted(steps, "step")}'
    )
    if fits:
        return Verdict(REASSOCIATION, cause, f'{cause}; {size}')
    return Verdict(UNEXPLAINED, f'too much for {cause}', f'{size}, although this differs: {cause}')


def _judged(deviations: Sequence[Deviation]) -> Deviation | None:
    """The deviation by whose size rounding is judged: that of the loss, if it differs."""
    return next((each for each in deviations if '/' not in each.name), next(iter(deviations), None))


def precision(experiment: Any) -> str:
    """The dtype of the computation: the coarsest that a config of the model names."""
    found = {'float32'} | set(_dtypes(experiment.get('model', {})))
    return max(found, key=lambda name: UNIT[name])


def _dtypes(node: Any) -> Iterable[str]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in children:
        if name == 'dtype' and value in UNIT:
            yield value
        yield from _dtypes(value)
