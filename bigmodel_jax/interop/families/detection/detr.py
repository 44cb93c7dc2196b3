"""DETR (Carion et al., 2020) as transformers stores it, with a ResNet of transformers or of timm as its backbone."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.interop import family, fields, images, reference, rules
from bigmodel_jax.interop.families import marian, resnet
from bigmodel_jax.layers import attention, convolution, ffn
from bigmodel_jax.models import resnet as resnets
from bigmodel_jax.models.detection import detr
from bigmodel_jax.objectives.detection import detection

rule = rules.rule
BACKBONE = 'backbone.conv_encoder.model.'
# The names of the module in transformers 5, which files do not have unless a state_dict is saved as it is.
SPELLINGS = (
    (BACKBONE, 'backbone.model.'),
    ('_attn.out_proj', '_attn.o_proj'),
    ('.fc1.', '.mlp.fc1.'),
    ('.fc2.', '.mlp.fc2.'),
)
TIMM = {'resnet50': resnets.RESNET_50, 'resnet101': resnets.RESNET_101}
LABEL = re.compile(r'labels/(\d{1,9})/(class_labels|boxes)')

FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without(
        'dropout', 'attention_dropout', 'activation_dropout', 'encoder_layerdrop', 'decoder_layerdrop', 'init_std',
        'init_xavier_std', 'use_pretrained_backbone', 'backbone_kwargs', 'max_position_embeddings', 'scale_embedding',
        # Of segmentation, which is another head.
        'mask_loss_coefficient', 'dice_loss_coefficient',
    ),
    'backbone_config': fields.Used(None),
    'use_timm_backbone': fields.Used(None),
    'backbone': fields.Used(None),
    'num_queries': fields.Used(100),
    'd_model': fields.Used(256),
    **{f'{side}_layers': fields.Used(6) for side in ('encoder', 'decoder')},
    **{f'{side}_ffn_dim': fields.Used(2_048) for side in ('encoder', 'decoder')},
    **{f'{side}_attention_heads': fields.Used(8) for side in ('encoder', 'decoder')},
    'activation_function': fields.Used('relu'),
    # With it, transformers hands the normalised output of a layer to the next, which the paper's model does not.
    'auxiliary_loss': fields.Only(False),
    'id2label': fields.Used(None),
    'num_labels': fields.Used(None),
    'num_channels': fields.Only(3),
    'is_encoder_decoder': fields.Only(True),
    'position_embedding_type': fields.Only('sine'),
    'dilation': fields.Only(False, None),
    'class_cost': fields.Only(1),
    'bbox_cost': fields.Only(5),
    'giou_cost': fields.Only(2),
    'bbox_loss_coefficient': fields.Only(5),
    'giou_loss_coefficient': fields.Only(2),
    'eos_coefficient': fields.Only(0.1),
}  # fmt: skip
BACKBONE_FIELDS: fields.Table = {
    **resnet.HUGGINGFACE_FIELDS,
    **fields.without('architectures', 'dtype', 'torch_dtype'),
    'out_features': fields.Used(None),
    'out_indices': fields.Used(None),
    'stage_names': fields.WITHOUT,
}


def table(model: detr.Detr, names: resnet.TensorNames) -> rules.TensorRules:
    """The tensors of a model whose backbone's are called so."""
    D, V, Z = model.width, model.classes + 1, model.backbone.channels[-1]
    projection = convolution.Convolution(channels=D, kernel=(1, 1), bias=True)
    found = [
        *_backbone(model.backbone, names),
        *images.tensors_of('input_projection', 'projection', projection, Z),
        rule('query_position_embeddings.weight', 'Q D -> Q D', 'queries.table'),
        *marian.stack_rules('encoder'),
        *marian.stack_rules('decoder'),
        rule('decoder.layernorm.weight', 'D -> D', 'norm.scale'),
        rule('decoder.layernorm.bias', 'D -> D', 'norm.bias'),
        rule('class_labels_classifier.weight', f'V{V} D -> D V{V}', 'classes.weight', inside=False),
        rule('class_labels_classifier.bias', f'V{V} -> V{V}', 'classes.bias', inside=False),
    ]
    for number, (path, out) in enumerate((('first', D), ('second', D), ('last', detr.BOX))):
        key = f'bbox_predictor.layers.{number}'
        found += [
            rule(f'{key}.weight', f'O{out} D -> D O{out}', f'boxes.{path}', inside=False),
            rule(f'{key}.bias', f'O{out} -> O{out}', f'boxes.{path}_bias', inside=False),
        ]
    return rules.TensorRules(tuple(found), buffers=resnet.COUNTERS, prefix='model.')


def _backbone(model: resnets.ResNet, names: resnet.TensorNames) -> Iterator[rules.Rule]:
    """The stem and the stages of a ResNet, whose parameters have the paths here that they have there."""
    for each in resnet.table(model, names).rules:
        if each.inside:
            yield dataclasses.replace(each, key=BACKBONE + each.key)


