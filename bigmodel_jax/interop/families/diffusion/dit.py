"""DiT (Peebles and Xie, 2022) as its released code stores it, and as diffusers does: DiTTransformer2DModel.

A checkpoint of the released code is a dict of tensors. Beside its safetensors, config.json has the arguments of its
class, and {"_class_name": "DiT"}.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.interop import family, fields, images, reference, rules
from bigmodel_jax.interop.files import folder
from bigmodel_jax.layers import ffn, image_positions
from bigmodel_jax.models.diffusion import dit

rule = rules.rule
OWN, OF_DIFFUSERS = 'blocks.layers', 'blocks.layers.block'
POSITIONS = 'pos_embed'  # A table that follows from a formula, in files of the released code.


def _matrix(key: str, path: str, axes: str = 'E D -> D E') -> tuple[rules.Rule, rules.Rule]:
    """A matrix and its bias; `axes` are those of the matrix, whose first one in the file is that of the bias."""
    left, right = axes.split(' -> ')
    bias = left[: left.index(')') + 1] if left.startswith('(') else left.split()[0]
    ours = ' '.join(each for each in right.split() if each in bias.strip('()').split())
    return rule(f'{key}.weight', axes, path), rule(f'{key}.bias', f'{bias} -> {ours}', f'{path}_bias')


def _modulation(key: str, path: str, parts: int) -> tuple[rules.Rule, rules.Rule]:
    axes = f'(C{parts} E) D -> D C{parts} E'
    return rule(f'{key}.weight', axes, f'{path}.weight'), rule(
        f'{key}.bias', f'(C{parts} E) -> C{parts} E', f'{path}.bias'
    )


def _patches(key: str) -> tuple[rules.Rule, rules.Rule]:
    return rule(f'{key}.weight', 'D Z Y X -> Y X Z D', 'patches.kernel'), rule(f'{key}.bias', 'D -> D', 'patches.bias')


QKV = tuple(f'{OWN}.attention.{name}' for name in ('query', 'key', 'value'))
RELEASED = (
    *_patches('x_embedder.proj'),
    *_matrix('t_embedder.mlp.0', 'condition.time_in', 'E W -> W E'),
    *_matrix('t_embedder.mlp.2', 'condition.time_out'),
    rule('blocks.{layer}.attn.qkv.weight', '(3 H K) D -> D H K', *QKV),
    rule('blocks.{layer}.attn.qkv.bias', '(3 H K) -> H K', *(f'{path}_bias' for path in QKV)),
    *_matrix('blocks.{layer}.attn.proj', f'{OWN}.attention.out', 'D (H K) -> H K D'),
    *_matrix('blocks.{layer}.mlp.fc1', f'{OWN}.ffn.up', 'F D -> D F'),
    *_matrix('blocks.{layer}.mlp.fc2', f'{OWN}.ffn.down', 'D F -> F D'),
    *_modulation('blocks.{layer}.adaLN_modulation.1', f'{OWN}.modulation', 6),
    *_modulation('final_layer.adaLN_modulation.1', 'modulation', 2),
    *_matrix('final_layer.linear', 'output', 'P D -> D P'),
)
RELEASED_CLASSES = rule('y_embedder.embedding_table.weight', 'V D -> V D', 'condition.classes')
NORM, EMBEDDING = 'transformer_blocks.{layer}.norm1', 'transformer_blocks.{layer}.norm1.emb'
ATTENTION, FEED = 'transformer_blocks.{layer}.attn1', 'transformer_blocks.{layer}.ff.net'
DIFFUSERS = (
    *_patches('pos_embed.proj'),
    *_matrix(f'{EMBEDDING}.timestep_embedder.linear_1', f'{OWN}.condition.time_in', 'E W -> W E'),
    *_matrix(f'{EMBEDDING}.timestep_embedder.linear_2', f'{OWN}.condition.time_out'),
    rule(f'{EMBEDDING}.class_embedder.embedding_table.weight', 'V D -> V D', f'{OWN}.condition.classes'),
    *_modulation(f'{NORM}.linear', f'{OF_DIFFUSERS}.modulation', 6),
    *_matrix(f'{ATTENTION}.to_q', f'{OF_DIFFUSERS}.attention.query', '(H K) D -> D H K'),
    *_matrix(f'{ATTENTION}.to_k', f'{OF_DIFFUSERS}.attention.key', '(H K) D -> D H K'),
    *_matrix(f'{ATTENTION}.to_v', f'{OF_DIFFUSERS}.attention.value', '(H K) D -> D H K'),
    *_matrix(f'{ATTENTION}.to_out.0', f'{OF_DIFFUSERS}.attention.out', 'D (H K) -> H K D'),
    *_matrix(f'{FEED}.0.proj', f'{OF_DIFFUSERS}.ffn.up', 'F D -> D F'),
    *_matrix(f'{FEED}.2', f'{OF_DIFFUSERS}.ffn.down', 'D F -> F D'),
    *_modulation('proj_out_1', 'modulation', 2),
    *_matrix('proj_out_2', 'output', 'P D -> D P'),
)
RELEASED_FIELDS: fields.Table = {
    **fields.DIFFUSERS,
    **fields.without('class_dropout_prob'),
    'input_size': fields.Used(32),
    'patch_size': fields.Used(2),
    'in_channels': fields.Used(4),
    'hidden_size': fields.Used(1_152),
    'depth': fields.Used(28),
    'num_heads': fields.Used(16),
    'mlp_ratio': fields.Used(4.0),
    'num_classes': fields.Used(1_000),
    'learn_sigma': fields.Used(True),
}
DIFFUSERS_FIELDS: fields.Table = {
    **fields.DIFFUSERS,
    **fields.without('dropout', 'norm_num_groups'),
    'num_attention_heads': fields.Used(16),
    'attention_head_dim': fields.Used(72),
    'in_channels': fields.Used(4),
    'out_channels': fields.Used(None),
    'num_layers': fields.Used(28),
    'sample_size': fields.Used(32),
    'patch_size': fields.Used(2),
    'num_embeds_ada_norm': fields.Used(1_000),
    'norm_eps': fields.Used(1e-5),
    'activation_fn': fields.Only('gelu-approximate'),
    'attention_bias': fields.Only(True),
    'upcast_attention': fields.Only(False),
    'norm_type': fields.Only('ada_norm_zero'),
    'norm_elementwise_affine': fields.Only(False),
}


class _Dit(family.Family):
    """What both layouts have in common."""

    architectures = ()
    kind = dit.Dit
    target = 'noise'  # Of the shape of the output.
    names: tuple[str, str, str]  # What the reference calls the images, the times and the classes.

    def sizes(self, model: dit.Dit) -> dict[str, int]:
        mixer = model.block.mixer
        return {
            'layer': model.layers,
            'D': model.width,
            'E': model.width,
            'W': model.condition.width,
            'H': mixer.heads,
            'K': mixer.width_of_head(model.width),
            'F': reference.need(model.block.ffn, ffn.Mlp, 'model.block.ffn').hidden,
            'V': (model.classes or 0) + 1,
            'Y': model.patch,
            'X': model.patch,
            'Z': model.image[-1],
            'P': model.patch**2 * model.image[-1] * (2 if model.variance else 1),
        }

    def describe(self, values: Mapping[str, Any], where: str) -> dit.Dit:
        model: dit.Dit = config.check(self.model(self.read(values, where)))
        label = batches.Field((), np.dtype(np.int32), (), model.classes)
        model.check({'image': _field(model.image), 'labels': label})
        return model

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        image, times, labels = self.names
        needed = (image, times, labels) if model.classes is not None else (image, times)
        for name in inputs:
            if name not in (*needed, self.target):
                raise config.InputError(
                    f'The model has no input {name!r}.{config.nearest(name, (*needed, self.target))}'
                )
        for name in needed:
            if name not in inputs:
                raise config.InputError(f'The inputs lack {name}; there are {", ".join(inputs) or "none"}.')
        *size, channels = model.image
        found = {'image': _pixels(image, inputs[image], (channels, *size))}
        count = len(found['image'])
        found['times'] = _numbers(times, inputs[times], count, 'iuf').astype(np.float32)
        if model.classes is not None:
            labels_B = _numbers(labels, inputs[labels], count, 'iu')
            if labels_B.min() < 0 or labels_B.max() > model.classes:
                raise config.InputError(
                    f'The input {labels} is 0 to {model.classes}, the last of which is no class; not '
                    f'{labels_B.min()} to {labels_B.max()}.'
                )
            found['labels'] = labels_B.astype(np.int32)
        if self.target in inputs:
            wide = channels * (2 if model.variance else 1)
            found[self.target] = _pixels(self.target, inputs[self.target], (wide, *size))
        return found

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        label = batches.Field((), np.dtype(np.int32), (), model.classes)
        model.check({'image': _field(batch['image'].shape[1:]), 'labels': label})

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        prediction_BYXZ = model.build().apply({'params': params}, batch)['prediction']
        found = {'sample': images.channels_first(prediction_BYXZ)}
        if self.target in batch:
            found['loss'] = jnp.square(prediction_BYXZ - batch[self.target]).mean()
        return found


class ReleasedDit(_Dit):
    """DiT of the authors' code."""

    model_types = ('DiT',)
    config_fields = RELEASED_FIELDS
    names = ('x', 't', 'y')

    def model(self, fields: fields.Fields) -> dit.Dit:
        side, width = fields.whole('input_size'), fields.whole('hidden_size')
        layers, heads = fields.whole('depth'), fields.whole('num_heads')
        changes: dict[str, Any] = {
            'image': (side, side, fields.whole('in_channels')),
            'block.ffn.hidden': int(width * fields.number('mlp_ratio', above=0)),
            'classes': fields.whole('num_classes'),
            'variance': fields.flag('learn_sigma'),
        }
        return dit.dit(patch=fields.whole('patch_size'), width=width, layers=layers, heads=heads, **changes)

    def config(self, model: dit.Dit) -> dict[str, Any]:
        _need_square(model)
        return {
            fields.CLASS_NAME: 'DiT',
            'input_size': model.image[0],
            'patch_size': model.patch,
            'in_channels': model.image[-1],
            'hidden_size': model.width,
            'depth': model.layers,
            'num_heads': model.block.mixer.heads,
            'mlp_ratio': reference.need(model.block.ffn, ffn.Mlp, 'model.block.ffn').hidden / model.width,
            'num_classes': model.classes,
            'learn_sigma': model.variance,
        }

    def tables(self, model: dit.Dit) -> tuple[rules.TensorRules, ...]:
        return (rules.TensorRules((*RELEASED, RELEASED_CLASSES), buffers=(POSITIONS,)),)

    def settled(self, model: dit.Dit, source: folder.Folder) -> dit.Dit:
        if POSITIONS not in source.entries:
            return model
        grid = model.image[0] // model.patch, model.image[1] // model.patch
        formula = image_positions.sinusoids(grid, width=model.width, base=10_000.0, inclusive=False)
        found = source.read(POSITIONS)
        # The code makes it in float64 and stores float32; a file may hold bfloat16.
        if found.size != formula.size or np.abs(found.reshape(formula.shape).astype(np.float32) - formula).max() > 5e-3:
            raise config.InputError(
                f'{source.path}: {POSITIONS} {list(found.shape)} is not the table of sines and cosines of '
                f'{grid[0]} x {grid[1]} patches, which the model has. Correct input_size, or use other weights.'
            )
        return model


