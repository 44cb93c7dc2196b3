"""The classical models as PyTorch and transformers 5.23.0 have them, in tests/oracles/<case>.npz.

Of each case: weights/ by their names there, in/ inputs, out64/ and extra64/ outputs in float64, gradients/ of the mean
cross-entropy in float32. The functions below lay the weights of a case out as ours, and its gradients just so.
"""

import functools
import pathlib

import numpy as np

from bigmodel_jax.layers import (
    activations,
    attention,
    blocks,
    convolution,
    embeddings,
    ffn,
    norms,
    positions,
    recurrent,
)
from bigmodel_jax.models import alexnet, decoder, resnet, vit

ORACLES = pathlib.Path(__file__).parents[1] / 'oracles'


def recorded(case):
    """The arrays of a case by their prefix: {'weights': {name: array}, 'in': ...}."""
    found = {}
    with np.load(ORACLES / f'{case}.npz') as arrays:
        for name, array in arrays.items():
            prefix, _, rest = name.partition('/')
            found.setdefault(prefix, {})[rest] = array
    return found


def kernel(weight):
    """[F, Z, Y, X] to [Y, X, Z, F]."""
    return weight.transpose(2, 3, 1, 0)


def images(inputs):
    """[B, Z, Y, X] to [B, Y, X, Z]."""
    (name,) = (name for name in inputs if name != 'labels')
    return inputs[name].transpose(0, 2, 3, 1)


# ---- AlexNet ----------------------------------------------------------------------------------------------------

ALEXNET = alexnet.one_tower(channels=(8, 24, 48, 32, 32), hidden=(64, 64), classes=7)


def alexnet_params(w):
    stages = {
        f'convolution{number}': {'kernel': kernel(w[f'features.{key}.weight']), 'bias': w[f'features.{key}.bias']}
        for number, key in enumerate((0, 3, 6, 8, 10), 1)
    }
    first = w['classifier.1.weight'].reshape(64, 32, 2, 3).transpose(2, 3, 1, 0).reshape(-1, 64)
    return {
        'stages': stages,
        'hidden1': first,
        'hidden1_bias': w['classifier.1.bias'],
        'hidden2': w['classifier.4.weight'].T,
        'hidden2_bias': w['classifier.4.bias'],
        'classes': {'weight': w['classifier.6.weight'].T, 'bias': w['classifier.6.bias']},
    }


# ---- ResNet -----------------------------------------------------------------------------------------------------


def small_resnet(block, depths, channels):
    stem = resnet.Stem(
        filters=convolution.Convolution(channels=8, kernel=(7, 7), stride=2), pool=convolution.MaxPool(padding=1)
    )
    return resnet.ResNet(stem=stem, block=block, depths=depths, channels=channels, classes=7)


RESNETS = {
    'resnet_basic': small_resnet(resnet.Basic(channels=8), (2, 1), (12, 16)),
    'resnet_bottleneck': small_resnet(resnet.Bottleneck(channels=8), (2, 2), (16, 24)),
}


def resnet_tree(model, scale, convolved, dense):
    """A tree of the form of our parameters (or statistics), of what three functions make of the names of modules."""

    def block(name, count):
        found = {}
        for number in range(1, count + 1):
            found[f'convolution{number}'] = convolved(f'{name}.layer.{number - 1}.convolution')
            found[f'norm{number}'] = scale(f'{name}.layer.{number - 1}.normalization')
        return found

    count = 3 if isinstance(model.block, resnet.Bottleneck) else 2
    embedder = 'resnet.embedder.embedder'
    backbone = {'stem': convolved(f'{embedder}.convolution'), 'stem_norm': scale(f'{embedder}.normalization')}
    for stage, depth in enumerate(model.depths):
        name = f'resnet.encoder.stages.{stage}.layers'
        backbone[f'stage{stage + 1}_first'] = block(f'{name}.0', count) | {
            'shortcut': convolved(f'{name}.0.shortcut.convolution'),
            'shortcut_norm': scale(f'{name}.0.shortcut.normalization'),
        }
        if depth > 1:
            backbone[f'stage{stage + 1}'] = {'layers': stack([block(f'{name}.{i}', count) for i in range(1, depth)])}
    return {'backbone': pruned(backbone), **dense}


def stack(trees):
    if isinstance(trees[0], dict):
        return {name: stack([tree[name] for tree in trees]) for name in trees[0]}
    return np.stack(trees)


def pruned(tree):
    """Without empty branches: convolutions have no statistics."""
    if not isinstance(tree, dict):
        return tree
    found = {name: pruned(child) for name, child in tree.items()}
    return {name: child for name, child in found.items() if not isinstance(child, dict) or child}


