"""Early stopping in a sweep: trials are trained up to a look, compared there, and arms that cannot win are stopped.

The rule is that of statistics/halving.py. Its looks are held when every arm that is still in play has reached them with
every seed, so trials stop there, with a checkpoint, until the others have come as far. What is stopped follows from the
measured curves alone: a sweep that was killed decides the same when it is started again, and so does its report.

The baseline is never stopped, as the others are compared with it. A trial that failed by itself is left out of the
comparison; one whose process was killed is waited for, as trying it again gives what was missing.
"""

from collections.abc import Mapping, Sequence

from bigmodel_jax import config
from bigmodel_jax.sweeps import failures, running
from bigmodel_jax.sweeps.standings import Standing, Standings, State
from bigmodel_jax.sweeps.statistics import halving
from bigmodel_jax.sweeps.sweep import Sweep
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory, TrialEntry


def held(directory: SweepDirectory, standings: Standings) -> halving.HeldLooks:
    """What came of the looks so far, by the curves of the trials; nothing in a sweep without halving.

    The stops are without the baseline, the arms that are continued, and those of which all trials are finished.
    """
    about = directory.description
    if about.halving is None:
        return halving.HeldLooks({}, 0)
    curves: dict[str, dict[int, Mapping[int, float]]] = {}
    for each in standings.all():
        if each.state is not State.FAILED or failures.was_killed(directory, each.entry):
            curves.setdefault(each.entry.arm, {})[each.entry.seed] = _curve(each)
    steps = next(iter(standings.all())).steps
    found = halving.held_looks(curves, about.halving, total_steps=steps, direction=about.direction)
    spared = {about.baseline, *about.continued}
    spared |= {arm for arm in found.stops if all(each.state is State.FINISHED for each in standings.of(arm))}
    return halving.HeldLooks({arm: why for arm, why in found.stops.items() if arm not in spared}, found.looks)


def _curve(standing: Standing) -> Mapping[int, float]:
    """The curve of a trial; one that ended before its last step keeps its last value."""
    curve = standing.curve
    if standing.state is not State.FINISHED or not curve:
        return curve
    return {**curve, standing.steps: curve[max(curve)]}


def limit(sweep: Sweep, directory: SweepDirectory) -> 'HalvingLimit':
    """The limit that the halving of a sweep is.

    Raises:
      InputError: the arms cannot be compared before their end.
    """
    rule = sweep.halving
    assert rule is not None, 'the caller has asked'
    steps = {each.steps for each in sweep.arms.values()}
    if len(steps) > 1:
        raise config.InputError(
            f'Halving compares the arms at equal steps, but they have {", ".join(map(str, sorted(steps)))} steps. '
            'Run this sweep without halving.'
        )
    if len(sweep.seeds) < 2 or len(sweep.arms) < 2:
        raise config.InputError(
            f'Halving needs 2 arms and 2 seeds or more, to tell a difference from noise; the sweep has '
            f'{len(sweep.arms)} and {len(sweep.seeds)}.'
        )
    total, name = steps.pop(), sweep.metric.partition('/')[0]
    every = {
        arm: next(one.every_steps for one in each.evaluations if one.name == name) for arm, each in sweep.arms.items()
    }
    last = rule.looks[-1] * total
    for arm, interval in every.items():
        if 2 * interval > last:
            raise config.InputError(
                f'Halving compares {sweep.metric} up to step {last:g} of {total}, but arm {arm} measures it every '
                f'{interval} steps, and 2 values are needed by then. Evaluate more often, or run without halving.'
            )
    looks = {
        arm: tuple(min(-(-look * total // interval) * interval, total) for look in rule.looks)
        for arm, interval in every.items()
    }
    return HalvingLimit(directory, {arm: tuple(map(int, each)) for arm, each in looks.items()})


class HalvingLimit(running.Limit):
    """Stops trials at the looks until every arm has come as far, and the arms that cannot win.

    Args:
      looks: arm -> the first step at which its metric is measured at or after each look.
    """

    def __init__(self, directory: SweepDirectory, looks: Mapping[str, Sequence[int]]):
        self._directory, self._looks = directory, looks
        self._known: tuple[Standings, int, halving.HeldLooks] | None = None  # For a version of the standings.

    def stop_after(self, standings: Standings, entry: TrialEntry) -> int | None:
        looks, held_already = self._looks[entry.arm], self._held(standings).looks
        return looks[held_already] if held_already < len(looks) else None

    def allows(self, standings: Standings, entry: TrialEntry, running: Sequence[TrialEntry]) -> str | None:
        step = self.stop_after(standings, entry)
        if step is None or standings[entry].step < step:
            return None
        failed = [each.entry for each in standings.all() if each.state is State.FAILED]
        killed = [each.name for each in failed if failures.was_killed(self._directory, each)]
        missing = f', of which {killed[0]} was killed; --retry tries it again' if killed else ''
        return f'it waits at step {standings[entry].step:,} for the other trials{missing}'

    def stops(self, standings: Standings, running: Sequence[TrialEntry]) -> dict[TrialEntry, str]:
        return self.rules_out(standings, running)

    def rules_out(self, standings: Standings, waiting: Sequence[TrialEntry]) -> dict[TrialEntry, str]:
        stops = self._held(standings).stops
        return {
            entry: f'{entry.arm} was stopped early, {stops[entry.arm]}; --continue {entry.arm} trains it to its end'
            for entry in waiting
            if entry.arm in stops
        }

    def _held(self, standings: Standings) -> halving.HeldLooks:
        known = self._known
        if known is None or known[0] is not standings or known[1] != standings.version:
            known = self._known = standings, standings.version, held(self._directory, standings)
        return known[2]
