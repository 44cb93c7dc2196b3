"""Language models of ours in EleutherAI's Language Model Evaluation Harness, the `lm-eval` package.

  run = verbs.open_run('runs/gpt2').restore()
  lm = harness.language_model(harness.of_run(run))
  lm_eval.simple_evaluate(model=lm, tasks=['hellaswag'], num_fewshot=10)

Source: Gao et al. (2021), https://github.com/EleutherAI/lm-evaluation-harness, docs/model_guide.md.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import libraries
from bigmodel_jax.evaluate.text import decoding, likelihood
from bigmodel_jax.interop import exported
from bigmodel_jax.interop.harness import generation

# Tokens that generate_until makes at most where a request does not say.
NEW_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class HarnessAnswers:
    """What the harness asks, answered by a model as lm_eval.models.huggingface.HFLM does; needs no harness.

    Attributes:
      scorer: the model, with its weights. Its limit is the harness's max_length.
      tokenizer: has encode(text) -> ids, without tokens that the text does not hold, and decode(ids) -> text, as
        data.tokenizer.Tokenizer.
      end: the token that ends a text.
      begin: what every context begins with, as in training: the tokens that a tokenizer of transformers adds itself.
      prefix: the token that stands before a text that has no context. None: the first of `begin`, or else `end`; the
        harness takes the tokenizer's bos_token_id if it has one, and else its eos_token_id.
      new_tokens: generated at most, where a request does not say.

    Raises:
      InputError: encode() does not give ids, or adds tokens.
    """

    scorer: likelihood.Scorer
    tokenizer: Any
    end: int
    begin: tuple[int, ...] = ()
    prefix: int | None = None
    new_tokens: int = NEW_TOKENS

    def __post_init__(self) -> None:
        added, one = self._ids(''), self._ids('a').tolist()
        ends = one[-1:] == [self.end] or (self.begin and one[: len(self.begin)] == list(self.begin))
        if added.size or ends:
            raise config.InputError(
                f'tokenizer.encode() adds tokens to a text: {one} for the text "a", {added.tolist()} for no text. Pass '
                'one that adds none, such as encode(text, add_special_tokens=False) of transformers, and say what a '
                'context begins with by begin=(...).'
            )

    @property
    def first(self) -> int:
        """The token that a text without a context follows."""
        if self.prefix is not None:
            return self.prefix
        return self.begin[0] if self.begin else self.end

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each (context, continuation): log P(continuation | context), and whether it is the greedy one."""
        scores = self.scorer([self._request(*pair) for pair in pairs])
        return [(score.log_p, score.is_greedy) for score in scores]

    def _request(self, context: str, continuation: str) -> likelihood.Request:
        """Both as tokens. The text is tokenized as a whole, and spaces before the cut belong to what follows it.

        Source: lm_eval.api.model.TemplateLM.loglikelihood() and _encode_pair(), which fails where the last token of the
        context holds the whole continuation; that one is tokenized alone here.
        """
        bare = context.rstrip()
        continuation, context = context[len(bare) :] + continuation, bare
        if not context:
            ids = self._ids(continuation)
            # A text that says the prefix itself is not given it twice.
            ids = ids[1:] if len(ids) > 1 and ids[0] == self.first else ids
            return likelihood.Request(np.array([self.first], np.int32), ids)
        before, whole = self._ids(context), self._ids(context + continuation)
        follows = whole[len(before) :] if len(whole) > len(before) else self._ids(continuation)
        return likelihood.Request(self._begun(before), follows)

    def _begun(self, ids: np.ndarray) -> np.ndarray:
        """The tokens of a context behind `begin`, unless the text says that itself."""
        begin = np.array(self.begin, np.int32)
        return ids if np.array_equal(ids[: len(begin)], begin) else np.concatenate([begin, ids])

    def _ids(self, text: str) -> np.ndarray:
        ids = self.tokenizer.encode(text)
        array = np.asarray(ids if isinstance(ids, (list, tuple, np.ndarray)) else None)
        if array.ndim != 1 or (array.size and array.dtype.kind not in 'iu'):
            raise config.InputError(
                f'tokenizer.encode() gives {type(ids).__name__}, not the ids as a list of integers. Of a Tokenizer of '
                'the tokenizers package take encode(text, add_special_tokens=False).ids.'
            )
        return array.astype(np.int32)

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """log P of each whole text: each token is predicted once, from as many before it as the model has room for."""
        requests, owners = [], []
        for number, text in enumerate(texts):
            for request in windows(self._ids(text), self.first, self.scorer.longest):
                requests.append(request)
                owners.append(number)
        sums = np.zeros(len(texts))
        for owner, score in zip(owners, self.scorer(requests)):
            sums[owner] += score.log_p
        return sums.tolist()

    def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Of each (context, gen_kwargs): what follows, up to the first of `until`.

        Raises:
          InputError: gen_kwargs hold something unknown or out of its range.
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

    def _wish(self, context: str, given: Mapping[str, Any]) -> 'GenerationRequest':
        wish = generation.wish(given, new_tokens=self.new_tokens)
        prompt, limit = self._begun(self._ids(context)).tolist() or [self.first], self.scorer.longest
        if limit is not None:
            if wish.tokens >= limit:
                raise config.InputError(
                    f'{wish.tokens} new tokens (max_gen_toks) should be fewer than the {limit} that the model reads, '
                    'or there is no room for the context.'
                )
            prompt = prompt[-(limit - wish.tokens) :]
        return GenerationRequest(np.array(prompt, np.int32), wish.tokens, wish.until, wish.how)

    def _text(self, new: np.ndarray, until: Sequence[str]) -> str:
        # A vocabulary that was rounded up has ids that stand for nothing.
        size = getattr(self.tokenizer, 'size', None)
        text = self.tokenizer.decode([int(i) for i in new if i != self.end and (size is None or i < size)])
        return text[: min((text.find(stop) for stop in until if stop and stop in text), default=len(text))]


