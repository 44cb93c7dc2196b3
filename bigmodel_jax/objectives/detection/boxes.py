"""Boxes as arrays [..., 4]: their corners, areas and overlaps."""

import jax
import jax.numpy as jnp


def corners(boxes: jax.Array) -> jax.Array:
    """[..., 4]: the left, the upper, the right and the lower edge, of (column, row) of the middle, width and height."""
    middles, sizes = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([middles - sizes / 2, middles + sizes / 2], axis=-1)


def areas(edges: jax.Array) -> jax.Array:
    """[...] of boxes given by their edges; 0 where one has a negative side."""
    return jnp.prod(jnp.maximum(edges[..., 2:] - edges[..., :2], 0), axis=-1)


def overlaps(left: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The intersection over union and the union of pairs of boxes given by their edges; 0 where the union is empty."""
    low = jnp.maximum(left[..., :2], right[..., :2])
    high = jnp.minimum(left[..., 2:], right[..., 2:])
    shared = areas(jnp.concatenate([low, high], axis=-1))
    union = areas(left) + areas(right) - shared
    return shared / jnp.where(union > 0, union, 1), union


def generalized_iou(left: jax.Array, right: jax.Array) -> jax.Array:
    """[...] in [-1, 1]: the intersection over union, less the share of the smallest box around both that is in neither.

    Boxes are given by their edges; shapes broadcast. Source: Rezatofighi et al. (2019), arXiv:1902.09630, algorithm 1.
    """
    iou, union = overlaps(left, right)
    low = jnp.minimum(left[..., :2], right[..., :2])
    high = jnp.maximum(left[..., 2:], right[..., 2:])
    around = areas(jnp.concatenate([low, high], axis=-1))
    return iou - (around - union) / jnp.where(around > 0, around, 1)
