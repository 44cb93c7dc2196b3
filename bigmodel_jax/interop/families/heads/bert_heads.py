"""BERT with a head of fine-tuning as transformers stores it: classes of rows or tokens, numbers, and answer spans."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, fields, images, reference, rules
from bigmodel_jax.interop.families import bert
from bigmodel_jax.models import bert as models
from bigmodel_jax.models import model as interface
from bigmodel_jax.objectives import classification

FIELDS: fields.Table = {
    **bert.FIELDS,
    'id2label': fields.Used(None),
    'num_labels': fields.Used(None),
    'problem_type': fields.Used(None),
}
CLASSIFIER = bert.dense('classifier', 'classifier', inside=False, rows='C')
SPANS = bert.dense('qa_outputs', 'spans', inside=False, rows='C')
PROBLEMS = (None, 'regression', 'single_label_classification', 'multi_label_classification')


class BertHead(bert.BertFamily):
    """What the heads share; each is a class below."""

    config_fields: fields.Table = FIELDS
    parts: tuple[str, ...] = ()
    needed: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    lines: tuple[rules.Rule, ...] = (*bert.ENCODER, *CLASSIFIER)  # Of the table.

    def body(self, model: Any) -> Any:
        return model.encoder

    def with_dtype(self, model: Any, dtype: interface.Dtype) -> Any:
        return config.vary(model, {'encoder.dtype': dtype})

    def config(self, model: Any) -> dict[str, Any]:
        return super().config(model.encoder) | {'architectures': [self.architectures[0]], **class_names(model.classes)}

    def sizes(self, model: Any) -> dict[str, int]:
        return super().sizes(model.encoder) | {'C': model.classes}

    def tables(self, model: Any) -> tuple[rules.TensorRules, ...]:
        return self._tables(self.lines)

    def _tables(self, *each: tuple[rules.Rule, ...]) -> tuple[rules.TensorRules, ...]:
        tables = [rules.TensorRules(some, (), bert.BUFFERS, prefix='bert.') for some in each]
        return (*tables, *(dataclasses.replace(table, spellings=bert.OLD) for table in tables))

    def renamed(self, table: rules.TensorRules) -> Mapping[str, str]:
        return {}

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        names = {name: ours for name, ours in bert.INPUTS.items() if name != 'next_sentence_label'}
        return reference.batch_of(inputs, names, vocab=model.encoder.vocab)

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        family.Family.check(self, {name: array for name, array in batch.items() if name != 'labels'}, model)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        def forward(module: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            found: dict[str, jax.Array] = module(batch)
            return found

        scores, streams, _ = reference.run(model.build(), params, batch, forward)
        stream_LBTD = streams['blocks']
        found = self.scores(scores) | reference.hidden_states('hidden_states', stream_LBTD, stream_LBTD[-1])
        return found | ({'loss': self.loss(found, batch['labels'])} if 'labels' in batch else {})

    def scores(self, outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The outputs of our module by their names there."""
        return dict(outputs)

    def loss(self, found: Mapping[str, jax.Array], labels: jax.Array) -> jax.Array:
        """The loss of the reference."""
        return reference.mean_nll(found['logits'], labels)


