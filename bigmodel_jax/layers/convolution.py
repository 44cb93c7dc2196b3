"""Convolution, pooling, and normalisation over neighbouring channels, of images [B, Y, X, Z]; convolution of rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.kernels.context import Context
from bigmodel_jax.layers import activations
from bigmodel_jax.layers.base import layer, weights
from bigmodel_jax.parallel import sharding

Pair = tuple[config.Positive, config.Positive]  # Rows and columns.
Size = tuple[int, int]
LAYOUT = ('NHWC', 'HWIO', 'NHWC')


# ---- mathematics ------------------------------------------------------------------------------------------------


def convolve(
    x_BYXZ: jax.Array, kernel_YXZF: jax.Array, *, stride: int = 1, padding: Size = (0, 0), groups: int = 1
) -> jax.Array:
    """Cross-correlation, [B, Y, X, F].

    Args:
      kernel_YXZF: of F filters; each sees Z of the channels of its group.
      padding: zeros above and below, and left and right.
      groups: filters f of group g, of F / groups each, see the g-th part of the channels.

    Source: LeCun et al. (1998), section II.A.
    """
    place = sharding.current()
    if groups == 1 and place is not None and place.platform == 'cpu':
        return _convolve_on_cpu(x_BYXZ, kernel_YXZF, stride, padding)
    pads = tuple((size, size) for size in padding)
    return jax.lax.conv_general_dilated(
        x_BYXZ, kernel_YXZF, (stride, stride), pads, dimension_numbers=LAYOUT, feature_group_count=groups
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_on_cpu(x_BYXZ: jax.Array, kernel_YXZF: jax.Array, stride: int, padding: Size) -> jax.Array:
    """convolve() in one group; its gradients are convolutions in the layout that XLA:CPU has a library for.

    XLA:CPU brings a convolution into that layout in the main program only. The gradients of one within a call, as of a
    layer that is repeated, would be computed one number after another: ten times the time of a step of ResNet-18.
    Forward-mode differentiation (jax.jvp) does not pass.
    """
    pads = tuple((size, size) for size in padding)
    return jax.lax.conv_general_dilated(x_BYXZ, kernel_YXZF, (stride, stride), pads, dimension_numbers=LAYOUT)


def _convolve_forward(
    x_BYXZ: jax.Array, kernel_YXZF: jax.Array, stride: int, padding: Size
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve_on_cpu(x_BYXZ, kernel_YXZF, stride, padding), (x_BYXZ, kernel_YXZF)


def _convolve_backward(
    stride: int, padding: Size, saved: tuple[jax.Array, jax.Array], grad_BYXF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_BYXZ, kernel_YXZF = saved
    of_x, of_kernel = [], []
    for before, window, after, pad in zip(x_BYXZ.shape[1:3], kernel_YXZF.shape, grad_BYXF.shape[1:3], padding):
        reached = (after - 1) * stride + 1
        of_x.append((window - 1 - pad, before + pad - reached))
        of_kernel.append((pad, reached + window - 1 - before - pad))
    flipped_YXFZ = jnp.flip(kernel_YXZF, (0, 1)).swapaxes(2, 3)
    strides, one = (stride, stride), (1, 1)
    grad_x_BYXZ = jax.lax.conv_general_dilated(
        grad_BYXF, flipped_YXFZ, one, of_x, lhs_dilation=strides, dimension_numbers=LAYOUT
    )
    x_ZYXB, grad_YXBF = x_BYXZ.transpose(3, 1, 2, 0), grad_BYXF.transpose(1, 2, 0, 3)
    grad_kernel_ZYXF = jax.lax.conv_general_dilated(
        x_ZYXB, grad_YXBF, one, of_kernel, rhs_dilation=strides, dimension_numbers=LAYOUT
    )
    return grad_x_BYXZ, grad_kernel_ZYXF.transpose(1, 2, 0, 3)


_convolve_on_cpu.defvjp(_convolve_forward, _convolve_backward)


def convolve_rows(x_BTD: jax.Array, kernel_NDF: jax.Array) -> jax.Array:
    """Cross-correlation over the positions of rows, [B, T, F]; beyond the ends are zeros.

    Args:
      kernel_NDF: of filters over N positions; an even N reaches one further to the right.

    Source: Collobert and Weston (2008), section 3.2.
    """
    N, T = kernel_NDF.shape[0], x_BTD.shape[1]
    x_BTD = jnp.pad(x_BTD, ((0, 0), ((N - 1) // 2, N // 2), (0, 0)))
    # A product of matrices: on CPUs a training step with XLA's convolution of rows took several times as long.
    windows_BTND = jnp.stack([x_BTD[:, n : n + T] for n in range(N)], axis=2)
    return jnp.einsum('BTND,NDF->BTF', windows_BTND, kernel_NDF)


def max_pool(x_BYXZ: jax.Array, *, window: int, stride: int, padding: int = 0) -> jax.Array:
    """The largest number of each window; rows and columns that fill no window are left out."""
    if stride == window and not padding:
        # Several times as fast as a window that moves, whose gradient XLA computes by one number after another on CPUs.
        B, Y, X, Z = x_BYXZ.shape
        rows, columns = Y // window, X // window
        parts = x_BYXZ[:, : rows * window, : columns * window].reshape(B, rows, window, columns, window, Z)
        return parts.max(axis=(2, 4))
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jax.lax.reduce_window(x_BYXZ, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), pads)


def average_pool(x_BYXZ: jax.Array, *, window: int, stride: int) -> jax.Array:
    """The mean of each window, taken in float32 or float64."""
    sums = jax.lax.reduce_window(
        precision.raised(x_BYXZ), 0.0, jax.lax.add, (1, window, window, 1), (1, stride, stride, 1), 'VALID'
    )
    return (sums / window**2).astype(x_BYXZ.dtype)


def adaptive_average_pool(x_BYXZ: jax.Array, size: Size) -> jax.Array:
    """[B, T, S, Z]: the means over T x S windows that cover the image and may overlap, in float32 or float64.

    Window t of T is the rows from floor(t Y / T) to ceil((t + 1) Y / T), as in PyTorch's AdaptiveAvgPool2d.
    """
    if x_BYXZ.shape[1:3] == size:
        return x_BYXZ
    x = precision.raised(x_BYXZ)
    rows_TY, columns_SX = (jnp.asarray(_means(b, a), x.dtype) for b, a in zip(x.shape[1:3], size))
    return jnp.einsum('BYXZ,TY,SX->BTSZ', x, rows_TY, columns_SX).astype(x_BYXZ.dtype)


def _means(before: int, after: int) -> np.ndarray:
    """[after, before]: each row averages a window."""
    found = np.zeros((after, before))
    for i in range(after):
        window = slice(i * before // after, -(-(i + 1) * before // after))
        found[i, window] = 1 / len(range(*window.indices(before)))
    return found


def local_response_norm(x_BYXZ: jax.Array, *, size: int, bias: float, alpha: float, beta: float) -> jax.Array:
    """x / (bias + alpha * sum of the squares of `size` neighbouring channels)^beta, in float32 or float64.

    The sum is not divided by `size`, as it is in PyTorch, whose alpha is thus `size` times this one.

    Source: Krizhevsky et al. (2012), section 3.3.
    """
    x, Z = precision.raised(x_BYXZ), x_BYXZ.shape[-1]
    before = size // 2
    squares = jnp.pad(jnp.square(x), [(0, 0)] * 3 + [(before, size - 1 - before)])
    sums = sum((squares[..., i : i + Z] for i in range(1, size)), squares[..., :Z])
    return x * jnp.power(bias + alpha * sums, -beta)


def output_size(size: int, *, window: int, stride: int, padding: int) -> int:
    """Rows (or columns) of what a window gives that moves by `stride` over `size` of them; 0 where it does not fit."""
    return max((size + 2 * padding - window) // stride + 1, 0)


# ---- configs and modules ----------------------------------------------------------------------------------------


class ImageLayer:
    """Interface of the configs of layers from images [B, Y, X, Z] to images."""

    def build(self, name: str | None = None) -> nn.Module:
        """The module."""
        raise NotImplementedError

    def size(self, size: Size) -> Size:
        """Rows and columns of its result for an image of so many.

        Raises:
          InputError: it does not fit.
        """
        return size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convolution(ImageLayer):
    """A convolution, grouped or depthwise if `groups` says so."""

    channels: config.Positive  # F, that it gives.
    kernel: Pair = (3, 3)
    stride: config.Positive = 1
    padding: config.NonNegative | None = None  # On each side; None: half the kernel, which keeps the size at stride 1.
    groups: config.Positive | None = 1  # None: each channel by itself.
    bias: bool = False
    bias_value: config.Rate = 0.0  # At first.
    init: weights.Initializer = weights.FanIn(scale=2.0)  # He et al. (2015), arXiv:1502.01852, equation 10.

    def build(self, name: str | None = None) -> nn.Module:
        return ConvolutionModule(self, name=name)

    @property
    def pads(self) -> Size:
        """Zeros on each side of the rows and of the columns."""
        rows, columns = self.kernel
        return (rows // 2, columns // 2) if self.padding is None else (self.padding, self.padding)

    def size(self, size: Size) -> Size:
        pairs = zip(size, self.kernel, self.pads)
        found = tuple(output_size(each, window=of, stride=self.stride, padding=pad) for each, of, pad in pairs)
        return _fitting(found, size, f'A convolution of {self.kernel[0]} x {self.kernel[1]}')


class ConvolutionModule(nn.Module):
    """Owns kernel_YXZF and bias_F."""

    config: Convolution

    @nn.compact
    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        c, Z = self.config, x_BYXZ.shape[-1]
        groups = c.groups or Z
        if Z % groups or c.channels % groups:
            raise config.InputError(
                f'A convolution with groups={groups} needs numbers of channels that it divides, but there are {Z} and '
                f'it gives {c.channels}.'
            )
        rows, columns = c.kernel
        axes = {'rows': rows, 'columns': columns, 'channels': Z // groups, 'embed': c.channels}
        seen = ('rows', 'columns', 'channels')
        kernel_YXZF = weights.weight(self, 'kernel', axes, init=c.init, inputs=seen, dtype=x_BYXZ.dtype)
        y_BYXF = convolve(x_BYXZ, kernel_YXZF, stride=c.stride, padding=c.pads, groups=groups)
        if c.bias:
            axes = {'embed': c.channels}
            y_BYXF = y_BYXF + weights.vector(self, 'bias', axes, value=c.bias_value, dtype=x_BYXZ.dtype)
        return sharding.constrain(y_BYXF, 'batch', None, None, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaxPool(ImageLayer):
    """See max_pool(). Windows overlap where `stride` is less than `window` (Krizhevsky et al., 2012, section 3.4)."""

    window: config.Positive = 3
    stride: config.Positive = 2
    padding: config.NonNegative = 0

    def build(self, name: str | None = None) -> nn.Module:
        return MaxPoolModule(self, name=name)

    def size(self, size: Size) -> Size:
        found = tuple(output_size(each, window=self.window, stride=self.stride, padding=self.padding) for each in size)
        return _fitting(found, size, f'A pool of {self.window} x {self.window}')


class MaxPoolModule(nn.Module):
    """Owns nothing."""

    config: MaxPool

    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        return max_pool(x_BYXZ, **dataclasses.asdict(self.config))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragePool(ImageLayer):
    """See average_pool()."""

    window: config.Positive = 2
    stride: config.Positive = 2

    def build(self, name: str | None = None) -> nn.Module:
        return AveragePoolModule(self, name=name)

    def size(self, size: Size) -> Size:
        found = tuple(output_size(each, window=self.window, stride=self.stride, padding=0) for each in size)
        return _fitting(found, size, f'A pool of {self.window} x {self.window}')


class AveragePoolModule(nn.Module):
    """Owns nothing."""

    config: AveragePool

    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        return average_pool(x_BYXZ, **dataclasses.asdict(self.config))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalResponseNorm(ImageLayer):
    """See local_response_norm(); the numbers are those of the paper. Groups of channels do not see one another."""

    neighbours: config.Positive = 5  # n, the channel itself among them.
    bias: config.PositiveFloat = 2.0  # k
    alpha: config.Rate = 1e-4
    beta: config.Rate = 0.75
    groups: config.Positive = 1

    def build(self, name: str | None = None) -> nn.Module:
        return LocalResponseNormModule(self, name=name)


class LocalResponseNormModule(nn.Module):
    """Owns nothing."""

    config: LocalResponseNorm

    def __call__(self, x_BYXZ: jax.Array) -> jax.Array:
        c = self.config
        found = [
            local_response_norm(part_BYXZ, size=c.neighbours, bias=c.bias, alpha=c.alpha, beta=c.beta)
            for part_BYXZ in jnp.split(x_BYXZ, c.groups, axis=-1)
        ]
        return jnp.concatenate(found, axis=-1).astype(x_BYXZ.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowConvolution(layer.Layer):
    """Filters of several sizes over the positions of a row, with a bias and an activation; as wide as the model.

    Each size has an equal share of the filters. Segments of 0 are padding, which only ends a row: filters see zeros
    there, and its own output is 0.

    Source: Kim (2014), arXiv:1408.5882, section 2: with widths of 3, 4 and 5, MaxOfTokens and dropout.
    """

    widths: tuple[config.Positive, ...] = (3, 4, 5)  # Positions that a filter sees.
    activation: activations.Activation = activations.Relu()
    init: weights.Initializer = weights.FanIn(scale=2.0)

    def build(self, name: str | None = None) -> nn.Module:
        return RowConvolutionModule(self, name=name)

    def initial_state(self, rows: int, length: int, *, width: int, dtype: str) -> layer.PyTree:
        raise config.InputError('A RowConvolution sees positions to the right; it needs whole rows.')

    def check(self, width: int, length: int) -> None:
        if not self.widths or width % len(self.widths):
            raise config.InputError(
                f'A RowConvolution divides the width of the model, {width}, among its {len(self.widths)} sizes of '
                'filters; use a multiple of their number.'
            )


class RowConvolutionModule(nn.Module):
    """Owns kernel_NDF and bias_F of each size, called filter3, filter3_bias and so on."""

    config: RowConvolution

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context, state: None = None) -> tuple[jax.Array, None]:
        """[B, T, D]: the filters of the first size, then those of the next."""
        c, D, dtype = self.config, x_BTD.shape[-1], x_BTD.dtype
        segments_BT = context.query_segments_BT
        real_BT1 = None if segments_BT is None else (segments_BT != 0)[..., None]
        x_BTD = x_BTD if real_BT1 is None else jnp.where(real_BT1, x_BTD, 0)
        found = []
        for width in c.widths:
            axes = {'taps': width, 'embed': D, 'hidden': D // len(c.widths)}
            name, inputs = f'filter{width}', ('taps', 'embed')
            kernel_NDF = weights.weight(self, name, axes, init=c.init, inputs=inputs, dtype=dtype)
            bias_F = weights.vector(self, f'filter{width}_bias', {'hidden': axes['hidden']}, value=0.0, dtype=dtype)
            found.append(c.activation(convolve_rows(x_BTD, kernel_NDF) + bias_F))
        y_BTD = jnp.concatenate(found, axis=-1)
        y_BTD = y_BTD if real_BT1 is None else jnp.where(real_BT1, y_BTD, 0)
        return sharding.constrain(y_BTD, 'batch', 'length', 'embed'), None


def _fitting(found: tuple[int, ...], size: Size, what: str) -> Size:
    if 0 in found:
        raise config.InputError(f'{what} does not fit into an image of {size[0]} x {size[1]}; use larger images.')
    rows, columns = found
    return rows, columns
