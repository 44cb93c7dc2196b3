"""What scaling laws are fitted to: the losses of models of several sizes after several numbers of tokens."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.sweeps.scaling import laws

FIELDS = ('parameters', 'tokens', 'losses', 'runs')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Observations(config.Value):
    """Losses of trained models. Arrays are [n]; one run may have several entries, along its training.

    Raises:
      InputError: the arrays have other lengths than one another, or a value is not positive and finite.
    """

    parameters: np.ndarray  # N. Hoffmann et al. count all of them; leave the embeddings out everywhere or nowhere.
    tokens: np.ndarray  # D, seen until the loss was measured.
    losses: np.ndarray
    runs: np.ndarray  # Number of the run that each entry belongs to: what a bootstrap resamples.

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in FIELDS}
        if len(set(lengths.values())) > 1:
            raise config.InputError(f'Observations need arrays of one length, but these have {lengths}.')
        for name in FIELDS[:3]:
            values = getattr(self, name)
            wrong = ~(np.isfinite(values) & (values > 0))
            if wrong.any():
                raise config.InputError(
                    f'Observations: {name}[{wrong.argmax()}] is {values[wrong.argmax()]}; every value must be positive '
                    'and finite. Leave runs that diverged out.'
                )

    @classmethod
    def of(
        cls, parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float], runs: Sequence[int] = ()
    ) -> 'Observations':
        """From sequences of one length; without `runs` each entry is a run of its own."""
        numbers = np.asarray(runs, np.int64) if len(runs) else np.arange(len(losses))
        arrays = [np.asarray(each, np.float64) for each in (parameters, tokens, losses)]
        return cls(parameters=arrays[0], tokens=arrays[1], losses=arrays[2], runs=numbers)

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def flops(self) -> np.ndarray:
        """C = 6 N D, [n]."""
        return laws.FLOPS_PER_PARAMETER_AND_TOKEN * self.parameters * self.tokens

    def take(self, indices: np.ndarray) -> 'Observations':
        """The entries at `indices`, or where a mask is true."""
        return Observations(**{name: getattr(self, name)[indices] for name in FIELDS})

    def final(self) -> 'Observations':
        """The entry of each run with the most tokens."""
        order = np.lexsort((self.tokens, self.runs))
        last = np.append(self.runs[order][1:] != self.runs[order][:-1], True) if len(order) else order
        return self.take(order[last])

    def resampled(self, random: np.random.Generator) -> 'Observations':
        """As many runs, drawn with replacement; a run that is drawn twice counts as two."""
        known = np.unique(self.runs)
        entries = {run: np.flatnonzero(self.runs == run) for run in known.tolist()}
        drawn = [entries[run] for run in random.choice(known, len(known)).tolist()]
        numbers = np.repeat(np.arange(len(drawn)), [len(each) for each in drawn])
        return dataclasses.replace(self.take(np.concatenate(drawn)), runs=numbers)