class DetrFamily(family.Family):
    """DetrForObjectDetection."""

    model_types = ('detr',)
    architectures = ('DetrForObjectDetection',)
    config_fields = FIELDS
    aliases = marian.Marian.aliases
    kind = detr.Detr

    def describe(self, values: Mapping[str, Any], where: str) -> Any:
        return config.check(self.model(self.read(values, where)))

    def model(self, fields: fields.Fields) -> detr.Detr:
        sides = ('encoder', 'decoder')
        for name in ('ffn_dim', 'attention_heads'):
            fields.agree({f'{side}_{name}': fields.whole(f'{side}_{name}') for side in sides})
        made = detr.detr(
            backbone=_backbone_of(fields),
            width=fields.whole('d_model'),
            layers=fields.whole('encoder_layers'),
            heads=fields.whole('encoder_attention_heads'),
            hidden=fields.whole('encoder_ffn_dim'),
            classes=images.classes_of(fields),
        )
        changes = {
            'decoder_layers': fields.whole('decoder_layers'),
            'queries.count': fields.whole('num_queries'),
            'block.ffn.activation': fields.choice('activation_function', reference.ACTIVATIONS),
        }
        return config.vary(made, changes)

    def config(self, model: detr.Detr) -> dict[str, Any]:
        mlp = reference.need(model.block.ffn, ffn.Mlp, 'model.block.ffn')
        mixer = reference.need(model.block.mixer, attention.Attention, 'model.block.mixer')
        both = {'layers': (model.encoder_layers, model.decoder_layers)}
        both |= {'attention_heads': (mixer.heads,) * 2, 'ffn_dim': (mlp.hidden,) * 2}
        backbone = resnet.HuggingFaceResNet().config(model.backbone)
        stages = len(model.backbone.depths)
        return {
            'model_type': 'detr',
            'architectures': ['DetrForObjectDetection'],
            'backbone_config': {
                **{name: value for name, value in backbone.items() if name not in ('architectures', 'id2label')},
                'out_features': [f'stage{stages}'],
                'out_indices': [stages],
            },
            'num_queries': model.queries.count,
            'd_model': model.width,
            **{f'encoder_{name}': first for name, (first, _) in both.items()},
            **{f'decoder_{name}': second for name, (_, second) in both.items()},
            'activation_function': reference.activation_name(mlp.activation),
            'id2label': images.names_of(model.classes),
        }

    def sizes(self, model: detr.Detr) -> dict[str, int]:
        shape = reference.attention_of(model)
        heads, width = shape.heads, shape.width_of_head(model.width)
        hidden = getattr(model.block.ffn, 'hidden', 0)
        return {
            **resnet.HuggingFaceResNet().sizes(model.backbone),
            'encoder': model.encoder_layers,
            'decoder': model.decoder_layers,
            'A': heads,
            'H': heads,
            'B': width,
            'K': width,
            'C': hidden,
            'F': hidden,
            'D': model.width,
            'Q': model.queries.count,
        }

    def tables(self, model: detr.Detr) -> tuple[rules.TensorRules, ...]:
        found = table(model, dataclasses.replace(resnet.TRANSFORMERS, prefix=''))
        timm = table(model, resnet.TORCHVISION)
        return found, dataclasses.replace(found, spellings=SPELLINGS), timm

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        others = {name: value for name, value in inputs.items() if name != 'pixel_mask' and not LABEL.fullmatch(name)}
        found = images.batch_of(others, classes=model.classes)
        if 'labels' in found:
            raise config.InputError("The labels of DETR are 'labels/0/class_labels', 'labels/0/boxes' and so on.")
        if 'pixel_mask' in inputs:
            found['image_size'] = _sizes(np.asarray(inputs['pixel_mask']), found['image'].shape[:3])
        if any(map(LABEL.fullmatch, inputs)):
            found |= _objects(inputs, len(found['image']), model.classes)
        return found

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        fields = {
            'image': batches.Field(batch['image'].shape[1:], np.dtype(np.float32), ('height', 'width', 'channels'))
        }
        if 'labels' in batch:
            shape = batch['labels'].shape[1:]
            fields['labels'] = batches.Field(shape, np.dtype(np.int32), ('objects',), model.classes)
        model.check(fields)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return self.stateful_outputs(model, params, {}, batch)

    def stateful_outputs(self, model: Any, params: Any, state: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        def run(module: Any, batch: Mapping[str, Any]) -> tuple[Any, jax.Array, jax.Array]:
            x_BSD, memory = module.encode(batch)
            x_BLQD, _ = module.decode(memory, len(batch['image']))
            return module(batch), x_BSD, x_BLQD

        found, x_BSD, x_BLQD = model.build().apply({'params': params, **state}, batch, method=run)
        outputs = {
            'logits': found['logits'][:, -1],
            'pred_boxes': found['boxes'][:, -1],
            'last_hidden_state': x_BLQD[:, -1],
            'encoder_last_hidden_state': x_BSD,
        }
        return outputs | (_losses(found, batch) if 'labels' in batch else {})


def _losses(found: Mapping[str, jax.Array], batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The loss and its parts as the reference names them."""
    of = detection.Detection()
    matched = of.matched(found, batch)
    count = jnp.maximum(batch['object_mask'].sum(), 1)
    empty = found['logits'].shape[-1] - 1
    predicted_BL = (found['logits'].argmax(axis=-1) != empty).sum(axis=-1)
    errors_BL = jnp.abs(predicted_BL - batch['object_mask'].sum(axis=1)[:, None])
    parts = {
        'loss_ce': matched.class_BL.sum(axis=0) / matched.weight_BL.sum(axis=0),
        'loss_bbox': matched.l1_BL.sum(axis=0) / count,
        'loss_giou': matched.giou_BL.sum(axis=0) / count,
        'cardinality_error': errors_BL.astype(found['logits'].dtype).mean(axis=0),
    }
    sums = of.class_weight * parts['loss_ce'] + of.l1_weight * parts['loss_bbox'] + of.giou_weight * parts['loss_giou']
    named = {f'loss_dict/{name}': values[-1] for name, values in parts.items()}
    return {'loss': sums[-1], **named}


def _backbone_of(of: fields.Fields) -> resnets.ResNet:
    """The backbone that a config.json names."""
    values: Any = of.value('backbone_config')
    name, is_timm = of.value('backbone'), of.value('use_timm_backbone')
    if isinstance(values, Mapping) and values.get('model_type') == 'timm_backbone':
        name, is_timm, values = values.get('backbone'), True, None
    if values is None:
        name = 'resnet50' if name is None and is_timm is not False else name
        if name not in TIMM:
            raise config.InputError(
                f'config.json: backbone={name!r} is not implemented; there is {", ".join(map(repr, TIMM))}, and a '
                'backbone_config of the type resnet.'
            )
        return TIMM[name]
    if not isinstance(values, Mapping) or values.get('model_type') not in (None, 'resnet'):
        raise config.InputError(f'config.json: backbone_config={values!r} is not implemented; its type can be resnet.')
    inner = of.within('backbone_config', BACKBONE_FIELDS)
    stages = len(images.whole_numbers(inner, 'depths'))
    last = inner.value('out_features')
    if last is not None and last != [f'stage{stages}']:
        raise config.InputError(
            f'config.json: backbone_config.out_features={last!r} is not implemented; only the last of {stages} stages.'
        )
    return resnet.HuggingFaceResNet().model(inner)


def _sizes(mask_BYX: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[B, 2] int32: the rows and columns of the images in the upper left that a mask keeps.

    Raises:
      InputError: it keeps something else.
    """
    if mask_BYX.shape != shape:
        raise config.InputError(f'The input pixel_mask has shape {list(mask_BYX.shape)}; it should be {list(shape)}.')
    kept = mask_BYX != 0
    sizes = np.stack([kept.any(axis=2).sum(axis=1), kept.any(axis=1).sum(axis=1)], axis=-1)
    rows, columns = (np.arange(side)[None] < size[:, None] for side, size in zip(shape[1:], sizes.T))
    if not (kept == (rows[:, :, None] & columns[:, None, :])).all() or not sizes.all():
        raise config.InputError('The input pixel_mask should keep a rectangle in the upper left corner of each image.')
    return sizes.astype(np.int32)


def _objects(inputs: Mapping[str, np.ndarray], count: int, classes: int) -> dict[str, np.ndarray]:
    """Labels, boxes and which of them are there, of the labels of `count` images.

    Raises:
      InputError: some are missing, or not as they should be.
    """
    found = []
    for number in range(count):
        names = [f'labels/{number}/{name}' for name in ('class_labels', 'boxes')]
        missing = [name for name in names if name not in inputs]
        if missing:
            raise config.InputError(f'The inputs lack {", ".join(missing)}.')
        labels, boxes = (np.asarray(inputs[name]) for name in names)
        if labels.ndim != 1 or labels.dtype.kind not in 'iu' or boxes.shape != (len(labels), 4):
            raise config.InputError(
                f'The inputs {" and ".join(names)} are {labels.dtype}{list(labels.shape)} and {list(boxes.shape)}; '
                'they should be integers [objects] and numbers [objects, 4].'
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise config.InputError(f'The input {names[0]} is {labels.tolist()}; it should be 0 to {classes - 1}.')
        found.append((labels, boxes))
    most = max(1, *(len(labels) for labels, _ in found))
    made = {
        'labels': np.zeros((count, most), np.int32),
        'boxes': np.zeros((count, most, 4), np.float32),
        'object_mask': np.zeros((count, most), np.float32),
    }
    for number, (labels, boxes) in enumerate(found):
        for name, values in (('labels', labels), ('boxes', boxes), ('object_mask', 1)):
            made[name][number, : len(labels)] = values
    return made | {'example_weights': np.ones(count, np.float32)}
