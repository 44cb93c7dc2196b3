"""The experiment of a run that was not trained here: its model, and no data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.interop import reference
from bigmodel_jax.models import alexnet, bert, classifiers, resnet, seq2seq, vit
from bigmodel_jax.models.detection import detr
from bigmodel_jax.models.diffusion import dit, unet
from bigmodel_jax.models.multimodal import clip
from bigmodel_jax.objectives import (
    answer_spans,
    classification,
    contrastive,
    language,
    regression,
    token_classification,
)
from bigmodel_jax.objectives.detection import detection
from bigmodel_jax.objectives.diffusion import diffusion, variances
from bigmodel_jax.objectives.objective import Objective
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

SIDES = (224, 224)  # Of the images that models were made for that read any; those of the papers of AlexNet and ResNet.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elsewhere(batches.Data):
    """Data that is not here: the weights were trained elsewhere and converted."""

    names: tuple[str, ...]  # Of what the model reads, all of token ids; the objective of a run also reads 'targets'.
    vocab: config.Positive
    batch: config.Positive = 1
    length: config.Positive = 1

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        ids = batches.Field((self.length,), np.dtype(np.int32), ('length',), self.vocab)
        return dict.fromkeys((*self.names, 'targets'), ids)

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', self.length)

    def build(self, seed: int) -> batches.Batches:
        raise config.InputError(
            'This run was converted from weights that were trained elsewhere; it has no data. To train them further, '
            'write an experiment with data of your own that starts from this run.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElsewhereImages(Elsewhere):
    """The same of labelled images."""

    image: tuple[config.Positive, config.Positive]  # Rows and columns.
    channels: config.Positive = 3

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return {
            'image': batches.Field((*self.image, self.channels), np.dtype(np.float32), ('height', 'width', 'channels')),
            'labels': batches.Field((), np.dtype(np.int32), (), self.vocab),
        }

    @property
    def units(self) -> batches.Units:
        return batches.Units('images', 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElsewhereRows(Elsewhere):
    """The same of rows of tokens with other targets than tokens."""

    targets: tuple[str, ...]  # What is predicted of a row, or of each of its tokens.
    classes: config.NonNegative  # Below which the targets are; 0: they are any numbers.
    per_token: bool = False

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        shape, axes = ((self.length,), ('length',)) if self.per_token else ((), ())
        target = batches.Field(shape, np.dtype(np.int32), axes, self.classes)
        numbers = batches.Field((), np.dtype(np.float32), ())
        return {'inputs': super().fields['inputs'], **dict.fromkeys(self.targets, target if self.classes else numbers)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElsewhereCaptions(ElsewhereImages):
    """The same of images with captions."""

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        integers = np.dtype(np.int32)
        return {
            'image': super().fields['image'],
            'caption': batches.Field((self.length,), integers, ('length',), self.vocab),
            'caption_end': batches.Field((), integers, (), self.length),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElsewhereObjects(ElsewhereImages):
    """The same of images with one object each."""

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        images = super().fields
        floats = np.dtype(np.float32)
        return {
            'image': images['image'],
            'boxes': batches.Field((1, detr.BOX), floats, ('objects', 'box')),
            'labels': batches.Field((1,), np.dtype(np.int32), ('objects',), self.vocab),
            'object_mask': batches.Field((1,), floats, ('objects',)),
        }


def _row_of_patches(tower: Any) -> tuple[int, int]:
    """As many patches as there are positions; in a row, since these do not say how many rows there are."""
    patches = reference.learned_length(tower.positions) - tower.pooling.extra
    return tower.patch, patches * tower.patch


def experiment(name: str, model: Any) -> Experiment:
    """The experiment under which converted weights are kept."""
    if isinstance(model, vit.Vit):
        data: Elsewhere = ElsewhereImages(names=(), vocab=model.classes, image=_row_of_patches(model))
        return _experiment(name, model, data, classification.Classification())
    if isinstance(model, clip.Clip):
        text = {'vocab': model.text.vocab, 'length': reference.learned_length(model.text.positions)}
        data = ElsewhereCaptions(names=(), image=_row_of_patches(model.vision), **text)
        return _experiment(name, model, data, contrastive.InfoNce())
    if isinstance(model, dit.Dit):
        *image, channels = model.image
        data = ElsewhereImages(names=(), vocab=model.classes or 1, image=(image[0], image[1]), channels=channels)
        variance = variances.PredictedVariance() if model.variance else variances.BetaVariance()
        # Published models were trained with this share of labels dropped, which guidance needs.
        return _experiment(name, model, data, diffusion.Diffusion(variance=variance, label_dropout=0.1))
    if isinstance(model, alexnet.AlexNet | resnet.ResNet):
        data = ElsewhereImages(names=(), vocab=model.classes, image=SIDES)
        return _experiment(name, model, data, classification.Classification())
    if isinstance(model, unet.UNet):
        side = 8 * 2 ** (len(model.channels) - 1)  # It reads any that its levels divide.
        data = ElsewhereImages(names=(), vocab=model.classes or 1, image=(side, side), channels=model.image_channels)
        variance = variances.PredictedVariance() if model.variance else variances.BetaVariance()
        return _experiment(name, model, data, diffusion.Diffusion(variance=variance))
    if isinstance(model, detr.Detr):
        objects = ElsewhereObjects(names=(), vocab=model.classes, image=SIDES)
        return _experiment(name, model, objects, detection.Detection())
    if isinstance(model, bert.Classifier | classifiers.DecoderClassifier):
        number = model.classes == 1
        data = _rows(model, 'values' if number else 'labels', classes=0 if number else model.classes)
        return _experiment(name, model, data, regression.Regression() if number else classification.Classification())
    if isinstance(model, bert.TokenClassifier):
        data = dataclasses.replace(_rows(model, 'labels', classes=model.classes), per_token=True)
        return _experiment(name, model, data, token_classification.TokenClassification())
    if isinstance(model, bert.QuestionAnswering):
        return _experiment(name, model, _rows(model, 'starts', 'ends', classes=1), answer_spans.AnswerSpans())
    names = ('source', 'inputs') if isinstance(model, seq2seq.Seq2Seq) else ('inputs',)
    # As long as the model's band of attention, which longer data alone makes sense of.
    data = Elsewhere(names=names, vocab=model.vocab, length=max(reference.windows(model), default=1))
    return _experiment(name, model, data, language.LanguageModel())


def _rows(model: Any, *targets: str, classes: int) -> ElsewhereRows:
    body = model.decoder if isinstance(model, classifiers.DecoderClassifier) else model.encoder
    # As long as the model's band of attention.
    length = max(reference.windows(body), default=1)
    return ElsewhereRows(names=('inputs',), vocab=body.vocab, length=length, targets=targets, classes=classes)


def _experiment(name: str, model: Any, data: Elsewhere, objective: Objective) -> Experiment:
    return Experiment(
        name=name,
        steps=1,
        data=data,
        model=model,
        objective=objective,
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=0.0)),
        mesh=sharding.MeshShape(data=1),
    )
