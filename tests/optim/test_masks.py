"""Masks on the parameters of real models: what decays, and what Muon orthogonalises over which axes."""

import jax
import numpy as np
import pytest
from flax import linen as nn

import drawing
from bigmodel_jax.layers import attention, blocks, ffn, positions
from bigmodel_jax.models import decoder, seq2seq
from bigmodel_jax.optim import masks

GPT = decoder.gpt(vocab=31, width=16, layers=2, heads=2, length=12)
T5 = seq2seq.Seq2Seq(
    vocab=12, width=16, encoder_layers=1, decoder_layers=1, positions=positions.Relative(heads=2),
    block=blocks.Block(mixer=attention.Attention(heads=2), ffn=ffn.Gated(hidden=8)),
)  # fmt: skip
LLAMA = decoder.llama(vocab=31, width=16, layers=2, heads=4, kv_heads=2, hidden=24, rope_base=1e4)


def axes_of(model):
    """The logical axes of each parameter."""
    tokens = np.zeros((1, 4), np.int32)
    boxed = jax.eval_shape(model.build().init, jax.random.key(0), {'inputs': tokens, 'source': tokens})['params']
    is_box = lambda node: isinstance(node, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=is_box)


def flat(tree, is_leaf=None):
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


@pytest.mark.parametrize('model', [GPT, T5, LLAMA])
def test_exactly_the_vectors_do_not_decay(model):
    """A vector has one axis, or two if it is a bias of heads; layers do not count."""
    axes = axes_of(model)
    decayed = flat(masks.decayed(axes))
    vectors = {path for path in decayed if path.rpartition('/')[2].endswith(('bias', 'scale'))}
    assert {path for path, decays in decayed.items() if not decays} == vectors
    names = flat(axes, is_leaf=lambda node: isinstance(node, tuple))
    for path, of in names.items():
        rank = len([name for name in of if name not in ('layers', 'head')])
        assert (rank == 1) == (path in vectors), path


@pytest.mark.parametrize('model', [GPT, T5, LLAMA])
def test_muon_takes_the_hidden_matrices_with_their_inputs_and_outputs(model):
    axes = axes_of(model)
    chosen = flat(masks.orthogonalised(axes), is_leaf=lambda node: node is None or hasattr(node, 'reduction_axis'))
    names = flat(axes, is_leaf=lambda node: isinstance(node, tuple))
    for path, numbers in chosen.items():
        leaf = path.rpartition('/')[2]
        if 'layers' not in names[path] or leaf.endswith(('bias', 'scale')):
            assert numbers is None, path
            continue
        inputs = {names[path][i] for i in numbers.reduction_axis}
        outputs = {names[path][i] for i in numbers.output_axis}
        reads = leaf in ('query', 'key', 'value', 'up', 'gate')
        assert ('embed' in inputs) == reads, path
        assert inputs | outputs == set(names[path]) - {'layers'}, path


def test_shapes_of_the_drawn_weights_are_those_of_the_axes():
    tokens = {'inputs': np.zeros((1, 4), np.int32)}
    drawn = flat(drawing.variables(GPT.build(), tokens)['params'])
    names = flat(axes_of(GPT), is_leaf=lambda node: isinstance(node, tuple))
    assert {path: leaf.ndim for path, leaf in drawn.items()} == {path: len(of) for path, of in names.items()}
