"""What chips cost: a dated table of list prices, which the user can replace with one of the same form."""

import dataclasses
import datetime
import functools
import json
import math
import pathlib
from collections.abc import Mapping

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.plan.hardware import slices

TABLE = pathlib.Path(__file__).with_name('prices.json')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars for one chip and hour, on demand."""

    dollars: float
    region: str
    date: str  # Of which the price is: 2025-06, or 2025-06-30.
    source: str
    verified: bool = True  # Looked up at the source; otherwise remembered.


Prices = Mapping[str, Price]  # By name of the chip.


@functools.cache
def table(path: epath.PathLike = TABLE) -> Prices:
    """The price table in a JSON file of the form of prices.json.

    Raises:
      InputError: there is no such file, or a price is not of that form.
    """
    file = epath.Path(path)
    if not file.exists():
        raise config.InputError(f'There is no price table {path}; a copy of {TABLE} is of the form that is needed.')
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise config.InputError(f'{path} is not JSON: {error}.') from error
    given = found.get('prices') if isinstance(found, dict) else None
    if not isinstance(given, dict):
        raise config.InputError(f'{path} has no \'prices\' of the form {{"v5p": {{"dollars": 4.2, ...}}}}.')
    return {name: _read(name, values, path) for name, values in given.items()}


def _read(name: str, values: object, path: epath.PathLike) -> Price:
    fields = dataclasses.fields(Price)
    wanted = [field.name for field in fields if field.default is dataclasses.MISSING]
    if not isinstance(values, dict) or not set(wanted) <= set(values) <= {field.name for field in fields}:
        raise config.InputError(f'{path}: the price of {name} needs exactly the fields {", ".join(wanted)}.')
    dollars = values['dollars']
    if isinstance(dollars, bool) or not isinstance(dollars, (int, float)) or not 0 <= dollars < math.inf:
        raise config.InputError(f'{path}: prices.{name}.dollars={dollars!r} is not an amount of dollars.')
    try:
        datetime.datetime.strptime(f'{values["date"]}-01'[:10], '%Y-%m-%d')
    except ValueError as error:
        raise config.InputError(f'{path}: prices.{name}.date={values["date"]!r}; write it as 2026-01-31.') from error
    return Price(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a whole run."""

    hours: float
    chip_hours: float
    dollars: float | None  # None: the table has no price for the chip.
    price: Price | None


def cost(on: slices.Slice, *, steps: int, seconds_per_step: float, prices: Prices) -> Cost:
    """What `steps` steps cost on a slice; time between the steps (start, evaluations, checkpoints) is not in it."""
    hours = steps * seconds_per_step / 3600
    price = prices.get(on.chip.name)
    chip_hours = hours * on.chips
    dollars = None if price is None else chip_hours * price.dollars
    return Cost(hours=hours, chip_hours=chip_hours, dollars=dollars, price=price)
