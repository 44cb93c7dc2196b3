"""The GPT and Llama families against the implementations in Hugging Face transformers, and their published sizes.

oracles/language_models.npz holds logits [B, T, V] of transformers 5.23.0 computed in float64 from the weights of
state_dict() below, which are a formula, so that nothing large needs to be stored.
"""

import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.models import model as models

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles' / 'language_models.npz'
VOCAB, WIDTH, LAYERS, HEADS, HEAD_WIDTH, HIDDEN, LENGTH = 29, 16, 2, 4, 4, 24, 12
TOKENS_BT = (np.arange(2 * 10).reshape(2, 10) ** 2 * 7 + 3) % VOCAB

GPT2 = decoder.gpt(vocab=VOCAB, width=WIDTH, layers=LAYERS, heads=HEADS, length=LENGTH)


def llama(kv_heads, **changes):
    base = decoder.llama(
        vocab=VOCAB, width=WIDTH, layers=LAYERS, heads=HEADS, kv_heads=kv_heads, hidden=HIDDEN, rope_base=10_000.0
    )
    return config.vary(base, changes)


MODELS = {
    'gpt2': GPT2,
    'llama_mha': llama(HEADS),
    'llama_gqa': llama(2, **{'block.mixer.rotary.base': 500_000.0}),
    'mistral_window': llama(2, **{'block.mixer.window': 4}),
}


def gpt2_shapes():
    block = {
        'ln_1.weight': (WIDTH,), 'ln_1.bias': (WIDTH,),
        'attn.c_attn.weight': (WIDTH, 3 * WIDTH), 'attn.c_attn.bias': (3 * WIDTH,),
        'attn.c_proj.weight': (WIDTH, WIDTH), 'attn.c_proj.bias': (WIDTH,),
        'ln_2.weight': (WIDTH,), 'ln_2.bias': (WIDTH,),
        'mlp.c_fc.weight': (WIDTH, 4 * WIDTH), 'mlp.c_fc.bias': (4 * WIDTH,),
        'mlp.c_proj.weight': (4 * WIDTH, WIDTH), 'mlp.c_proj.bias': (WIDTH,),
    }  # fmt: skip
    layers = {f'transformer.h.{i}.{name}': shape for i in range(LAYERS) for name, shape in block.items()}
    ends = {'ln_f.weight': (WIDTH,), 'ln_f.bias': (WIDTH,), 'wte.weight': (VOCAB, WIDTH), 'wpe.weight': (LENGTH, WIDTH)}
    return layers | {f'transformer.{name}': shape for name, shape in ends.items()}


def llama_shapes(kv_heads):
    block = {
        'input_layernorm.weight': (WIDTH,), 'post_attention_layernorm.weight': (WIDTH,),
        'self_attn.q_proj.weight': (WIDTH, WIDTH), 'self_attn.o_proj.weight': (WIDTH, WIDTH),
        'self_attn.k_proj.weight': (kv_heads * HEAD_WIDTH, WIDTH),
        'self_attn.v_proj.weight': (kv_heads * HEAD_WIDTH, WIDTH),
        'mlp.gate_proj.weight': (HIDDEN, WIDTH), 'mlp.up_proj.weight': (HIDDEN, WIDTH),
        'mlp.down_proj.weight': (WIDTH, HIDDEN),
    }  # fmt: skip
    layers = {f'model.layers.{i}.{name}': shape for i in range(LAYERS) for name, shape in block.items()}
    return layers | {
        'model.norm.weight': (WIDTH,), 'model.embed_tokens.weight': (VOCAB, WIDTH), 'lm_head.weight': (VOCAB, WIDTH),
    }  # fmt: skip


def state_dict(name):
    """Weights under the names of transformers: numbers that look random but follow a formula."""
    shapes = gpt2_shapes() if name == 'gpt2' else llama_shapes(MODELS[name].block.mixer.kv_heads)
    weights = {}
    for index, (key, shape) in enumerate(sorted(shapes.items())):
        noise = np.sin(0.7 * (np.arange(math.prod(shape)) + 31.0 * index) ** 2).reshape(shape)
        is_scale = len(shape) == 1 and key.endswith('.weight')
        weights[key] = 1.0 + 0.3 * noise if is_scale else 0.5 * noise
    return weights


def stacked(weights, name, shape=None, transpose=False):
    layers = [weights[name.format(i)] for i in range(LAYERS)]
    layers = [layer.T if transpose else layer for layer in layers]
    return np.stack([layer if shape is None else layer.reshape(shape) for layer in layers])


def gpt2_params(weights):
    h, heads = 'transformer.h.{}.', (HEADS, HEAD_WIDTH)
    qkv_weights = np.split(stacked(weights, h + 'attn.c_attn.weight'), 3, axis=-1)
    qkv_biases = np.split(stacked(weights, h + 'attn.c_attn.bias'), 3, axis=-1)
    attention = {'out': stacked(weights, h + 'attn.c_proj.weight', (*heads, WIDTH))}
    attention['out_bias'] = stacked(weights, h + 'attn.c_proj.bias')
    for name, matrix, bias in zip(('query', 'key', 'value'), qkv_weights, qkv_biases):
        attention[name] = matrix.reshape(LAYERS, WIDTH, *heads)
        attention[f'{name}_bias'] = bias.reshape(LAYERS, *heads)
    ffn = {'up': stacked(weights, h + 'mlp.c_fc.weight'), 'up_bias': stacked(weights, h + 'mlp.c_fc.bias')}
    ffn |= {'down': stacked(weights, h + 'mlp.c_proj.weight'), 'down_bias': stacked(weights, h + 'mlp.c_proj.bias')}
    norms = {
        f'{ours}_norm': {'scale': stacked(weights, h + f'{its}.weight'), 'bias': stacked(weights, h + f'{its}.bias')}
        for ours, its in (('attention', 'ln_1'), ('ffn', 'ln_2'))
    }
    last = {'scale': weights['transformer.ln_f.weight'], 'bias': weights['transformer.ln_f.bias']}
    return {
        'blocks': {'layers': {'attention': attention, 'ffn': ffn, **norms}},
        'embedding': {'table': weights['transformer.wte.weight']},
        'positions': {'table': weights['transformer.wpe.weight']},
        'norm': last,
    }


