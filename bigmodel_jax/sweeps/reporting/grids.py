"""Main effects and interactions of the fields of a grid."""

import math

from bigmodel_jax import config
from bigmodel_jax.sweeps.reporting import effects, fields, formats
from bigmodel_jax.sweeps.reporting.answer import SweepAnswer
from bigmodel_jax.sweeps.reporting.cells import ResultCell, ResultColumn, ResultTable
from bigmodel_jax.sweeps.statistics import factors

LEVEL = 0.05  # Of the tests, after Holm's correction over all effects of the grid.


def fitted(answer: SweepAnswer) -> factors.GridEffects | None:
    """Main effects and interactions of the sweep's factors.

    None where it has no factors, or has too few runs, or one level of a factor, so far.
    """
    paths = answer.about.factors
    if not paths:
        return None
    levels = {
        arm: {path: fields.shown(fields.value(each, path)) for path in paths} for arm, each in answer.about.arms.items()
    }
    values = {arm.arm: arm.values for arm in answer.arms if arm.finite}
    try:
        return factors.grid_effects(values, levels)
    except config.InputError:  # Nothing is measured, or the arms that are have one level.
        return None


def shown(answer: SweepAnswer, found: tuple[factors.FactorEffect, ...]) -> list[effects.ShownEffect]:
    """Main effects, or interactions, of a grid."""
    return [
        _one(answer, each, sign=-1 if answer.about.direction == 'lower' else 1)
        for each in found
        if math.isfinite(float(each.estimate.difference))
    ]


def _one(answer: SweepAnswer, each: factors.FactorEffect, *, sign: int) -> effects.ShownEffect:
    difference = float(each.estimate.difference)
    finding = 'not settled'
    if each.holm <= LEVEL:
        finding = 'better' if sign * difference > 0 else 'worse'
    names = [fields.short(path) for path in each.factors]
    here = ', '.join(f'{name}={level}' for name, level in zip(names, each.levels))
    there = ', '.join(f'{name}={level}' for name, level in zip(names, each.reference))
    return effects.ShownEffect(
        label=here,
        difference=difference,
        interval=each.interval,
        look=effects.LOOKS.get(finding, 'open'),
        finding=finding,
        title=f'{here} against {there}: p = {formats.probability(each.holm)} after Holm',
    )


def table(answer: SweepAnswer, found: factors.GridEffects) -> ResultTable:
    """Every main effect and interaction of a grid."""
    places = formats.decimals(answer)
    rows = []
    for each in (*found.main, *found.interactions):
        effect = _one(answer, each, sign=-1 if answer.about.direction == 'lower' else 1)
        against = ', '.join(map(str, each.reference))
        p = formats.probability(each.holm)
        texts = (against, formats.spread(effect.difference, effect.interval, places), p)
        rows.append((ResultCell(effect.label), *map(ResultCell, texts), ResultCell(effect.finding, look=effect.look)))
    return ResultTable(
        caption='Main effects and interactions of the grid.',
        columns=(
            ResultColumn('field', right=False),
            ResultColumn('against', right=False),
            ResultColumn('effect [95%]'),
            ResultColumn('p (Holm)'),
            ResultColumn('finding', right=False),
        ),
        rows=tuple(rows),
        notes=(
            'A main effect is averaged over the levels of the other fields; an interaction is by how much the effect '
            'of the first field is greater at that level of the second. Least squares with the seeds as blocks.',
        ),
    )
