"""Generation: from prompts to new tokens, greedily, by sampling or by beam search."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import annotated_types
import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng
from bigmodel_jax.evaluate.engine import text_request
from bigmodel_jax.evaluate.text import beam_search, decoding_model
from bigmodel_jax.models import model as models
from bigmodel_jax.objectives import objective
from bigmodel_jax.parallel import sharding

PyTree = Any

# Prompts are padded to a multiple of this, so that prompts of similar lengths share one compiled program.
PADDED_TO = 16
COLD = 1e-3  # A temperature below which quotients of logits may be beyond float32.

# An exponent, of which a large one is beyond float32; see beam_search.length_norm().
LengthPenalty = Annotated[float, annotated_types.Ge(0), annotated_types.Le(10)]


class Decoding:
    """Interface of the configs of a decoding method."""

    def search(
        self,
        model: decoding_model.DecodingModel,
        prompts: decoding_model.Prompts,
        *,
        tokens: int,
        end: int,
        key: jax.Array,
    ) -> beam_search.BeamTexts:
        """Texts of up to `tokens` new tokens; traced once, so a pure function of its arguments."""
        raise NotImplementedError

    def draw(self, seed: int, row: int) -> text_request.Draw | None:
        """How an engine draws the tokens of a row; None of a method that compares several texts."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy(Decoding):
    """The most likely token at every step."""

    def search(
        self,
        model: decoding_model.DecodingModel,
        prompts: decoding_model.Prompts,
        *,
        tokens: int,
        end: int,
        key: jax.Array,
    ) -> beam_search.BeamTexts:
        def pick(logits_BV: jax.Array, positions_B: jax.Array) -> jax.Array:
            return logits_BV.argmax(axis=-1).astype(jnp.int32)

        return beam_search.one_by_one(model, prompts, pick, tokens=tokens, end=end)

    def draw(self, seed: int, row: int) -> text_request.Draw | None:
        return text_request.Draw(temperature=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(Decoding):
    """A token drawn at every step, see candidates(). The draw depends on the seed, the row and the position only."""

    temperature: config.PositiveFloat = 1.0
    top_k: config.Positive | None = None
    top_p: config.PositiveFraction | None = None

    def search(
        self,
        model: decoding_model.DecodingModel,
        prompts: decoding_model.Prompts,
        *,
        tokens: int,
        end: int,
        key: jax.Array,
    ) -> beam_search.BeamTexts:
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(prompts.lengths_B)))

        def pick(logits_BV: jax.Array, positions_B: jax.Array) -> jax.Array:
            logits_BV = candidates(logits_BV, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
            return jax.vmap(jax.random.categorical)(jax.vmap(jax.random.fold_in)(keys_B, positions_B), logits_BV)

        return beam_search.one_by_one(model, prompts, pick, tokens=tokens, end=end)

    def draw(self, seed: int, row: int) -> text_request.Draw | None:
        return text_request.Draw(
            temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=seed, choice=row
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam(Decoding):
    """Beam search, see beam_search.beam(). Vaswani et al. (2017), section 6.1, use 4 beams and a penalty of 0.6."""

    beams: config.Positive = 4
    length_penalty: LengthPenalty = 0.6

    def search(
        self,
        model: decoding_model.DecodingModel,
        prompts: decoding_model.Prompts,
        *,
        tokens: int,
        end: int,
        key: jax.Array,
    ) -> beam_search.BeamTexts:
        return beam_search.beam(model, prompts, **dataclasses.asdict(self), tokens=tokens, end=end)


def candidates(logits: jax.Array, *, temperature: float, top_k: int | None, top_p: float | None) -> jax.Array:
    """Logits [..., V] float32 divided by `temperature`, -inf where a token is not to be drawn.

    Args:
      temperature: positive; a tiny one leaves nothing but the most likely tokens.
      top_k: keep the k most likely tokens (Fan et al., 2018, arXiv:1805.04833), and all that equal the k-th.
      top_p: then keep the fewest that together have this probability (Holtzman et al., 2019, arXiv:1904.09751).
    """
    logits = logits.astype(jnp.float32)
    if temperature < COLD:
        # So that nothing overflows: the largest logit stays 0, and the others fall to -inf if they must.
        logits = logits - logits.max(axis=-1, keepdims=True)
    logits = logits / temperature
    if top_k is not None:
        kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if top_p is not None and top_p < 1:  # All of them have 1, which a rounded sum may reach too early.
        falling = -jnp.sort(-logits, axis=-1)
        p = jax.nn.softmax(falling, axis=-1)
        is_needed = jnp.cumsum(p, axis=-1) - p < top_p  # What comes before does not suffice. True for the first.
        last = jnp.where(is_needed, falling, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < last, -jnp.inf, logits)
    return logits


class Hypothesis(NamedTuple):
    """One text that was found."""

    tokens: np.ndarray  # [n] int32: the new tokens; the end token is the last, unless the text was cut.
    log_p: float  # Their log-probability under the model: with no temperature, and over all tokens.
    score: float  # What beam search orders by; otherwise the log-probability.


def decode(
    model: models.Model,
    params: PyTree,
    prompts: Sequence[np.ndarray],
    *,
    tokens: int,
    decoding: Decoding,
    end: int,
    seed: int = 0,
    source: Sequence[np.ndarray] | None = None,
    model_state: PyTree | None = None,
    place: sharding.ShardingContext | None = None,
    decoder: type[decoding_model.DecodingModel] = decoding_model.Cached,
) -> list[list[Hypothesis]]:
    """The continuations of each prompt, best first: one, or as many as there are beams.

    Compiled once for each configuration and padded shape; calls after the first only compute.

    Args:
      model: the config that `params` belong to.
      prompts: token ids [n], each at least one: begin with the end token where there is nothing else.
      tokens: new tokens at most.
      end: the token at which a text stops.
      source: token ids [n] for each prompt, for a model with an encoder.
      place: where `params` lie; by default on one device.
      decoder: decoding_model.Recomputing does without the cache, for comparison.

    Raises:
      InputError: a prompt is empty, too long for the model's positions, or holds ids outside its vocabulary.
    """
    generative = check(model, prompts, tokens=tokens, end=end, source=source)
    place = sharding.MeshShape(data=1).build() if place is None else place
    inputs = {'inputs': prompts} if source is None else {'inputs': prompts, 'source': source}
    arrays, rows = _padded(inputs, place.shards('batch'))
    mine = place.local_rows(rows)
    batch = place.put_batch({name: value[mine] for name, value in arrays.items()}, rows)
    plan = _DecodingPlan(generative, decoding, decoder, place, tokens, end)
    key_data = np.asarray(jax.random.key_data(counter_rng.key(seed)))
    found = jax.device_get(_compiled(plan)((params, model_state or {}), batch, key_data))
    return [_hypotheses(jax.tree.map(lambda x, row=row: x[row], found)) for row in range(len(prompts))]


def check(
    model: models.Model,
    prompts: Sequence[np.ndarray],
    *,
    tokens: int,
    end: int,
    source: Sequence[np.ndarray] | None = None,
) -> decoding_model.Generative:
    """Returns `model` if decode() can be called so, and raises InputError otherwise; see there."""
    if not isinstance(model, decoding_model.Generative):
        raise config.InputError(f'{type(model).__name__} does not generate text; use a Decoder or a Seq2Seq.')
    if not prompts or tokens < 1:
        raise config.InputError(f'There is nothing to generate: {len(prompts)} prompts, tokens={tokens}.')
    if decoding_model.reads_source(model) != (source is not None):
        needs = 'a source for each prompt' if source is None else 'no source, only prompts'
        raise config.InputError(f'{type(model).__name__} reads {needs}.')
    if source is not None and len(source) != len(prompts):
        raise config.InputError(f'There are {len(source)} sources for {len(prompts)} prompts; give one for each.')
    for ids in [*prompts, *(source or ()), np.array([end])]:
        _check_ids(np.asarray(ids), vocab=model.vocab, end=end)
    known = None if model.positions is None else model.positions.length
    longest = max(map(len, prompts))
    if known is not None and longest + tokens - 1 > known:  # The last new token is never read.
        raise config.InputError(
            f'A prompt of {longest} tokens and {tokens} new ones take {longest + tokens - 1} positions, but the model '
            f'has learned {known}; generate at most {max(known + 1 - longest, 0)} tokens, or shorten the prompt.'
        )
    if known is not None and source is not None and max(map(len, source)) > known:
        raise config.InputError(
            f'A source has {max(map(len, source))} tokens, but the model has learned {known} positions; shorten it.'
        )
    return model


def check_texts(texts: Sequence[str]) -> None:
    """Raises InputError if a text holds bytes that are not UTF-8, which Python keeps as lone surrogates."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise config.InputError(
                f'The prompt {text!r} is not UTF-8 text: it holds the byte 0x{ord(text[error.start]) & 0xFF:02x} at '
                f'character {error.start}. Encode it as UTF-8.'
            ) from error


def _check_ids(ids: np.ndarray, *, vocab: int, end: int) -> None:
    if not ids.size:
        raise config.InputError(f'A prompt or source is empty; begin it with the end token, {end}.')
    if ids.min() < 0 or ids.max() >= vocab:
        raise config.InputError(
            f'The token ids reach from {ids.min()} to {ids.max()}, but the model knows 0 to {vocab - 1}; '
            'use the tokenizer that it was trained with.'
        )


@dataclasses.dataclass(frozen=True)
class _DecodingPlan:
    """Everything that a compiled search depends on besides the shapes of its arguments."""

    model: decoding_model.Generative
    decoding: Decoding
    decoder: type[decoding_model.DecodingModel]
    place: sharding.ShardingContext
    tokens: int
    end: int


@functools.lru_cache(maxsize=32)
def _compiled(plan: _DecodingPlan) -> Any:
    return jax.jit(functools.partial(_run, plan), out_shardings=plan.place.replicated)


def _run(
    plan: _DecodingPlan, weights: tuple[PyTree, PyTree], batch: dict[str, jax.Array], key_data: jax.Array
) -> beam_search.BeamTexts:
    with sharding.use(plan.place):
        apply = objective.Apply(plan.model.build(), *weights)
        fixed = {}
        if 'source' in batch:
            # Explicit, so that padding beyond the learned positions is looked up instead of cut out.
            batch['source_positions'] = jnp.arange(batch['source'].shape[1])[None]
            fixed = {'memory': apply(batch, method='encode')[0], 'source_segments': batch['source_segments']}
        model = plan.decoder(plan.model, apply, fixed)
        prompts = decoding_model.Prompts(batch['inputs'], batch['lengths'])
        return plan.decoding.search(
            model, prompts, tokens=plan.tokens, end=plan.end, key=jax.random.wrap_key_data(key_data)
        )


def _padded(inputs: dict[str, Sequence[np.ndarray]], parts: int) -> tuple[dict[str, np.ndarray], int]:
    """The batch as rectangles, and its rows, a multiple of `parts`; rows of padding have length 0."""
    lengths = [len(ids) for ids in inputs['inputs']]
    rows = -(-len(lengths) // parts) * parts
    batch = {'lengths': np.array(lengths + [0] * (rows - len(lengths)), np.int32)}
    for name, texts in inputs.items():
        width = -(-max(map(len, texts)) // PADDED_TO) * PADDED_TO
        batch[name] = np.zeros((rows, width), np.int32)
        for row, ids in zip(batch[name], texts):
            row[: len(ids)] = ids
    if 'source' in batch:
        # Rows of padding attend to their padding: what they compute is not used, but it should be finite.
        filled = np.array([len(ids) for ids in inputs['source']] + [1] * (rows - len(lengths)))
        batch['source_segments'] = (np.arange(batch['source'].shape[1]) < filled[:, None]).astype(np.int32)
    return batch, rows


def _hypotheses(texts: beam_search.BeamTexts) -> list[Hypothesis]:
    """The texts of one row; a model whose logits are nan generates one too, of log-probability nan."""
    return [
        Hypothesis(ids[:length], float(log_p), float(score))
        for ids, length, log_p, score in zip(*texts)
        if not np.isneginf(log_p)
    ]
