"""The cheapest assignment of rows to columns (the Hungarian matching), on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax.parallel import per_device

UNMATCHED = -1
DEAR = 1e9  # What a cost counts that is no finite number, so that the search ends whatever a model gives.


def assign(cost_BOQ: jax.Array, mask_BO: jax.Array) -> jax.Array:
    """The query of each object in the assignment of the least total cost, [B, O] int32; UNMATCHED without one.

    Each object gets another query. Objects that `mask_BO` leaves out get none; nor do some where there are more objects
    than queries. Of several assignments of one cost it is the one that scipy.optimize.linear_sum_assignment finds,
    where the sums of costs are exact. Each device searches for its own rows alone.

    Args:
      cost_BOQ: float32 or float64; one that is no finite number counts as 1e9.
      mask_BO: bool.

    Source: Crouse (2016), 'On implementing 2D rectangular assignment algorithms', section III, after Jonker and
    Volgenant (1987); with the rule of SciPy where columns tie.
    """
    if 0 in cost_BOQ.shape:
        return jnp.full(cost_BOQ.shape[:2], UNMATCHED, jnp.int32)
    of_device = per_device.shard_map(
        jax.vmap(_assign), inputs=(('batch', None, None), ('batch', None)), outputs=('batch', None)
    )
    matched_BO: jax.Array = of_device(jax.lax.stop_gradient(cost_BOQ), mask_BO)
    return matched_BO


def _assign(cost_OQ: jax.Array, mask_O: jax.Array) -> jax.Array:
    """assign() for one image."""
    O, Q = cost_OQ.shape
    cost_OQ = jnp.where(jnp.isfinite(cost_OQ), cost_OQ, DEAR)
    if O <= Q:
        return _search(cost_OQ, mask_O, jnp.ones(Q, bool))
    # As in SciPy, the shorter side of the matrix looks for partners on the longer one; one of the two has no rows here.
    fits = mask_O.sum() <= Q
    direct_O = _search(cost_OQ, mask_O & fits, jnp.ones(Q, bool))
    object_Q = _search(cost_OQ.T, jnp.full(Q, ~fits), mask_O)
    turned_O = jnp.full(O + 1, UNMATCHED, jnp.int32).at[object_Q].set(jnp.arange(Q, dtype=jnp.int32))[:O]
    return jnp.where(fits, direct_O, turned_O)


class Search(NamedTuple):
    """An assignment that grows row by row, and the dual variables that prove it the cheapest."""

    column_of_row: jax.Array  # [R] int32, UNMATCHED without one.
    row_of_column: jax.Array  # [C] int32
    row_duals: jax.Array  # [R]
    column_duals: jax.Array  # [C]


class AugmentingPath(NamedTuple):
    """A search for the shortest augmenting path, from one row to a column that is free."""

    row: jax.Array  # At which it is.
    sink: jax.Array  # The free column, once it is found; before, UNMATCHED.
    length: jax.Array  # Of the path so far.
    seen_rows: jax.Array  # [R] bool
    seen_columns: jax.Array  # [C] bool
    before: jax.Array  # [C] int32: the row from which the shortest way to a column comes.
    shortest: jax.Array  # [C]: the length of that way.
    order: jax.Array  # [C] int32: the place of each column that is left in SciPy's list of these, which settles ties.
    left: jax.Array  # How many columns are left.


def _search(cost: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The column of each row of [R, C] costs, [R] int32. No more `rows` take part than `columns`; both bool."""
    R, C = cost.shape
    zeros = jnp.zeros(R, cost.dtype), jnp.zeros(C, cost.dtype)
    start = Search(jnp.full(R, UNMATCHED, jnp.int32), jnp.full(C, UNMATCHED, jnp.int32), *zeros)

    def add(row: jax.Array, search: Search) -> Search:
        path = _shortest(cost, columns, search, row=row, taking_part=rows[row])
        return _augmented(search, path, row=row)

    return jax.lax.fori_loop(0, R, add, start).column_of_row


