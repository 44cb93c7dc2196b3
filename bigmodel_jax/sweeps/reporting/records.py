"""results.json: every number of a sweep's report with all its digits, and the runs that it is from."""

import math
from typing import Any

from bigmodel_jax.sweeps.reporting.answer import ArmResult, SweepAnswer, TrialResult
from bigmodel_jax.sweeps.statistics import comparison


def results(answer: SweepAnswer) -> dict[str, Any]:
    """The answer, JSON-ready; null where a number is nan, an infinity or not known."""
    about = answer.about
    return {
        'source': about.source.experiment,
        'set': list(about.source.changes),
        'arg': list(about.source.arguments),
        'metric': about.metric,
        'direction': about.direction,
        'summary': str(about.summary),
        'baseline': about.baseline,
        'seeds': list(about.seeds),
        'complete': answer.complete,
        'pairing': answer.pairing,
        'arms': [_arm(answer, each) for each in answer.arms],
    }


def _arm(answer: SweepAnswer, arm: ArmResult) -> dict[str, Any]:
    return {
        'arm': arm.arm,
        'experiment': answer.experiment(arm.arm),
        'changes': {path: {'baseline': there, 'arm': here} for path, (there, here) in arm.changes.items()},
        'parameters': arm.parameters,
        'cost': None if arm.cost is None else arm.cost._asdict(),
        'mean': _number(arm.mean),
        'sd': _number(arm.deviation),
        'comparison': None if arm.comparison is None else _comparison(arm.comparison),
        'stopped': None if arm.stopped is None else {'step': arm.stopped.step, 'reason': str(arm.stopped)},
        'paper': {name: cells[arm.arm] for name, cells in answer.about.columns.items() if arm.arm in cells},
        'runs': [_run(each) for each in arm.trials],
    }


def _comparison(found: comparison.ArmComparison) -> dict[str, Any]:
    pairing = found.measured.pairing
    return {
        'finding': found.finding,
        'verdict': found.verdict,
        'seeds': list(found.measured.seeds),
        'difference': _number(found.difference),
        'interval': [_number(end) for end in found.interval],
        'bootstrap': [_number(end) for end in found.measured.bootstrap],
        'p_t': _number(found.p.t),
        'p_wilcoxon': _number(found.p.rank),
        'p_holm': _number(found.p.holm),
        'detectable': _number(found.power.detectable),
        'seeds_needed': found.power.seeds,
        'variance_paired': None if pairing is None else _number(pairing.paired),
        'variance_unpaired': None if pairing is None else _number(pairing.unpaired),
    }


def _run(each: TrialResult) -> dict[str, Any]:
    return {
        'run': each.entry.name,
        'seed': each.entry.seed,
        'state': each.state,
        'value': None if each.value is None else _number(each.value),
        'diverged': each.value is not None and not math.isfinite(each.value),
        'metrics': {name: _number(value) for name, value in each.others.items()},
        'digest': each.digest,
        'commit': each.commit or None,
        'uncommitted': each.uncommitted,
        'reason': each.reason,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
