"""The engine: many texts generated at once, each bit for bit as it would be alone.

A row enters and leaves at any step (continuous batching; Yu et al., 2022, Orca, section 4) and has its keys and values
in pages of one pool (Kwon et al., 2023, arXiv:2309.06180, section 4). What a row computes is the same at any load:

  * a row's numbers depend neither on the other rows of a call nor on its place among them, and a program for few rows
    is used only where it gives the bits of that for a whole group: check_rows() measures both on the machine at hand;
  * a prompt is cut at multiples of the chunk, whatever else is read, and pages are reserved for all tokens of a text
    when it begins, so that nothing is ever put out and computed again in another way;
  * a token is drawn with a key of (seed, choice, position).

Offline and served texts come from this one engine. One thread calls step(); any thread may submit and cancel.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng
from bigmodel_jax.evaluate.engine import engine_shape, page_pool, programs, row_checks
from bigmodel_jax.evaluate.engine.text_request import Continuation, Draw, TextRequest
from bigmodel_jax.parallel import sharding

PyTree = Any
Changed = Callable[[], None]
OFFLINE_GROUPS = 4  # That complete() generates at a time.
CHUNKS = 4  # Chunks of prompts that are read between two tokens of the rows that generate, at most.


@dataclasses.dataclass(frozen=True)
class EngineWeights:
    """A model with its weights, and where they lie; None: on one device."""

    model: Any
    params: PyTree
    model_state: PyTree | None = None
    place: sharding.ShardingContext | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """How much an engine holds at a time: it decides speed and memory, and no bit of a result.

    Attributes:
      rows: texts that are generated at a time; rounded up to whole groups.
      length: tokens of a text at most, prompt and continuation; None: what the model reads.
      positions: of all texts together that the cache has room for; None: half of rows times length.
    """

    rows: int = 32
    length: int | None = None
    positions: int | None = None


USUAL = EngineLimits()


class _Row:
    """A text that is being generated: its pages, and how much of the prompt was read."""

    def __init__(self, continuation: Continuation, number: int, pages: list[int]):
        self.continuation, self.number, self.pages = continuation, number, pages
        self.key_data = counter_rng.key_data(continuation.request.draw.seed)
        self.read = 0
        self.features: list[np.ndarray] = []  # Sums over each chunk.

    @property
    def request(self) -> TextRequest:
        return self.continuation.request

    @property
    def is_reading(self) -> bool:
        return self.read < len(self.request.prompt)


class TextEngine:
    """Generates the texts of requests, in the order in which they come as far as there is room.

    Attributes:
      counts: for how many texts at a time there are programs, in order; before check_rows() for a whole group alone.

    Raises:
      InputError: the model does not generate in this way; or a limit is too small for it.
    """

    def __init__(
        self,
        weights: EngineWeights,
        shape: engine_shape.EngineShape = engine_shape.DEFAULT,
        limits: EngineLimits = USUAL,
    ):
        reason = engine_shape.unsupported_reason(weights.model)
        if reason is not None:
            raise config.InputError(f'The engine does not generate with this model: {reason}.')
        place = sharding.MeshShape(data=1).build() if weights.place is None else weights.place
        self.model, self.shape = weights.model, shape
        self.length = engine_shape.longest(weights.model, limits.length)
        self.groups = -(-limits.rows // shape.group)
        self._wide = -(-self.length // shape.page)
        rows = self.groups * shape.group
        positions = limits.positions or max(rows * self.length // 2, self.length)
        self.pages = page_pool.FreePages(-(-positions // shape.page) + 1)
        self._plan = programs.EnginePlan(weights.model, place)
        self._run = programs.programs(self._plan)
        self._weights = (weights.params, weights.model_state or {})
        self._pool = self._plan.empty_pool(self.pages.count + 1, shape)
        self._rows: list[_Row | None] = [None] * rows
        self.counts: tuple[int, ...] = (shape.group,)
        self._table = np.full((rows, self._wide), page_pool.SCRATCH, np.int32)
        self._waiting: collections.deque[Continuation] = collections.deque()

    # ---- requests -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that have begun and not ended."""
        return sum(row is not None for row in self._rows)

    def check(self, request: TextRequest) -> None:
        """Raises InputError if a request cannot be generated, however long it waits."""
        prompt, vocab = request.prompt, self.model.vocab
        if not len(prompt) or request.tokens < (0 if request.scored else 1):
            raise config.InputError(
                f'There is nothing to generate: a prompt of {len(prompt)} tokens, {request.tokens} new ones.'
            )
        if prompt.min() < 0 or prompt.max() >= vocab:
            raise config.InputError(
                f'The token ids of the prompt reach from {prompt.min()} to {prompt.max()}, but the model knows 0 to '
                f'{vocab - 1}; use the tokenizer that it was trained with.'
            )
        if len(prompt) + request.tokens > self.length:
            raise config.InputError(
                f'A prompt of {len(prompt)} tokens and {request.tokens} new ones are {len(prompt) + request.tokens} '
                f'tokens, but a text has {self.length} at most here; shorten the prompt, or ask for '
                f'{max(self.length - len(prompt), 0)} tokens at most.'
            )
        if self._pages_of(request) > self.pages.count:
            raise config.InputError(
                f'{len(prompt) + request.tokens} tokens do not fit in the cache, which has room for '
                f'{self.pages.count * self.shape.page}; ask for fewer, or make the cache larger.'
            )

    def submit(self, request: TextRequest, changed: Changed | None = None) -> Continuation:
        """The continuation of a request, which step() brings on.

        Args:
          changed: called by step() when the continuation has something new.

        Raises:
          InputError: as of check().
        """
        self.check(request)
        continuation = Continuation(request, changed)
        self._waiting.append(continuation)
        return continuation

    def cancel(self, continuation: Continuation) -> None:
        """Ends a continuation at the next step, if it has not ended by then, and frees its row and pages."""
        continuation.is_unwanted = True

    def abandon(self) -> None:
        """Ends everything, since no step will follow."""
        for each in [*self._waiting, *(row.continuation for row in self._rows if row is not None)]:
            each.ending = 'cancelled'
            each.tell()

    def complete(self, requests: Sequence[TextRequest]) -> list[Continuation]:
        """The continuations of some requests, when all have ended."""
        for request in requests:
            self.check(request)
        found = [self.submit(request) for request in requests]
        while self.step():
            pass
        return found

    # ---- steps --------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Reads some chunks of prompts, then draws one more token for each text; False if there was nothing to do."""
        self._drop_unwanted()
        self._enter()
        reading = [row for row in self._rows if row is not None and row.is_reading]
        for row in reading[:CHUNKS]:
            self._read_chunk(row)
        G = self.shape.group
        generating = [row for row in self._rows if row is not None and not row.is_reading]
        for start in range(0, len(generating), G):
            self._advance(generating[start : start + G])
        return bool(reading or generating)

    def _pages_of(self, request: TextRequest) -> int:
        return -(-(len(request.prompt) + max(request.tokens - 1, 0)) // self.shape.page)

    def _drop_unwanted(self) -> None:
        """Ends what was cancelled."""
        dropped = [each for each in tuple(self._waiting) if each.is_unwanted]
        for each in dropped:
            self._waiting.remove(each)
        for row in self._rows:
            if row is not None and row.continuation.is_unwanted:
                dropped.append(row.continuation)
                self._leave(row)
        for each in dropped:
            each.ending = 'cancelled'
            each.tell()

    def _enter(self) -> None:
        """Gives rows and pages to those that wait, in their order."""
        free = [number for number, row in enumerate(self._rows) if row is None]
        while self._waiting and free:
            pages = self.pages.take(self._pages_of(self._waiting[0].request))
            if pages is None:
                return  # Those behind it wait as well, so that a long text is not put off for ever.
            row = _Row(self._waiting.popleft(), free.pop(0), pages)
            self._rows[row.number] = row
            self._table[row.number] = page_pool.SCRATCH
            self._table[row.number, : len(pages)] = pages

    def _leave(self, row: _Row) -> None:
        self.pages.give_back(row.pages)
        self._table[row.number] = page_pool.SCRATCH
        self._rows[row.number] = None

    def _read_chunk(self, row: _Row) -> None:
        """Reads the next chunk of a prompt, and draws the first token after the last one."""
        request, C = row.request, self.shape.chunk
        chunk = request.prompt[row.read : row.read + C]
        tokens_BT = np.zeros((1, C), np.int32)
        tokens_BT[0, : len(chunk)] = chunk
        table_BN = self._table[row.number : row.number + 1]
        rows = programs.RowInputs(tokens_BT, np.array([row.read], np.int32), np.array([len(chunk)], np.int32), table_BN)
        if request.scored:
            logits_BV = self._score_chunk(row, rows)
        else:
            self._pool, logits_BV = self._run.read(self._pool, self._weights, rows)
        row.read += len(chunk)
        if row.is_reading:
            return
        if request.tokens:
            self._draw(logits_BV, [row])
        else:
            self._end(row)

    def _score_chunk(self, row: _Row, rows: programs.RowInputs) -> jax.Array:
        following = row.request.prompt[row.read + 1 : row.read + 1 + self.shape.chunk]
        targets_BT = np.zeros_like(rows.tokens_BT)
        targets_BT[0, : len(following)] = following
        self._pool, (logits_BV, log_p_BT, sums_BD) = self._run.score(
            self._pool, self._weights, rows._replace(targets_BT=targets_BT)
        )
        continuation = row.continuation
        continuation.prompt_log_ps += np.asarray(log_p_BT)[0, : len(following)].tolist()
        row.features.append(np.asarray(sums_BD[0]))
        if row.read + len(rows.tokens_BT[0]) >= len(row.request.prompt):
            total = np.sum(np.array(row.features, np.float64), axis=0)
            continuation.embedding = (total / len(row.request.prompt)).astype(np.float32)
        return logits_BV

    def _advance(self, group: list[_Row]) -> None:
        """One more token for some rows, by the program for the fewest that has room for them."""
        B = next(count for count in self.counts if count >= len(group))
        tokens_BT, lengths_B, counts_B = np.zeros((B, 1), np.int32), np.zeros(B, np.int32), np.zeros(B, np.int32)
        table_BN = np.full((B, self._wide), page_pool.SCRATCH, np.int32)
        for at, row in enumerate(group):
            tokens_BT[at], counts_B[at] = row.continuation.tokens[-1], 1
            lengths_B[at] = len(row.request.prompt) + len(row.continuation.tokens) - 1
            table_BN[at] = self._table[row.number]
        rows = programs.RowInputs(tokens_BT, lengths_B, counts_B, table_BN)
        self._pool, logits_BV = self._run.read(self._pool, self._weights, rows)
        self._draw(logits_BV, group)

    def _draw(self, logits_BV: jax.Array, rows: list[_Row]) -> None:
        """The token after each of `rows`, which are the first rows of `logits_BV`."""
        B, V = logits_BV.shape
        drawing = programs.Drawing(
            np.zeros(B, np.float32), np.zeros((B, 2), np.uint32), np.zeros(B, np.int32), np.zeros(B, np.int32)
        )
        only = programs.Restriction(np.ones(B, np.float32), np.full(B, V, np.int32), np.ones(B, np.float32))
        for at, row in enumerate(rows):
            draw = row.request.draw
            drawing.temperature_B[at], drawing.choice_B[at] = draw.temperature, draw.choice
            drawing.key_data[at] = row.key_data
            drawing.positions_B[at] = len(row.request.prompt) + len(row.continuation.tokens)
            if draw.is_restricted:
                only.temperature_B[at] = draw.temperature
                only.top_k_B[at], only.top_p_B[at] = min(draw.top_k or V, V), draw.top_p or 1.0
        allowed_BV = logits_BV
        if any(row.request.draw.is_restricted for row in rows):
            allowed_BV = self._run.restrict(logits_BV, only)
        tokens_B, log_p_B = jax.device_get(self._run.draw(logits_BV, allowed_BV, drawing))
        best = None
        if any(row.request.best for row in rows):
            best = jax.device_get(self._run.best(logits_BV))
        for at, row in enumerate(rows):
            continuation, count = row.continuation, row.request.best
            continuation.tokens.append(int(tokens_B[at]))
            continuation.log_ps.append(float(log_p_B[at]))
            if best is not None and count:
                log_p_BN, token_BN = best
                continuation.best.append(list(zip(token_BN[at, :count].tolist(), log_p_BN[at, :count].tolist())))
            self._end(row)

    def _end(self, row: _Row) -> None:
        """Tells of a new token, and lets the row go after the last one."""
        continuation, request = row.continuation, row.request
        if continuation.tokens and continuation.tokens[-1] == request.end:
            continuation.ending = 'stop'
        elif len(continuation.tokens) >= request.tokens:
            continuation.ending = 'length'
        if continuation.ending is not None:
            self._leave(row)
        continuation.tell()

    # ---- at the start -------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Compiles every program for every shape that it will ever have, and calls it.

        Raises:
          InputError: as of check_rows().
        """
        prompt = np.zeros(1, np.int32)
        draws = [Draw(seed=2**32), Draw(top_k=1, top_p=0.5)]
        requests = [
            TextRequest(prompt=prompt, tokens=min(2, self.length - 1), end=-1, draw=draw, best=1, scored=scored)
            for draw, scored in zip(draws, (True, False))
        ]
        self.complete(requests[:1])
        self.complete(requests[1:])
        self.check_rows()

    def check_rows(self) -> None:
        """Measures that what a row computes depends neither on its place in a group nor on the other rows, and which
        programs for fewer rows give the same bits: those are used from now on where so few texts are generated.

        Raises:
          InputError: rows depend on one another on this platform with this model, so that served texts could differ
            from those alone.
        """
        assert not self.running
        probe = row_checks.RowProbe(self._run, self._weights, self._pool)
        probe.fill(self.shape, self.model.vocab, length=self.length, pages=self.pages.count)
        worst = row_checks.dependence(probe)
        if worst is None:
            self.counts = (*row_checks.equal_counts(probe), self.shape.group)
        self._pool = probe.pool
        if worst is not None:
            raise config.InputError(
                f'On this platform what {type(self.model).__name__} computes for a row depends on the rows beside it '
                f'(by {worst:.1e}), so texts could differ from what they are alone. `sample` and `evaluate` can use it.'
            )


def complete(weights: EngineWeights, requests: Sequence[TextRequest]) -> list[Continuation]:
    """The continuations of some requests by an engine with room for these, as any engine of that shape gives them.

    Raises:
      InputError: as of TextEngine, and of its check().
    """
    shape = engine_shape.DEFAULT
    rows = min(len(requests), OFFLINE_GROUPS * shape.group)
    lengths = sorted((len(each.prompt) + each.tokens for each in requests), reverse=True)[:rows]
    pages = sum(-(-length // shape.page) for length in lengths)
    # A power of two, so that few sizes of the cache are compiled.
    positions = shape.page << max(pages - 1, 1).bit_length()
    limits = EngineLimits(rows=rows, positions=positions, length=max(lengths[0], engine_shape.UNLIMITED_LENGTH))
    return TextEngine(weights, shape, limits).complete(requests)
