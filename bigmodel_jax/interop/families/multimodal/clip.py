"""CLIP (Radford et al., 2021) as transformers stores it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.interop import family, fields, images, reference, rules
from bigmodel_jax.interop.families import vit
from bigmodel_jax.layers import ffn, norms
from bigmodel_jax.layers.base import intermediates
from bigmodel_jax.models.multimodal import clip

rule = rules.rule
AT_THE_HIGHEST = 2  # An eos_token_id of old files: a caption's vector is that of its highest id, which is the last one.
INPUTS = ('input_ids', 'attention_mask', 'pixel_values', 'return_loss')


def _norm(key: str, path: str, axis: str) -> tuple[rules.Rule, rules.Rule]:
    axes = f'{axis} -> {axis}'
    return rule(f'{key}.weight', axes, f'{path}.scale'), rule(f'{key}.bias', axes, f'{path}.bias')


def _linear(key: str, path: str, axes: str, bias: str) -> tuple[rules.Rule, rules.Rule]:
    return rule(f'{key}.weight', axes, path), rule(f'{key}.bias', bias, f'{path}_bias')


def _blocks(tower: str, letters: tuple[str, str, str, str]) -> tuple[rules.Rule, ...]:
    """The layers of a tower, whose width, heads, width of a head and hidden width have these letters."""
    D, H, K, F = letters
    layer, here = f'{tower}_model.encoder.layers.{{{tower}}}', f'{tower}.blocks.layers'
    heads, same = (f'({H} {K}) {D} -> {D} {H} {K}', f'({H} {K}) -> {H} {K}'), f'{D} -> {D}'
    return (
        *_linear(f'{layer}.self_attn.q_proj', f'{here}.attention.query', *heads),
        *_linear(f'{layer}.self_attn.k_proj', f'{here}.attention.key', *heads),
        *_linear(f'{layer}.self_attn.v_proj', f'{here}.attention.value', *heads),
        *_linear(f'{layer}.self_attn.out_proj', f'{here}.attention.out', f'{D} ({H} {K}) -> {H} {K} {D}', same),
        *_linear(f'{layer}.mlp.fc1', f'{here}.ffn.up', f'{F} {D} -> {D} {F}', f'{F} -> {F}'),
        *_linear(f'{layer}.mlp.fc2', f'{here}.ffn.down', f'{D} {F} -> {F} {D}', same),
        *_norm(f'{layer}.layer_norm1', f'{here}.attention_norm', D),
        *_norm(f'{layer}.layer_norm2', f'{here}.ffn_norm', D),
    )


TABLE = rules.TensorRules(
    (
        rule('logit_scale', ' -> ', 'logit_scale'),
        rule('text_model.embeddings.token_embedding.weight', 'V D -> V D', 'text.embedding.table'),
        rule('text_model.embeddings.position_embedding.weight', 'T D -> T D', 'text.positions.table'),
        *_blocks('text', ('D', 'H', 'K', 'F')),
        *_norm('text_model.final_layer_norm', 'text.norm', 'D'),
        rule('text_projection.weight', 'E D -> D E', 'text_projection'),
        rule('vision_model.embeddings.class_embedding', '(C A) -> C A', 'vision.class_token'),
        rule('vision_model.embeddings.patch_embedding.weight', 'A Z Y X -> Y X Z A', 'vision.patches.kernel'),
        rule('vision_model.embeddings.position_embedding.weight', 'P A -> P A', 'vision.positions.table'),
        *_norm('vision_model.pre_layrnorm', 'vision.input_norm', 'A'),  # Spelt so in the files.
        *_blocks('vision', ('A', 'B', 'G', 'I')),
        *_norm('vision_model.post_layernorm', 'vision.norm', 'A'),
        rule('visual_projection.weight', 'E A -> A E', 'image_projection'),
    ),
    buffers=(r'(text|vision)_model\.embeddings\.position_ids',),  # Of files of transformers 4.30 and before.
)

TOWER: fields.Table = {
    **fields.COMMON,
    **fields.without('attention_dropout', 'dropout', 'projection_dim'),  # The whole model's projection_dim counts.
    'num_hidden_layers': fields.Used(12),
    'hidden_act': fields.Used('quick_gelu'),
    'layer_norm_eps': fields.Used(1e-5),
}
TEXT: fields.Table = {
    **TOWER,
    'vocab_size': fields.Used(49_408),
    'hidden_size': fields.Used(512),
    'intermediate_size': fields.Used(2_048),
    'num_attention_heads': fields.Used(8),
    'max_position_embeddings': fields.Used(77),
    'eos_token_id': fields.Used(49_407),
}
VISION: fields.Table = {
    **TOWER,
    'hidden_size': fields.Used(768),
    'intermediate_size': fields.Used(3_072),
    'num_attention_heads': fields.Used(12),
    'image_size': fields.Used(224),
    'patch_size': fields.Used(32),
    'num_channels': fields.Only(3),
}
FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without('logit_scale_init_value'),
    'projection_dim': fields.Used(512),
    'text_config': fields.Used(None),
    'vision_config': fields.Used(None),
    # What the two are changed by, in files of transformers 4.30 and before.
    'text_config_dict': fields.Used(None),
    'vision_config_dict': fields.Used(None),
}


class ClipFamily(family.Family):
    """CLIPModel."""

    model_types = ('clip',)
    architectures = ('CLIPModel',)
    config_fields = FIELDS
    kind = clip.Clip

    def model(self, fields: fields.Fields) -> clip.Clip:
        text, vision = _within(fields, 'text_config', TEXT), _within(fields, 'vision_config', VISION)
        vocab, end = text.whole('vocab_size'), text.token('eos_token_id')
        if end not in (AT_THE_HIGHEST, vocab - 1):
            raise config.InputError(
                f'config.json: text_config: eos_token_id={end!r} is not the last of the {vocab:,} tokens, as it is in '
                'every CLIP here; that is not implemented.'
            )
        patch = vision.whole('patch_size')
        rows, columns = vit.sides(vision.value('image_size'), patch)
        tower = clip.vision_tower(patch=patch, image=patch, **_shape(vision))
        return clip.clip(
            vision=config.vary(tower, {'positions.length': rows * columns + 1, 'block': _changes(tower.block, vision)}),
            text=_text(vocab, text),
            embed=fields.whole('projection_dim'),
        )

    def config(self, model: clip.Clip) -> dict[str, Any]:
        vision, text = model.vision, model.text
        side = round((reference.learned_length(vision.positions) - 1) ** 0.5)
        return {
            'model_type': 'clip',
            'architectures': ['CLIPModel'],
            'projection_dim': model.embed,
            'logit_scale_init_value': math.log(model.logit_scale),
            'text_config': {
                'model_type': 'clip_text_model',
                **_tower(text),
                'vocab_size': text.vocab,
                'max_position_embeddings': reference.learned_length(text.positions),
                'eos_token_id': text.vocab - 1,
                'projection_dim': model.embed,
            },
            'vision_config': {
                'model_type': 'clip_vision_model',
                **_tower(vision),
                'image_size': side * vision.patch,  # Of a square, the only one that the number of positions tells.
                'patch_size': vision.patch,
                'projection_dim': model.embed,
            },
        }

    def check_same(self, described: Any, model: Any, where: str) -> None:
        """The scale of the logits is a weight; its initial value makes no other model."""
        super().check_same(config.vary(described, {'logit_scale': model.logit_scale}), model, where)

    def describe(self, values: Mapping[str, Any], where: str) -> clip.Clip:
        model: clip.Clip = config.check(self.model(self.read(values, where)))
        for tower in (model.vision, model.text):
            reference.attention_of(tower).width_of_head(tower.width)
        return model

    def max_length(self, values: Mapping[str, Any]) -> int | None:
        return _within(self.read(values, 'config.json'), 'text_config', TEXT).whole('max_position_embeddings')

    def sizes(self, model: clip.Clip) -> dict[str, int]:
        vision, text = model.vision, model.text
        letters = {'text': ('D', 'H', 'K', 'F'), 'vision': ('A', 'B', 'G', 'I')}
        found = {'text': text.layers, 'vision': vision.layers, 'V': text.vocab, 'E': model.embed, 'C': 1, 'Z': 3}
        for name, tower in (('text', text), ('vision', vision)):
            shape = reference.attention_of(tower)
            hidden = getattr(tower.block.ffn, 'hidden', 0)
            sizes = tower.width, shape.heads, shape.width_of_head(tower.width), hidden
            found |= dict(zip(letters[name], sizes))
        found |= {'T': reference.learned_length(text.positions), 'P': reference.learned_length(vision.positions)}
        return found | {'Y': vision.patch, 'X': vision.patch}

    def tables(self, model: clip.Clip) -> tuple[rules.TensorRules, ...]:
        return (TABLE,)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        unknown = [name for name in inputs if name not in INPUTS]
        if unknown:
            raise config.InputError(f'The model has no input {unknown[0]!r}.{config.nearest(unknown[0], INPUTS)}')
        found: dict[str, np.ndarray] = {}
        if 'pixel_values' in inputs or 'input_ids' not in inputs:
            found |= images.batch_of({name: inputs[name] for name in inputs if name == 'pixel_values'}, classes=1)
        if 'input_ids' in inputs:
            given = {name: inputs[name] for name in ('input_ids', 'attention_mask') if name in inputs}
            # No position after the end is seen by the end, so that a mask of the padding changes no embedding.
            names = {'input_ids': 'caption', 'attention_mask': 'mask'}
            tokens_BT = reference.batch_of(given, names, vocab=model.text.vocab)['caption']
            found |= {'caption': tokens_BT, 'caption_end': (tokens_BT == model.text.vocab - 1).argmax(axis=1)}
        if np.any(inputs.get('return_loss', False)):
            if len(found.get('image', ())) != len(found.get('caption', ())):
                raise config.InputError('There is a loss of pairs only: pass as many captions as images.')
            found['labels'] = np.arange(len(found['image']), dtype=np.int32)
        return found

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        axes = {'image': ('height', 'width', 'channels'), 'caption': ('length',), 'caption_end': ()}
        there = {name: batch[name] for name in axes if name in batch}
        model.check({name: batches.Field(x.shape[1:], x.dtype, axes[name]) for name, x in there.items()})

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        def forward(module: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            return {**module(batch), 'scale': jnp.exp(module.temperature().log_scale)}

        embedded, kept = model.build().apply(
            {'params': params}, batch, method=forward, mutable=[intermediates.RESIDUAL_STREAM]
        )
        last = {
            name: intermediates.residual_streams(tower)['blocks'][-1]
            for name, tower in kept[intermediates.RESIDUAL_STREAM].items()
        }
        found: dict[str, Any] = {}
        if 'image' in batch:
            found |= {'image_embeds': embedded['image_embedding'], 'vision_last': last['vision']}
        if 'caption' in batch:
            norm = model.text.block.residual.norm.build()
            text_last = norm.apply({'params': params['text']['norm']}, last['text'])
            found |= {'text_embeds': embedded['text_embedding'], 'text_last': text_last}
        if 'image' in batch and 'caption' in batch:
            logits_BQ = embedded['scale'] * found['text_embeds'] @ found['image_embeds'].T
            found |= {'logits_per_text': logits_BQ, 'logits_per_image': logits_BQ.T}
        if 'labels' in batch:
            both = [reference.mean_nll(found[name][:, None], batch['labels'][:, None])
                    for name in ('logits_per_text', 'logits_per_image')]  # fmt: skip
            found['loss'] = sum(both) / 2
        return found


def _within(of: fields.Fields, name: str, table: fields.Table) -> fields.Fields:
    """The fields of a tower; what an old file says of them twice has to agree."""
    found = of.within(name, table)
    for field, value in (of.value(f'{name}_dict') or {}).items():
        said = (of.value(name) or {}).get(field, value)
        of.agree({f'{name}.{field}': said, f'{name}_dict.{field}': value})
        if field not in (of.value(name) or {}):
            raise config.InputError(f'config.json: {name}_dict.{field} is not in {name}; write it there.')
    return found


def _shape(tower: fields.Fields) -> dict[str, int]:
    names = {'width': 'hidden_size', 'layers': 'num_hidden_layers', 'heads': 'num_attention_heads'}
    return {ours: tower.whole(its) for ours, its in names.items()}


def _changes(block: Any, tower: fields.Fields) -> Any:
    return config.vary(
        block,
        {
            'ffn.hidden': tower.whole('intermediate_size'),
            'ffn.activation': tower.choice('hidden_act', reference.ACTIVATIONS),
            'residual.norm': norms.LayerNorm(epsilon=tower.number('layer_norm_eps')),
        },
    )


def _text(vocab: int, of: fields.Fields) -> clip.TextTower:
    tower = clip.text_tower(vocab=vocab, length=of.whole('max_position_embeddings'), **_shape(of))
    return config.vary(tower, {'block': _changes(tower.block, of)})


def _tower(tower: Any) -> dict[str, Any]:
    """What the config.json of a tower says of either."""
    mlp = reference.need(tower.block.ffn, ffn.Mlp, 'model.block.ffn')
    norm = reference.need(tower.block.residual.norm, norms.LayerNorm, 'model.block.residual.norm')
    return {
        'hidden_size': tower.width,
        'num_hidden_layers': tower.layers,
        'num_attention_heads': reference.attention_of(tower).heads,
        'intermediate_size': mlp.hidden,
        'hidden_act': reference.activation_name(mlp.activation),
        'layer_norm_eps': norm.epsilon,
    }
