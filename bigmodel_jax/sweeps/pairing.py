"""Whether the arms of a sweep were paired: by the certificates of their batches, and the weights that they began with.

Arms that saw the same batches in the same order, and began with equal weights where the shapes allow, differ by what
they are more than by their seeds, so that the differences of pairs vary less than the values.
"""

from collections.abc import Mapping
from typing import NamedTuple

from bigmodel_jax.runs import traces
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory


class Divergence(NamedTuple):
    """The first step at which the batch of an arm was another than that of the baseline."""

    arm: str
    seed: int
    step: int
    same_examples: bool  # It has the same examples in another form, such as longer rows.


class Pairing(NamedTuple):
    """What the traces of the trials prove.

    Attributes:
      steps: seed -> how many steps were compared with every arm, of those seeds that all arms have begun.
      divergences: where batches differ, one for each arm and seed at most.
      equal_arrays: arm -> share of the arrays of its weights that began with the baseline's values, in all of these
        seeds; None where a trace does not say it. How many weights an array has is not in a trace.
      untraced: names of trials without a trace, of which nothing is known.
    """

    steps: Mapping[int, int]
    divergences: tuple[Divergence, ...]
    equal_arrays: Mapping[str, float | None]
    untraced: tuple[str, ...]

    @property
    def equal_seeds(self) -> list[int]:
        """The seeds in which all arms had the same batches."""
        return [seed for seed in self.steps if all(each.seed != seed for each in self.divergences)]

    def __str__(self) -> str:
        if not self.steps:
            return 'No seed has been compared yet, so nothing is known of the pairing of the arms.'
        return ' '.join(filter(None, [self._batches(), self._weights(), self._unknown()]))

    def _batches(self) -> str:
        counts = sorted({f'{count:,}' for count in self.steps.values()}, key=len)
        steps = counts[0] if len(counts) == 1 else f'{counts[0]} to {counts[-1]}'
        equal, total = len(self.equal_seeds), len(self.steps)
        text = f'The batches of all arms were equal in {equal} of {total} seeds ({steps} steps each).'
        if not self.divergences:
            return text
        first = min(self.divergences, key=lambda each: each.step)
        form = ', with the same examples in another form' if first.same_examples else ''
        return f'{text} {first.arm} differs from the baseline from step {first.step:,} of seed {first.seed} on{form}.'

    def _weights(self) -> str:
        known = {arm: share for arm, share in self.equal_arrays.items() if share is not None}
        if not known:
            return ''
        least = min(known, key=lambda arm: known[arm])
        most = max(known.values())
        if most - known[least] < 0.005:
            return f'{known[least]:.0%} of the arrays of initial weights were equal.'
        return f'{known[least]:.0%} ({least}) to {most:.0%} of the arrays of initial weights were equal.'

    def _unknown(self) -> str:
        count = len(self.untraced)
        return f'{count} trials have no trace, so nothing is known of them.' if count else ''


def pairing(directory: SweepDirectory) -> Pairing:
    """What the traces of a sweep's trials prove, as far as they have come.

    Raises:
      InputError: the directory of a trial is damaged.
    """
    about = directory.description
    found: dict[int, dict[str, traces.RunTrace]] = {seed: {} for seed in about.seeds}
    untraced = []
    for entry in about.trials:
        run = directory.run(entry)
        if run is not None and run.trace is not None:
            found[entry.seed][entry.arm] = run.trace
        elif run is not None:
            untraced.append(entry.name)
    whole = {seed: by_arm for seed, by_arm in found.items() if by_arm.keys() == set(about.arms)}
    steps: dict[int, int] = {}
    divergences: list[Divergence] = []
    for seed, by_arm in whole.items():
        compared = set.intersection(*(set(trace.certificates) for trace in by_arm.values()))
        steps[seed] = len(compared)
        for arm in by_arm:
            step = _first_difference(by_arm[about.baseline], by_arm[arm], sorted(compared))
            if step is not None:
                one, other = (by_arm[each].certificates[step] for each in (about.baseline, arm))
                divergences.append(Divergence(arm, seed, step, one.ids == other.ids))
    others = [arm for arm in about.arms if arm != about.baseline]
    shares = {arm: _equal_share(list(whole.values()), (about.baseline, arm)) for arm in others}
    return Pairing(steps, tuple(divergences), shares, tuple(untraced))


def _first_difference(one: traces.RunTrace, other: traces.RunTrace, steps: list[int]) -> int | None:
    differ = (step for step in steps if one.certificates[step].content != other.certificates[step].content)
    return next(differ, None)


def _equal_share(seeds: list[dict[str, traces.RunTrace]], arms: tuple[str, str]) -> float | None:
    """The share of an arm's arrays that began as the baseline's; the least of all seeds."""
    shares = []
    for by_arm in seeds:
        one, other = (by_arm[arm].fingerprints.get(0) for arm in arms)
        if one is None or other is None:
            return None
        equal = [piece for piece, checksum in other.checksums.items() if one.checksums.get(piece) == checksum]
        shares.append(len(equal) / len(other.checksums))
    return min(shares, default=None)
