"""What an objective or an evaluation needs of a batch and of the model's outputs, and where something is missing."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bigmodel_jax.data import batches
from bigmodel_jax.models import model

Outputs = Mapping[str, model.Output]  # Of a model, by name.


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldRequirement:
    """What a field of the batch must be."""

    axes: tuple[str, ...] = ()  # Its dimensions: () for one number for each example, ('length',) for one at each place.
    integer: bool = True  # Class labels, ids or positions; otherwise any numbers.
    below: str | None = None  # The output whose last axis the integers count: the classes, or the positions.
    like: str | None = None  # The output that has the same shape, but for its last axis.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requirements:
    """What an objective or an evaluation needs of the batch and of the model; nothing by default."""

    fields: Mapping[str, FieldRequirement] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # The axes of each.
    methods: tuple[str, ...] = ()  # Of the module, besides __call__.
    no_methods: tuple[str, ...] = ()  # Which the module must not have.
    provided_by: str = ''  # The models or data that have all of it, for the message.

    def problems(self, of: model.Model, fields: Mapping[str, batches.Field], outputs: Outputs | None) -> list[str]:
        """What does not fit, each as a phrase that follows 'needs'; the model before the data.

        Args:
          of: the model, whose outputs for batches of `fields` are `outputs`; None: these are not known, nor checked.
        """
        found = list(self._missing_methods(of))
        if outputs is not None:
            found += _missing_outputs(self.outputs, outputs)
        if not found:
            found += [each for name, need in self.fields.items() for each in _unfit(name, need, fields, outputs or {})]
        return found

    def _missing_methods(self, of: model.Model) -> Iterator[str]:
        kind: Any = type(of.build()) if self.methods or self.no_methods else object
        missing = [f'{name}()' for name in self.methods if not hasattr(kind, name)]
        if missing:
            yield f'a model whose module has {" and ".join(missing)}; {kind.__name__} has not'
        surplus = [f'{name}()' for name in self.no_methods if hasattr(kind, name)]
        if surplus:
            yield f'a model whose module does without {" and ".join(surplus)}; {kind.__name__} has it'


def _missing_outputs(needed: Mapping[str, tuple[str, ...]], outputs: Outputs) -> Iterator[str]:
    for name, axes in needed.items():
        wanted = f'the output {name!r} of the model, {_axes(axes)}'
        if name not in outputs:
            yield wanted
        elif len(outputs[name].shape) != len(axes):
            yield f'{wanted}, but it is {outputs[name]}'


def _unfit(name: str, need: FieldRequirement, fields: Mapping[str, batches.Field], outputs: Outputs) -> Iterator[str]:
    kind = 'integers' if need.integer else 'numbers'
    wanted = f'the field {name!r} of the data, {kind} {_axes(need.axes)}'
    field = fields.get(name)
    if field is None:
        yield wanted
        return
    shape, like, counted = tuple(field.shape), outputs.get(need.like or ''), outputs.get(need.below or '')
    classes = counted.shape[-1] if counted is not None and counted.shape else None
    if len(shape) != len(need.axes):
        yield f'{wanted}, but it has the shape {list(shape)}'
    elif need.integer and not np.issubdtype(field.dtype, np.integer):
        yield f'{wanted}, but it is {np.dtype(field.dtype)}'
    elif like is not None and shape != like.shape[:-1]:
        yield f'{wanted}, of the shape {list(like.shape[:-1])} of {need.like!r}, not {list(shape)}'
    elif classes is not None and field.upper_bound is not None and field.upper_bound > classes:
        reach = field.upper_bound - 1
        yield f'{wanted}, below the {classes:,} of the last axis of {need.below!r}, but they reach {reach:,}'


def _axes(axes: tuple[str, ...]) -> str:
    return f'[{", ".join(axes)}] for each example' if axes else 'one for each example'


# ---- of the objectives of this package ----------------------------------------------------------------------------

LABELS = Requirements(
    outputs={'logits': ('classes',)},
    fields={'labels': FieldRequirement(below='logits')},
    provided_by="data with 'labels' and a model that gives a logit for each class, such as bert.Classifier",
)
TOKEN_LABELS = Requirements(
    outputs={'logits': ('length', 'classes')},
    fields={'labels': FieldRequirement(axes=('length',), below='logits', like='logits')},
    provided_by="data with 'labels' for each token, such as tagged.Tagged, and the model bert.TokenClassifier",
)
CLASS_TARGETS = Requirements(
    outputs={'logits': ('classes',)},
    fields={'targets': FieldRequirement(axes=('classes',), integer=False)},
    provided_by="data with 'targets' for each class and a model that gives a logit for each class",
)
VALUES = Requirements(
    outputs={'values': ()},
    fields={'values': FieldRequirement(integer=False)},
    provided_by="data with 'values' and a model that gives a number, such as bert.Classifier(classes=1)",
)
SURVIVAL = Requirements(
    outputs={'values': ()},
    fields={'times': FieldRequirement(integer=False), 'events': FieldRequirement()},
    provided_by="data with 'times' and 'events', such as survival.Survival, and a model that gives a number",
)
SPANS = Requirements(
    outputs={'start_logits': ('length',), 'end_logits': ('length',)},
    fields={'starts': FieldRequirement(below='start_logits'), 'ends': FieldRequirement(below='end_logits')},
    provided_by='the data questions.Questions with the model bert.QuestionAnswering',
)
OBJECTS = Requirements(
    outputs={'logits': ('layers', 'queries', 'classes'), 'boxes': ('layers', 'queries', 'box')},
    fields={
        'boxes': FieldRequirement(axes=('objects', 'box'), integer=False),
        'labels': FieldRequirement(axes=('objects',), below='logits'),
        'object_mask': FieldRequirement(axes=('objects',), integer=False),
    },
    provided_by='the data detection_images.DetectionImages with the model detr.Detr',
)
TARGETS = Requirements(
    methods=('features', 'head'),
    fields={'targets': FieldRequirement(axes=('length',), below='logits', like='logits')},
    provided_by='data of text with the model decoder.Decoder or seq2seq.Seq2Seq',
)
PREFERENCES = Requirements(
    methods=('features', 'head'),
    fields={
        'targets': FieldRequirement(axes=('length',), below='logits', like='logits'),
        'segments': FieldRequirement(axes=('length',)),
        'reference_log_probabilities': FieldRequirement(axes=('length',), integer=False),
    },
    provided_by='the data preferences.Preferences with the model decoder.Decoder',
)
MASKED = Requirements(
    outputs={'mlm_logits': ('length', 'vocab')},
    fields={'targets': FieldRequirement(axes=('length',), below='mlm_logits', like='mlm_logits')},
    provided_by='the data sentence_pairs.SentencePairs with the model bert.BertFamily',
)
MASKED_AND_NEXT_SENTENCE = dataclasses.replace(
    MASKED,
    outputs={**MASKED.outputs, 'nsp_logits': ('classes',)},
    fields={**MASKED.fields, 'is_random_next': FieldRequirement(below='nsp_logits')},
)
PAIRS = Requirements(
    outputs={'image_embedding': ('embed',), 'text_embedding': ('embed',)},
    methods=('temperature',),
    provided_by='data of images with captions, such as captioned.Captioned, and the model clip.Clip',
)
BIASED_PAIRS = dataclasses.replace(
    PAIRS,
    methods=('temperature', 'bias'),
    provided_by='data of images with captions and the model clip.Clip(logit_bias=-10.0), whose logits have a bias',
)
NAMED_IMAGES = Requirements(
    outputs={'image_embedding': ('embed',)},
    fields={'labels': FieldRequirement()},
    provided_by='data of images with labels, such as images.Images, and the model clip.Clip',
)
