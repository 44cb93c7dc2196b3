"""AlexNet with one tower (Krizhevsky, 2014, arXiv:1404.5997) as torchvision stores it."""

from collections.abc import Mapping
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.interop import fields, images, rules
from bigmodel_jax.models import alexnet

STAGES = (0, 3, 6, 8, 10)  # The numbers of the convolutions in `features`, and of the wide layers in `classifier`.
WIDE, LAST = (1, 4), 6


FIELDS: fields.Table = {
    **fields.COMMON,
    'channels': fields.Used([64, 192, 384, 256, 256]),  # Of the convolutions.
    'pooled': fields.Used([6, 6]),  # Rows and columns of averages that the wide layers see.
    'hidden': fields.Used([4_096, 4_096]),
    'num_classes': fields.Used(1_000),
}


class TorchvisionAlexNet(images.Convolutional):
    """The state_dict of torchvision.models.alexnet, beside a config.json of these fields."""

    model_types = ('torchvision_alexnet',)
    architectures = ('AlexNet',)
    kind = alexnet.AlexNet
    input_name = 'x'
    config_fields = FIELDS

    def model(self, fields: fields.Fields) -> alexnet.AlexNet:
        return alexnet.one_tower(
            channels=images.whole_numbers(fields, 'channels', count=len(STAGES)),
            pooled=images.whole_numbers(fields, 'pooled', count=2),
            hidden=images.whole_numbers(fields, 'hidden', count=len(WIDE)),
            classes=fields.whole('num_classes'),
        )

    def config(self, model: alexnet.AlexNet) -> dict[str, Any]:
        if model.pooled is None or len(model.stages) != len(STAGES) or len(model.hidden) != len(WIDE):
            raise config.InputError(
                'torchvision has AlexNet with five convolutions, two wide layers, and pooled=(6, 6) or another number '
                f'of rows and columns between them, not {config.format_value(model)}.'
            )
        return {
            'model_type': 'torchvision_alexnet',
            'architectures': ['AlexNet'],
            'channels': [stage.filters.channels for stage in model.stages],
            'pooled': list(model.pooled),
            'hidden': list(model.hidden),
            'num_classes': model.classes,
        }

    def sizes(self, model: alexnet.AlexNet) -> dict[str, int]:
        return {}

    def tables(self, model: alexnet.AlexNet) -> tuple[rules.TensorRules, ...]:
        found: list[rules.Rule] = []
        channels = 3
        for number, (its, stage) in enumerate(zip(STAGES, model.stages), 1):
            found += images.tensors_of(f'features.{its}', f'stages.convolution{number}', stage.filters, channels)
            channels = stage.filters.channels
        assert model.pooled is not None
        (Y, X), Z = model.pooled, channels
        # The reference lays an image out channel by channel, and we do pixel by pixel.
        seen = f'(Z{Z} Y{Y} X{X})', f'(Y{Y} X{X} Z{Z})'
        for number, (its, F) in enumerate(zip(WIDE, model.hidden), 1):
            left, right = seen
            found.append(rules.rule(f'classifier.{its}.weight', f'F{F} {left} -> {right} F{F}', f'hidden{number}'))
            found.append(rules.rule(f'classifier.{its}.bias', f'F{F} -> F{F}', f'hidden{number}_bias'))
            seen = f'D{F}', f'D{F}'
        V, (left, right) = model.classes, seen
        found.append(rules.rule(f'classifier.{LAST}.weight', f'V{V} {left} -> {right} V{V}', 'classes.weight'))
        found.append(rules.rule(f'classifier.{LAST}.bias', f'V{V} -> V{V}', 'classes.bias'))
        return (rules.TensorRules(tuple(found)),)

    def stateful_outputs(
        self, model: alexnet.AlexNet, params: Any, state: Any, batch: Mapping[str, Any]
    ) -> dict[str, Any]:
        found: Any = model.build().apply({'params': params}, batch)
        pixels_BYXZ = batch['image'].astype(model.dtype)
        features_BYXZ: Any = alexnet.ConvolutionsModule(model).apply({'params': params['stages']}, pixels_BYXZ)
        return {'features': images.channels_first(features_BYXZ)} | images.scores(found['logits'], batch)