class DiffusersDit(_Dit):
    """DiTTransformer2DModel."""

    model_types = ('DiTTransformer2DModel',)
    stem = folder.DIFFUSERS
    config_fields = DIFFUSERS_FIELDS
    names = ('hidden_states', 'timestep', 'class_labels')

    def model(self, fields: fields.Fields) -> dit.Dit:
        heads, side, channels = (fields.whole(each) for each in ('num_attention_heads', 'sample_size', 'in_channels'))
        width, out = heads * fields.whole('attention_head_dim'), fields.optional('out_channels') or channels
        if out not in (channels, 2 * channels):
            raise config.InputError(
                f'config.json: out_channels={out} is neither in_channels={channels} nor twice as many, the second half '
                'being the variance.'
            )
        changes: dict[str, Any] = {
            'image': (side, side, channels),
            'block.ffn_epsilon': fields.number('norm_eps', above=0),
            'classes': fields.whole('num_embeds_ada_norm'),
            'variance': out == 2 * channels,
            'condition': dit.Condition(inclusive=True, of_each_block=True),
        }
        layers = fields.whole('num_layers')
        return dit.dit(patch=fields.whole('patch_size'), width=width, layers=layers, heads=heads, **changes)

    def config(self, model: dit.Dit) -> dict[str, Any]:
        _need_square(model)
        channels, mixer = model.image[-1], model.block.mixer
        return {
            fields.CLASS_NAME: 'DiTTransformer2DModel',
            'num_attention_heads': mixer.heads,
            'attention_head_dim': mixer.width_of_head(model.width),
            'in_channels': channels,
            'out_channels': channels * (2 if model.variance else 1),
            'num_layers': model.layers,
            'sample_size': model.image[0],
            'patch_size': model.patch,
            'num_embeds_ada_norm': model.classes,
            'norm_eps': model.block.ffn_epsilon,
        }

    def tables(self, model: dit.Dit) -> tuple[rules.TensorRules, ...]:
        return (rules.TensorRules(DIFFUSERS, buffers=(r'pos_embed\.pos_embed',)),)


def _need_square(model: dit.Dit) -> None:
    rows, columns, _ = model.image
    if rows != columns or model.classes is None:
        raise config.InputError(
            f'model.image={model.image} and model.classes={model.classes}: the reference has square images and classes '
            'alone.'
        )


def _field(shape: tuple[int, ...]) -> batches.Field:
    return batches.Field(shape, np.dtype(np.float32), ('height', 'width', 'channels'))


def _pixels(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[B, Y, X, Z] of an input as the reference has it, [B, *shape]."""
    found = np.asarray(value)
    if found.ndim != 4 or found.dtype.kind != 'f' or found.shape[1:] != shape or not len(found):
        wanted = ', '.join(map(str, shape))
        raise config.InputError(
            f'The input {name} is {found.dtype}{list(found.shape)}; it should be floats [images, {wanted}].'
        )
    return found.transpose(0, 2, 3, 1)


def _numbers(name: str, value: np.ndarray, count: int, kinds: str) -> np.ndarray:
    """[B]: one number for each image."""
    found = np.asarray(value)
    if found.shape != (count,) or found.dtype.kind not in kinds:
        raise config.InputError(
            f'The input {name} is {found.dtype}{list(found.shape)}; it should be a number for each of {count} images.'
        )
    return found
