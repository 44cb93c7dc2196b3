"""What an evaluation measures: a value, in which direction it is better, and its unit."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from bigmodel_jax import config

Direction = Literal['lower', 'higher']

K = TypeVar('K')


@dataclasses.dataclass(frozen=True)
class Definition(config.Value):
    """What a metric is, apart from its value: known before anything is computed.

    Attributes:
      direction: in which the metric is better; None where neither is, or nobody has declared it.
      unit: 'nats', 'bits', '%', 'BLEU'; '' for a pure number.
    """

    direction: Direction | None = None
    unit: str = ''

    def measured(self, value: float) -> 'Metric':
        """The metric with its value."""
        return Metric(value, self.direction, self.unit)


Definitions = Mapping[str, Definition]  # By the names of the metrics.


@dataclasses.dataclass(frozen=True)
class Metric(config.Value):
    """A number that an evaluation gives.

    Attributes:
      direction, unit: as of a Definition.
      signature: how it was computed, where a library says so, as sacrebleu does; two values with different signatures
        cannot be compared.
    """

    value: float
    direction: Direction | None = None
    unit: str = ''
    signature: str = ''

    def about(self) -> dict[str, str]:
        """All but the value, as JSON: what is known of 'direction', 'unit' and 'signature'."""
        found = {'direction': self.direction, 'unit': self.unit, 'signature': self.signature}
        return {key: text for key, text in found.items() if text}

    @classmethod
    def recorded(cls, name: str, value: float, about: Mapping[str, Any] | None) -> 'Metric':
        """The metric of a record of metrics.jsonl.

        Args:
          about: what about() gave; None in a record of an older version, where the name alone says what it is.
        """
        if about is None:
            return known(name).measured(value)
        return cls(value, about.get('direction'), about.get('unit', ''), about.get('signature', ''))


# Names that mean the same in every objective and evaluation. Others are declared where they are measured. A loss has no
# unit here: that of one objective is in nats, and that of another is a squared error.
KNOWN: Definitions = {
    'loss': Definition('lower'),
    'nll': Definition('lower', 'nats'),
    'nsp_nll': Definition('lower', 'nats'),
    'perplexity': Definition('lower'),
    'bits_per_byte': Definition('lower', 'bits'),
    'accuracy': Definition('higher'),
    'nsp_accuracy': Definition('higher'),
    'bleu': Definition('higher', 'BLEU'),
    'exact_match': Definition('higher', '%'),
    'f1': Definition('higher'),
    'matthews': Definition('higher'),
    'pearson': Definition('higher'),
    'spearman': Definition('higher'),
}


def known(name: str) -> Definition:
    """The definition of a metric whose name says it; one without a direction for any other name.

    A name that ends in '_loss' is that of a loss, such as the auxiliary losses of layers.
    """
    return Definition('lower') if name.endswith('_loss') else KNOWN.get(name, Definition())


def is_better(new: float, old: float, direction: Direction) -> bool:
    """Whether `new` is strictly better than `old`. A number is better than nan or an infinity, which never are."""
    if not math.isfinite(new):
        return False
    if not math.isfinite(old):
        return True
    return new < old if direction == 'lower' else new > old


def best(values: Mapping[K, float], direction: Direction) -> K | None:
    """The key of the best value, and of equal values the last; None if no value is a finite number."""
    found: K | None = None
    for key, value in values.items():
        if math.isfinite(value) and (found is None or not is_better(values[found], value, direction)):
            found = key
    return found
