"""Search for likely texts: one token after another, or several beams at a time. Pure functions, compiled as a whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax.evaluate.text.decoding_model import DecodingModel, Prompts

PyTree = Any


class BeamTexts(NamedTuple):
    """The texts found for each row, best first. Where there are fewer than W, log-probability and score are -inf."""

    tokens_BWT: jax.Array  # int32: the new tokens, the end token included; filled up with end tokens.
    lengths_BW: jax.Array  # int32: how many of them there are.
    log_p_BW: jax.Array  # float32: log-probability of the new tokens.
    scores_BW: jax.Array  # float32: what the texts are ordered by.


# ---- one token after another ------------------------------------------------------------------------------------


class _Sequences(NamedTuple):
    step: jax.Array  # [] int32: new tokens so far.
    tokens_BT: jax.Array
    lengths_B: jax.Array
    log_p_B: jax.Array
    done_B: jax.Array
    cache: PyTree


def one_by_one(
    model: DecodingModel,
    prompts: Prompts,
    pick: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    tokens: int,
    end: int,
) -> BeamTexts:
    """Continues each prompt by the tokens that `pick` chooses, until every row has ended or has `tokens` new tokens.

    Args:
      pick: (logits [B, V], positions [B] at which the new tokens will stand) -> tokens [B].
    """

    def append(state: _Sequences, logits_BV: jax.Array, cache: PyTree) -> _Sequences:
        token_B = jnp.where(state.done_B, end, pick(logits_BV, prompts.lengths_B + state.step))
        log_p_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
        gained_B = jnp.take_along_axis(log_p_BV, token_B[:, None], axis=1)[:, 0]
        return _Sequences(
            step=state.step + 1,
            tokens_BT=state.tokens_BT.at[:, state.step].set(token_B),
            lengths_B=state.lengths_B + ~state.done_B,
            log_p_B=state.log_p_B + jnp.where(state.done_B, 0.0, gained_B),
            done_B=state.done_B | (token_B == end),
            cache=cache,
        )

    def body(state: _Sequences) -> _Sequences:
        newest = state.step - 1
        logits_BV, cache = model.next(state.tokens_BT[:, newest], prompts.lengths_B + newest, state.cache)
        return append(state, logits_BV, cache)

    B, T = prompts.tokens_BT.shape
    logits_BV, cache = model.begin(prompts, slots=T + tokens)
    empty = _Sequences(
        step=jnp.int32(0),
        tokens_BT=jnp.full((B, tokens), end, jnp.int32),
        lengths_B=jnp.zeros(B, jnp.int32),
        log_p_B=jnp.zeros(B, jnp.float32),
        done_B=prompts.lengths_B == 0,
        cache=None,
    )
    final = jax.lax.while_loop(
        lambda state: (state.step < tokens) & ~state.done_B.all(), body, append(empty, logits_BV, cache)
    )
    log_p_BW = final.log_p_B[:, None]
    return BeamTexts(final.tokens_BT[:, None], final.lengths_B[:, None], log_p_BW, log_p_BW)


# ---- beams --------------------------------------------------------------------------------------------------------


class _Beams(NamedTuple):
    step: jax.Array  # [] int32: new tokens so far.
    live_BWT: jax.Array  # Texts that have not ended, most likely first.
    log_p_BW: jax.Array
    kept: BeamTexts  # The best of those that have ended.
    cache: PyTree  # Of the live texts.


def beam(
    model: DecodingModel, prompts: Prompts, *, beams: int, length_penalty: float, tokens: int, end: int
) -> BeamTexts:
    """The `beams` best texts that beam search finds, by score: log-probability over length_norm().

    A text ends with the end token or is cut at `tokens` new tokens. The search stops early only when no live text can
    still get a better score than the worst text kept, so that with enough beams it is exhaustive.
    """

    def advance(state: _Beams, logits_BWV: jax.Array, cache: PyTree) -> _Beams:
        B, W, V = logits_BWV.shape
        log_p_BWV = state.log_p_BW[:, :, None] + jax.nn.log_softmax(logits_BWV.astype(jnp.float32))
        # A beam can end in one way only, so at least W of the 2 W best have not ended. From here on W is 2 W.
        log_p_BW, choice_BW = jax.lax.top_k(log_p_BWV.reshape(B, W * V), min(2 * W, W * V))
        parent_BW, token_BW = choice_BW // V, (choice_BW % V).astype(jnp.int32)
        grown_BWT = _take(state.live_BWT, parent_BW).at[:, :, state.step].set(token_BW)
        has_ended_BW = token_BW == end
        ended = _texts(grown_BWT, jnp.where(has_ended_BW, log_p_BW, -jnp.inf), state.step + 1, length_penalty)
        log_p_BW, order_BW = jax.lax.top_k(jnp.where(has_ended_BW, -jnp.inf, log_p_BW), W)
        return _Beams(
            step=state.step + 1,
            live_BWT=_take(grown_BWT, order_BW),
            log_p_BW=log_p_BW,
            kept=_best(state.kept, ended, beams),
            cache=_reorder(cache, _take(parent_BW, order_BW)),
        )

    def body(state: _Beams) -> _Beams:
        newest = state.step - 1
        tokens_B = state.live_BWT[:, :, newest].reshape(-1)  # Each beam is a row to the model.
        positions_B = jnp.repeat(prompts.lengths_B + newest, beams)
        logits_BV, cache = wide.next(tokens_B, positions_B, state.cache)
        return advance(state, logits_BV.reshape(-1, beams, logits_BV.shape[-1]), cache)

    def can_improve(state: _Beams) -> jax.Array:
        # Log-probabilities only fall and the norm only grows, so this is the most that a live text can reach.
        bound_B = state.log_p_BW[:, 0] / length_norm(jnp.int32(tokens), length_penalty)
        return (bound_B > state.kept.scores_BW[:, -1]).any()

    slots = prompts.tokens_BT.shape[1] + tokens
    logits_BV, cache = model.begin(prompts, slots=slots)
    wide = model.repeat(beams)
    cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=1), cache)
    logits_BWV = jnp.repeat(logits_BV[:, None], beams, axis=1)
    state = advance(_no_beams(prompts, beams=beams, tokens=tokens, end=end), logits_BWV, cache)
    final = jax.lax.while_loop(lambda state: (state.step < tokens) & can_improve(state), body, state)
    # At the limit the live texts are cut. Before it none of them can displace a text that was kept.
    return _best(final.kept, _texts(final.live_BWT, final.log_p_BW, final.step, length_penalty), beams)


def length_norm(length: jax.Array, penalty: float) -> jax.Array:
    """((5 + length) / 6)^penalty, float32. Source: Wu et al. (2016), arXiv:1609.08144, equation 14."""
    return ((5.0 + length) / 6.0) ** penalty


def _no_beams(prompts: Prompts, *, beams: int, tokens: int, end: int) -> _Beams:
    """One empty text in each row that is not padding; the other beams are impossible until there are more."""
    is_first_W = jnp.arange(beams) == 0
    is_there_BW = is_first_W & (prompts.lengths_B > 0)[:, None]
    empty_BWT = jnp.full((*is_there_BW.shape, tokens), end, jnp.int32)
    nothing_BW = jnp.full(is_there_BW.shape, -jnp.inf)
    kept = BeamTexts(empty_BWT, jnp.zeros(is_there_BW.shape, jnp.int32), nothing_BW, nothing_BW)
    return _Beams(jnp.int32(0), empty_BWT, jnp.where(is_there_BW, 0.0, nothing_BW), kept, None)


def _texts(tokens_BWT: jax.Array, log_p_BW: jax.Array, length: jax.Array, penalty: float) -> BeamTexts:
    lengths_BW = jnp.full(log_p_BW.shape, length, jnp.int32)
    return BeamTexts(tokens_BWT, lengths_BW, log_p_BW, log_p_BW / length_norm(length, penalty))


def _best(left: BeamTexts, right: BeamTexts, count: int) -> BeamTexts:
    """The `count` best of two sets of texts; at equal scores those of `left` come first."""
    both = jax.tree.map(lambda *sides: jnp.concatenate(sides, axis=1), left, right)
    _, order_BW = jax.lax.top_k(both.scores_BW, count)
    return jax.tree.map(lambda x: _take(x, order_BW), both)


def _take(x: jax.Array, indices_BW: jax.Array) -> jax.Array:
    """x[b, indices[b, w]] for every b and w."""
    return jax.vmap(lambda row, indices_W: row[indices_W])(x, indices_BW)


def _reorder(cache: PyTree, parent_BW: jax.Array) -> PyTree:
    """The cache of each beam replaced by that of its parent. Beams stay in their row, hence on their device."""

    def one(x: jax.Array) -> jax.Array:
        beams = x.reshape(x.shape[0], *parent_BW.shape, *x.shape[2:])
        return jax.vmap(_take, in_axes=(0, None))(beams, parent_BW).reshape(x.shape)

    return jax.tree.map(one, cache)