def resnet_params(model, w):
    dense = {'classes': {'weight': w['classifier.1.weight'].T, 'bias': w['classifier.1.bias']}}
    return resnet_tree(
        model,
        lambda name: {'scale': w[f'{name}.weight'], 'bias': w[f'{name}.bias']},
        lambda name: {'kernel': kernel(w[f'{name}.weight'])},
        dense,
    )


def resnet_statistics(model, w):
    return resnet_tree(
        model,
        lambda name: {'mean': w[f'{name}.running_mean'], 'variance': w[f'{name}.running_var']},
        lambda name: {},
        {},
    )


# ---- ViT --------------------------------------------------------------------------------------------------------

SHARP = norms.LayerNorm(epsilon=1e-12)
VIT = vit.Vit(
    patch=8,
    width=32,
    layers=2,
    block=blocks.Block(
        mixer=attention.Attention(heads=4, causal=False, bias=True),
        ffn=ffn.Mlp(hidden=56, activation=activations.Gelu(approximate=False), bias=True),
        residual=blocks.PreNorm(norm=SHARP),
    ),
    positions=positions.Learned(length=13),
    classes=7,
)


def norm_of(w, name):
    return {'scale': w[f'{name}.weight'], 'bias': w[f'{name}.bias']}


def vit_params(w):
    def layer(name):
        found = {}
        for ours, its in (('query', 'q'), ('key', 'k'), ('value', 'v')):
            found[ours] = w[f'{name}.attention.{its}_proj.weight'].T.reshape(32, 4, 8)
            found[f'{ours}_bias'] = w[f'{name}.attention.{its}_proj.bias'].reshape(4, 8)
        found['out'] = w[f'{name}.attention.o_proj.weight'].T.reshape(4, 8, 32)
        found['out_bias'] = w[f'{name}.attention.o_proj.bias']
        return {
            'attention': found,
            'attention_norm': norm_of(w, f'{name}.layernorm_before'),
            'ffn': {
                'up': w[f'{name}.mlp.fc1.weight'].T,
                'up_bias': w[f'{name}.mlp.fc1.bias'],
                'down': w[f'{name}.mlp.fc2.weight'].T,
                'down_bias': w[f'{name}.mlp.fc2.bias'],
            },
            'ffn_norm': norm_of(w, f'{name}.layernorm_after'),
        }

    patches = 'vit.embeddings.patch_embeddings.projection'
    return {
        'patches': {'kernel': kernel(w[f'{patches}.weight']), 'bias': w[f'{patches}.bias']},
        'class_token': w['vit.embeddings.cls_token'][0],
        'positions': {'table': w['vit.embeddings.position_embeddings'][0]},
        'blocks': {'layers': stack([layer(f'vit.layers.{i}') for i in range(2)])},
        'norm': norm_of(w, 'vit.layernorm'),
        'classes': {'weight': w['classifier.weight'].T, 'bias': w['classifier.bias']},
    }


MODELS = {
    'alexnet': (ALEXNET, alexnet_params),
    'vit': (VIT, vit_params),
    **{case: (model, functools.partial(resnet_params, model)) for case, model in RESNETS.items()},
}


# ---- recurrent language models ----------------------------------------------------------------------------------

CELLS = {'rnn_lm': recurrent.Elman(), 'gru_lm': recurrent.Gru(), 'lstm_lm': recurrent.Lstm()}


def language_model(case):
    return decoder.Decoder(
        vocab=53,
        width=20,
        layers=2,
        block=CELLS[case],
        positions=None,
        norm=None,
        embedding=embeddings.Embedding(tied=False, output_bias=True),
    )


def cell_params(w, suffix, cell, *, gradients=False):
    """Of one layer and direction; PyTorch adds two biases, which are one here but for the gates that are `biased`."""
    N = cell.gates

    def gated(name):
        value = w[f'{name}_{suffix}']
        return value.reshape(N, -1, *value.shape[1:])

    bias, own = gated('bias_ih'), gated('bias_hh')
    apart = [gate in cell.biased for gate in range(N)]
    found = {
        'input': gated('weight_ih').transpose(2, 0, 1),
        'recurrent': gated('weight_hh').transpose(2, 0, 1),
        # The gradient of a sum is that of each of its terms.
        'bias': bias if gradients else np.where(np.array(apart)[:, None], bias, bias + own),
    }
    return found | ({'recurrent_bias': own[list(cell.biased)]} if cell.biased else {})


def language_params(case, w, *, gradients=False):
    w = {name.removeprefix('rnn.'): value for name, value in w.items()}
    layers = [cell_params(w, f'l{i}', CELLS[case], gradients=gradients) for i in range(2)]
    return {
        'embedding': {'table': w['emb.weight'], 'output': w['out.weight'], 'output_bias': w['out.bias']},
        'blocks': {'layers': stack(layers)},
    }
