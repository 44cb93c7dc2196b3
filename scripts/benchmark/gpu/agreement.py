"""Whether a GPU computes what the framework means: fused attention, models and their gradients, and repeated runs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax_side
import numpy as np
import sizes
from flax import linen

from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.kernels import cudnn
from bigmodel_jax.kernels.context import Context, PositionOrder, Query, Scores
from bigmodel_jax.layers import attention as formula
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language, objective
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest

PyTree = Any
# Inputs, probabilities and results are rounded to bfloat16, each by at most 2^-9 of itself; gradients are sums of many.
OF_ATTENTION = 2.0**-5
# Sums of some hundred float32 products in another order, through a few layers.
OF_MODELS = 1e-4


class AttentionCase(NamedTuple):
    """What is masked, and the shapes."""

    scores: Scores
    queries: int = 1_024
    keys: int = 1_024
    kv_heads: int = 8
    packed: bool = False


CAUSAL = Scores(causal=True)
CASES = {
    'causal': AttentionCase(CAUSAL),
    'windowed': AttentionCase(Scores(causal=True, window=128)),
    'grouped': AttentionCase(CAUSAL, kv_heads=2),
    'packed': AttentionCase(CAUSAL, packed=True),
    'cross': AttentionCase(Scores(), keys=512),
}


def attention(dry: bool) -> dict[str, Any]:
    """cuDNN's attention and its gradients in bfloat16 against the plain formula in float32.

    Returns:
      For each case the largest difference of the output and of the gradients for queries, keys and values, over the
      largest value of each.

    Raises:
      SystemExit: one of them is more than rounding explains.
    """
    kernel = cudnn.Cudnn(implementation='xla' if dry else 'cudnn')
    found = {name: _compared(kernel, _toy(case) if dry else case) for name, case in CASES.items()}
    wrong = {name: each for name, each in found.items() if not max(each.values()) < OF_ATTENTION}
    if wrong:
        raise SystemExit(f'The fused attention is not the plain one: {wrong}')
    return found


def _toy(case: AttentionCase) -> AttentionCase:
    window = None if case.scores.window is None else 16
    return case._replace(scores=case.scores._replace(window=window), queries=64, keys=min(case.keys, 64))


def _compared(kernel: cudnn.Cudnn, case: AttentionCase) -> dict[str, float]:
    rng = np.random.default_rng(0)

    def drawn(length: int, heads: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(2, length, heads, 64)), jnp.bfloat16)

    arrays = drawn(case.queries, 8), drawn(case.keys, case.kv_heads), drawn(case.keys, case.kv_heads)
    upward, context = drawn(case.queries, 8), _context(case)

    def of(kernel: Any, dtype: Any) -> Any:
        def both(arrays: Any, upward: Any) -> Any:
            qkv = [each.astype(dtype) for each in arrays]
            y_BTHK, back = jax.vjp(lambda q, k, v: kernel.attend(Query(q, k, v, context, case.scores)), *qkv)
            return y_BTHK, *back(upward.astype(dtype))

        with sharding.use(sharding.MeshShape(data=1).build()), jax.default_matmul_precision('highest'):
            return jax.device_get(jax.jit(both)(arrays, upward))

    pairs = zip(of(kernel, jnp.bfloat16), of(formula.Plain(), jnp.float32), strict=True)
    names = ('output', 'queries', 'keys', 'values')
    return {name: _difference(*pair) for name, pair in zip(names, pairs)}


def _context(case: AttentionCase) -> Context:
    queries, keys = jnp.arange(case.queries)[None], jnp.arange(case.keys)[None]
    if not case.packed:
        return Context(queries, keys, order=PositionOrder.CONTIGUOUS)
    length = case.queries // 4  # Four documents of one length in every row.
    segments, positions = (jnp.tile(each, (2, 1)) for each in (1 + queries // length, queries % length))
    return Context(positions, positions, segments, segments)


def _difference(found: Any, wanted: Any) -> float:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def models() -> dict[str, Any]:
    """The losses and gradients of three families in float32 on the first device against float64 on the CPU.

    The CPU's are those that the tests compare with reference implementations.

    Raises:
      SystemExit: they differ by more than the order of sums explains.
    """
    size = sizes.SIZES['gpt2_124m'].toy
    llama = sizes.SIZES['llama_1b'].toy
    routed = decoder.mixtral(
        vocab=128, width=32, layers=2, heads=4, kv_heads=2, hidden=64, experts=4, **{'stack.scan': True}
    )
    families = {'gpt': jax_side.model(size), 'llama': jax_side.model(llama), 'mixtral': routed}
    found = {name: _on_both(model, sizes.tokens(size)) for name, model in families.items()}
    wrong = {name: each for name, each in found.items() if not each < OF_MODELS}
    if wrong:
        raise SystemExit(f'The device does not compute what the CPU does: {wrong}')
    return found


def _on_both(model: decoder.Decoder, tokens: np.ndarray) -> float:
    """The largest difference of the loss or of a gradient, over the largest value of that array."""
    batch = {'inputs': tokens, 'targets': tokens, batches.EXAMPLE_WEIGHTS: np.ones(len(tokens), np.float32)}
    cpu, device = jax.devices('cpu')[0], jax.devices()[0]
    with jax.default_device(cpu):
        drawn = jax.device_get(jax.jit(model.build().init)(jax.random.key(0), batch))
    params = linen.meta.unbox(drawn['params'])

    def of(dtype: str, where: jax.Device) -> PyTree:
        module = vary(model, {'dtype': dtype}).build()

        def loss(params: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
            found = language.LanguageModel()(objective.Apply(module, params, {}), batch, train=True, rngs={}).loss
            return found.total / found.count

        inputs = jax.device_put((jax.tree.map(lambda x: np.asarray(x, dtype), params), batch), where)
        with jax.default_matmul_precision('highest'), jax.default_device(where):
            return jax.device_get(jax.jit(jax.value_and_grad(loss))(*inputs))

    with jax.enable_x64(True):
        pairs = zip(jax.tree.leaves(of('float32', device)), jax.tree.leaves(of('float64', cpu)), strict=True)
        return max(_difference(*pair) for pair in pairs)


def repeat(dry: bool) -> dict[str, Any]:
    """Whether two trainings of ten steps from one state end with the same bits; with the digests."""
    size = sizes.SIZES['char'].toy if dry else sizes.SIZES['char']
    made = jax_side.training(jax_side.experiment(size), sizes.tokens(size))
    digests = []
    for _ in range(2):
        with sharding.use(made.place):
            current = made.spec.init()
            for _ in range(10):
                current, _ = made.update(current, made.batch)
        digests.append(digest.digest(current))
    return {'equal': digests[0] == digests[1], 'digests': [each[:8] for each in digests]}
