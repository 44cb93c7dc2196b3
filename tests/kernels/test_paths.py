"""Which way is chosen, on platforms that are not here."""

import jax
import jax.numpy as jnp
import pytest

from bigmodel_jax import config
from bigmodel_jax.kernels import exchange, paths, ring, splash
from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels.context import Scores
from bigmodel_jax.layers.attention import Plain

WHOLE = dict.fromkeys(kernels.AXES, 1)
CUT = {**WHOLE, 'length': 4, 'all_heads': 4}
Q = jax.ShapeDtypeStruct((8, 1024, 16, 128), jnp.bfloat16)
FEW = jax.ShapeDtypeStruct((8, 1024, 2, 128), jnp.bfloat16)
CAUSAL = kernels.Case('tpu', WHOLE, Q, Q, Scores(causal=True), contiguous=True)
CHOICES = [
    (CAUSAL, 'splash (TPU, causal)'),
    (CAUSAL._replace(scores=Scores(True, 512, 30.0), segments=True), 'splash (TPU, causal, window 512, soft cap 30, '
                                                                     'packed)'),
    (CAUSAL._replace(scores=Scores(), contiguous=False), 'splash (TPU, bidirectional)'),
    (CAUSAL._replace(bias=True), 'plain, since splash has no bias'),
    (CAUSAL._replace(contiguous=False), 'plain, since splash masks the future by array index, but positions are given '
                                     'without segments'),
    (CAUSAL._replace(platform='gpu'), 'cudnn (GPU, causal)'),
    (CAUSAL._replace(platform='gpu', scores=Scores(soft_cap=5.0)), 'plain, since cudnn has no soft cap'),
    (CAUSAL._replace(platform='cpu'), 'plain, since a CPU has no fused kernel'),
    (CAUSAL._replace(platform=None), 'plain, since there is no mesh'),
    (CAUSAL._replace(shards=CUT), 'all-to-all over 4, then splash (TPU, causal)'),
    (CAUSAL._replace(shards=CUT, bias=True), 'all-to-all over 4, then plain, since splash has no bias'),
    (CAUSAL._replace(shards=CUT, k=FEW), 'ring of 4 (TPU, causal), since 16 heads and 2 key/value heads do not both '
                                         'divide over 4 devices'),
    (CAUSAL._replace(shards=CUT, k=FEW, bias=True), 'plain, since 16 heads and 2 key/value heads do not both divide '
                                                    'over 4 devices and ring attention has no bias'),
]  # fmt: skip


@pytest.mark.parametrize(('case', 'text'), CHOICES)
def test_what_can_is_chosen_and_says_why(case, text):
    path = paths.choose(case, Plain())
    assert path.text == text
    assert path.kernel.unsupported_reason(case) is None


def test_a_forced_kernel():
    assert paths.choose(CAUSAL, Plain(), Plain()).text == 'plain (TPU, causal), as attention.kernel says'
    forced = paths.choose(CAUSAL._replace(shards=CUT), Plain(), ring.Ring())
    assert forced == (ring.Ring(), 'ring of 4 (TPU, causal), as attention.kernel says')
    filled = paths.choose(CAUSAL._replace(shards=CUT), Plain(), exchange.AllToAll())
    assert filled.kernel == exchange.AllToAll(local=splash.Splash())
    inner = exchange.AllToAll(local=Plain())
    assert paths.choose(CAUSAL._replace(shards=CUT), Plain(), inner).kernel == inner


def test_a_forced_kernel_that_cannot_is_refused():
    with pytest.raises(config.InputError, match=r'attention.kernel=Splash\(\) cannot .* since splash has no bias'):
        paths.choose(CAUSAL._replace(bias=True), Plain(), splash.Splash())


def test_a_kernel_survives_json():
    kernel = exchange.AllToAll(local=splash.Splash(block=1024))
    assert config.from_json(config.to_json(kernel)) == kernel