class BertSequences(BertHead):
    """BertForSequenceClassification: one of some classes, any of them, or with one class a number."""

    architectures: tuple[str, ...] = ('BertForSequenceClassification',)
    kind = models.Classifier
    lines = (*bert.ENCODER, *bert.POOLER, *CLASSIFIER)

    def model(self, fields: fields.Fields) -> Any:
        return models.Classifier(encoder=super().model(fields), classes=row_classes(fields))

    def config(self, model: Any) -> dict[str, Any]:
        return super().config(model) | ({'problem_type': 'regression'} if model.classes == 1 else {})

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        others = {name: array for name, array in inputs.items() if name != 'labels'}
        found = super().batch(others, model, values)
        if 'labels' in inputs:
            several = values.get('problem_type') == PROBLEMS[3]
            found['labels'] = row_labels(inputs['labels'], len(found['inputs']), model.classes, several=several)
        return found

    def scores(self, outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {'logits': outputs['values'][:, None] if 'values' in outputs else outputs['logits']}

    def loss(self, found: Mapping[str, jax.Array], labels: jax.Array) -> jax.Array:
        return row_loss(found['logits'], labels)


class BertTokens(BertHead):
    """BertForTokenClassification: a class for each token."""

    architectures: tuple[str, ...] = ('BertForTokenClassification',)
    kind = models.TokenClassifier

    def model(self, fields: fields.Fields) -> Any:
        fields.value('problem_type')  # Without effect here.
        return models.TokenClassifier(encoder=super().model(fields), classes=images.classes_of(fields))

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        found = super().batch(inputs, model, values)
        if 'labels' in found and found['labels'].max(initial=0) >= model.classes:
            raise config.InputError(
                f'The input labels reaches {found["labels"].max()}; there are {model.classes} classes.'
            )
        return found


class BertAnswers(BertHead):
    """BertForQuestionAnswering: where in a row an answer begins and ends."""

    architectures: tuple[str, ...] = ('BertForQuestionAnswering',)
    kind = models.QuestionAnswering
    parts: tuple[str, ...] = ('pooler',)  # Ours has one, whose output it does not use.

    def model(self, fields: fields.Fields) -> Any:
        fields.value('problem_type')
        count = images.classes_of(fields)
        if count != 2:
            raise config.InputError(f'config.json: there are {count} labels; a start and an end are 2.')
        return models.QuestionAnswering(encoder=super().model(fields))

    def config(self, model: Any) -> dict[str, Any]:
        return bert.BertFamily.config(self, model.encoder) | {'architectures': [self.architectures[0]]}

    def sizes(self, model: Any) -> dict[str, int]:
        return bert.BertFamily.sizes(self, model.encoder) | {'C': 2}

    def tables(self, model: Any) -> tuple[rules.TensorRules, ...]:
        encoder, spans = bert.ENCODER, SPANS
        return self._tables((*encoder, *bert.POOLER, *spans), (*encoder, *spans))

    def written(self, model: Any) -> rules.TensorRules:
        return self.tables(model)[1]

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        ends = ('start_positions', 'end_positions')
        found = super().batch({name: array for name, array in inputs.items() if name not in ends}, model, values)
        given = [np.asarray(inputs[name]) for name in ends if name in inputs]
        if not given:
            return found
        rows, length = found['inputs'].shape
        if len(given) != 2 or any(each.shape != (rows,) or each.dtype.kind not in 'iu' for each in given):
            raise config.InputError(f'The inputs {" and ".join(ends)} should both be integers [{rows}].')
        # As in the reference, whatever is beyond the row does not count.
        labels_BV = np.clip(np.stack(given, axis=1), 0, length)
        return found | {'labels': np.where(labels_BV < length, labels_BV, reference.IGNORED).astype(np.int32)}

    def loss(self, found: Mapping[str, jax.Array], labels: jax.Array) -> jax.Array:
        names = ('start_logits', 'end_logits')
        losses = [reference.mean_nll(found[name][:, None], labels[:, i, None]) for i, name in enumerate(names)]
        return (losses[0] + losses[1]) / 2


def row_classes(of: fields.Fields) -> int:
    """How many classes a row has; 1 is a regression.

    Raises:
      InputError: config.json asks for another loss than that of so many.
    """
    count, problem = images.classes_of(of), of.value('problem_type')
    if problem not in PROBLEMS or (problem is not None and (problem == PROBLEMS[1]) != (count == 1)):
        raise config.InputError(
            f'config.json: problem_type={problem!r} with {count} labels is not implemented; a regression has one '
            "label, and 'single_label_classification' and 'multi_label_classification' have several."
        )
    return count


def row_loss(logits_BV: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of the reference: of numbers [B], of one class of several [B], or of any of several [B, V]."""
    if logits_BV.shape[1] == 1:
        return jnp.square(logits_BV[:, 0] - labels).mean()
    if labels.ndim == 2:
        return classification.sigmoid_cross_entropy(logits_BV, labels).mean()
    return reference.mean_nll(logits_BV[:, None], labels[:, None])


def class_names(count: int) -> dict[str, Any]:
    """The fields that say how many labels there are."""
    names = [f'LABEL_{number}' for number in range(count)]
    return {
        'id2label': {str(number): name for number, name in enumerate(names)},
        'label2id': {name: number for number, name in enumerate(names)},
    }


def row_labels(given: Any, rows: int, classes: int, *, several: bool) -> np.ndarray:
    """The labels of rows: numbers [B] of one class, integers [B] of one of several, or [B, V] of any of several."""
    labels = np.asarray(given)
    wanted = (rows, classes) if several else (rows,)
    is_number = several or classes == 1
    if labels.shape != wanted or labels.dtype.kind not in ('f' if is_number else 'iu'):
        kind = 'numbers' if is_number else 'integers'
        raise config.InputError(
            f'The input labels is {labels.dtype}{list(labels.shape)}; it should be {kind} {list(wanted)}.'
        )
    if not is_number and (labels.min() < 0 or labels.max() >= classes):
        raise config.InputError(
            f'The input labels holds {labels.min()} to {labels.max()}; there are {classes} classes.'
        )
    return labels if is_number else labels.astype(np.int32)