def llama_params(weights, kv_heads):
    layer, groups = 'model.layers.{}.', (WIDTH, kv_heads, HEAD_WIDTH)
    attention = {
        'query': stacked(weights, layer + 'self_attn.q_proj.weight', (WIDTH, HEADS, HEAD_WIDTH), transpose=True),
        'key': stacked(weights, layer + 'self_attn.k_proj.weight', groups, transpose=True),
        'value': stacked(weights, layer + 'self_attn.v_proj.weight', groups, transpose=True),
        'out': stacked(weights, layer + 'self_attn.o_proj.weight', (HEADS, HEAD_WIDTH, WIDTH), transpose=True),
    }
    ffn = {name: stacked(weights, f'{layer}mlp.{name}_proj.weight', transpose=True) for name in ('gate', 'up', 'down')}
    norms = {
        'attention_norm': {'scale': stacked(weights, layer + 'input_layernorm.weight')},
        'ffn_norm': {'scale': stacked(weights, layer + 'post_attention_layernorm.weight')},
    }
    return {
        'blocks': {'layers': {'attention': attention, 'ffn': ffn, **norms}},
        'embedding': {'table': weights['model.embed_tokens.weight'], 'output': weights['lm_head.weight']},
        'norm': {'scale': weights['model.norm.weight']},
    }


@pytest.mark.parametrize('name', MODELS)
def test_logits_are_those_of_transformers(name):
    model, weights = MODELS[name], state_dict(name)
    params = gpt2_params(weights) if name == 'gpt2' else llama_params(weights, model.block.mixer.kv_heads)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    outputs = jax.jit(model.build().apply)({'params': params}, {'inputs': jnp.asarray(TOKENS_BT, jnp.int32)})
    with np.load(ORACLES) as oracles:
        expected = oracles[name]
    # Float32 in ten layers of arithmetic on logits of about 5; a wrong epsilon or GELU is off by more than 1e-4.
    np.testing.assert_allclose(outputs['logits'], expected, rtol=0, atol=3e-5)


SIZES = {
    decoder: {
        'GPT2_124M': 124_439_808, 'GPT2_355M': 354_823_168, 'GPT2_774M': 774_030_080, 'GPT2_1558M': 1_557_611_200,
        'GPT3_125M': 125_226_240, 'GPT3_350M': 355_871_744, 'GPT3_760M': 760_300_032, 'GPT3_1300M': 1_315_723_264,
        'GPT3_2700M': 2_651_553_280, 'GPT3_6700M': 6_658_404_352, 'GPT3_13B': 12_853_386_240,
        'GPT3_175B': 174_604_259_328,
        'LLAMA1_7B': 6_738_415_616, 'LLAMA1_13B': 13_015_864_320, 'LLAMA1_33B': 32_528_943_616,
        'LLAMA1_65B': 65_285_660_672,
        'LLAMA2_7B': 6_738_415_616, 'LLAMA2_13B': 13_015_864_320, 'LLAMA2_70B': 68_976_648_192,
        'LLAMA3_8B': 8_030_261_248, 'LLAMA3_70B': 70_553_706_496, 'LLAMA3_405B': 405_853_388_800,
        'LLAMA32_1B': 1_235_814_400, 'LLAMA32_3B': 3_212_749_824,
        'MISTRAL_7B': 7_241_732_096, 'MIXTRAL_8X7B': 46_702_792_704,
    },
    seq2seq: {
        'TRANSFORMER_BASE': 63_045_632, 'TRANSFORMER_BIG': 214_171_648,
        'T5_SMALL': 60_506_624, 'T5_BASE': 222_903_552, 'T5_LARGE': 737_668_096, 'T5_3B': 2_851_598_336,
        'T5_11B': 11_307_321_344,
        'T5_V1_1_SMALL': 76_961_152, 'T5_V1_1_BASE': 247_577_856, 'T5_V1_1_LARGE': 783_150_080,
        'T5_V1_1_XL': 2_849_757_184, 'T5_V1_1_XXL': 11_135_332_352,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ('module', 'name'), [(module, name) for module, sizes in SIZES.items() for name in sizes], ids=str
)
def test_sizes_are_those_of_the_released_weights(module, name):
    """Of the classes of transformers with the released configurations; the Transformer of 2017 by its formula."""
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    model = getattr(module, name)
    abstract = jax.eval_shape(model.build().init, jax.random.key(0), {'inputs': tokens, 'source': tokens})
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == SIZES[module][name]


def test_every_published_size_is_counted():
    for module, sizes in SIZES.items():
        presets = {name for name, value in vars(module).items() if name.isupper() and isinstance(value, models.Model)}
        assert presets == set(sizes)


def test_weights_of_the_formula_differ():
    """The oracle would prove little if two of the tensors were equal."""
    for name in MODELS:
        flat = [tensor.ravel()[:WIDTH] for tensor in state_dict(name).values()]
        assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.combinations(flat, 2))