class GenerationRequest(NamedTuple):
    """A text to generate."""

    prompt: np.ndarray  # [n] int32
    tokens: int
    until: tuple[str, ...]
    how: decoding.Decoding


def _alike(wishes: Sequence[GenerationRequest], rows: int) -> Iterator[list[int]]:
    """The numbers of wishes that one call can grant, `rows` at most and of similar lengths."""
    groups: dict[tuple[int, decoding.Decoding], list[int]] = {}
    for number, wish in enumerate(wishes):
        groups.setdefault((wish.tokens, wish.how), []).append(number)
    for numbers in groups.values():
        numbers.sort(key=lambda number: len(wishes[number].prompt))
        yield from (numbers[start : start + rows] for start in range(0, len(numbers), rows))


def windows(ids: np.ndarray, prefix: int, limit: int | None) -> Iterator[likelihood.Request]:
    """Requests that predict each of `ids` [n] once, `limit` at a time; each sees all that is before it and has room."""
    step = max(len(ids), 1) if limit is None else limit
    whole = np.concatenate([np.array([prefix], np.int32), ids])
    for start in range(0, len(ids), step):
        # Of the context the scorer takes what the model has room for, which is `step` at most.
        yield likelihood.Request(whole[max(start + 1 - step, 0) : start + 1], ids[start : start + step])


# ---- models -------------------------------------------------------------------------------------------------------


def of_run(trained: Any, *, rows: int = 16, limit: int | None = None) -> HarnessAnswers:
    """The model of a run at a checkpoint, as Run.restore() gives it; every context begins a document.

    Args:
      limit: tokens that the model reads at most, the harness's max_length. None: as many as it has learned positions
        for, or as its training data is long; of converted weights, as their config.json says.
    """
    experiment, tokenizer = trained.experiment, trained.tokenizer
    limit = exported.max_length(trained.path, experiment) if limit is None else limit
    scorer = likelihood.Scorer(
        experiment.model, trained.params, trained.model_state, rows=rows, limit=limit, place=trained.place
    )
    return HarnessAnswers(scorer, tokenizer, end=tokenizer.end, begin=(tokenizer.begin,))


def of_pretrained(
    pretrained: Any,
    tokenizer: Any,
    *,
    end: int,
    begin: tuple[int, ...] = (),
    prefix: int | None = None,
    rows: int = 16,
    limit: int | None = None,
) -> HarnessAnswers:
    """A model from elsewhere, as huggingface.load_pretrained() gives it.

    Args:
      tokenizer, end, begin, prefix: see Answers; GPT-2 ends with 50256 and begins with nothing, Llama begins with its
        <s>.
      limit: tokens that the model reads at most, the harness's max_length. None: max_position_embeddings (n_positions)
        of its config.json, as the harness takes it.
    """
    limit = pretrained.max_length if limit is None else limit
    scorer = likelihood.Scorer(pretrained.model, pretrained.params, rows=rows, limit=limit)
    return HarnessAnswers(scorer, tokenizer, end, begin, prefix)


def language_model(answers: HarnessAnswers) -> Any:
    """An lm_eval.api.model.LM, which lm_eval.simple_evaluate(model=...) takes.

    Raises:
      InputError: the harness is not installed.
    """
    base: Any = libraries.load('lm_eval.api.model', 'This needs the evaluation harness', package='lm-eval').LM

    class HarnessModel(base):
        """Hands each kind of request on."""

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return answers.log_likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            return answers.rolling([text for (text,) in (request.args for request in requests)])

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            return answers.generate([request.args for request in requests])

    return HarnessModel()
