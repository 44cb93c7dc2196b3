"""Step times that others have published, and what the work of each of their steps was: the oracle of the roofline.

The work is counted by formulas, not by our own models: what was run was other people's code.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

from bigmodel_jax.plan import estimates, mfu
from bigmodel_jax.plan.hardware import links, slices

TABLE = pathlib.Path(__file__).with_name('published.json')
MAXTEXT = mfu.find('MaxText until July 2025')  # By which the table's tflops_per_chip are counted.
# A fused attention kernel does 2 matrix products forward and 5 backward (Dao, 2023, arXiv:2307.08691, section 2.3).
FORWARD, BACKWARD = 2, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder: gated feed-forward layer, untied output."""

    width: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    layers: int
    vocab: int
    gated: bool = True

    @property
    def layer_weights(self) -> int:
        """Of the matrix products of one layer."""
        attention = 2 * self.width * self.head * (self.heads + self.kv_heads)
        return attention + (3 if self.gated else 2) * self.width * self.hidden

    @property
    def weights(self) -> int:
        """Of all matrix products; the input table is looked up, not multiplied."""
        return self.layers * self.layer_weights + self.width * self.vocab


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedStep:
    """One published measurement."""

    source: str
    model: str
    shape: ModelShape
    slice: slices.Slice
    batch_per_chip: int
    length: int
    remat: str  # 'full', or 'dots': everything but the attention is kept.
    mesh: dict[str, int]
    seconds: float  # Of a step, as published or by the publisher's own count of FLOPs.
    guessed: tuple[str, ...] = ()  # Fields that the source does not say, or says of something else.

    @property
    def tokens(self) -> int:
        """Per chip and step."""
        return self.batch_per_chip * self.length

    @property
    def attention_flops(self) -> float:
        """Of the two products of one forward pass, causal, per chip."""
        return self.size.attention_flops / 6 * self.tokens

    @property
    def size(self) -> mfu.TransformerSize:
        """Of the matrix products, which is all that the conventions of MaxText and ours count."""
        shape = self.shape
        return mfu.TransformerSize(
            layers=shape.layers,
            heads=shape.heads,
            head_width=shape.head,
            length=self.length,
            layer_weights=shape.layers * shape.layer_weights,
            output_weights=shape.width * shape.vocab,
        )

    @property
    def model_flops(self) -> float:
        return mfu.OURS.flops_per_token(self.size) * self.tokens

    @property
    def exposed_s(self) -> float:
        """Seconds in which a step waits for its links."""
        return links.seconds(self.counts.collectives, self.slice, links.dimensions(self.slice, self.mesh))[1]

    @property
    def counts(self) -> estimates.Counts:
        """The work of a step on one chip. Their programs ran with asynchronous collectives, where they can be."""
        again = 2.0 * self.shape.layers * self.shape.layer_weights * self.tokens if self.remat == 'full' else 0.0
        attention = (2 * FORWARD + BACKWARD) / FORWARD * self.attention_flops
        flops = 6.0 * self.shape.weights * self.tokens + again + attention
        return estimates.Counts(
            flops=flops,
            matmul_flops=flops,
            model_flops=self.model_flops,
            hbm_bytes=0.0,  # All these runs are far from bound by it.
            collectives=tuple(_collectives(self)),
        )


def _collectives(row: PublishedStep) -> list[estimates.Collective]:
    """Weights gathered twice and their gradients scattered, activations between tensor-parallel layers, slices."""
    tensor, fsdp, shape = row.mesh.get('tensor', 1), row.mesh.get('fsdp', 1), row.shape
    whole = 2 * shape.weights // tensor  # bfloat16.
    base: dict[str, Any] = {'asynchronous': True, 'over_dcn': False}
    found = [
        estimates.Collective(kind='all-gather', axes=('fsdp',), group=fsdp, bytes=whole, times=2, **base),
        estimates.Collective(kind='reduce-scatter', axes=('fsdp',), group=fsdp, bytes=whole // fsdp, times=1, **base),
    ]
    if tensor > 1:
        stream = 2 * row.tokens * tensor * shape.width
        times = shape.layers * (6 if row.remat == 'full' else 4)
        # The next product needs them, so that they are hidden in part at best.
        waits: dict[str, Any] = base | {'axes': ('tensor',), 'group': tensor, 'times': times, 'asynchronous': False}
        found += [
            estimates.Collective(kind='all-gather', bytes=stream, **waits),
            estimates.Collective(kind='reduce-scatter', bytes=stream // tensor, **waits),
        ]
    if row.slice.count > 1:
        base['over_dcn'] = True
        count = row.slice.count
        size = whole // fsdp
        found.append(estimates.Collective(kind='all-reduce', axes=('data',), group=count, bytes=size, times=1, **base))
    return found


@functools.cache
def rows() -> tuple[PublishedStep, ...]:
    """All published measurements, in the order of the table."""
    data = json.loads(TABLE.read_text())
    shapes = {name: ModelShape(**values) for name, values in data['models'].items()}
    return tuple(_row(each, shapes, data['sources']) for each in data['rows'])


def _row(given: dict[str, Any], shapes: dict[str, ModelShape], sources: dict[str, str]) -> PublishedStep:
    values = dict(given)
    rate = values.pop('tflops_per_chip', None)
    on = slices.parse(values.pop('slice'))
    inner = values['mesh'].get('fsdp', 1) * values['mesh'].get('tensor', 1)
    values['mesh'] = {'data': on.size // inner, **values['mesh']}
    values['source'] = sources[values['source']]
    values['guessed'] = tuple(values.pop('guessed', ()))
    row = PublishedStep(shape=shapes[values['model']], slice=on, **{'seconds': 0.0, **values})
    if rate is None:
        return row
    counted = MAXTEXT.flops_per_token(row.size) * row.tokens
    return dataclasses.replace(row, seconds=counted / (rate * 1e12))
