"""The UNet of DDPM (Ho et al., 2020) as diffusers stores it: UNet2DModel."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import fields, images, reference, rules
from bigmodel_jax.interop.files import folder
from bigmodel_jax.layers import convolution, norms
from bigmodel_jax.models.diffusion import unet

DOWN, UP = ('DownBlock2D', 'AttnDownBlock2D'), ('UpBlock2D', 'AttnUpBlock2D')  # Without and with attention.
# What UNet2DModel can do and this model cannot: each has one value only, which is not always the reference's default.
FIXED: dict[str, Any] = {'downsample_padding': 0, 'flip_sin_to_cos': False, 'freq_shift': 1}

FIELDS: fields.Table = {
    **fields.DIFFUSERS,
    **fields.without('sample_size', 'dropout', 'num_train_timesteps'),
    'in_channels': fields.Used(3),
    'out_channels': fields.Used(3),
    'block_out_channels': fields.Used([224, 448, 672, 896]),
    'layers_per_block': fields.Used(2),
    'down_block_types': fields.Used([DOWN[0], DOWN[1], DOWN[1], DOWN[1]]),
    'up_block_types': fields.Used([UP[1], UP[1], UP[1], UP[0]]),
    'act_fn': fields.Used('silu'),
    'attention_head_dim': fields.Used(8),
    'norm_num_groups': fields.Used(32),
    'norm_eps': fields.Used(1e-5),
    'downsample_padding': fields.Used(1),
    'flip_sin_to_cos': fields.Used(True),
    'freq_shift': fields.Used(0),
    'center_input_sample': fields.Only(False),
    'time_embedding_type': fields.Only('positional'),
    'time_embedding_dim': fields.Only(None),
    'mid_block_type': fields.Only('UNetMidBlock2D'),
    'mid_block_scale_factor': fields.Only(1),
    'downsample_type': fields.Only('conv'),
    'upsample_type': fields.Only('conv'),
    'attn_norm_num_groups': fields.Only(None),
    'resnet_time_scale_shift': fields.Only('default'),
    'add_attention': fields.Only(True),
    'class_embed_type': fields.Only(None),
    'num_class_embeds': fields.Only(None),
}


# ---- tensors ----------------------------------------------------------------------------------------------------


def table(model: unet.UNet) -> rules.TensorRules:
    """The tensors of a model, each by a rule of its own, since hardly two have one shape."""
    first, levels = model.channels[0], len(model.channels)
    found = [
        *_convolution('conv_in', 'stem', model.image_channels, first),
        *_matrix('time_embedding.linear_1', 'time.hidden', first, 4 * first),
        *_matrix('time_embedding.linear_2', 'time.out', 4 * first, 4 * first),
    ]
    before = first
    for level, channels in enumerate(model.channels):
        key = f'down_blocks.{level}'
        for number in range(model.blocks):
            found += _block(key, f'down{level}_{number}', model, level=level, number=number, inputs=before)
            before = channels
        if level < levels - 1:
            found += _convolution(f'{key}.downsamplers.0.conv', f'down{level}_half', channels, channels)
    last = model.channels[-1]
    for number in (0, 1):
        found += _residual(f'mid_block.resnets.{number}', f'middle{number + 1}', last, last, time=4 * first)
    found += _attention('mid_block.attentions.0', 'middle_attention', model, last)
    for count, (level, inputs, _) in enumerate(model.sizes_up()):
        number = count % (model.blocks + 1)
        key = f'up_blocks.{levels - 1 - level}'
        found += _block(key, f'up{level}_{number}', model, level=level, number=number, inputs=inputs)
        if level and number == model.blocks:
            channels = model.channels[level]
            found += _convolution(f'{key}.upsamplers.0.conv', f'up{level}_double', channels, channels)
    found += [*_norm('conv_norm_out', 'norm', first), *_convolution('conv_out', 'out', first, model.output_channels)]
    return rules.TensorRules(tuple(found))


def _block(key: str, path: str, model: unet.UNet, *, level: int, number: int, inputs: int) -> Iterator[rules.Rule]:
    channels = model.channels[level]
    yield from _residual(f'{key}.resnets.{number}', path, inputs, channels, time=4 * model.channels[0])
    if level in model.attending:
        yield from _attention(f'{key}.attentions.{number}', f'{path}_attention', model, channels)


def _residual(key: str, path: str, inputs: int, outputs: int, *, time: int) -> Iterator[rules.Rule]:
    yield from _norm(f'{key}.norm1', f'{path}.norm1', inputs)
    yield from _convolution(f'{key}.conv1', f'{path}.convolution1', inputs, outputs)
    yield from _matrix(f'{key}.time_emb_proj', f'{path}.time', time, outputs)
    yield from _norm(f'{key}.norm2', f'{path}.norm2', outputs)
    yield from _convolution(f'{key}.conv2', f'{path}.convolution2', outputs, outputs)
    if inputs != outputs:
        yield from _convolution(f'{key}.conv_shortcut', f'{path}.shortcut', inputs, outputs, window=1)


def _attention(key: str, path: str, model: unet.UNet, channels: int) -> Iterator[rules.Rule]:
    H, D = model.attention.heads, channels
    K = model.attention.width_of_head(D)
    yield from _norm(f'{key}.group_norm', f'{path}.norm', D)
    for its, ours in (('to_q', 'query'), ('to_k', 'key'), ('to_v', 'value')):
        yield rules.rule(f'{key}.{its}.weight', f'(H{H} K{K}) D{D} -> D{D} H{H} K{K}', f'{path}.attention.{ours}')
        yield rules.rule(f'{key}.{its}.bias', f'(H{H} K{K}) -> H{H} K{K}', f'{path}.attention.{ours}_bias')
    yield rules.rule(f'{key}.to_out.0.weight', f'D{D} (H{H} K{K}) -> H{H} K{K} D{D}', f'{path}.attention.out')
    yield rules.rule(f'{key}.to_out.0.bias', f'D{D} -> D{D}', f'{path}.attention.out_bias')


def _convolution(key: str, path: str, inputs: int, outputs: int, *, window: int = 3) -> tuple[rules.Rule, ...]:
    of = convolution.Convolution(channels=outputs, kernel=(window, window), bias=True)
    return images.tensors_of(key, path, of, inputs)


def _matrix(key: str, path: str, inputs: int, outputs: int) -> tuple[rules.Rule, rules.Rule]:
    D, F = inputs, outputs
    return (
        rules.rule(f'{key}.weight', f'F{F} D{D} -> D{D} F{F}', path),
        rules.rule(f'{key}.bias', f'F{F} -> F{F}', f'{path}_bias'),
    )


def _norm(key: str, path: str, channels: int) -> tuple[rules.Rule, rules.Rule]:
    axes = f'D{channels} -> D{channels}'
    return rules.rule(f'{key}.weight', axes, f'{path}.scale'), rules.rule(f'{key}.bias', axes, f'{path}.bias')


# ---- the family -------------------------------------------------------------------------------------------------


class UNet2D(images.Convolutional):
    """UNet2DModel of diffusers, as its DDPMs have it: without classes, and with one width of attention."""

    model_types = ('UNet2DModel',)
    architectures = ()
    config_fields = FIELDS
    kind = unet.UNet
    stem = folder.DIFFUSERS
    target = 'noise'

    def model(self, fields: fields.Fields) -> unet.UNet:
        for name, value in FIXED.items():
            found = fields.value(name)
            if found != value or isinstance(found, bool) != isinstance(value, bool):
                raise config.InputError(
                    f'config.json: {name}={found!r} changes the computation and is not implemented; only {value!r} is, '
                    'as in DDPM.'
                )
        channels = images.whole_numbers(fields, 'block_out_channels')
        attending = _levels(fields, 'down_block_types', DOWN, count=len(channels))
        if _levels(fields, 'up_block_types', UP, count=len(channels)) != tuple(
            sorted(len(channels) - 1 - level for level in attending)
        ):
            raise config.InputError(
                'config.json: up_block_types has attention at other levels than down_block_types, which is not '
                'implemented; use the same levels, in the reverse order.'
            )
        inputs, outputs = fields.whole('in_channels'), fields.whole('out_channels')
        if outputs not in (inputs, 2 * inputs):
            raise config.InputError(
                f'config.json: out_channels={outputs} is neither in_channels={inputs} nor, with a variance, twice as '
                'many, which is not implemented.'
            )
        return unet.UNet(
            channels=channels,
            blocks=fields.whole('layers_per_block'),
            attending=attending,
            attention=config.vary(unet.ATTENTION, {'heads': _heads(fields, channels, attending)}),
            norm=norms.GroupNorm(groups=fields.whole('norm_num_groups'), epsilon=fields.number('norm_eps')),
            activation=fields.choice('act_fn', reference.ACTIVATIONS),
            image_channels=inputs,
            variance=outputs == 2 * inputs,
        )

    def config(self, model: unet.UNet) -> dict[str, Any]:
        levels = range(len(model.channels))
        attended = [level in model.attending for level in levels]
        heads, last = model.attention.heads, model.channels[-1]
        return {
            fields.CLASS_NAME: 'UNet2DModel',
            'in_channels': model.image_channels,
            'out_channels': model.output_channels,
            'block_out_channels': list(model.channels),
            'layers_per_block': model.blocks,
            'down_block_types': [DOWN[each] for each in attended],
            'up_block_types': [UP[each] for each in reversed(attended)],
            'act_fn': reference.activation_name(model.activation),
            'attention_head_dim': None if heads == 1 else model.attention.width_of_head(last),
            'norm_num_groups': model.norm.groups,
            'norm_eps': model.norm.epsilon,
            'dropout': model.dropout,
            **FIXED,
        }

    def settled(self, model: unet.UNet, source: folder.Folder) -> unet.UNet:
        # A table written out is as long as config.json says.
        if (2 * model.blocks + 1) * len(model.channels) > len(source.entries):
            raise config.InputError(
                f'{source.path / folder.CONFIG} says that each of {len(model.channels)} levels has {model.blocks:,} '
                f'blocks, but the files hold {len(source.entries):,} tensors in all. Correct {folder.CONFIG}, or use '
                'the weights it was written for.'
            )
        model.check_levels()
        return model

    def sizes(self, model: unet.UNet) -> dict[str, int]:
        return {}

    def tables(self, model: unet.UNet) -> tuple[rules.TensorRules, ...]:
        return (table(model),)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        known = ('sample', 'timestep', self.target)
        for name in inputs:
            if name not in known:
                raise config.InputError(f'The model has no input {name!r}.{config.nearest(name, known)}')
        for name in known[:2]:
            if name not in inputs:
                raise config.InputError(f'The inputs lack {name}; there are {", ".join(inputs) or "none"}.')
        found = {'image': _pixels('sample', inputs['sample'], model.image_channels)}
        timestep_B = np.asarray(inputs['timestep'])
        if timestep_B.dtype.kind not in 'iuf' or timestep_B.shape not in ((), found['image'].shape[:1]):
            raise config.InputError(
                f'The input timestep is {timestep_B.dtype}{list(timestep_B.shape)}; it should be one number, or one '
                f'for each of the {len(found["image"])} images.'
            )
        # Whole numbers below 2^24, so that float32 holds them.
        found['times'] = np.broadcast_to(timestep_B.astype(np.float32), found['image'].shape[:1])
        if self.target in inputs:
            found[self.target] = _pixels(self.target, inputs[self.target], model.output_channels)
            if found[self.target].shape[:-1] != found['image'].shape[:-1]:
                raise config.InputError(
                    f'The input {self.target} has the shape {list(inputs[self.target].shape)}, which is not that of '
                    'the predicted sample.'
                )
        return found

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        prediction_BYXZ: jax.Array = model.build().apply({'params': params}, batch)['prediction']
        found = {'sample': images.channels_first(prediction_BYXZ)}
        if self.target in batch:
            found['loss'] = jnp.square(prediction_BYXZ - batch[self.target]).mean()
        return found


def _levels(of: fields.Fields, name: str, kinds: tuple[str, str], *, count: int) -> tuple[int, ...]:
    """Of a list of blocks the numbers of those with attention."""
    found = of.value(name)
    if not isinstance(found, list | tuple) or len(found) != count or any(each not in kinds for each in found):
        raise config.InputError(
            f'config.json: {name}={found!r} should be a list of {count}, as many as block_out_channels has, of '
            f'{kinds[0]} and {kinds[1]}.'
        )
    return tuple(number for number, each in enumerate(found) if each == kinds[1])


def _heads(of: fields.Fields, channels: tuple[int, ...], attending: tuple[int, ...]) -> int:
    """How many heads attention has: one, unless their width is given."""
    if of.value('attention_head_dim') is None:
        return 1
    width, attended = of.whole('attention_head_dim'), {channels[level] for level in (*attending, len(channels) - 1)}
    if len(attended) > 1 or any(each % width for each in attended):
        raise config.InputError(
            f'config.json: attention_head_dim={width} gives the attention of levels with {sorted(attended)} channels '
            'different or broken numbers of heads, which is not implemented; null, for one head, is.'
        )
    return attended.pop() // width


def _pixels(name: str, value: np.ndarray, channels: int) -> np.ndarray:
    """[B, Y, X, Z] of an input as the reference has it."""
    found = np.asarray(value)
    if found.ndim != 4 or found.dtype.kind != 'f' or found.shape[1] != channels or 0 in found.shape:
        raise config.InputError(
            f'The input {name} is {found.dtype}{list(found.shape)}; it should be floats [images, {channels}, height, '
            'width].'
        )
    return found.transpose(0, 2, 3, 1)
