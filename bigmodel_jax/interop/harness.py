"""Language models of ours in EleutherAI's Language Model Evaluation Harness, the `lm-eval` package.

  run = verbs.open_run('runs/gpt2').restore()
  lm = harness.language_model(harness.of_run(run))
  lm_eval.simple_evaluate(model=lm, tasks=['hellaswag'], num_fewshot=10)

Source: Gao et al. (2021), https://github.com/EleutherAI/lm-evaluation-harness, docs/model_guide.md.
"""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate import decoding, likelihood

# What gen_kwargs may say. Anything else would change what is generated, so it is refused.
KNOWN = ('until', 'max_gen_toks', 'do_sample', 'temperature', 'top_p', 'top_k')


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the harness asks, answered by a model; needs no harness.

    Attributes:
      scorer: the model, with its weights.
      tokenizer: has encode(text) -> ids and decode(ids) -> text, as data.tokenizer.Tokenizer.
      end: the token that ends a text; also stands before a text that has no context.
      begin: what every other context begins with, as in training.
      new_tokens: generated at most, where a request does not say.
    """

    scorer: likelihood.Scorer
    tokenizer: Any
    end: int
    begin: tuple[int, ...] = ()
    new_tokens: int = 256

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each (context, continuation): log P(continuation | context), and whether it is the greedy one."""
        scores = self.scorer([self._request(*pair) for pair in pairs])
        return [(score.log_p, score.is_greedy) for score in scores]

    def _request(self, context: str, continuation: str) -> likelihood.Request:
        """Both as tokens. The text is tokenized as a whole, and spaces before the cut belong to what follows it."""
        bare = context.rstrip()
        continuation, context = context[len(bare) :] + continuation, bare
        if not context:
            return likelihood.Request(np.array([self.end], np.int32), self._ids(continuation))
        before, whole = self._ids(context), self._ids(context + continuation)
        # Where a token reaches over the cut, the continuation is tokenized alone.
        follows = whole[len(before) :] if np.array_equal(whole[: len(before)], before) else self._ids(continuation)
        return likelihood.Request(np.concatenate([np.array(self.begin, np.int32), before]), follows)

    def _ids(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer.encode(text), np.int32)

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """log P of each whole text: each token is predicted once, from as many before it as the model has room for."""
        requests, owners = [], []
        for number, text in enumerate(texts):
            for request in windows(self._ids(text), self.end, self.scorer.longest):
                requests.append(request)
                owners.append(number)
        sums = np.zeros(len(texts))
        for owner, score in zip(owners, self.scorer(requests)):
            sums[owner] += score.log_p
        return sums.tolist()

    def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Of each (context, gen_kwargs): what follows, up to the first of `until`.

        Raises:
          InputError: gen_kwargs hold something unknown.
        """
        wishes = [self._wish(*request) for request in requests]
        texts: dict[int, str] = {}
        for numbers in _alike(wishes, self.scorer.rows):
            first, scorer = wishes[numbers[0]], self.scorer
            found = decoding.decode(
                scorer.model,
                scorer.params,
                [wishes[number].prompt for number in numbers],
                tokens=first.tokens,
                decoding=first.how,
                end=self.end,
                model_state=scorer.model_state,
                place=scorer.place,
            )
            for number, hypotheses in zip(numbers, found):
                texts[number] = self._text(hypotheses[0].tokens, wishes[number].until)
        return [texts[number] for number in range(len(requests))]

    def _wish(self, context: str, given: Mapping[str, Any]) -> 'Wish':
        unknown = [name for name in given if name not in KNOWN]
        if unknown:
            raise config.InputError(f'gen_kwargs: {unknown[0]!r} is not supported.{config.nearest(unknown[0], KNOWN)}')
        until = given.get('until') or ()
        tokens, limit = int(given.get('max_gen_toks', self.new_tokens)), self.scorer.longest
        prompt = [*self.begin, *self._ids(context)] if context else [self.end]
        if limit is not None:  # The last new token is never read.
            tokens = min(tokens, limit)
            prompt = prompt[-(limit + 1 - tokens) :]
        how: decoding.Decoding = decoding.Greedy()
        if given.get('do_sample') and given.get('temperature', 1.0) > 0:
            how = decoding.Sampling(
                temperature=float(given.get('temperature', 1.0)), top_k=given.get('top_k'), top_p=given.get('top_p')
            )
        return Wish(np.array(prompt, np.int32), tokens, (until,) if isinstance(until, str) else tuple(until), how)

    def _text(self, new: np.ndarray, until: Sequence[str]) -> str:
        # A vocabulary that was rounded up has ids that stand for nothing.
        size = getattr(self.tokenizer, 'size', None)
        text = self.tokenizer.decode([int(i) for i in new if i != self.end and (size is None or i < size)])
        return text[: min((text.find(stop) for stop in until if stop and stop in text), default=len(text))]


class Wish(NamedTuple):
    """A text to generate."""

    prompt: np.ndarray  # [n] int32
    tokens: int
    until: tuple[str, ...]
    how: decoding.Decoding


def _alike(wishes: Sequence[Wish], rows: int) -> Iterator[list[int]]:
    """The numbers of wishes that one call can grant, `rows` at most and of similar lengths."""
    groups: dict[tuple[int, decoding.Decoding], list[int]] = {}
    for number, wish in enumerate(wishes):
        groups.setdefault((wish.tokens, wish.how), []).append(number)
    for numbers in groups.values():
        numbers.sort(key=lambda number: len(wishes[number].prompt))
        yield from (numbers[start : start + rows] for start in range(0, len(numbers), rows))


def windows(ids: np.ndarray, end: int, limit: int | None) -> Iterator[likelihood.Request]:
    """Requests that predict each of `ids` [n] once, `limit` at a time; each sees all that is before it and has room."""
    step = max(len(ids), 1) if limit is None else limit
    whole = np.concatenate([np.array([end], np.int32), ids])
    for start in range(0, len(ids), step):
        # Of the context the scorer takes what the model has room for, which is `step` at most.
        yield likelihood.Request(whole[max(start + 1 - step, 0) : start + 1], ids[start : start + step])


# ---- models -------------------------------------------------------------------------------------------------------


def of_run(trained: Any, *, rows: int = 16) -> Answers:
    """The model of a run at a checkpoint, as Run.restore() gives it; every context begins a document."""
    scorer = likelihood.Scorer(
        trained.experiment.model, trained.params, trained.model_state, rows=rows, place=trained.place
    )
    tokenizer = trained.tokenizer
    return Answers(scorer, tokenizer, end=tokenizer.end, begin=(tokenizer.end,))


def of_pretrained(pretrained: Any, tokenizer: Any, *, end: int, begin: tuple[int, ...] = (), rows: int = 16) -> Answers:
    """A model from elsewhere, with `.model`, our config of it, and `.params`.

    Args:
      tokenizer, end, begin: see Answers; GPT-2 ends with 50256 and begins with nothing, Llama begins with its <s>.
    """
    return Answers(likelihood.Scorer(pretrained.model, pretrained.params, rows=rows), tokenizer, end, begin)


def language_model(answers: Answers) -> Any:
    """An lm_eval.api.model.LM, which lm_eval.simple_evaluate(model=...) takes.

    Raises:
      InputError: the harness is not installed.
    """
    try:
        base: Any = importlib.import_module('lm_eval.api.model').LM
    except ModuleNotFoundError as error:
        raise config.InputError(
            f"The evaluation harness is not installed ({error}): pip install 'bigmodel_jax[evals]', or lm-eval."
        ) from error

    class LanguageModel(base):
        """Hands each kind of request on."""

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return answers.log_likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            return answers.rolling([text for (text,) in (request.args for request in requests)])

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            return answers.generate([request.args for request in requests])

    return LanguageModel()
