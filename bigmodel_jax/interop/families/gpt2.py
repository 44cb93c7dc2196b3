"""GPT-2 (Radford et al., 2019) as transformers stores it: matrices [in, out], query, key and value in one."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.layers import ffn
from bigmodel_jax.models import decoder

rule = rules.rule
ATTENTION, FFN = 'blocks.layers.attention', 'blocks.layers.ffn'
INPUTS = {
    'input_ids': 'inputs',
    'attention_mask': 'segments',
    'position_ids': 'positions',
    'labels': 'labels',
}


def norm(key: str, path: str) -> tuple[rules.Rule, rules.Rule]:
    """The two lines of a LayerNorm."""
    return rule(f'{key}.weight', 'D -> D', f'{path}.scale'), rule(f'{key}.bias', 'D -> D', f'{path}.bias')


RULES = (
    rule('wte.weight', 'V D -> V D', 'embedding.table'),
    rule('wpe.weight', 'T D -> T D', 'positions.table'),
    *norm('h.{layer}.ln_1', 'blocks.layers.attention_norm'),
    rule(
        'h.{layer}.attn.c_attn.weight', 'D (3 H K) -> D H K',
        f'{ATTENTION}.query', f'{ATTENTION}.key', f'{ATTENTION}.value',
    ),
    rule(
        'h.{layer}.attn.c_attn.bias', '(3 H K) -> H K',
        f'{ATTENTION}.query_bias', f'{ATTENTION}.key_bias', f'{ATTENTION}.value_bias',
    ),
    rule('h.{layer}.attn.c_proj.weight', '(H K) D -> H K D', f'{ATTENTION}.out'),
    rule('h.{layer}.attn.c_proj.bias', 'D -> D', f'{ATTENTION}.out_bias'),
    *norm('h.{layer}.ln_2', 'blocks.layers.ffn_norm'),
    rule('h.{layer}.mlp.c_fc.weight', 'D F -> D F', f'{FFN}.up'),
    rule('h.{layer}.mlp.c_fc.bias', 'F -> F', f'{FFN}.up_bias'),
    rule('h.{layer}.mlp.c_proj.weight', 'F D -> F D', f'{FFN}.down'),
    rule('h.{layer}.mlp.c_proj.bias', 'D -> D', f'{FFN}.down_bias'),
    *norm('ln_f', 'norm'),
)  # fmt: skip
COPIES = (rules.Copy('lm_head.weight', of='wte.weight', inside=False),)
# The causal mask, and what is added to hidden scores, which old files hold.
TABLE = rules.TensorRules(RULES, COPIES, buffers=(r'h\.\d+\.attn\.(bias|masked_bias)',), prefix='transformer.')


FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without(
        'resid_pdrop', 'embd_pdrop', 'attn_pdrop', 'reorder_and_upcast_attn', 'summary_type', 'summary_use_proj',
        'summary_activation', 'summary_proj_to_labels', 'summary_first_dropout',
        'n_ctx',  # Of the mask that old versions stored.
    ),
    'vocab_size': fields.Used(50_257),
    'n_positions': fields.Used(1_024),
    'n_embd': fields.Used(768),
    'n_layer': fields.Used(12),
    'n_head': fields.Used(12),
    'n_inner': fields.Used(None),  # 4 n_embd.
    'activation_function': fields.Used('gelu_new'),
    'layer_norm_epsilon': fields.Used(1e-5),
    'scale_attn_weights': fields.Only(True),
    'scale_attn_by_inverse_layer_idx': fields.Only(False),
    'tie_word_embeddings': fields.Only(True),
}  # fmt: skip


class Gpt2(family.Family):
    """GPT2LMHeadModel and GPT2Model."""

    model_types = ('gpt2',)
    architectures = ('GPT2LMHeadModel', 'GPT2Model')
    config_fields = FIELDS
    aliases: ClassVar = {
        'hidden_size': 'n_embd',
        'max_position_embeddings': 'n_positions',
        'num_attention_heads': 'n_head',
        'num_hidden_layers': 'n_layer',
    }
    kind = decoder.Decoder

    def model(self, fields: fields.Fields) -> decoder.Decoder:
        width, epsilon = fields.whole('n_embd'), fields.number('layer_norm_epsilon')
        return decoder.gpt(
            vocab=fields.whole('vocab_size'),
            width=width,
            layers=fields.whole('n_layer'),
            heads=fields.whole('n_head'),
            length=fields.whole('n_positions'),
            **{
                'block.ffn.hidden': fields.optional('n_inner') or 4 * width,
                'block.ffn.activation': fields.choice('activation_function', reference.ACTIVATIONS),
                'block.residual.norm.epsilon': epsilon,
                'norm.epsilon': epsilon,
            },
        )

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        mlp = reference.need(reference.block_of(model).ffn, ffn.Mlp, 'model.block.ffn')
        return {
            'model_type': 'gpt2',
            'architectures': ['GPT2LMHeadModel'],
            'vocab_size': model.vocab,
            'n_positions': reference.learned_length(model.positions),
            'n_embd': model.width,
            'n_layer': model.layers,
            'n_head': reference.attention_of(model).heads,
            'n_inner': mlp.hidden,
            'activation_function': reference.activation_name(mlp.activation),
            'layer_norm_epsilon': getattr(model.norm, 'epsilon', 1e-5),
            'tie_word_embeddings': True,
        }

    def sizes(self, model: decoder.Decoder) -> dict[str, int]:
        return family.decoder_sizes(model) | {'T': reference.learned_length(model.positions)}

    def tables(self, model: decoder.Decoder) -> tuple[rules.TensorRules, ...]:
        return TABLE, TABLE.without_prefix()

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return reference.batch_of(inputs, INPUTS, vocab=model.vocab)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return family.decoder_outputs(model, params, batch)[0]