def _shortest(
    cost: jax.Array, columns: jax.Array, search: Search, *, row: jax.Array, taking_part: jax.Array
) -> AugmentingPath:
    """The shortest path from a row to a free column; without a sink where the row does not take part."""
    R, C = cost.shape
    left = jnp.where(taking_part, columns.sum(dtype=jnp.int32), 0)
    # The list is in reverse order at first.
    order = jnp.where(columns, columns[::-1].cumsum(dtype=jnp.int32)[::-1] - 1, UNMATCHED)
    start = AugmentingPath(
        row=row,
        sink=jnp.int32(UNMATCHED),
        length=jnp.zeros((), cost.dtype),
        seen_rows=jnp.zeros(R, bool),
        seen_columns=~columns,
        before=jnp.full(C, UNMATCHED, jnp.int32),
        shortest=jnp.full(C, jnp.inf, cost.dtype),
        order=order,
        left=left,
    )

    def step(path: AugmentingPath) -> AugmentingPath:
        through = path.length + cost[path.row] - search.row_duals[path.row] - search.column_duals
        shorter = ~path.seen_columns & (through < path.shortest)
        shortest = jnp.where(shorter, through, path.shortest)
        open_lengths = jnp.where(path.seen_columns, jnp.inf, shortest)
        length = open_lengths.min()
        tied = ~path.seen_columns & (open_lengths == length)
        free = tied & (search.row_of_column == UNMATCHED)
        # The last free one of the list, or else the first.
        last_free, first = jnp.where(free, path.order, -1).argmax(), jnp.where(tied, path.order, C).argmin()
        found = jnp.where(free.any(), last_free, first)
        place, partner = path.order[found], search.row_of_column[found]
        # As in SciPy, the last of the list takes the place of the one that leaves it.
        order = jnp.where(path.order == path.left - 1, place, path.order).at[found].set(UNMATCHED)
        return AugmentingPath(
            row=jnp.where(partner == UNMATCHED, path.row, partner),
            sink=jnp.where(partner == UNMATCHED, found.astype(jnp.int32), UNMATCHED),
            length=length,
            seen_rows=path.seen_rows.at[path.row].set(True),
            seen_columns=path.seen_columns.at[found].set(True),
            before=jnp.where(shorter, path.row, path.before),
            shortest=shortest,
            order=order,
            left=path.left - 1,
        )

    return jax.lax.while_loop(lambda path: (path.sink == UNMATCHED) & (path.left > 0), step, start)


def _augmented(search: Search, path: AugmentingPath, *, row: jax.Array) -> Search:
    """The assignment with one row more, those along the path having changed their columns."""
    reached = path.sink != UNMATCHED
    R = len(search.row_duals)
    partners = jnp.clip(search.column_of_row, 0)
    gained_rows = jnp.where(jnp.arange(R) == row, path.length, path.length - path.shortest[partners])
    gained_columns = jnp.where(jnp.isfinite(path.shortest), path.length - path.shortest, 0)
    seen_columns = path.seen_columns & jnp.isfinite(path.shortest)
    row_duals = search.row_duals + jnp.where(path.seen_rows & reached, gained_rows, 0)
    column_duals = search.column_duals - jnp.where(seen_columns & reached, gained_columns, 0)

    def turn(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        column, column_of_row, row_of_column = carry
        owner = path.before[column]
        return (
            jnp.where(owner == row, UNMATCHED, column_of_row[owner]),
            column_of_row.at[owner].set(column),
            row_of_column.at[column].set(owner),
        )

    carry = (path.sink, search.column_of_row, search.row_of_column)
    _, column_of_row, row_of_column = jax.lax.while_loop(lambda carry: carry[0] != UNMATCHED, turn, carry)
    return Search(column_of_row, row_of_column, row_duals, column_duals)
