"""Translations of a test set, scored by sacrebleu."""

import dataclasses
import hashlib
import json
import types
from typing import Any, Literal

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import libraries, records
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import artifacts, evaluation, metric, predictor
from bigmodel_jax.evaluate.text import decoding, decoding_model, generation
from bigmodel_jax.objectives import objective, requirements

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

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return decoding_model.TRANSLATING

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {'bleu': metric.KNOWN['bleu']}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        _sacrebleu()
        tokenizer = setting.need_tokenizer(self.name)
        sides = records.texts(self.source), records.texts(self.target)
        if len(sides[0]) != len(sides[1]):
            raise config.InputError(
                f'Evaluation {self.name!r}: {sides[0].name} has {len(sides[0]):,} sentences and {sides[1].name} '
                f'{len(sides[1]):,}; they must be translations of one another, line by line.'
            )
        count = min(len(sides[0]), self.max_sentences or len(sides[0]))
        texts = sides[0].read(0, count), sides[1].read(0, count)
        longest = max((generation.source_ids(tokenizer, sentence) for sentence in texts[0]), key=len)
        decoding.check(
            setting.model,
            [np.array([tokenizer.begin], np.int32)],
            tokens=generation.padded_length(longest) + self.longer_by,
            end=tokenizer.end,
            source=[longest],
        )
        return TranslationEvaluator(self, setting, tokenizer, texts)


class TranslationEvaluator(evaluation.Evaluator):
    """Translates and scores one test set."""

    def __init__(
        self,
        translation: Translation,
        setting: evaluation.EvaluationContext,
        tokenizer: tokenizers.Tokenizer,
        texts: tuple[list[str], list[str]],
    ):
        self._translation, self._setting, self._tokenizer, self._texts = translation, setting, tokenizer, texts
        content = json.dumps(texts).encode()
        self.fingerprint = {'sentences': len(texts[0]), 'sha256': hashlib.sha256(content).hexdigest()}

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        how, setting, (sentences, references) = self._translation, self._setting, self._texts
        weights = predictor.PredictorWeights(setting.model, params, model_state, setting.place)
        predict = predictor.TextPredictor(
            weights, self._tokenizer, decoding=how.decoding, tokens=how.longer_by, rows=how.rows
        )
        found = [each.text for each in predict([{'prompt': sentence} for sentence in sentences])]
        bleu = _sacrebleu().metrics.BLEU(tokenize=how.tokenize)
        score = bleu.corpus_score(found, [references])
        shown = [
            artifacts.Text(prompt=sentence, text=text, reference=reference)
            for sentence, text, reference in zip(sentences[: how.shown], found, references)
        ]
        measured = metric.Metric(float(score.score), 'higher', 'BLEU', str(bleu.get_signature()))
        return evaluation.EvaluationResult({'bleu': measured}, shown)


def _sacrebleu() -> types.ModuleType:
    return libraries.load('sacrebleu', 'BLEU comes from sacrebleu')
