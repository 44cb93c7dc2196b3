"""The tables of a sweep: arms against the baseline, the paper's own table beside ours, the trials."""

import math
from collections.abc import Iterator

from bigmodel_jax.console import quantities
from bigmodel_jax.sweeps.reporting import effects, formats
from bigmodel_jax.sweeps.reporting.answer import ArmResult, SweepAnswer, TrialResult
from bigmodel_jax.sweeps.reporting.cells import Look, ResultCell, ResultColumn, ResultTable
from bigmodel_jax.sweeps.statistics import comparison

DIGITS = 12  # Of a digest and of a commit in a table.


def comparisons(answer: SweepAnswer) -> ResultTable:
    """Every arm: how many seeds, its mean, and the paired difference from the baseline with interval, p and verdict."""
    columns = ('n', f'mean {formats.PLUS_MINUS} sd', 'difference [95%]', 'p (Holm)')
    return ResultTable(
        caption=answer.question + ('' if answer.complete else f' {answer.state}'),
        columns=(
            ResultColumn('arm', right=False),
            *map(ResultColumn, columns),
            ResultColumn('finding', right=False),
        ),
        rows=tuple(_compared(answer, arm) for arm in answer.arms),
        notes=tuple(_notes(answer)),
    )


def details(answer: SweepAnswer) -> ResultTable:
    """What the seeds could show: each test, the bootstrap, the smallest detectable effect, what pairing gained."""
    headings = (
        'p (t)', 'p (Wilcoxon)', '95% bootstrap', 'detectable', 'seeds needed', 'gain by pairing',
    )  # fmt: skip
    return ResultTable(
        caption='Tests and power of the comparisons.',
        columns=(ResultColumn('arm', right=False), *map(ResultColumn, headings)),
        rows=tuple(_detailed(answer, arm) for arm in answer.arms),
        notes=(
            'Detectable: the smallest effect that so many seeds find with probability 0.8, tested at 5% divided by the '
            'number of arms. Seeds needed: how many find an effect of the size seen. Gain by pairing: variance of the '
            'difference of two runs with different seeds, divided by that of two with the same seed.',
        ),
    )


def sizes(answer: SweepAnswer) -> ResultTable:
    """What a trial of each arm is and costs: parameters, FLOPs, data, and by how much more than the baseline."""
    units = {arm.cost.unit for arm in answer.arms if arm.cost is not None}
    headings = ('parameters', 'FLOPs', units.pop() if len(units) == 1 else 'data', 'FLOPs against the baseline')
    return ResultTable(
        caption='One trial of each arm.',
        columns=(ResultColumn('arm', right=False), *map(ResultColumn, headings)),
        rows=tuple(_sized(answer, arm) for arm in answer.arms),
        notes=(
            'FLOPs: of the model over all steps, a multiply-add being two, without evaluations and what is computed '
            'again.',
        ),
    )


def _sized(answer: SweepAnswer, arm: ArmResult) -> tuple[ResultCell, ...]:
    base, cost = answer.baseline.cost, arm.cost
    texts = [formats.parameters(arm.parameters)] + [formats.UNKNOWN] * 3
    if cost is not None:
        texts = [formats.parameters(cost.parameters), f'{cost.flops:.3e}', quantities.count(cost.units)]
        more = math.nan if base is None else 100 * (cost.flops / base.flops - 1)
        texts.append(formats.UNKNOWN if math.isnan(more) else f'{formats.number(more, 2, sign=True)}%')
    return ResultCell(arm.arm, arm.arm, arm.runs), *(ResultCell(text, arm.arm, arm.runs) for text in texts)


def paper_effects(answer: SweepAnswer) -> ResultTable | None:
    """The paper's differences from the baseline beside ours, with interval and verdict; None without such a column."""
    printed = answer.about.columns.get(answer.about.metric, {})
    if answer.about.baseline not in printed:
        return None
    base = printed[answer.about.baseline]
    rows = [_paper_effect(answer, arm, printed[arm.arm] - base) for arm in answer.arms if arm.arm in printed]
    headings = ("paper's", 'ours [95%]', 'finding', 'against the paper')
    return ResultTable(
        caption=f"Differences of {answer.about.metric} from {answer.about.baseline}, the paper's beside ours."
        + ('' if answer.complete else f' {answer.state}'),
        columns=(
            ResultColumn('arm', right=False),
            *(ResultColumn(heading, right=index < 2) for index, heading in enumerate(headings)),
        ),
        rows=tuple(rows),
        notes=(
            "Agrees: the paper's difference is within our interval. Not settled: our interval holds no difference as "
            "well. Of a paper's single run the noise is not known, so that another size can be its seed.",
        ),
    )


def _paper_effect(answer: SweepAnswer, arm: ArmResult, said: float) -> tuple[ResultCell, ...]:
    places, compared = formats.decimals(answer), _compared(answer, arm)
    against = formats.UNKNOWN if arm.comparison is None else _against_paper(arm.comparison, said)
    texts = formats.number(said, places, sign=True) if arm.arm != answer.about.baseline else formats.UNKNOWN
    return compared[0], ResultCell(texts, arm.arm), compared[3], compared[5], ResultCell(against, arm.arm, arm.runs)


def _against_paper(found: comparison.ArmComparison, said: float) -> str:
    """Whether our interval holds what the paper says, in a few words."""
    if math.isnan(found.interval.low):
        return 'few seeds'
    if found.interval.low <= said <= found.interval.high:
        return 'not settled' if found.finding == 'open' else 'agrees'
    opposite = said * found.difference < 0
    if opposite and found.finding in ('better', 'worse'):
        return 'contradicts'
    return 'not settled' if opposite else 'another size'


