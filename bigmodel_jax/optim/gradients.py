"""How the gradient of a step is made from its batch: at once, in microbatches, or in a fixed order of sums.

Configs only; the computation is in train/gradients.py.
"""

import dataclasses
from typing import Any

import jax

from bigmodel_jax import config
from bigmodel_jax.parallel import pipeline, sharding

PyTree = Any


class Gradients:
    """Interface of the configs that say how the gradient of a step is made."""

    @property
    def microbatches(self) -> int:
        """Into how many parts, computed one after another, a program cuts its rows."""
        return 1

    def check(self, rows: int, place: sharding.ShardingContext) -> None:
        """Checks that a batch of `rows` divides as this method and the mesh need it.

        Raises:
          InputError: it does not.
        """
        place.local_rows(rows)
        place.check('A microbatch', (rows // self.microbatches,), ('batch',))
        pipeline.check(place, rows // self.microbatches)

    def check_model_state(self, model_state: PyTree) -> None:
        """Raises InputError if a model with such collections besides its parameters cannot be trained so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeBatch(Gradients):
    """The gradient of the whole batch in one pass."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Microbatches(Gradients):
    """The gradients of so many parts of the batch, computed one after another and added; this saves memory."""

    parts: config.Positive

    @property
    def microbatches(self) -> int:
        return self.parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedOrder(Gradients):
    """Every sum is taken in the same order on every mesh, so that all meshes give the same bits.

    See train/fixed_order.py for how it works and what it costs.
    """

    parts: config.Positive  # A power of two that the number of devices of every mesh to be compared divides.
    microbatches: config.Positive = 1  # Of each part.

    def check(self, rows: int, place: sharding.ShardingContext) -> None:
        parts, devices = self.parts, place.shards('batch')
        super().check(rows, place)
        if devices != place.mesh.size:
            raise config.InputError(
                f'gradients=FixedOrder(parts={parts}) needs a mesh that splits only the batch, but of its '
                f'{place.mesh.size} devices {place.mesh.size // devices} share each part of it; use only mesh.data and '
                'mesh.fsdp.'
            )
        if parts % devices or parts & (parts - 1):
            raise config.InputError(
                f'gradients=FixedOrder(parts={parts}) with {devices} devices: use a power of two that the number of '
                'devices divides, such as the number of devices of the largest mesh to compare with.'
            )
        if rows % (parts * self.microbatches):
            raise config.InputError(
                f'data.batch={rows} does not divide into the parts={parts} of gradients=FixedOrder with '
                f'microbatches={self.microbatches} each; use a multiple of {parts * self.microbatches}.'
            )

    def check_model_state(self, model_state: PyTree) -> None:
        if jax.tree.leaves(model_state):
            raise config.InputError(
                f'gradients=FixedOrder(parts={self.parts}) cannot train a model with a state besides its parameters '
                f'({", ".join(sorted(model_state))}), which is not a sum over rows; use WholeBatch() or Microbatches().'
            )


def in_parts(count: int) -> Gradients:
    """The gradient of the whole batch, or of `count` microbatches if that is more than 1."""
    return WholeBatch() if count == 1 else Microbatches(parts=count)
