"""What families of models of images share: their inputs, classes and losses, and the tensors of convolutions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config, initialization
from bigmodel_jax.data import batches
from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.layers import convolution, norms
from bigmodel_jax.models import model as models

STATISTICS = f'{initialization.STATE}{norms.STATISTICS}.'


class Convolutional(family.Family):
    """Interface of the families of convolutions; their model says the sizes of its tensors itself."""

    input_name: ClassVar[str] = 'pixel_values'  # What the reference calls the images.

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return batch_of(inputs, classes=model.classes, name=self.input_name)

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        axes = ('height', 'width', 'channels')
        model.check({'image': batches.Field(batch['image'].shape[1:], batch['image'].dtype, axes)})

    def describe(self, values: Mapping[str, Any], where: str) -> models.Model:
        return config.check(self.model(self.read(values, where)))

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return self.stateful_outputs(model, params, {}, batch)


def tensors_of(
    key: str, path: str, of: convolution.Convolution, channels: int, *, inside: bool = True, first: int = 0
) -> tuple[rules.Rule, ...]:
    """The kernel of a convolution that sees so many channels of each example, and its bias."""
    (Y, X), F, Z = of.kernel, of.channels, channels // (of.groups or channels)
    axes = f'F{F} Z{Z} Y{Y} X{X} -> Y{Y} X{X} Z{Z} F{F}'
    kernel = rules.rule(f'{key}.weight', axes, f'{path}.kernel', inside=inside, first=first)
    bias = rules.rule(f'{key}.bias', f'F{F} -> F{F}', f'{path}.bias', inside=inside, first=first)
    return (kernel, bias) if of.bias else (kernel,)


def batch_norm(key: str, path: str, channels: int, *, first: int = 0) -> tuple[rules.Rule, ...]:
    """The weights of a batch norm, and its running statistics, which are state of the model."""
    names = {'weight': f'{path}.scale', 'bias': f'{path}.bias'}
    names |= {'running_mean': f'{STATISTICS}{path}.mean', 'running_var': f'{STATISTICS}{path}.variance'}
    axes = f'F{channels} -> F{channels}'
    return tuple(rules.rule(f'{key}.{its}', axes, ours, first=first) for its, ours in names.items())


def scores(logits_BV: jax.Array, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The logits, and the loss where there are labels."""
    found = {'logits': logits_BV}
    if 'labels' in batch:
        found['loss'] = reference.mean_nll(logits_BV[:, None], batch['labels'][:, None])
    return found


def channels_first(x_BYXZ: jax.Array) -> jax.Array:
    """[B, Z, Y, X], as PyTorch has images."""
    return jnp.moveaxis(x_BYXZ, -1, 1)


def names_of(classes: int) -> dict[str, str]:
    """The id2label of a config.json."""
    return {str(number): f'LABEL_{number}' for number in range(classes)}


def batch_of(inputs: Mapping[str, np.ndarray], *, classes: int, name: str = 'pixel_values') -> dict[str, np.ndarray]:
    """Our batch of images [B, 3, Y, X], which the reference calls `name`, and 'labels' [B] if there are any.

    Raises:
      InputError: an input is unknown, missing, or not as it should be.
    """
    for each in inputs:
        if each not in (name, 'labels'):
            raise config.InputError(f'The model has no input {each!r}.{config.nearest(each, (name, "labels"))}')
    if name not in inputs:
        raise config.InputError(f'The inputs lack {name}; there are {", ".join(inputs) or "none"}.')
    pixels = np.asarray(inputs[name])
    if pixels.ndim != 4 or pixels.dtype.kind != 'f' or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise config.InputError(
            f'The input {name} is {pixels.dtype}{list(pixels.shape)}; it should be floats [images, 3, height, width].'
        )
    found = {'image': pixels.transpose(0, 2, 3, 1)}
    if 'labels' in inputs:
        labels = np.asarray(inputs['labels'])
        whole = labels.shape == pixels.shape[:1] and labels.dtype.kind in 'iu'
        if not whole or labels.min() < 0 or labels.max() >= classes:
            raise config.InputError(
                f'The input labels is {labels.dtype}{list(labels.shape)}; it should be integers [{len(pixels)}] from 0 '
                f'to {classes - 1}.'
            )
        found['labels'] = labels.astype(np.int32)
    return found


def classes_of(of: fields.Fields) -> int:
    """How many classes there are: two, where a file says nothing of them, as in the reference."""
    names, count = of.value('id2label'), of.optional('num_labels')
    if names is not None and not (isinstance(names, dict) and names):
        raise config.InputError(f'config.json: id2label={names!r} should be an object of the classes, or null.')
    if names is not None and count is not None:
        of.agree({'num_labels': count, 'the length of id2label': len(names)})
    return len(names) if names is not None else count or 2


def whole_numbers(of: fields.Fields, name: str, *, count: int | None = None) -> tuple[int, ...]:
    """A list of positive integers, of which there are `count`."""
    values = of.value(name)
    right = isinstance(values, list) and len(values) == (len(values) if count is None else count) > 0
    if not right or any(not isinstance(each, int) or isinstance(each, bool) or each < 1 for each in values):
        raise config.InputError(
            f'config.json: {name}={values!r} should be a list of {count or "some"} positive integers.'
        )
    return tuple(values)


def stages_of(of: fields.Fields, depths: str, channels: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and channels of every stage."""
    found = whole_numbers(of, depths), whole_numbers(of, channels)
    if len(found[0]) != len(found[1]):
        raise config.InputError(
            f'config.json: {depths} has {len(found[0])} stages and {channels} {len(found[1])}; give one of each for '
            'every stage.'
        )
    return found
