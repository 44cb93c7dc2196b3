"""MFU by the conventions of others: what they published follows from the speeds beside it."""

import dataclasses

import pytest

from bigmodel_jax import config, experiment_file
from bigmodel_jax.plan import analytic, mfu
from bigmodel_jax.plan.hardware import published, slices

TERA = 1e12
SHAPES = {each.model: each.shape for each in published.rows()}
SHAPES['llama3-405b'] = published.ModelShape(
    width=16384, heads=128, kv_heads=8, head=128, hidden=53248, layers=126, vocab=128256
)
SHAPES['llama2-13b'] = published.ModelShape(
    width=5120, heads=40, kv_heads=40, head=128, hidden=13824, layers=40, vocab=32000
)
GPT3 = mfu.TransformerSize(
    layers=96,
    heads=96,
    head_width=128,
    length=2048,
    layer_weights=12 * 96 * 12288**2,
    output_weights=51200 * 12288,
    table_weights=2048 * 12288,
)


def size(name, length):
    """A Llama: two norms in each layer and one at the end, an output matrix of its own."""
    shape = SHAPES[name]
    return mfu.TransformerSize(
        layers=shape.layers,
        heads=shape.heads,
        head_width=shape.head,
        length=length,
        layer_weights=shape.layers * shape.layer_weights,
        output_weights=shape.width * shape.vocab,
        table_weights=shape.width * shape.vocab,
        other_weights=(2 * shape.layers + 1) * shape.width,
    )


@pytest.mark.parametrize(
    ('convention', 'model', 'length', 'tokens_per_second', 'tflops'),
    [
        # The READMEs of github.com/AI-Hypercomputer/tpu-recipes: a line of MaxText's log each.
        ('MaxText until July 2025', 'llama2-70b', 4096, 905.021, 402.274),
        ('MaxText until July 2025', 'llama3-8b', 8192, 7755.989, 449.171),
        ('MaxText until July 2025', 'llama3-405b', 8192, 149.482, 392.454),
        ('MaxText', 'llama3-405b', 8192, 124.618, 314.530),
    ],
)
def test_the_flops_that_maxtext_logged_follow_from_its_tokens_per_second(
    convention, model, length, tokens_per_second, tflops
):
    counted = mfu.find(convention).flops_per_token(size(model, length)) * tokens_per_second / TERA
    # What was logged has six digits; the convention before or after differs by 4 to 11%.
    assert counted == pytest.approx(tflops, rel=2e-5)


@pytest.mark.parametrize(
    ('model', 'length', 'tokens_per_second', 'percent'),
    [
        # torchtitan, docs/performance.md of 2024: a chip of 64 A100, by all parameters as PaLM counts them.
        ('llama3-8b', 8192, 2904, 56.8),
        ('llama3-8b', 8192, 2973, 58.2),
        ('llama3-70b', 8192, 331, 51.7),
        ('llama2-13b', 4096, 2162, 61.1),
        ('llama2-13b', 4096, 1914, 54.1),
        ('llama2-13b', 4096, 1904, 53.8),
        ('llama2-70b', 4096, 355, 50.8),
        ('llama2-70b', 4096, 353, 50.5),
    ],
)
def test_the_mfu_of_torchtitans_first_table_is_that_of_palm(model, length, tokens_per_second, percent):
    peak = 312 * TERA
    found = mfu.of(mfu.find('PaLM'), size(model, length), tokens_per_second=tokens_per_second, peak_flops=peak)
    assert 100 * found == pytest.approx(percent, abs=0.05 + 0.5 * percent / tokens_per_second)


@pytest.mark.parametrize(('tokens_per_second', 'percent'), [(5_605, 33), (6_667, 39)])
def test_torchtitan_leaves_the_table_out_since(tokens_per_second, percent):
    # benchmarks/llama3_h100_202412_torchtitan.md: "33% to 39% MFU" of the slowest and the fastest run.
    found = mfu.of(
        mfu.find('torchtitan'), size('llama3-8b', 8192), tokens_per_second=tokens_per_second, peak_flops=989 * TERA
    )
    assert round(100 * found) == percent


def test_the_mfu_of_palm_itself():
    # Chowdhery et al. (2022), appendix B: 540.35 billion parameters, 238.3 thousand tokens/s on 6,144 TPU v4.
    palm = mfu.TransformerSize(
        layers=118, heads=48, head_width=256, length=2048, layer_weights=540_350_000_000, output_weights=0
    )
    speed = {'tokens_per_second': 238_300, 'peak_flops': 6_144 * 275 * TERA}
    with_attention = mfu.of(mfu.find('PaLM'), palm, **speed)
    without = mfu.of(dataclasses.replace(mfu.find('PaLM'), attention=0.0), palm, **speed)
    assert [round(100 * each, 1) for each in (with_attention, without)] == [46.2, 45.7]


@pytest.mark.parametrize(('chips_used', 'tflops', 'days'), [(384, 153, 84), (768, 149, 43), (1536, 141, 23)])
def test_the_days_of_gpt3_by_megatrons_flops(chips_used, tflops, days):
    # Narayanan et al. (2021), table 2: 174.6 billion parameters, 300 billion tokens; the FLOPs/s have three digits.
    seconds = mfu.find('Megatron-LM').flops_per_token(GPT3) * 300e9 / (chips_used * tflops * TERA)
    assert seconds / 86_400 == pytest.approx(days, abs=0.8)


def test_megatrons_equation():
    s, h, V, layers = 2048, 12288, 51200, 96
    expected = 96 * layers * h**2 * (1 + s / (6 * h) + V / (16 * layers * h))  # Equation 3, per token.
    assert mfu.find('Megatron-LM').flops_per_token(GPT3) == pytest.approx(expected, rel=1e-12)


def test_a_figure_goes_to_another_convention_and_back():
    of = size('llama3-8b', 8192)
    for given in mfu.CONVENTIONS:
        for wanted in mfu.CONVENTIONS:
            there = mfu.convert(0.4, of, given=given, wanted=wanted)
            assert mfu.convert(there, of, given=wanted, wanted=given) == pytest.approx(0.4, rel=1e-12)


def test_more_than_the_peak_is_an_error():
    of = size('llama3-8b', 8192)
    with pytest.raises(config.InputError, match=r'An MFU of 104\.\d% by the convention of PaLM .* cannot be'):
        mfu.of(mfu.find('PaLM'), of, tokens_per_second=5_320, peak_flops=312 * TERA)
    with pytest.raises(config.InputError, match=r"no MFU convention 'Palm'\..* PaLM"):
        mfu.find('Palm')


@pytest.mark.parametrize(('name', 'overrides'), [('gpt2', {}), ('pods:sweep/llama2_7b_v5e', {'model.layers': 4})])
def test_the_size_of_an_experiment_counts_what_its_program_does(name, overrides):
    file, _, function = name.partition(':')
    of = experiment_file.load(f'experiments/{file}.py' + (f':{function}' if function else ''))
    of = config.vary(of, {'mesh.data': -1, 'mesh.fsdp': 1, **overrides})
    traced = analytic.trace(of, slices.parse('v5e:1x1'))
    found = mfu.size_of(of, traced.weights)
    tokens = of.data.batch * found.length
    # The program makes some scores more than one half; plan counts blocks of the mask, see count.py.
    assert mfu.OURS.flops_per_token(found) * tokens == pytest.approx(traced.work.model, rel=0.01)
    parameters = found.layer_weights + found.output_weights + found.table_weights + found.other_weights
    assert parameters == traced.spec.parameters
