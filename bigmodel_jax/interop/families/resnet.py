"""ResNets (He et al., 2015) as transformers and as torchvision store them, with their matrix of the classes."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from bigmodel_jax import config
from bigmodel_jax.interop import fields, images, reference, rules
from bigmodel_jax.layers import convolution
from bigmodel_jax.models import resnet

BLOCKS: dict[str, resnet.ResidualBlock] = {'bottleneck': resnet.BOTTLENECK, 'basic': resnet.BASIC}
COUNTERS = (r'.*\.num_batches_tracked',)  # Of batches in training, which nothing is computed of.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorNames:
    """What files of a kind call the parts of a ResNet; `stage`, `block` and `number` count from `first`."""

    stem: str
    stem_norm: str
    block: str
    convolution: str
    norm: str
    shortcut: str
    shortcut_norm: str
    classes: str
    first: int = 0
    prefix: str = ''


TRANSFORMERS = TensorNames(
    stem='embedder.embedder.convolution',
    stem_norm='embedder.embedder.normalization',
    block='encoder.stages.{stage}.layers.{block}',
    convolution='layer.{number}.convolution',
    norm='layer.{number}.normalization',
    shortcut='shortcut.convolution',
    shortcut_norm='shortcut.normalization',
    classes='classifier.1',
    prefix='resnet.',
)
TORCHVISION = TensorNames(
    stem='conv1',
    stem_norm='bn1',
    block='layer{stage}.{block}',
    convolution='conv{number}',
    norm='bn{number}',
    shortcut='downsample.0',
    shortcut_norm='downsample.1',
    classes='fc',
    first=1,
)


def table(model: resnet.ResNet, names: TensorNames) -> rules.TensorRules:
    """The tensors of a model under these names."""
    found = [
        *images.tensors_of(names.stem, 'backbone.stem', model.stem.filters, 3),
        *images.batch_norm(names.stem_norm, 'backbone.stem_norm', model.stem.filters.channels),
    ]
    channels = model.stem.filters.channels
    for number, (first, depth) in enumerate(model.stages):
        stage, path = number + names.first, f'backbone.stage{number + 1}'
        key = names.block.format(stage=stage, block=0)
        found += _block(key, f'{path}_first', first, channels=channels, names=names)
        if first.stride != 1 or channels != first.channels:
            found += _shortcut(key, f'{path}_first', first, channels=channels, names=names)
        channels = first.channels
        if depth > 1:
            key = names.block.format(stage=stage, block=f'{{{_others(number)}}}')
            others = dataclasses.replace(first, stride=1)
            found += _block(key, f'{path}.layers', others, channels=channels, names=names, counted=1)
    V, D = model.classes, channels
    found += [
        rules.rule(f'{names.classes}.weight', f'V{V} D{D} -> D{D} V{V}', 'classes.weight', inside=False),
        rules.rule(f'{names.classes}.bias', f'V{V} -> V{V}', 'classes.bias', inside=False),
    ]
    return rules.TensorRules(tuple(found), buffers=COUNTERS, prefix=names.prefix)


def _others(number: int) -> str:
    """What counts the blocks of a stage but the first, which has other shapes."""
    return f'stage{number + 1}'


def _block(
    key: str, path: str, of: resnet.ResidualBlock, *, channels: int, names: TensorNames, counted: int = 0
) -> Iterator[rules.Rule]:
    """The convolutions of a block and their norms; of several blocks, whose number in `key` counts from `counted`."""
    for number, each in enumerate(of.convolutions):
        its, ours = number + names.first, number + 1
        name = f'{key}.{names.convolution.format(number=its)}'
        yield from images.tensors_of(name, f'{path}.convolution{ours}', each, channels, first=counted)
        name = f'{key}.{names.norm.format(number=its)}'
        yield from images.batch_norm(name, f'{path}.norm{ours}', each.channels, first=counted)
        channels = each.channels


def _shortcut(
    key: str, path: str, of: resnet.ResidualBlock, *, channels: int, names: TensorNames
) -> Iterator[rules.Rule]:
    projection = convolution.Convolution(channels=of.channels, kernel=(1, 1))
    yield from images.tensors_of(f'{key}.{names.shortcut}', f'{path}.shortcut', projection, channels)
    yield from images.batch_norm(f'{key}.{names.shortcut_norm}', f'{path}.shortcut_norm', of.channels)


HUGGINGFACE_FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without('out_features', 'out_indices', 'stage_names'),  # Of a backbone of another model.
    'embedding_size': fields.Used(64),
    'hidden_sizes': fields.Used([256, 512, 1_024, 2_048]),
    'depths': fields.Used([3, 4, 6, 3]),
    'layer_type': fields.Used('bottleneck'),
    'hidden_act': fields.Used('relu'),
    'downsample_in_bottleneck': fields.Used(False),
    'id2label': fields.Used(None),
    'num_labels': fields.Used(None),
    'num_channels': fields.Only(3),
    'downsample_in_first_stage': fields.Only(False),
}
TORCHVISION_FIELDS: fields.Table = {
    **fields.COMMON,
    'block': fields.Used('bottleneck'),
    'layers': fields.Used([3, 4, 6, 3]),
    'channels': fields.Used([256, 512, 1_024, 2_048]),  # That the blocks of each stage give.
    'stem_channels': fields.Used(64),
    'num_classes': fields.Used(1_000),
}


class ResNetFamily(images.Convolutional):
    """What both kinds of files share."""

    kind = resnet.ResNet
    names: ClassVar[TensorNames]

    def sizes(self, model: resnet.ResNet) -> dict[str, int]:
        return {_others(number): depth - 1 for number, depth in enumerate(model.depths)}

    def tables(self, model: resnet.ResNet) -> tuple[rules.TensorRules, ...]:
        return (table(model, self.names),)

    def stateful_outputs(
        self, model: resnet.ResNet, params: Any, state: Any, batch: Mapping[str, Any]
    ) -> dict[str, Any]:
        found: Any = model.build().apply({'params': params, **state}, batch)
        below = {name: collection['backbone'] for name, collection in {'params': params, **state}.items()}
        stages: Any = resnet.BackboneModule(model).apply(below, batch)
        hidden = {f'hidden_states/{i}': images.channels_first(x_BYXZ) for i, x_BYXZ in enumerate(stages)}
        return hidden | images.scores(found['logits'], batch)


class HuggingFaceResNet(ResNetFamily):
    """ResNetForImageClassification."""

    model_types = ('resnet',)
    architectures = ('ResNetForImageClassification',)
    names = TRANSFORMERS
    config_fields = HUGGINGFACE_FIELDS

    def model(self, fields: fields.Fields) -> resnet.ResNet:
        block = fields.choice('layer_type', BLOCKS)
        if fields.flag('downsample_in_bottleneck') and isinstance(block, resnet.Bottleneck):
            block = dataclasses.replace(block, stride_first=True)
        changes = {
            'stem.filters.channels': fields.whole('embedding_size'),
            'block.activation': fields.choice('hidden_act', reference.ACTIVATIONS),
            'classes': images.classes_of(fields),
        }
        depths, channels = images.stages_of(fields, 'depths', 'hidden_sizes')
        return resnet.resnet(block=block, depths=depths, channels=channels, **changes)

    def config(self, model: resnet.ResNet) -> dict[str, Any]:
        return {
            'model_type': 'resnet',
            'architectures': ['ResNetForImageClassification'],
            'embedding_size': model.stem.filters.channels,
            'hidden_sizes': list(model.channels),
            'depths': list(model.depths),
            'layer_type': _layer_type(model),
            'hidden_act': reference.activation_name(model.block.activation),
            'downsample_in_bottleneck': getattr(model.block, 'stride_first', False),
            'id2label': images.names_of(model.classes),
        }


class TorchvisionResNet(ResNetFamily):
    """The state_dict of torchvision.models.resnet18 and so on, beside a config.json of these fields."""

    model_types = ('torchvision_resnet',)
    architectures = ('ResNet',)
    names = TORCHVISION
    input_name = 'x'
    config_fields = TORCHVISION_FIELDS

    def model(self, fields: fields.Fields) -> resnet.ResNet:
        changes = {
            'stem.filters.channels': fields.whole('stem_channels'),
            'classes': fields.whole('num_classes'),
        }
        depths, channels = images.stages_of(fields, 'layers', 'channels')
        return resnet.resnet(block=fields.choice('block', BLOCKS), depths=depths, channels=channels, **changes)

    def config(self, model: resnet.ResNet) -> dict[str, Any]:
        return {
            'model_type': 'torchvision_resnet',
            'architectures': ['ResNet'],
            'block': _layer_type(model),
            'layers': list(model.depths),
            'channels': list(model.channels),
            'stem_channels': model.stem.filters.channels,
            'num_classes': model.classes,
        }


def _layer_type(model: resnet.ResNet) -> str:
    found = [name for name, each in BLOCKS.items() if isinstance(model.block, type(each))]
    if not found:
        raise config.InputError(f'model.block should be Basic or Bottleneck, not {config.format_value(model.block)}.')
    return found[0]
