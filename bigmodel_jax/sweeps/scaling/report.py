"""What the three approaches say of a ladder of runs, as text and as a picture."""

import dataclasses

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.sweeps.scaling import intervals, isoflop, laws, panels, prediction
from bigmodel_jax.sweeps.scaling.observations import Observations


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingReport(config.Value):
    """The laws that could be fitted, and why the others could not."""

    fitted: tuple[intervals.Fitted, ...]
    refused: tuple[str, ...]

    def text(self, flops: float) -> str:
        """One line for each approach: the exponent of N, and what is compute-optimal for `flops`."""
        lines = [f'compute-optimal for {quantities.number(flops)} FLOPs, with {_percent(self.fitted)} intervals']
        for each in self.fitted:
            best = each.optimal(flops)
            size, tokens = (_counts(estimate) for estimate in (best.parameters, best.tokens))
            lines.append(f'{each.approach}: N ~ C^{each.size_exponent}; N = {size}, D = {tokens}')
            if isinstance(each.law, laws.ParametricLaw):
                lines.append(f'  {formula(each.law)}')
        return '\n'.join([*lines, *self.refused])


def scaling(observations: Observations, *, draws: int = intervals.DRAWS, seed: int = 0) -> ScalingReport:
    """Fits all three approaches.

    Args:
      observations: several for each run for approach 1; the others take the last of each.

    Raises:
      InputError: none of them can be fitted.
    """
    final, fitted, refused = observations.final(), [], []
    for name, fit, given in (
        ('training curves', intervals.by_envelope, observations),
        ('isoFLOP profiles', intervals.by_isoflop, final),
        ('parametric loss', intervals.by_parametric_loss, final),
    ):
        try:
            fitted.append(fit(given, draws=draws, seed=seed))
        except config.InputError as error:
            refused.append(f'{name}: no law. {error}')
    if not fitted:
        raise config.InputError('\n'.join(refused))
    return ScalingReport(fitted=tuple(fitted), refused=tuple(refused))


def formula(law: laws.ParametricLaw) -> str:
    """'L = 1.69 + 406 / N^0.34 + 411 / D^0.28'."""
    size = f'{law.parameter_scale:.4g} / N^{law.parameter_exponent:.3g}'
    return f'L = {law.irreducible:.4g} + {size} + {law.token_scale:.4g} / D^{law.token_exponent:.3g}'


def held_out_text(found: tuple[prediction.HeldOut, ...]) -> str:
    """One line for each held-out run, and a last one that counts those inside their interval."""
    lines = [
        f'{quantities.count(each.parameters)} parameters, {quantities.count(each.tokens)} tokens: loss '
        f'{each.loss:.4f}, predicted {each.predicted.value:.4f} [{each.predicted.low:.4f}, {each.predicted.high:.4f}] '
        f'({100 * each.error:+.2f}%), {"inside" if each.inside else "outside"}'
        for each in found
    ]
    return '\n'.join([*lines, f'{sum(each.inside for each in found)} of {len(found)} inside their interval'])


def picture(report: ScalingReport, observations: Observations) -> str:
    """An SVG file: losses against FLOPs, the isoFLOP profiles, and the compute-optimal size of each approach."""
    final = observations.final()
    frontier = [_frontier(each, final, colour) for colour, each in enumerate(report.fitted)]
    optima = [
        _points(each.law, colour) for colour, each in enumerate(report.fitted) if isinstance(each.law, laws.Frontier)
    ]
    found = [
        panels.LogPanel('Training curves', 'FLOPs', 'loss', _training(observations)),
        panels.LogPanel('Compute-optimal size', 'FLOPs', 'parameters', [*frontier, *optima]),
    ]
    profiles = isoflop.profiles(final)
    if profiles:
        found.insert(1, panels.LogPanel('isoFLOP profiles', 'parameters', 'loss', _profiles(profiles)))
    return panels.svg(found, columns=len(found))


def _training(observations: Observations) -> list[panels.LogLine]:
    sizes = np.unique(observations.parameters)
    lines = []
    for run in np.unique(observations.runs):
        mine = observations.take(observations.runs == run)
        order = np.argsort(mine.tokens)
        colour = int(np.searchsorted(sizes, mine.parameters[0]))
        lines.append(panels.LogLine('', mine.flops[order], mine.losses[order], colour, dotted=len(order) == 1))
    return lines


def _profiles(profiles: tuple[isoflop.Profile, ...]) -> list[panels.LogLine]:
    lines = []
    for colour, each in enumerate(profiles):
        grid = np.geomspace(each.parameters.min(), each.parameters.max(), 60)
        lines.append(panels.LogLine('', each.parameters, each.losses, colour, joined=False))
        lines.append(panels.LogLine('', grid, each.loss(grid), colour, dotted=False))
    return lines


def _frontier(fitted: intervals.Fitted, final: Observations, colour: int) -> panels.LogLine:
    flops = np.geomspace(final.flops.min(), final.flops.max() * 10, 40)
    sizes = np.array([fitted.law.optimal(each).parameters for each in flops.tolist()])
    name = f'{fitted.approach}: a = {fitted.size_exponent}'
    return panels.LogLine(name, flops, sizes, colour, dotted=False)


def _points(law: laws.Frontier, colour: int) -> panels.LogLine:
    flops, parameters, _ = np.array(law.found).T
    return panels.LogLine('', flops, parameters, colour, joined=False)


def _counts(estimate: intervals.Estimate) -> str:
    value, low, high = (quantities.count(each) for each in estimate)
    return f'{value} [{low}, {high}]'


def _percent(fitted: tuple[intervals.Fitted, ...]) -> str:
    return f'{100 * fitted[0].level:g}%'