def papers(answer: SweepAnswer) -> ResultTable | None:
    """The paper's columns, each beside what was measured where its heading is a metric; None without columns."""
    columns = answer.about.columns
    if not columns:
        return None
    measured = {name: any(name in each.others for each in answer.trials) for name in columns}
    headings = [
        ResultColumn(heading, group=name)
        for name in columns
        for heading in (('paper', 'ours', 'difference') if measured[name] else ('paper',))
    ]
    rows = (
        (
            ResultCell(arm.arm, arm.arm, arm.runs),
            *(cell for name in columns for cell in _paper_cells(answer, arm, name, measured=measured[name])),
        )
        for arm in answer.arms
    )
    unknown = [name for name in columns if not measured[name]]
    notes = ["Difference: ours minus the paper's."] if any(measured.values()) else []
    notes += [f'Not measured here: {", ".join(unknown)}.'] if unknown else []
    return ResultTable(
        caption="The paper's table." + ('' if answer.complete else f' {answer.state}'),
        columns=(ResultColumn('arm', right=False), *headings),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def trials(answer: SweepAnswer) -> ResultTable:
    """Every run, with the number that stands for it, its state, digest and commit."""
    places = formats.decimals(answer)
    headings = ('seed', answer.about.metric)
    words = ('state', 'digest', 'commit')
    return ResultTable(
        caption='Runs.',
        columns=(
            ResultColumn('run', right=False),
            *map(ResultColumn, headings),
            *(ResultColumn(word, right=False) for word in words),
        ),
        rows=tuple(_trial(each, places) for each in answer.trials),
    )


def _notes(answer: SweepAnswer) -> Iterator[str]:
    if answer.compared:
        yield (
            "Student's 95% interval of the mean paired difference, for each arm alone; the verdicts use p after Holm's "
            f'correction over {answer.compared[0][1].arms} arms.'
        )
    for arm, why in answer.stopped:
        yield f'{arm.arm}: stopped early, {why}.'
    for arm in answer.arms:
        lost = [each for each in arm.trials if each.state in ('failed', 'damaged')]
        if lost:
            seeds = 'seeds' if len(lost) > 1 else 'seed'
            yield f'{arm.arm}: {seeds} {formats.seeds(lost)} failed ({lost[0].reason}).'


def _compared(answer: SweepAnswer, arm: ArmResult) -> tuple[ResultCell, ...]:
    places, found = formats.decimals(answer), arm.comparison

    def cell(text: str, look: Look = '') -> ResultCell:
        return ResultCell(text, arm.arm, arm.runs, look)

    counted = str(len(arm.values)) if len(arm.values) == len(arm.trials) else f'{len(arm.values)}/{len(arm.trials)}'
    start = (ResultCell(arm.arm, arm.arm, arm.runs), cell(counted), cell(formats.mean(arm.mean, arm.deviation, places)))
    if found is None:
        word = 'baseline' if arm.stopped is None else 'stopped early'
        return (*start, cell(formats.UNKNOWN), cell(formats.UNKNOWN), cell(word, '' if arm.stopped is None else 'open'))
    return (
        *start,
        cell(formats.spread(found.difference, found.interval, places)),
        cell(formats.probability(found.p.holm if found.finding != 'untested' else math.nan)),
        cell(effects.FINDINGS.get(found.finding, found.finding), effects.LOOKS.get(found.finding, 'open')),
    )


def _detailed(answer: SweepAnswer, arm: ArmResult) -> tuple[ResultCell, ...]:
    places, found = formats.decimals(answer), arm.comparison
    if found is None:
        texts = [formats.UNKNOWN] * 6
    else:
        gain = math.nan if found.measured.pairing is None else found.measured.pairing.ratio
        detectable = found.power.detectable
        texts = [
            formats.probability(found.p.t),
            formats.probability(found.p.rank),
            formats.interval(found.measured.bootstrap, places),
            formats.number(detectable, places) if math.isfinite(detectable) else formats.UNKNOWN,
            formats.UNKNOWN if found.power.seeds is None else f'{found.power.seeds:,}',
            formats.UNKNOWN if math.isnan(gain) else f'{gain:.2g}{formats.TIMES}',
        ]
    cells = (ResultCell(text, arm.arm, arm.runs) for text in texts)
    return ResultCell(arm.arm, arm.arm, arm.runs), *cells


def _paper_cells(answer: SweepAnswer, arm: ArmResult, name: str, *, measured: bool) -> Iterator[ResultCell]:
    column = answer.about.columns[name]
    said = column.get(arm.arm)
    printed = max(len(f'{value:.12g}'.partition('.')[2]) for value in column.values())  # Decimals of the paper.
    yield ResultCell('' if said is None else formats.number(said, printed), arm.arm)
    if not measured:
        return
    ours, deviation = arm.mean_of(name)
    places = max(printed, 2)
    yield ResultCell(formats.mean(ours, deviation, places), arm.arm, arm.runs)
    difference = math.nan if said is None else ours - said
    yield ResultCell(formats.number(difference, places, sign=True), arm.arm, arm.runs)


def _trial(each: TrialResult, places: int) -> tuple[ResultCell, ...]:
    value = formats.UNKNOWN if each.value is None else formats.number(each.value, places)
    commit = each.commit[:DIGITS] + ('+' if each.uncommitted else '')
    texts = (
        str(each.entry.seed),
        value,
        each.state,
        (each.digest or formats.UNKNOWN)[:DIGITS],
        commit or formats.UNKNOWN,
    )
    name = each.entry.name
    return ResultCell(name, each.entry.arm, (name,)), *(ResultCell(text, each.entry.arm, (name,)) for text in texts)
