"""What a person chose to see, as the address of the live page says it. No JAX."""

import dataclasses
import math
import urllib.parse
from collections.abc import Mapping

from bigmodel_jax import config
from bigmodel_jax.report import curves, figures, thinning

WIDTHS = (260.0, 2_400.0)
RATIO, LOWEST, HIGHEST = 0.42, 190.0, 380.0  # Height of a chart: a share of its width, and its bounds.
MOST_CHARACTERS = 20_000  # Of an address; browsers send longer ones.
AUTOMATIC, MEASURED = 'automatic', 'none'
SMOOTHINGS: Mapping[str, thinning.Smoother | None] = {
    AUTOMATIC: None,
    MEASURED: thinning.measured,
    **{str(weight): thinning.exponential(weight) for weight in (0.6, 0.9, 0.97, 0.99)},
}
SWITCH = {'': None, '0': False, '1': True}


@dataclasses.dataclass(frozen=True)
class LiveChoice:
    """What is shown, and how.

    Attributes:
      runs: their keys; None: all.
      where: an expression of the catalogue, that holds of the runs; '' for all.
      metrics: in full; None: those that matter most.
      smoothing: one of SMOOTHINGS.
      axes: of the charts.
      width: of a chart.
    """

    runs: tuple[str, ...] | None = None
    where: str = ''
    metrics: tuple[str, ...] | None = None
    smoothing: str = AUTOMATIC
    axes: curves.Axes = curves.Axes()
    width: float = 450.0

    @property
    def view(self) -> figures.ChartView:
        """How the charts are drawn; a script shows the values under the pointer."""
        size = (self.width, min(max(RATIO * self.width, LOWEST), HIGHEST))
        return figures.ChartView(size, self.axes, SMOOTHINGS[self.smoothing], hovers=0)

    @property
    def log_y(self) -> str:
        return next(text for text, value in SWITCH.items() if value is self.axes.log_y)


def parse(query: str) -> LiveChoice:
    """The choice in the query of an address, such as 'metric=loss&smoothing=0.9&log_y=1'.

    Raises:
      InputError: a value is none that the page offers.
    """
    if len(query) > MOST_CHARACTERS:
        raise config.InputError(f'The address has {len(query):,} characters; at most {MOST_CHARACTERS:,} are read.')
    given: dict[str, list[str]] = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True, errors='replace'):
        given.setdefault(name, []).append(value)
    last = {name: values[-1] for name, values in given.items()}
    axes = curves.Axes(
        log_x=bool(_switch(last, 'log_x')),
        log_y=_switch(last, 'log_y'),
        first=_number(last, 'first'),
        last=_number(last, 'last'),
    )
    smoothing = last.get('smoothing') or AUTOMATIC
    if smoothing not in SMOOTHINGS:
        raise config.InputError(f'smoothing={smoothing!r} is not one of {", ".join(SMOOTHINGS)}.')
    width = _number(last, 'width')
    return LiveChoice(
        runs=tuple(key for key in last['runs'].split(',') if key) if 'runs' in last else None,
        where=last.get('where', '').strip(),
        metrics=tuple(dict.fromkeys(given['metric'])) if 'metric' in given else None,
        smoothing=smoothing,
        axes=axes,
        width=LiveChoice.width if width is None else min(max(width, WIDTHS[0]), WIDTHS[1]),
    )


def _switch(given: Mapping[str, str], name: str) -> bool | None:
    """Whether it is on; None where the page decides."""
    text = given.get(name, '')
    if text not in SWITCH:
        raise config.InputError(f'{name}={text!r} is not 0 or 1.')
    return SWITCH[text]


def _number(given: Mapping[str, str], name: str) -> float | None:
    text = given.get(name, '')
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise config.InputError(f'{name}={text!r} is not a number.')
    return value
