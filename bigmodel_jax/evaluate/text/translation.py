"""Translations of a test set, scored by sacrebleu."""

import dataclasses
import hashlib
import json
import types
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import libraries, records
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import artifacts, evaluation, metric
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.models import model as models
from bigmodel_jax.parallel import sharding

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation(evaluation.Evaluation):
    """BLEU of the translations of `source` against `target`, one reference for each sentence.

    Gives 'bleu', whose signature says how it was scored (Post, 2018, arXiv:1804.08771), and the first `shown`
    translations as Text artifacts. A translation may be `longer_by` tokens longer than its source (Vaswani et al.,
    2017, section 6.1: 50).
    """

    source: records.Source
    target: records.Source
    decoding: decoding.Decoding
    every_steps: config.Positive
    name: str = 'test'
    tokenize: Literal['13a', 'zh', 'ja-mecab', 'ko-mecab', 'intl', 'char', 'none'] = '13a'  # Of sacrebleu.
    longer_by: config.Positive = 50
    rows: config.Positive = 128  # Sentences translated at a time.
    max_sentences: config.Positive | None = None  # Only the first so many.
    shown: config.NonNegative = 5

    def build(self, setting: evaluation.Setting) -> evaluation.Evaluator:
        _sacrebleu()
        tokenizer = setting.tokenizer
        if tokenizer is None:
            raise config.InputError(f'Evaluation {self.name!r} translates text, but the data has no tokenizer.')
        sides = records.texts(self.source), records.texts(self.target)
        if len(sides[0]) != len(sides[1]):
            raise config.InputError(
                f'Evaluation {self.name!r}: {sides[0].name} has {len(sides[0]):,} sentences and {sides[1].name} '
                f'{len(sides[1]):,}; they must be translations of one another, line by line.'
            )
        count = min(len(sides[0]), self.max_sentences or len(sides[0]))
        texts = sides[0].read(0, count), sides[1].read(0, count)
        longest = max((_source(tokenizer, sentence) for sentence in texts[0]), key=len)
        decoding.check(
            setting.model,
            [np.array([tokenizer.begin], np.int32)],
            tokens=_padded(longest) + self.longer_by,
            end=tokenizer.end,
            source=[longest],
        )
        return TranslationEvaluator(self, setting, tokenizer, texts)


class TranslationEvaluator(evaluation.Evaluator):
    """Translates and scores one test set."""

    def __init__(
        self,
        translation: Translation,
        setting: evaluation.Setting,
        tokenizer: tokenizers.Tokenizer,
        texts: tuple[list[str], list[str]],
    ):
        self._translation, self._setting, self._tokenizer, self._texts = translation, setting, tokenizer, texts
        content = json.dumps(texts).encode()
        self.fingerprint = {'sentences': len(texts[0]), 'sha256': hashlib.sha256(content).hexdigest()}

    def metrics(self, params: PyTree, model_state: PyTree) -> metric.Definitions:
        return {'bleu': metric.KNOWN['bleu']}

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        how, setting, (sentences, references) = self._translation, self._setting, self._texts
        found = translate(
            setting.model,
            params,
            self._tokenizer,
            sentences,
            how=how.decoding,
            longer_by=how.longer_by,
            rows=how.rows,
            model_state=model_state,
            place=setting.place,
        )
        bleu = _sacrebleu().metrics.BLEU(tokenize=how.tokenize)
        score = bleu.corpus_score(found, [references])
        shown = [
            artifacts.Text(prompt=sentence, text=text, reference=reference)
            for sentence, text, reference in zip(sentences[: how.shown], found, references)
        ]
        measured = metric.Metric(float(score.score), 'higher', 'BLEU', str(bleu.get_signature()))
        return evaluation.EvaluationResult({'bleu': measured}, shown)


def translate(
    model: models.Model,
    params: PyTree,
    tokenizer: tokenizers.Tokenizer,
    sentences: Sequence[str],
    *,
    how: decoding.Decoding,
    longer_by: int = 50,
    rows: int = 128,
    seed: int = 0,
    model_state: PyTree | None = None,
    place: sharding.ShardingContext | None = None,
) -> list[str]:
    """The best translation of each sentence, in their order.

    Args:
      model: the config that `params` belong to, a Seq2Seq.
      longer_by: how many tokens longer than its source a translation may be.
      rows: sentences translated at a time, those of similar lengths together.
      place: where `params` lie; by default on one device.
    """
    ids = [_source(tokenizer, sentence) for sentence in sentences]
    texts: dict[int, str] = {}
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        # The last, short group repeats a sentence, so that it needs no program of its own.
        padded = [*chosen, *(chosen[-1:] * (rows - len(chosen)))] if len(order) > rows else chosen
        longest = _padded(ids[chosen[0]])
        found = decoding.decode(
            model,
            params,
            [np.array([tokenizer.begin], np.int32)] * len(padded),
            tokens=longest + longer_by,
            decoding=how,
            end=tokenizer.end,
            source=[ids[i] for i in padded],
            seed=seed,
            model_state=model_state,
            place=place,
        )
        # A vocabulary that was rounded up has ids that stand for nothing.
        best = [hypotheses[0].tokens for hypotheses in found[: len(chosen)]]
        texts |= {i: tokenizer.decode(new[new < tokenizer.size]) for i, new in zip(chosen, best)}
    return [texts[i] for i in range(len(ids))]


def _padded(ids: np.ndarray) -> int:
    """To how many tokens a source is padded, so that those of similar lengths share a program."""
    return -(-len(ids) // decoding.PADDED_TO) * decoding.PADDED_TO


def _source(tokenizer: tokenizers.Tokenizer, sentence: str) -> np.ndarray:
    """Token ids of a sentence and its end, as data/text/pairs.py gives them to the encoder."""
    return np.append(tokenizer.encode(sentence), tokenizer.end).astype(np.int32)


def _sacrebleu() -> types.ModuleType:
    return libraries.load('sacrebleu', 'BLEU comes from sacrebleu')
