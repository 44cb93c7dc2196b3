"""What a paper says of an experiment, number by number: `check` asks what is known before a run, `report` what after.

A claim is a config like any other and stands in `Experiment.claims`. It names the table and says how far off is still
the paper's number. It asks `Facts`, which whoever checks fills in, and knows nothing of models itself.
"""

import dataclasses
import math
from typing import Any, Protocol

from bigmodel_jax import config


class Facts(Protocol):
    """What can be known of an experiment without allocating a weight; each is worked out when it is asked for."""

    def parameters(self, without: tuple[str, ...] = ()) -> int:
        """How many numbers the parameters are, but for those whose path ('blocks.layers.ffn.up') matches a pattern."""
        ...

    def shape(self, parameter: str) -> tuple[int, ...]:
        """Of the parameter of this path."""
        ...

    def setting(self, path: str) -> Any:
        """The value of a field, such as 'model.block.mixer.heads'."""
        ...

    def learning_rate(self, step: int) -> float:
        """That of update `step`, the first being 1."""
        ...

    def tokens_per_step(self) -> int:
        """Targets of a full batch."""
        ...

    def arm(self, name: str) -> 'Facts':
        """Those of another arm of the same experiment file's sweep()."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """Interface of what a paper says; `where` is its table or section."""

    where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Static(Claim):
    """Interface of what follows from the experiment alone."""

    @property
    def quantity(self) -> str:
        """What it is, in words."""
        raise NotImplementedError

    @property
    def stated(self) -> Any:
        """What the paper says."""
        raise NotImplementedError

    def found(self, facts: Facts) -> Any:
        """What this experiment has."""
        raise NotImplementedError

    def agrees(self, found: Any) -> bool:
        """Whether that is the paper's number."""
        return bool(found == self.stated)

    @property
    def said(self) -> str:
        """`stated` for a reader."""
        return text(self.stated)

    def shown(self, found: Any) -> str:
        """What was found, for a reader."""
        return text(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consistency(Static):
    """Interface of what a paper's numbers must have in common: where it fails, the paper contradicts itself."""

    instead: str = ''  # What the experiment does where it fails.

    def contradicts(self, found: Any) -> bool:
        """Whether what was found shows that; if not, the experiment is merely another."""
        return not self.agrees(found)


def text(value: Any) -> str:
    """A value for a reader: 124,439,808; 0.0006; 12 x 768."""
    if isinstance(value, tuple):
        return ' x '.join(map(text, value)) or 'scalar'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'{value:,}'
    return f'{value:.6g}' if isinstance(value, float) else str(value)


def plus_minus(value: float, tolerance: float) -> str:
    """A value with its tolerance, if it has one, for a reader."""
    return f'{text(value)} +- {text(tolerance)}' if tolerance else text(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(Static):
    """Interface of numbers of parameters."""

    value: int
    tolerance: config.NonNegative = 0  # Absolute; where a paper rounds, half of the last printed digit.
    printed: str = ''  # '110M', where `value` is exact and the paper rounds; for the reader alone.

    @property
    def stated(self) -> int:
        return self.value

    def agrees(self, found: int) -> bool:
        return abs(found - self.value) <= self.tolerance

    @property
    def said(self) -> str:
        return plus_minus(self.value, self.tolerance) + (f' (printed: {self.printed})' if self.printed else '')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters(Counted):
    """How many parameters the model has."""

    without: tuple[str, ...] = ()  # Patterns of what the paper does not count, such as 'positions.*'.

    @property
    def quantity(self) -> str:
        return f'parameters without {", ".join(self.without)}' if self.without else 'parameters'

    def found(self, facts: Facts) -> int:
        return facts.parameters(self.without)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrintedParameters(Counted, Consistency):
    """The printed number of parameters should be `exact`, which is that of the printed dimensions."""

    exact: config.Count
    without: tuple[str, ...] = ()

    @property
    def quantity(self) -> str:
        return 'parameters of the printed dimensions'

    def found(self, facts: Facts) -> int:
        return facts.parameters(self.without)

    def contradicts(self, found: int) -> bool:
        return found == self.exact


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActiveParameters(Counted):
    """How many parameters one token meets, where it is routed to `used` of `experts` experts."""

    used: config.Positive
    experts: config.Positive
    routed: tuple[str, ...]  # Patterns of the experts' own parameters, such as '*.ffn.up'.

    @property
    def quantity(self) -> str:
        return f'parameters with {self.used} of {self.experts} experts'

    def found(self, facts: Facts) -> int:
        always = facts.parameters(self.routed)
        return always + (facts.parameters() - always) * self.used // self.experts


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParametersMore(Counted):
    """By how many parameters this arm differs from another: holds where a paper's absolute counts cannot be had."""

    than: str  # An arm.

    @property
    def quantity(self) -> str:
        return f'parameters more than {self.than}'

    def found(self, facts: Facts) -> int:
        return facts.parameters() - facts.arm(self.than).parameters()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops(Static):
    """FLOPs of the whole training by the rule of thumb 6 x parameters x tokens (Brown et al., 2020, appendix D)."""

    value: config.Rate
    relative: config.Rate = 0.005  # Half of the last of three printed digits.

    @property
    def quantity(self) -> str:
        return 'FLOPs of the training (6 N D)'

    @property
    def stated(self) -> float:
        return self.value

    def found(self, facts: Facts) -> float:
        return 6.0 * facts.parameters() * facts.tokens_per_step() * facts.setting('steps')

    def agrees(self, found: float) -> bool:
        return math.isclose(found, self.value, rel_tol=self.relative)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting(Static):
    """The value of a field: 'model.layers', 'data.batch', 'optimizer.b2'."""

    path: str
    value: int | float | str | bool | None
    relative: config.Rate = 0.0  # How far off a number may be.

    @property
    def quantity(self) -> str:
        return self.path

    @property
    def stated(self) -> Any:
        return self.value

    def found(self, facts: Facts) -> Any:
        return facts.setting(self.path)

    def agrees(self, found: Any) -> bool:
        if isinstance(self.value, (int, float)) and isinstance(found, (int, float)):
            return math.isclose(found, self.value, rel_tol=max(self.relative, 1e-12))
        return bool(found == self.value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRate(Static):
    """The learning rate of one update, the first being 1."""

    step: config.Positive
    value: config.Rate
    relative: config.Rate = 1e-3

    @property
    def quantity(self) -> str:
        return f'learning rate of update {self.step:,}'

    @property
    def stated(self) -> float:
        return self.value

    def found(self, facts: Facts) -> float:
        return facts.learning_rate(self.step)

    def agrees(self, found: float) -> bool:
        return math.isclose(found, self.value, rel_tol=self.relative, abs_tol=1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape(Static):
    """The shape of one parameter; those of a stack have a leading axis of layers."""

    parameter: str
    value: tuple[config.Positive, ...]

    @property
    def quantity(self) -> str:
        return f'shape of {self.parameter}'

    @property
    def stated(self) -> tuple[int, ...]:
        return self.value

    def found(self, facts: Facts) -> tuple[int, ...]:
        return facts.shape(self.parameter)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensPerStep(Static):
    """Targets of one update."""

    value: config.Positive
    relative: config.Rate = 0.0  # Papers round: '0.5M' is 524,288.

    @property
    def quantity(self) -> str:
        return 'tokens per step'

    @property
    def stated(self) -> int:
        return self.value

    def found(self, facts: Facts) -> int:
        return facts.tokens_per_step()

    def agrees(self, found: int) -> bool:
        return math.isclose(found, self.value, rel_tol=self.relative)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product(Consistency):
    """Printed numbers whose product should be another printed number. The experiment does not enter."""

    of: str  # 'heads x head width = model width'
    factors: tuple[config.Count, ...]
    value: config.Count

    @property
    def quantity(self) -> str:
        return self.of

    @property
    def stated(self) -> int:
        return self.value

    def found(self, facts: Facts) -> int:
        return math.prod(self.factors)

    def shown(self, found: int) -> str:
        return f'{text(self.factors)} = {text(found)}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneVocabulary(Consistency):
    """One size of the vocabulary should give the printed number of parameters of every arm.

    For models whose `model.vocab` costs `model.width` parameters an entry, as one shared table does.
    """

    arms: tuple[
        tuple[str, config.Count], ...
    ]  # (arm, printed number of parameters), each to half of the last printed digit.
    tolerance: config.NonNegative = 500_000  # That half.

    @property
    def quantity(self) -> str:
        return f'vocabulary that gives all {len(self.arms)} printed counts'

    @property
    def stated(self) -> str:
        return 'one'

    def found(self, facts: Facts) -> tuple[tuple[str, int, int], ...]:
        """Of each arm the smallest and the largest vocabulary that gives the printed number."""
        return tuple((name, *self._entries(facts.arm(name), printed)) for name, printed in self.arms)

    def _entries(self, facts: Facts, printed: int) -> tuple[int, int]:
        width = facts.setting('model.width')
        others = facts.parameters() - facts.setting('model.vocab') * width
        low, high = printed - self.tolerance - others, printed + self.tolerance - others
        return -(-low // width), high // width

    def agrees(self, found: tuple[tuple[str, int, int], ...]) -> bool:
        return max(low for _, low, _ in found) <= min(high for _, _, high in found)

    def shown(self, found: tuple[tuple[str, int, int], ...]) -> str:
        return '; '.join(f'{name} {low:,} to {high:,}' for name, low, high in found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured(Claim):
    """What only a run can show: a metric of an evaluation, such as 'test/bleu'.

    Comparable only where the fields `on` have these values and the metric has this `signature`; a run on other data is
    told so, instead of a verdict.
    """

    metric: str
    value: float
    tolerance: config.Rate  # Absolute: the paper's own spread where it says one, else half a printed digit.
    on: tuple[tuple[str, int | float | str | bool | None], ...] = ()  # (path, value) of the data, split and metric.
    signature: str | None = None  # As the scorer prints it, where it does (sacrebleu).
    missing: str = ''  # Why it cannot be compared here at all, as 'the paper's data were never released'.
