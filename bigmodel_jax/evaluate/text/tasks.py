"""Multiple-choice tasks as text: templates, and few-shot prompts.

Source: Brown et al. (2020), arXiv:2005.14165, section 2.4.
"""

import dataclasses
import hashlib
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.data import records


class Question(NamedTuple):
    """One example as text."""

    context: str
    completions: tuple[str, ...]
    answer: int  # Number of the right completion.

    @property
    def solved(self) -> str:
        """The context with its right completion."""
        return self.context + self.completions[self.answer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a task is. Templates hold '$field', or '${field.inner}' where a field has fields of its own; '$$' is '$'.

    Nothing in a template is computed, and what stands in the data is taken as it is.
    """

    train: records.Source  # What is shown before a question is drawn from it; may be the same as `test`.
    test: records.Source
    context: str  # Template: 'Question: $question\nAnswer:'.
    choices: str | tuple[str, ...]  # The field that lists the completions, or a template for each.
    answer: str  # The field that says which is right: its number, from 0, or its label.
    labels: str | None = None  # The field that lists the labels of the choices, where the answer is one of them.
    completion: str = ' $choice'  # Template of what follows the context.
    answer_context: str = 'Answer:'  # What stands before a completion alone.
    separator: Literal['\n', '\n\n'] = '\n\n'  # Between examples.
    description: str = ''  # Stands before everything.

    def question(self, record: records.Record, where: str) -> Question:
        """A plain record (see task_records.py) as text; `where` names it in an error.

        Raises:
          InputError: a field is missing or of the wrong kind, or the answer is none of the choices.
        """
        if isinstance(self.choices, str):
            listed = _field(record, self.choices, where)
            texts = [_text(each, self.choices, where) for each in _list(listed, self.choices, where)]
        else:
            texts = [filled(template, record, where) for template in self.choices]
        completions = tuple(filled(self.completion, {**record, 'choice': each}, where) for each in texts)
        if len(completions) < 2 or not all(completions):
            raise config.InputError(f'{where}: there must be two choices at least, and no empty one, not {texts}.')
        answer = self._answer(record, where)
        if not 0 <= answer < len(completions):
            raise config.InputError(f'{where}: the answer is choice {answer} (from 0) of {len(completions)}.')
        return Question(filled(self.context, record, where), completions, answer)

    def _answer(self, record: records.Record, where: str) -> int:
        value = _field(record, self.answer, where)
        if self.labels is not None:
            known = _list(_field(record, self.labels, where), self.labels, where)
            if value not in known:
                raise config.InputError(f'{where}: the answer {value!r} is not one of the labels {known}.')
            return known.index(value)
        if isinstance(value, bool) or not str(value).isdecimal():
            raise config.InputError(
                f'{where}: {self.answer}={value!r} is not the number of a choice, counted from 0; where it is a label, '
                'say in `labels` which field lists them.'
            )
        return int(value)

    def prompt(self, question: Question, shots: Sequence[Question]) -> str:
        """What the model reads before a completion: the description, the solved examples, and the question."""
        parts = [self.description] if self.description else []
        return self.separator.join([*parts, *(shot.solved for shot in shots), question.context])


def drawn(seed: int, example: int, *, count: int, available: int, without: int | None = None) -> list[int]:
    """The numbers of `count` different examples of `available`, drawn for one example: a function of (seed, example).

    Args:
      without: one that must not be drawn.

    Raises:
      InputError: there are too few.
    """
    most = available - (without is not None and without < available)
    if count > most:
        raise config.InputError(f'shots={count} examples are to be shown, but there are {most} to draw from.')
    chosen: list[int] = []
    for number in _numbers(f'{seed} shots of {example}', available):
        if len(chosen) == count:
            break
        if number != without and number not in chosen:
            chosen.append(number)
    return chosen


def _numbers(key: str, below: int) -> Iterator[int]:
    """Uniform numbers without end. From a hash: NumPy's generators may change from one version to the next."""
    turn = 0
    while True:
        yield int.from_bytes(hashlib.sha256(f'{key} {turn}'.encode()).digest()[:8], 'big') % below
        turn += 1


# ---- templates ----------------------------------------------------------------------------------------------------


class _Template(string.Template):
    """Puts in what a mapping has, and computes nothing: unlike str.format, which would read attributes."""

    braceidpattern = r'(?a:[_a-z][_a-z0-9]*(?:\.[_a-z0-9]+)*)'


class _Fields(dict[str, str]):
    """The text of each field of a record by its dotted path."""

    def __init__(self, record: records.Record, where: str):
        super().__init__()
        self._record, self._where = record, where

    def __missing__(self, path: str) -> str:
        return _text(_field(self._record, path, self._where), path, self._where)


def filled(template: str, record: records.Record, where: str) -> str:
    """The template with the fields of a record in their places; `where` names the record in an error.

    Raises:
      InputError: a placeholder is malformed, or the record has no such text or number.
    """
    try:
        return _Template(template).substitute(_Fields(record, where))
    except ValueError as error:
        if isinstance(error, config.InputError):
            raise
        raise config.InputError(f'The template {template!r} is malformed: {error}. A plain $ is $$.') from error


def _field(record: records.Record, path: str, where: str) -> Any:
    node: Any = record
    for part in path.split('.'):
        if not isinstance(node, Mapping) or part not in node:
            known = config.nearest(part, map(str, node)) if isinstance(node, Mapping) else ''
            raise config.InputError(f'{where} has no field {path!r}.{known}')
        node = node[part]
    return node


def _text(value: Any, path: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise config.InputError(f'{where}: {path!r} is a {type(value).__name__}, not text or a number.')
    return str(value)


def _list(value: Any, path: str, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise config.InputError(f'{where}: {path!r} is a {type(value).__name__}, not a list.')
    return list(value)
