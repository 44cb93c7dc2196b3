"""ViT (Dosovitskiy et al., 2020) as transformers stores it, with its matrix of the classes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.interop import family, fields, images, reference, rules
from bigmodel_jax.layers import ffn, norms
from bigmodel_jax.models import vit

rule = rules.rule
LAYER, ATTENTION, FFN = 'encoder.layer.{layer}', 'blocks.layers.attention', 'blocks.layers.ffn'


def _pair(key: str, axes: str, path: str, *, inside: bool = True) -> tuple[rules.Rule, rules.Rule]:
    """A matrix and its bias; `axes` are those of the matrix, whose first one in the file is that of the bias."""
    left, right = axes.split(' -> ')
    bias = left[: left.index(')') + 1] if left.startswith('(') else left.split()[0]
    ours = ' '.join(each for each in right.split() if each in bias)
    return (
        rule(f'{key}.weight', axes, path, inside=inside),
        rule(f'{key}.bias', f'{bias} -> {ours}', f'{path}_bias', inside=inside),
    )


def _norm(key: str, path: str) -> tuple[rules.Rule, rules.Rule]:
    return rule(f'{key}.weight', 'D -> D', f'{path}.scale'), rule(f'{key}.bias', 'D -> D', f'{path}.bias')


PATCHES = 'embeddings.patch_embeddings.projection'
TABLE = rules.TensorRules(
    (
        rule('embeddings.cls_token', '1 C D -> C D', 'class_token'),
        rule('embeddings.position_embeddings', '1 T D -> T D', 'positions.table'),
        rule(f'{PATCHES}.weight', 'D Z Y X -> Y X Z D', 'patches.kernel'),
        rule(f'{PATCHES}.bias', 'D -> D', 'patches.bias'),
        *_pair(f'{LAYER}.attention.attention.query', '(H K) D -> D H K', f'{ATTENTION}.query'),
        *_pair(f'{LAYER}.attention.attention.key', '(H K) D -> D H K', f'{ATTENTION}.key'),
        *_pair(f'{LAYER}.attention.attention.value', '(H K) D -> D H K', f'{ATTENTION}.value'),
        *_pair(f'{LAYER}.attention.output.dense', 'D (H K) -> H K D', f'{ATTENTION}.out'),
        *_pair(f'{LAYER}.intermediate.dense', 'F D -> D F', f'{FFN}.up'),
        *_pair(f'{LAYER}.output.dense', 'D F -> F D', f'{FFN}.down'),
        *_norm(f'{LAYER}.layernorm_before', 'blocks.layers.attention_norm'),
        *_norm(f'{LAYER}.layernorm_after', 'blocks.layers.ffn_norm'),
        *_norm('layernorm', 'norm'),
        rule('classifier.weight', 'V D -> D V', 'classes.weight', inside=False),
        rule('classifier.bias', 'V -> V', 'classes.bias', inside=False),
    ),
    prefix='vit.',
)
# The names of the module in transformers 5, which files do not have unless a state_dict is saved as it is.
SPELLINGS = (
    ('encoder.layer.', 'layers.'),
    ('attention.attention.query', 'attention.q_proj'),
    ('attention.attention.key', 'attention.k_proj'),
    ('attention.attention.value', 'attention.v_proj'),
    ('attention.output.dense', 'attention.o_proj'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
)

FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without(
        'hidden_dropout_prob', 'attention_probs_dropout_prob',
        # Of the pooler and of masked image modelling, which a classifier has not.
        'pooler_act', 'pooler_output_size', 'encoder_stride',
    ),
    'hidden_size': fields.Used(768),
    'num_hidden_layers': fields.Used(12),
    'num_attention_heads': fields.Used(12),
    'intermediate_size': fields.Used(3_072),
    'hidden_act': fields.Used('gelu'),
    'layer_norm_eps': fields.Used(1e-12),
    'image_size': fields.Used(224),
    'patch_size': fields.Used(16),
    'id2label': fields.Used(None),
    'num_labels': fields.Used(None),
    'num_channels': fields.Only(3),
    'qkv_bias': fields.Only(True),
    'is_causal': fields.Only(False),
}  # fmt: skip


class ViT(family.Family):
    """ViTForImageClassification."""

    model_types = ('vit',)
    architectures = ('ViTForImageClassification',)
    config_fields = FIELDS
    kind = vit.Vit

    def model(self, fields: fields.Fields) -> vit.Vit:
        patch, width = fields.whole('patch_size'), fields.whole('hidden_size')
        rows, columns = sides(fields.value('image_size'), patch)
        changes: dict[str, Any] = {
            'positions.length': rows * columns + 1,
            'block.ffn.hidden': fields.whole('intermediate_size'),
            'block.ffn.activation': fields.choice('hidden_act', reference.ACTIVATIONS),
            'block.residual.norm': norms.LayerNorm(epsilon=fields.number('layer_norm_eps')),
            'classes': images.classes_of(fields),
        }
        layers, heads = fields.whole('num_hidden_layers'), fields.whole('num_attention_heads')
        return vit.vit(patch=patch, width=width, layers=layers, heads=heads, **changes)

    def config(self, model: vit.Vit) -> dict[str, Any]:
        mlp = reference.need(model.block.ffn, ffn.Mlp, 'model.block.ffn')
        norm = reference.need(model.block.residual.norm, norms.LayerNorm, 'model.block.residual.norm')
        side = round((reference.learned_length(model.positions) - 1) ** 0.5)
        return {
            'model_type': 'vit',
            'architectures': ['ViTForImageClassification'],
            'hidden_size': model.width,
            'num_hidden_layers': model.layers,
            'num_attention_heads': reference.attention_of(model).heads,
            'intermediate_size': mlp.hidden,
            'hidden_act': reference.activation_name(mlp.activation),
            'layer_norm_eps': norm.epsilon,
            'image_size': side * model.patch,  # Of a square, the only one that the number of positions tells.
            'patch_size': model.patch,
            'id2label': images.names_of(model.classes),
        }

    def sizes(self, model: vit.Vit) -> dict[str, int]:
        shape = reference.attention_of(model)
        return {
            'layer': model.layers,
            'C': 1,
            'T': reference.learned_length(model.positions),
            'D': model.width,
            'H': shape.heads,
            'K': shape.width_of_head(model.width),
            'F': getattr(model.block.ffn, 'hidden', 0),
            'V': model.classes,
            'Y': model.patch,
            'X': model.patch,
            'Z': 3,
        }

    def tables(self, model: vit.Vit) -> tuple[rules.TensorRules, ...]:
        return TABLE, dataclasses.replace(TABLE, spellings=SPELLINGS)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return images.batch_of(inputs, classes=model.classes)

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        axes = ('height', 'width', 'channels')
        model.check({'image': batches.Field(batch['image'].shape[1:], batch['image'].dtype, axes)})

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        def forward(module: Any, batch: Mapping[str, Any]) -> jax.Array:
            return module(batch)['logits']

        logits_BV, streams, _ = reference.run(model.build(), params, batch, forward)
        stream_LBTD = streams['blocks']
        found = {'logits': logits_BV, **reference.hidden_states('hidden_states', stream_LBTD, stream_LBTD[-1])}
        if 'labels' in batch:
            found['loss'] = reference.mean_nll(logits_BV[:, None], batch['labels'][:, None])
        return found


def sides(size: Any, patch: int) -> tuple[int, int]:
    """Rows and columns of patches, of 'image_size': a number, or two."""
    pair = size if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or any(not isinstance(each, int) or isinstance(each, bool) or each < 1 for each in pair):
        raise config.InputError(f'config.json: image_size={size!r} should be a positive integer, or two.')
    if any(each < patch for each in pair):
        raise config.InputError(f'config.json: image_size={size!r} is smaller than patch_size={patch}.')
    return pair[0] // patch, pair[1] // patch
