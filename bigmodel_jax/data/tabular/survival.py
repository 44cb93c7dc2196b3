"""Tables of how long something lasted, such as the time until a disease comes back: times, some of them cut short."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, labels, records
from bigmodel_jax.data.tabular import fitting, tabular


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survival(tabular.TableData):
    """A table with a time and whether the event came then: 1, or 0 where the row was only observed so long (censored).

    A batch also holds, where n is `batch`:
      times: [n] float32, above 0, in the unit of the table.
      events: [n] int32, 0 or 1.
    """

    time: str = 'time'  # The columns.
    event: str = 'event'

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.time, self.event)

    @property
    def target_fields(self) -> Mapping[str, batches.Field]:
        return {
            'times': batches.Field((), tabular.FLOATS, ()),
            'events': batches.Field((), np.dtype(np.int32), (), 2),
        }

    def target_arrays(self, cells: fitting.Cells, found: records.Records) -> dict[str, np.ndarray]:
        written, events = cells.targets
        times = labels.numbers(written, found.where)
        wrong = np.flatnonzero(times <= 0)
        if wrong.size:
            row = int(wrong[0])
            raise config.InputError(
                f'{found.where(row)}: {self.time!r} is {written[row]}; it must be above 0. Remove the row.'
            )
        return {'times': times, 'events': labels.ids(events, found.where, classes=2)}

    def check_training(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        if not arrays['events'].any():
            raise config.InputError(
                f'{name}: the event came in none of the {len(arrays["events"])} training rows ({self.event!r} is 0), '
                'so that nothing can be learnt of it.'
            )
