"""Extractive question answering, as in SQuAD: windows of a text, and the span in it that is the answer."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches, preparation_progress, records
from bigmodel_jax.data.text import bert_format, tokenizers

# Published data have a few answers that are a character off, with which everybody has trained; more is a mistake.
MAX_MISALIGNED = 0.05


class QuestionRow(NamedTuple):
    """One question about a text. Source: Rajpurkar et al. (2016), arXiv:1606.05250."""

    text: str
    context: str
    answers: tuple[str, ...]  # What people answered; any of them is right.
    starts: tuple[int, ...]  # Where in `context` each begins, in characters.


def read(found: records.Records) -> list[QuestionRow]:
    """The questions of records such as those of SQuAD, from a SquadFile or from TFDS's 'squad/v1.1'."""
    return [_question(record, functools.partial(found.where, number)) for number, record in enumerate(found)]


def _question(record: records.Record, where: records.Where) -> QuestionRow:
    starts = tuple(int(start) for start in records.value(record, 'answers.answer_start', where))
    answers = records.value(record, 'answers.text', where)
    texts = tuple(records.text({'answers.text': answer}, 'answers.text', where) for answer in answers)
    question, context = (records.text(record, field, where) for field in ('question', 'context'))
    return QuestionRow(question, context, texts, starts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions(batches.Data):
    """Rows [CLS] question [SEP] window of the text [SEP]; the windows of a long text overlap.

    A batch holds, where n is `batch` and T is `length`:
      inputs, types, segments: [n, T] int32, see data/text/bert_format.py.
      starts, ends: [n] int32, the first and the last token of the first answer; 0, which is [CLS], where the window
        has not all of it.
    """

    source: records.Source  # Such as SquadFile(path='train-v1.1.json').
    tokenizer: tokenizers.Vocabulary
    batch: config.Positive
    length: config.Positive
    stride: config.Positive = 128  # Tokens from one window to the next; at most those of a window.
    question: config.Positive = 64  # Tokens of a question; the rest is cut off.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return _fields(self, self.tokenizer.upper_bound)

    def build(self, seed: int) -> 'QuestionBatches':
        if self.length < self.question + 3 + 1:
            raise config.InputError(
                f'data.length={self.length} has no room for any context beside a question of {self.question}.'
            )
        return QuestionBatches(QuestionExamples(self), rows=self.batch, seed=seed)


def _fields(data: Questions, upper_bound: int | None) -> dict[str, batches.Field]:
    place = batches.Field((), np.dtype(np.int32), (), data.length)
    return {**bert_format.fields(data.length, upper_bound), 'starts': place, 'ends': place}


def _check(asked: Sequence[QuestionRow]) -> None:
    """Raises InputError if questions have no answers, or too many answers are not where the data says."""
    if not asked:
        raise config.InputError('The data holds no question.')
    misaligned = []
    for number, (_, context, answers, starts) in enumerate(asked):
        if not answers or not answers[0].strip():
            raise config.InputError(
                f'{_named(asked, number)} has no answer, as some in SQuAD 2.0 have; use those of 1.1.'
            )
        if not 0 <= starts[0] <= len(context) - len(answers[0]):
            raise config.InputError(
                f'{_named(asked, number)}: its answer {answers[0]!r} at character {starts[0]} is not within the '
                f'{len(context)} characters of the context.'
            )
        if context[starts[0] : starts[0] + len(answers[0])] != answers[0]:
            misaligned.append(number)
    if len(misaligned) > MAX_MISALIGNED * len(asked):
        _, context, answers, starts = asked[misaligned[0]]
        raise config.InputError(
            f'{len(misaligned)} of {len(asked)} answers are not at the character that `answer_start` gives. '
            f'{_named(asked, misaligned[0])}: {answers[0]!r} should be at character {starts[0]}, but '
            f'{context[starts[0] : starts[0] + len(answers[0])]!r} is there.'
        )


def _named(asked: Sequence[QuestionRow], number: int) -> str:
    return f'Question {number} ({asked[number].text!r})'


class Window(NamedTuple):
    """A part of the text of a question."""

    question: int  # Its number.
    first: int  # The first token of the text that the window holds;
    tokens: int  # how many;
    at: int  # and where in the row it stands.


class QuestionExamples(batches.ArrayExamples):
    """The windows of all questions, in memory."""

    def __init__(self, data: Questions):
        self.tokenizer = data.tokenizer.build()
        found = data.source.open()
        self.questions = read(found)
        _check(self.questions)
        special = bert_format.specials(self.tokenizer)
        asked = [ids[: data.question] for ids in self.tokenizer.encode_many([each.text for each in self.questions])]
        self.windows: list[Window] = []
        parts: list[np.ndarray] = []
        for number in preparation_progress.track(range(len(asked)), total=len(asked), what='Tokenizing questions'):
            ids, _ = self.context(self.questions[number].context)
            if not len(ids):
                raise config.InputError(f'{_named(self.questions, number)}: its context has no token.')
            room = data.length - len(asked[number]) - 3
            for first in starts_of_windows(len(ids), room=room, stride=data.stride):
                part = ids[first : first + room]
                self.windows.append(Window(number, first, len(part), len(asked[number]) + 2))
                parts.append(part)
        firsts = [asked[window.question] for window in self.windows]
        arrays = bert_format.layout(firsts, parts, length=data.length, special=special)
        places = [self._answer(window) for window in self.windows]
        arrays['starts'], arrays['ends'] = np.array(places, np.int32).reshape(-1, 2).T
        fingerprint = {
            'questions': dict(found.fingerprint), 'tokenizer': self.tokenizer.fingerprint,
            'length': data.length, 'stride': data.stride,
        }  # fmt: skip
        super().__init__(arrays, _fields(data, self.tokenizer.size), fingerprint=fingerprint)

    @functools.cache  # noqa: B019  # As long as the examples; a text has several questions.
    def context(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text, and where in it each token begins and ends, [n, 2]."""
        places = self.tokenizer.spans(text)
        if places is None:
            raise config.InputError('Answers are found in a text by a tokenizer that tells where its tokens stand.')
        return self.tokenizer.encode(text), places

    def _answer(self, window: Window) -> tuple[int, int]:
        """The places in the row of the first and the last token of the answer; 0 where they are not all in it."""
        question = self.questions[window.question]
        begin, end = question.starts[0], question.starts[0] + len(question.answers[0])
        _, places = self.context(question.context)
        touched = np.flatnonzero((places[:, 1] > begin) & (places[:, 0] < end)) - window.first
        if not len(touched) or touched[0] < 0 or touched[-1] >= window.tokens:
            return 0, 0
        return window.at + int(touched[0]), window.at + int(touched[-1])

    def text(self, row: int, start: int, end: int) -> str:
        """The part of the text of row `row` from the token at `start` to that at `end`."""
        window = self.windows[row]
        context = self.questions[window.question].context
        _, places = self.context(context)
        shift = window.first - window.at
        return context[places[start + shift, 0] : places[end + shift, 1]]


def starts_of_windows(tokens: int, *, room: int, stride: int) -> Sequence[int]:
    """Where each window of `room` tokens begins, so that every token is in one and no window is empty.

    Source: released code of Devlin et al. (2018), which never steps over what a window does not hold.
    """
    more, step = max(tokens - room, 0), min(stride, room)
    return [i * step for i in range(1 + -(-more // step))]


class QuestionBatches(batches.Batches):
    """Batches of windows."""

    examples: QuestionExamples
