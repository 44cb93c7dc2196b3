"""Model FLOPs utilization (MFU): what several projects mean by it, and one figure turned into another.

MFU is the FLOPs of the model per second over the peak of the chips. Projects agree on the matrix products of the
layers, 6 FLOPs per weight and token, and differ in the rest. A figure is comparable only with its convention; those of
several projects are in CONVENTIONS:

  tokens/s x flops_per_token(convention) / (chips x peak)
"""

import dataclasses
import math
from collections.abc import Sequence

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import attention, blocks
from bigmodel_jax.models import decoder
from bigmodel_jax.plan import formulas
from bigmodel_jax.train.flops import utilization

# Parameters of a Decoder that are no part of its layers, by their paths; the output matrix is one of the first two.
TABLES = ('embedding.table', 'embedding.output', 'positions.table')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """What the conventions count of a decoder; weights in numbers, not bytes.

    Attributes:
      layers, heads, head_width, length: L, H, K and T; the attention of a layer multiplies [T, K] by [K, T] and [T, T]
        by [T, K] for each head.
      layer_weights: in matrix products of all layers, as many as one token passes through.
      output_weights: of the product that gives the logits; tied or not, it is computed.
      table_weights: of tables that are only looked up: tokens, where not tied to the output, and learned positions.
      other_weights: gains and biases.
    """

    layers: int
    heads: int
    head_width: int
    length: int
    layer_weights: int
    output_weights: int
    table_weights: int = 0
    other_weights: int = 0

    @property
    def attention_flops(self) -> float:
        """Per token, forward and backward, of the two products with all T positions: 12 L H K T."""
        return 12.0 * self.layers * self.heads * self.head_width * self.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class MfuConvention:
    """What of a model somebody counts.

    Attributes:
      signature: the same in words.
      attention: the share of the products with all T positions: 1/2 of a causal attention, 1 as if it were not, 0.
      tables, other: whether weights that are looked up, and gains and biases, count like those that are multiplied.
      recomputed: whether a second forward pass through the layers counts. That is the utilization of the hardware.
    """

    name: str
    source: str
    signature: str
    attention: float = 1.0
    tables: bool = False
    other: bool = False
    recomputed: bool = False

    def flops_per_token(self, size: TransformerSize) -> float:
        """FLOPs of a training step per token."""
        layers = 6.0 * size.layer_weights + self.attention * size.attention_flops
        rest = size.output_weights + self.tables * size.table_weights + self.other * size.other_weights
        return layers * (4 / 3 if self.recomputed else 1) + 6.0 * rest


OURS = MfuConvention(
    name='bigmodel_jax',
    source='train/flops/count.py, in `plan` and in the log of a run',
    signature=utilization.SIGNATURE,
    attention=0.5,
)
CONVENTIONS = (
    OURS,
    MfuConvention(
        name='MaxText',
        source='maxtext_utils.calculate_tflops_training_per_device, since pull request 1988 (July 2025)',
        signature='matrix products, causal attention at one half',
        attention=0.5,
    ),
    MfuConvention(
        name='MaxText until July 2025',
        source='maxtext_utils.calculate_tflops_training_per_device, before pull request 1988',
        signature='matrix products, attention as if it were not causal',
    ),
    MfuConvention(
        name='PaLM',
        source='Chowdhery et al., 2022, arXiv:2204.02311, appendix B: 6 N + 12 L H Q T; torchtitan until mid 2024',
        signature='all parameters, attention as if it were not causal',
        tables=True,
        other=True,
    ),
    MfuConvention(
        name='torchtitan',
        source='torchtitan, get_nparams_and_flops: 6 (N - embedding) + 12 L H Q T',
        signature='all parameters but the table of tokens, attention as if it were not causal',
        other=True,
    ),
    MfuConvention(
        name='Megatron-LM',
        source='Narayanan et al., 2021, arXiv:2104.04473, equation 3: 96 B s l h^2 (1 + s / 6h + V / 16 l h)',
        signature='matrix products, attention as if it were not causal, and the layers forward twice',
        recomputed=True,
    ),
)


def find(name: str) -> MfuConvention:
    """The convention of this name.

    Raises:
      InputError: there is none.
    """
    known = {each.name: each for each in CONVENTIONS}
    if name not in known:
        raise config.InputError(f'There is no MFU convention {name!r}.{config.nearest(name, known)}')
    return known[name]


def of(convention: MfuConvention, size: TransformerSize, *, tokens_per_second: float, peak_flops: float) -> float:
    """The MFU of a measured speed, from 0 to 1.

    Args:
      tokens_per_second, peak_flops: both of one chip, or both of all.

    Raises:
      InputError: it is more than 1, so that one of the numbers is of something else.
    """
    return checked(convention.flops_per_token(size) * tokens_per_second / peak_flops, convention)


def convert(mfu: float, size: TransformerSize, *, given: MfuConvention, wanted: MfuConvention) -> float:
    """The MFU of the same speed by another convention.

    Raises:
      InputError: a figure is not between 0 and 1.
    """
    return checked(checked(mfu, given) * wanted.flops_per_token(size) / given.flops_per_token(size), wanted)


def by_others(mfu: float, size: TransformerSize | None) -> tuple[tuple[str, float], ...]:
    """An MFU of ours by each convention of others, with its name; none for a model that has no such size."""
    if size is None:
        return ()
    own = OURS.flops_per_token(size)
    return tuple((each.name, mfu * each.flops_per_token(size) / own) for each in CONVENTIONS if each is not OURS)


def checked(mfu: float, convention: MfuConvention) -> float:
    """`mfu`, if it can be one.

    Raises:
      InputError: it is not between 0 and 1.
    """
    if not 0 <= mfu <= 1:
        raise config.InputError(
            f'An MFU of {mfu:.1%} by the convention of {convention.name} ({convention.signature}) cannot be. See '
            'whether speed and peak are of equally many chips, the peak is that of the type of the products, and the '
            'size is that of the model.'
        )
    return mfu


def size_of(experiment: Experiment, parameters: Sequence[formulas.Weight]) -> TransformerSize | None:
    """The size of a Decoder of equal blocks of full attention and a dense feed-forward layer.

    Returns:
      None for any other model, since the conventions speak of these only.
    """
    model = experiment.model
    if not isinstance(model, decoder.Decoder) or len(model.pattern) > 1 or not isinstance(model.block, blocks.Block):
        return None
    mixer = model.block.mixer
    if not isinstance(mixer, attention.Attention) or mixer.window is not None:
        return None
    output, totals = model.vocab * model.width, {'layer': 0, 'table': 0, 'other': 0}
    for each in parameters:
        if 'experts' in each.axes:
            return None
        kind = 'table' if each.name in TABLES else 'layer' if len(_sides(each.axes)) > 1 else 'other'
        totals[kind] += math.prod(each.shape)
    return TransformerSize(
        layers=model.layers,
        heads=mixer.heads,
        head_width=mixer.width_of_head(model.width),
        length=experiment.data.fields['inputs'].shape[0],
        layer_weights=totals['layer'],
        output_weights=output,
        table_weights=totals['table'] - output,
        other_weights=totals['other'],
    )


def _sides(axes: tuple[str | None, ...]) -> set[str | None]:
    """The sides of a matrix; heads and the channels of a head are one."""
    return {'heads' if axis in ('kv_heads', 'head') else axis for axis in axes if axis != 'layers'}
