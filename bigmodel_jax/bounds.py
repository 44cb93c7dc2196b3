"""What the numbers of a config may be beside within limits: the devices compute with 32 bits."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import annotated_types
import pydantic

LARGEST_INT, LARGEST_FLOAT, SMALLEST_FLOAT = 2**31 - 1, 3.4028234e38, 1.1754944e-38


def _not_lost(value: float) -> float:
    if value and abs(value) < SMALLEST_FLOAT:
        raise ValueError(f'is 0 in float32, whose smallest number is {SMALLEST_FLOAT:.2g}')
    return value


def _below_one(value: float) -> float:
    if value >= 1 - 2**-25:
        raise ValueError(f'is 1 in float32; use at most {1 - 2**-24:.8f}')
    return value


Float = Annotated[float, annotated_types.Le(LARGEST_FLOAT), pydantic.AfterValidator(_not_lost)]
BelowOne = Annotated[float, annotated_types.Lt(1), pydantic.AfterValidator(_below_one)]


@dataclasses.dataclass(frozen=True)
class Advice:
    """In the type of a field: what to use instead of a value that is refused, as in Annotated[Rate, Advice('...')]."""

    text: str


def advice(hint: Any) -> Iterator[str]:
    """The advice in a field's type."""
    yield from (each.text for each in getattr(hint, '__metadata__', ()) if isinstance(each, Advice))
    for argument in typing.get_args(hint):
        yield from advice(argument)
