"""Detection as the prediction of a set: each object is matched with a query, and all others should find nothing."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import config, precision
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.objectives.detection import assignment, boxes
from bigmodel_jax.objectives.objective import Mean

# Fields that prepare() adds to a batch.
IN_BATCH, EXAMPLES = 'objects_in_batch', 'examples_in_batch'


class Matched(NamedTuple):
    """The losses of each image after each layer of a decoder, summed over its queries and objects.

    Attributes:
      class_BL, weight_BL: the weighted cross-entropy of the queries, and the sum of its weights.
      l1_BL, giou_BL: of the boxes of the objects.
      wrong_BL: how many objects are given another class than theirs, among all classes but 'no object'.
      query_BLO: the query of each object; assignment.UNMATCHED where there is none.
    """

    class_BL: jax.Array
    weight_BL: jax.Array
    l1_BL: jax.Array
    giou_BL: jax.Array
    wrong_BL: jax.Array
    query_BLO: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(objective.Objective):
    """The loss of DETR: cross-entropy of all queries, and L1 and generalised IoU of the boxes that are matched.

    Batch: that of data/vision/detection/detection_images.py: 'boxes' [B, O, 4] as (column, row, width, height) in
    shares of the image, 'labels' [B, O] int32, 'object_mask' [B, O], 1 for an object and 0 for padding. The model
    returns 'logits' [B, L, Q, V] and 'boxes' [B, L, Q, 4], as Detr does.

    The cross-entropy is divided by the sum of its weights over the batch, the losses of boxes by the number of objects
    of the batch, or 1: of the whole batch on all devices, also where it is taken in microbatches. An image without
    objects teaches its queries to find none.

    Metrics, all after the last layer: 'class_loss', 'l1_loss', 'giou_loss', and 'class_error', the share of the
    objects, in %, whose query gives another class the highest probability among the classes of objects.

    Source: Carion et al. (2020), arXiv:2005.12872, equations 1 and 2 and section A.2; the numbers: its code.
    """

    class_weight: config.Rate = 1.0
    l1_weight: config.Rate = 5.0
    giou_weight: config.Rate = 2.0
    no_object: config.PositiveFloat = 0.1  # The weight of a query without an object in the cross-entropy.
    auxiliary: bool = True  # Whether the outputs of all layers of the decoder have a loss, or the last alone.

    directions: ClassVar[Mapping[str, Literal['lower', 'higher']]] = {'class_error': 'lower'}
    requires = requirements.OBJECTS

    def __call__(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> objective.Outcome:
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        batch = batch if IN_BATCH in batch else self.prepare(batch)
        weights_B, count_B = batch['example_weights'], objects(batch).sum(axis=1, dtype=jnp.float32)
        of = self.matched(outputs, batch)
        loss = Mean.weighted(self._sum(of, outputs, batch[IN_BATCH], batch[EXAMPLES]), weights_B)

        def mean(part_BL: jax.Array, count_B: jax.Array, scale: float = 1.0) -> Mean:
            last_B = objective.counted(part_BL[:, -1], weights_B) * weights_B
            return Mean(scale * last_B.sum(dtype=precision.sums(last_B.dtype)), (count_B * weights_B).sum())

        metrics = {
            'class_loss': mean(of.class_BL, of.weight_BL[:, -1]),
            'l1_loss': mean(of.l1_BL, count_B),
            'giou_loss': mean(of.giou_BL, count_B),
            'class_error': mean(of.wrong_BL, count_B, 100.0),
        }
        return objective.Outcome.of(loss, metrics, auxiliary)

    def prepare(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        weights_B = batch['example_weights'].astype(jnp.float32)
        count_B = objects(batch).sum(axis=1, dtype=jnp.float32)
        sums = {IN_BATCH: (count_B * weights_B).sum(), EXAMPLES: weights_B.sum()}
        return {**batch, **{name: jnp.broadcast_to(value, weights_B.shape) for name, value in sums.items()}}

    def per_example(
        self, apply: objective.Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Mapping[str, jax.Array]
    ) -> jax.Array:
        outputs, _ = apply(batch, train=train, rngs=rngs)
        count_B = objects(batch).sum(axis=1, dtype=jnp.float32)
        return self._sum(self.matched(outputs, batch), outputs, count_B, jnp.ones_like(count_B))

    def _sum(
        self, of: Matched, outputs: Mapping[str, jax.Array], objects_B: jax.Array, examples_B: jax.Array
    ) -> jax.Array:
        """[B]: the losses of each image, such that their mean over a batch is the loss.

        Args:
          objects_B, examples_B: how many objects and examples the batch has, for each image.
        """
        Q = outputs['logits'].shape[2]
        weight_B = objects_B + self.no_object * (Q * examples_B - objects_B)
        of_boxes_BL = self.l1_weight * of.l1_BL + self.giou_weight * of.giou_BL
        of_classes_BL = self.class_weight * of.class_BL
        loss_BL = of_classes_BL / weight_B[:, None] + of_boxes_BL / jnp.maximum(objects_B, 1)[:, None]
        return (loss_BL.sum(axis=1) if self.auxiliary else loss_BL[:, -1]) * examples_B

    def matched(self, outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> Matched:
        """The losses of each image, the objects being matched with queries after each layer by itself."""
        logits_BLQV, found = precision.raised(outputs['logits']), precision.raised(outputs['boxes'])
        mask_BO = objects(batch)
        B, L, Q, V = logits_BLQV.shape
        O = mask_BO.shape[1]
        # Whatever stands in the place of padding, its losses are finite.
        labels_BO = jnp.where(mask_BO, batch['labels'], 0)
        wanted = jnp.where(mask_BO[..., None], batch['boxes'], 0.5).astype(found.dtype)
        cost_BLOQ = self._cost(logits_BLQV, found, labels_BO, wanted)
        mask_BLO = jnp.broadcast_to(mask_BO[:, None], (B, L, O))
        query_BLO = assignment.assign(cost_BLOQ.reshape(B * L, O, Q), mask_BLO.reshape(B * L, O)).reshape(B, L, O)
        taken_BLO = query_BLO != assignment.UNMATCHED
        index_BLO = jnp.where(taken_BLO, query_BLO, 0)
        boxes_of = jnp.take_along_axis(found, index_BLO[..., None], axis=2)
        l1_BLO = jnp.abs(boxes_of - wanted[:, None]).sum(axis=-1)
        giou_BLO = 1 - boxes.generalized_iou(boxes.corners(boxes_of), boxes.corners(wanted)[:, None])
        logs_BLQV = jax.nn.log_softmax(logits_BLQV)
        target_BLQ, weight_BLQ = self._targets(query_BLO, labels_BO, shape=(Q, V))
        nll_BLQ = -jnp.take_along_axis(logs_BLQV, target_BLQ[..., None], axis=-1)[..., 0]
        best_BLQ = logits_BLQV[..., :-1].argmax(axis=-1)
        wrong_BLO = jnp.take_along_axis(best_BLQ, index_BLO, axis=2) != labels_BO[:, None]
        return Matched(
            class_BL=(weight_BLQ * nll_BLQ).sum(axis=-1),
            weight_BL=weight_BLQ.sum(axis=-1),
            l1_BL=jnp.where(taken_BLO, l1_BLO, 0).sum(axis=-1),
            giou_BL=jnp.where(taken_BLO, giou_BLO, 0).sum(axis=-1),
            wrong_BL=(wrong_BLO & taken_BLO).sum(axis=-1, dtype=jnp.float32),
            query_BLO=query_BLO,
        )

    def _cost(self, logits_BLQV: jax.Array, found: jax.Array, labels_BO: jax.Array, wanted: jax.Array) -> jax.Array:
        """What it costs to match each object with each query, [B, L, O, Q]: without logarithms, as in the paper."""
        chances_BLVQ = jnp.swapaxes(jax.nn.softmax(logits_BLQV), 2, 3)
        chance_BLOQ = jnp.take_along_axis(chances_BLVQ, labels_BO[:, None, :, None], axis=2)
        left, right = found[:, :, None], wanted[:, None, :, None]
        l1_BLOQ = jnp.abs(left - right).sum(axis=-1)
        giou_BLOQ = boxes.generalized_iou(boxes.corners(left), boxes.corners(right))
        return self.l1_weight * l1_BLOQ - self.class_weight * chance_BLOQ - self.giou_weight * giou_BLOQ

    def _targets(
        self, query_BLO: jax.Array, labels_BO: jax.Array, *, shape: tuple[int, int]
    ) -> tuple[jax.Array, jax.Array]:
        """The class that each query should find [B, L, Q], the last of all being 'no object', and its weight."""
        Q, V = shape
        hit_BLOQ = query_BLO[..., None] == jnp.arange(Q)
        label_BLQ = jnp.where(hit_BLOQ, labels_BO[:, None, :, None], 0).sum(axis=2)
        taken_BLQ = hit_BLOQ.any(axis=2)
        return jnp.where(taken_BLQ, label_BLQ, V - 1), jnp.where(taken_BLQ, 1.0, self.no_object)


def objects(batch: Mapping[str, jax.Array]) -> jax.Array:
    """[B, O] bool: which objects of a batch are there, in the examples that count."""
    return (batch['object_mask'] != 0) & (batch['example_weights'] != 0)[:, None]
