"""Cross-attention maps of translations: sentences as characters and tokens, attention weights, and the translation."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.evaluate import artifacts, evaluation, metric
from bigmodel_jax.evaluate.text import decoding, decoding_model, generation
from bigmodel_jax.layers.base import intermediates
from bigmodel_jax.objectives import objective, requirements
from bigmodel_jax.parallel import sharding

PyTree = Any
END = '(end)'  # The label of the token that ends a sentence.
SPACE = '\N{OPEN BOX}'  # What a space is shown as.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionMaps(evaluation.Evaluation):
    """Translates a few sentences and shows the cross-attention of each translation to its sentence.

    Of each sentence: its translation, its characters, and a figure of the weights of each layer and head, with a row
    for each token of the translation and a column for each of the sentence.
    """

    sentences: tuple[str, ...]
    decoding: decoding.Decoding
    every_steps: config.Positive
    longer_by: config.Positive = 50  # Tokens that a translation may have more than its source.
    name: str = 'attention'

    def requires(self, of: objective.Objective, outputs: requirements.Outputs) -> requirements.Requirements | None:
        return decoding_model.TRANSLATING

    def metrics(self, of: objective.Objective, measured: evaluation.MeasuredNames) -> metric.Definitions:
        return {}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        tokenizer = setting.need_tokenizer(self.name)
        sources = [generation.source_ids(tokenizer, sentence) for sentence in self.sentences]
        if not isinstance(setting.model, decoding_model.Generative) or not decoding_model.reads_source(setting.model):
            kind = type(setting.model).__name__
            raise config.InputError(f'Evaluation {self.name!r} needs a model with an encoder, not a {kind}.')
        ends = [np.array([tokenizer.begin], np.int32)] * len(sources)
        longest = max(map(len, sources), default=0) + self.longer_by
        decoding.check(setting.model, ends, tokens=longest, end=tokenizer.end, source=sources)
        return AttentionMapsEvaluator(self, setting, tokenizer, sources)


class AttentionMapsEvaluator(evaluation.Evaluator):
    """Follows the sentences of one config."""

    def __init__(
        self,
        maps: AttentionMaps,
        setting: evaluation.EvaluationContext,
        tokenizer: tokenizers.Tokenizer,
        sources: Sequence[np.ndarray],
    ):
        self._maps, self._setting, self._tokenizer, self._sources = maps, setting, tokenizer, sources
        self._shown = jax.jit(functools.partial(_shown, setting), out_shardings=setting.place.replicated)

    def run(self, params: PyTree, model_state: PyTree) -> evaluation.EvaluationResult:
        maps, setting = self._maps, self._setting
        found = decoding.decode(
            setting.model,
            params,
            [np.array([self._tokenizer.begin], np.int32)] * len(self._sources),
            tokens=max(map(len, self._sources)) + maps.longer_by,
            decoding=maps.decoding,
            end=self._tokenizer.end,
            source=self._sources,
            model_state=model_state,
            place=setting.place,
        )
        targets = [hypotheses[0].tokens for hypotheses in found]
        weights = self._weights(params, model_state, targets)
        shown: list[artifacts.Artifact] = []
        for sentence, source, target, weights_LHTS in zip(maps.sentences, self._sources, targets, weights):
            text = self._tokenizer.decode(_known(self._tokenizer, target))
            pieces, written = _labels(self._tokenizer, source), _labels(self._tokenizer, target)
            characters = tuple((character, f'U+{ord(character):04X}') for character in sentence)
            shown += [
                artifacts.Text(prompt=sentence, text=text),
                artifacts.Table(title='Characters', columns=('character', 'code point'), rows=characters),
                artifacts.attention(weights_LHTS, pieces, written, title='Attention of the translation to its source'),
            ]
        return evaluation.EvaluationResult(artifacts=shown)

    def _weights(self, params: PyTree, model_state: PyTree, targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[L, H, T, S] of each sentence, read as one batch in which each is padded."""
        place, rows = self._setting.place, len(targets)
        rows += -rows % place.shards('batch')
        batch = {
            'source': _rectangle(self._sources, rows),
            'source_segments': _rectangle([np.ones(len(ids), np.int32) for ids in self._sources], rows),
            # Each token was written after the one before it, and the first after the end of nothing.
            'inputs': _rectangle([np.append(self._tokenizer.begin, ids[:-1]) for ids in targets], rows),
        }
        mine = place.local_rows(rows)
        put = place.put_batch({name: value[mine] for name, value in batch.items()}, rows)
        weights_LBHTS = np.asarray(jax.device_get(self._shown(params, model_state, put)), np.float64).round(4)
        return [
            weights_LBHTS[:, row, :, : len(target), : len(source)]
            for row, (source, target) in enumerate(zip(self._sources, targets))
        ]


def _shown(
    setting: evaluation.EvaluationContext, params: PyTree, model_state: PyTree, batch: dict[str, jax.Array]
) -> jax.Array:
    """The cross-attention [L, B, H, T, S] of a batch."""
    with sharding.use(setting.place):
        _, kept = setting.module.apply(
            {'params': params, **model_state}, batch, mutable=[intermediates.ATTENTION_WEIGHTS]
        )
    return intermediates.attention_weights(kept[intermediates.ATTENTION_WEIGHTS])['decoder']['cross']


def _rectangle(texts: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """[rows, longest] int32, padded with 0."""
    padded = np.zeros((rows, max(map(len, texts))), np.int32)
    for row, ids in zip(padded, texts):
        row[: len(ids)] = ids
    return padded


def _known(tokenizer: tokenizers.Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Without those by which the vocabulary was rounded up."""
    return ids[ids < tokenizer.size]


def _labels(tokenizer: tokenizers.Tokenizer, ids: np.ndarray) -> list[str]:
    """The text of each token and its id, which can be read where no font has the writing."""
    pieces = [tokenizer.decode(_known(tokenizer, np.array([i]))) for i in ids]
    return [f'{piece.replace(" ", SPACE) or END} {i}' for piece, i in zip(pieces, ids)]
