"""Decoders that classify rows as transformers stores them: a matrix after the last token's vector."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.interop.families.heads import bert_heads
from bigmodel_jax.models import classifiers
from bigmodel_jax.models import model as interface

SCORE = rules.rule('score.weight', 'C D -> D C', 'score.weight', inside=False)
PADDING = 'pad_token_id'


class DecoderSequences(family.Family):
    """The class ...ForSequenceClassification of a family of decoders.

    Args:
      of: the family.
      name: what stands for the dots.
      padding: the reference's default of pad_token_id.
    """

    kind = classifiers.DecoderClassifier

    def __init__(self, of: family.Family, name: str, *, padding: int | None = None):
        self._of = of
        self.model_types = of.model_types
        self.architectures = (f'{name}ForSequenceClassification',)
        own = {name: fields.Used(None) for name in ('id2label', 'num_labels', 'problem_type')}
        self.config_fields = {**of.config_fields, **own, PADDING: fields.Used(padding)}

    def read(self, values: Mapping[str, Any], where: str) -> fields.Fields:
        found = fields.Fields(values, where, self.config_fields, self._of.aliases)
        fields.check_common(found, self.architectures)
        return found

    def body(self, model: classifiers.DecoderClassifier) -> Any:
        return model.decoder

    def with_dtype(self, model: classifiers.DecoderClassifier, dtype: interface.Dtype) -> Any:
        return config.vary(model, {'decoder.dtype': dtype})

    def model(self, fields: fields.Fields) -> classifiers.DecoderClassifier:
        classes = bert_heads.row_classes(fields)
        fields.token(PADDING)
        return classifiers.DecoderClassifier(decoder=self._of.model(fields), classes=classes)

    def config(self, model: classifiers.DecoderClassifier) -> dict[str, Any]:
        # Without a token of padding the reference takes one row at a time, which is right for any tokenizer.
        return self._of.config(model.decoder) | {
            'architectures': [self.architectures[0]],
            **bert_heads.class_names(model.classes),
            **({'problem_type': 'regression'} if model.classes == 1 else {}),
            PADDING: None,
        }

    def sizes(self, model: classifiers.DecoderClassifier) -> dict[str, int]:
        return self._of.sizes(model.decoder) | {'C': model.classes}

    def tables(self, model: classifiers.DecoderClassifier) -> tuple[rules.TensorRules, ...]:
        tables = [each for each in self._of.tables(model.body) if each.prefix]  # The others are of the decoder alone.
        return tuple(dataclasses.replace(each, rules=(*each.rules, SCORE), copies=()) for each in tables)

    def batch(
        self, inputs: Mapping[str, np.ndarray], model: classifiers.DecoderClassifier, values: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        others = {name: array for name, array in inputs.items() if name != 'labels'}
        found = self._of.batch(others, model.decoder, values)
        found['segments'] = _segments(
            found['inputs'], found.get('segments'), self.read(values, 'config.json').token(PADDING)
        )
        if 'labels' in inputs:
            several = values.get('problem_type') == bert_heads.PROBLEMS[3]
            rows = len(found['inputs'])
            found['labels'] = bert_heads.row_labels(inputs['labels'], rows, model.classes, several=several)
        return found

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        self._of.check({name: array for name, array in batch.items() if name != 'labels'}, model.decoder)

    def outputs(
        self, model: classifiers.DecoderClassifier, params: Any, batch: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        def forward(module: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
            return module.features(batch)[0], module(batch)

        (x_BTD, scores), streams, _ = reference.run(model.build(), params, batch, forward)
        logits_BV = scores['values'][:, None] if model.classes == 1 else scores['logits']
        found = {'logits': logits_BV, **reference.hidden_states('hidden_states', streams['blocks'], x_BTD)}
        return found | ({'loss': bert_heads.row_loss(logits_BV, batch['labels'])} if 'labels' in batch else {})


def _segments(tokens_BT: np.ndarray, mask_BT: np.ndarray | None, padding: Any) -> np.ndarray:
    """[B, T] int32: the mask, or 1 up to the last token of each row that is no padding.

    The reference takes that token whatever the mask is.

    Raises:
      InputError: there are several rows and no token of padding, or the mask ends elsewhere.
    """
    B, T = tokens_BT.shape
    if padding is None and B > 1:
        raise config.InputError(
            f'The inputs have {B} rows, and config.json names no {PADDING}, without which the last token of a row is '
            'not known; pass one row, or set it.'
        )
    here_T = np.arange(T)
    last_B = np.full(B, T - 1) if padding is None else np.where(tokens_BT != padding, here_T, 0).max(axis=1)
    if mask_BT is None:
        return (here_T <= last_B[:, None]).astype(np.int32)
    wrong = np.flatnonzero(np.where(mask_BT != 0, here_T, 0).max(axis=1) != last_B)
    if wrong.size:
        row = int(wrong[0])
        raise config.InputError(
            f'The attention_mask of row {row} does not end at its last token other than {PADDING}={padding}, which is '
            f'token {last_B[row]}: transformers would read the class there. Use another mask, or another {PADDING}.'
        )
    return mask_BT
