"""Llama, Mistral and Mixtral as transformers stores them: matrices [out, in], the halves of a head rotated.

Qwen, Gemma and Phi-3 (in files beside this one) are Llamas with changes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.interop.families import gpt2, interleaved, rope
from bigmodel_jax.layers import attention, ffn, moe, norms, positions
from bigmodel_jax.models import decoder

rule = rules.rule
ATTENTION, FFN = 'blocks.layers.attention', 'blocks.layers.ffn'
OUTSIDE = (
    rule('embed_tokens.weight', 'V D -> V D', 'embedding.table'),
    rule('norm.weight', 'D -> D', 'norm.scale'),
)
PROJECTIONS = (
    rule('layers.{layer}.self_attn.q_proj.weight', '(H K) D -> D H K', f'{ATTENTION}.query'),
    rule('layers.{layer}.self_attn.k_proj.weight', '(G K) D -> D G K', f'{ATTENTION}.key'),
    rule('layers.{layer}.self_attn.v_proj.weight', '(G K) D -> D G K', f'{ATTENTION}.value'),
)
BIASES = (
    rule('layers.{layer}.self_attn.q_proj.bias', '(H K) -> H K', f'{ATTENTION}.query_bias'),
    rule('layers.{layer}.self_attn.k_proj.bias', '(G K) -> G K', f'{ATTENTION}.key_bias'),
    rule('layers.{layer}.self_attn.v_proj.bias', '(G K) -> G K', f'{ATTENTION}.value_bias'),
)
OUT = (rule('layers.{layer}.self_attn.o_proj.weight', 'D (H K) -> H K D', f'{ATTENTION}.out'),)
OUT_BIAS = (rule('layers.{layer}.self_attn.o_proj.bias', 'D -> D', f'{ATTENTION}.out_bias'),)
HEAD_NORMS = (
    rule('layers.{layer}.self_attn.q_norm.weight', 'K -> K', f'{ATTENTION}.query_norm.scale'),
    rule('layers.{layer}.self_attn.k_norm.weight', 'K -> K', f'{ATTENTION}.key_norm.scale'),
)
NORMS = (
    rule('layers.{layer}.input_layernorm.weight', 'D -> D', 'blocks.layers.attention_norm.scale'),
    rule('layers.{layer}.post_attention_layernorm.weight', 'D -> D', 'blocks.layers.ffn_norm.scale'),
)
DENSE = (
    rule('layers.{layer}.mlp.gate_proj.weight', 'F D -> D F', f'{FFN}.gate'),
    rule('layers.{layer}.mlp.up_proj.weight', 'F D -> D F', f'{FFN}.up'),
    rule('layers.{layer}.mlp.down_proj.weight', 'D F -> F D', f'{FFN}.down'),
)
# As files on the hub have it, a tensor for each expert ...
EXPERTS = (
    rule('layers.{layer}.block_sparse_moe.gate.weight', 'E D -> D E', f'{FFN}.router'),
    rule('layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight', 'F D -> D F', f'{FFN}.gate'),
    rule('layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight', 'F D -> D F', f'{FFN}.up'),
    rule('layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight', 'D F -> F D', f'{FFN}.down'),
)
# ... and as transformers 5 holds it in memory, all experts in one, and the gate above the way up.
STACKED_EXPERTS = (
    rule('layers.{layer}.mlp.gate.weight', 'E D -> D E', f'{FFN}.router'),
    rule('layers.{layer}.mlp.experts.gate_up_proj', 'E (2 F) D -> E D F', f'{FFN}.gate', f'{FFN}.up'),
    rule('layers.{layer}.mlp.experts.down_proj', 'E D F -> E F D', f'{FFN}.down'),
)
OUTPUT = rule('lm_head.weight', 'V D -> V D', 'embedding.output', inside=False)
TIED = rules.Copy('lm_head.weight', of='embed_tokens.weight', inside=False)
# What all three have; those of Llama.
LLAMA: fields.Table = {
    **fields.COMMON,
    **fields.without('attention_dropout'),
    'vocab_size': fields.Used(32_000),
    'hidden_size': fields.Used(4_096),
    'intermediate_size': fields.Used(11_008),
    'num_hidden_layers': fields.Used(32),
    'num_attention_heads': fields.Used(32),
    'num_key_value_heads': fields.Used(None),  # As num_attention_heads.
    'head_dim': fields.Used(None),  # hidden_size / num_attention_heads.
    'hidden_act': fields.Used('silu'),
    'rms_norm_eps': fields.Used(1e-6),
    'max_position_embeddings': fields.Used(2_048),  # Limits nothing; llama3 scaling counts from it.
    'tie_word_embeddings': fields.Used(False),
    'rope_parameters': fields.Used(None),
    'rope_scaling': fields.Used(None),  # These were its names before transformers 5.
    'rope_theta': fields.Used(10_000.0),
    'original_max_position_embeddings': fields.Used(None),
    'partial_rotary_factor': fields.Only(1.0, None),
    'attention_bias': fields.Used(False),
    'mlp_bias': fields.Only(False),
    'sliding_window': fields.Only(None),
    'pretraining_tp': fields.Only(1, None),  # How many pieces of each matrix are multiplied apart.
}
MISTRAL: fields.Table = {
    **LLAMA,
    'intermediate_size': fields.Used(14_336),
    'num_key_value_heads': fields.Used(8),
    'max_position_embeddings': fields.Used(131_072),
    'sliding_window': fields.Used(4_096),
    'attention_bias': fields.Only(False),  # It has none, whatever is said here.
}
MIXTRAL: fields.Table = {
    **MISTRAL,
    'rms_norm_eps': fields.Used(1e-5),
    'rope_theta': fields.Used(1_000_000.0),
    'sliding_window': fields.Used(None),
    'num_local_experts': fields.Used(8),
    'num_experts_per_tok': fields.Used(2),
    'output_router_logits': fields.Used(False),
    'router_aux_loss_coef': fields.Used(0.001),
    'router_jitter_noise': fields.WITHOUT,  # In training alone.
}
FREQUENCIES = (r'(layers\.\d+\.self_attn\.)?rotary_emb(_local)?\.inv_freq',)


class Llama(family.Family):
    """LlamaForCausalLM."""

    model_types: tuple[str, ...] = ('llama',)
    architectures: tuple[str, ...] = ('LlamaForCausalLM',)
    old_architectures = ('LLaMAForCausalLM',)
    config_fields: fields.Table = LLAMA
    rotary_kinds: rope.Kinds = rope.KINDS
    kind = decoder.Decoder

    def model(self, fields: fields.Fields) -> decoder.Decoder:
        heads, epsilon = fields.whole('num_attention_heads'), fields.number('rms_norm_eps')
        turned = self.rotary(fields)
        fields.whole('max_position_embeddings')
        base = decoder.llama(
            vocab=fields.whole('vocab_size'),
            width=fields.whole('hidden_size'),
            layers=fields.whole('num_hidden_layers'),
            heads=heads,
            kv_heads=fields.optional('num_key_value_heads') or heads,
            hidden=fields.whole('intermediate_size'),
            rope_base=turned.base,
        )
        changes = {
            'block.mixer.head_width': fields.optional('head_dim'),
            'block.mixer.rotary': turned,
            'block.mixer.window': self.window(fields),
            'block.mixer.bias': self.bias(fields),
            'block.residual.norm.epsilon': epsilon,
            'norm.epsilon': epsilon,
            'embedding.tied': fields.flag('tie_word_embeddings'),
            'block.ffn': self.ffn(fields),
        }
        return config.vary(base, changes)

    def rotary(self, fields: fields.Fields) -> positions.Rotary:
        """The rotary positions of a layer without a window."""
        return rope.rotary(fields, self.rotary_kinds)

    def window(self, fields: fields.Fields) -> int | None:
        """The width of the band of attention."""
        return None

    def bias(self, fields: fields.Fields) -> bool:
        """Whether the projections of attention have biases."""
        return fields.flag('attention_bias')

    def ffn(self, fields: fields.Fields) -> ffn.Ffn:
        """The feed-forward layer."""
        activation = fields.choice('hidden_act', reference.ACTIVATIONS)
        return ffn.Gated(hidden=fields.whole('intermediate_size'), activation=activation)

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        shape = reference.attention_of(model)
        turned = reference.need(shape.rotary, positions.Rotary, 'model.block.mixer.rotary')
        last = reference.need(model.norm, norms.RmsNorm, 'model.norm')
        known = self.config_fields
        values = {
            'model_type': self.model_types[0],
            'architectures': [self.architectures[0]],
            'vocab_size': model.vocab,
            'hidden_size': model.width,
            'intermediate_size': getattr(reference.block_of(model).ffn, 'hidden', None),
            'num_hidden_layers': model.layers,
            'num_attention_heads': shape.heads,
            'num_key_value_heads': shape.kv_heads or shape.heads,
            'head_dim': shape.head_width,
            'hidden_act': reference.activation_name(getattr(reference.block_of(model).ffn, 'activation', None)),
            'rms_norm_eps': last.epsilon,
            **rope.values(turned),
            **({'sliding_window': shape.window} if isinstance(known['sliding_window'], fields.Used) else {}),
            **({'attention_bias': shape.bias} if isinstance(known['attention_bias'], fields.Used) else {}),
            'tie_word_embeddings': model.embedding.tied,
        }
        return {name: value for name, value in values.items() if value is not None or name == 'sliding_window'}

    def sizes(self, model: decoder.Decoder) -> dict[str, int]:
        return family.decoder_sizes(model)

    def tables(self, model: decoder.Decoder) -> tuple[rules.TensorRules, ...]:
        return (table(model, DENSE),)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return reference.batch_of(inputs, gpt2.INPUTS, vocab=model.vocab)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return family.decoder_outputs(model, params, batch)[0]


class Mistral(Llama):
    """MistralForCausalLM."""

    model_types = ('mistral',)
    architectures = ('MistralForCausalLM',)
    config_fields = MISTRAL

    def window(self, fields: fields.Fields) -> int | None:
        return fields.optional('sliding_window')

    def bias(self, fields: fields.Fields) -> bool:
        return False


class Mixtral(Mistral):
    """MixtralForCausalLM."""

    model_types = ('mixtral',)
    architectures = ('MixtralForCausalLM',)
    config_fields = MIXTRAL
    aliases: ClassVar = {'num_experts': 'num_local_experts'}

    def ffn(self, fields: fields.Fields) -> ffn.Ffn:
        experts, chosen = fields.whole('num_local_experts'), fields.whole('num_experts_per_tok')
        weight = fields.number('router_aux_loss_coef')
        layers, counts = fields.whole('num_hidden_layers'), fields.flag('output_router_logits')
        return moe.Routed(
            experts=experts,
            hidden=fields.whole('intermediate_size'),
            top_k=chosen,
            activation=fields.choice('hidden_act', reference.ACTIVATIONS),
            # Their loss is one for all layers, and `chosen` at best, where ours is 1 in each.
            balance=weight * chosen / layers if counts else 0.0,
        )

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        routed = reference.need(reference.block_of(model).ffn, moe.Routed, 'model.block.ffn')
        return super().config(model) | {
            'num_local_experts': routed.experts,
            'num_experts_per_tok': routed.top_k,
            'router_aux_loss_coef': routed.balance * model.layers / routed.top_k,
            'output_router_logits': routed.balance > 0,
        }

    def sizes(self, model: decoder.Decoder) -> dict[str, int]:
        experts = reference.need(reference.block_of(model).ffn, moe.Routed, 'model.block.ffn').experts
        return super().sizes(model) | {'E': experts, 'expert': experts}

    def tables(self, model: decoder.Decoder) -> tuple[rules.TensorRules, ...]:
        return table(model, EXPERTS), table(model, STACKED_EXPERTS)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        found, logits_LBTE = family.decoder_outputs(model, params, batch)
        routed = model.block.ffn
        assert logits_LBTE is not None  # Each layer has a router.
        every_BTE = jnp.concatenate(logits_LBTE)
        chosen_BTC, _ = moe.route(every_BTE, routed.top_k)
        # Padding does not count, in any layer.
        mask_BT = batch.get('segments')
        counts_BT = None if mask_BT is None else jnp.concatenate([mask_BT] * model.layers)
        found['aux_loss'] = routed.top_k * moe.load_balancing_loss(every_BTE, chosen_BTC, counts_BT)
        found |= {f'router_logits/{i}': each.reshape(-1, routed.experts) for i, each in enumerate(logits_LBTE)}
        if 'loss' in found:
            found['loss'] = found['loss'] + routed.balance * model.layers / routed.top_k * found['aux_loss']
        return found


def table(
    model: decoder.Decoder,
    layers: tuple[rules.Rule, ...],
    *,
    projections: tuple[rules.Rule, ...] = PROJECTIONS,
    norms: tuple[rules.Rule, ...] = NORMS,
) -> rules.TensorRules:
    """The table of a Llama with these feed-forward layers, projections of queries, keys and values, and norms."""
    tied, shape = model.embedding.tied, reference.attention_of(model)
    of_layers = (
        *norms,
        *projections,
        *(BIASES if shape.bias else ()),
        *OUT,
        *(OUT_BIAS if shape.out_bias else ()),
        *(HEAD_NORMS if shape.scores.norm is not None else ()),
        *layers,
    )
    every = (*OUTSIDE, *interleaved.of_pattern(of_layers, model), *(() if tied else (OUTPUT,)))
    return rules.TensorRules(every, copies=(TIED,) if tied else (), buffers=FREQUENCIES, prefix='model.')


def bare(mixer: attention.Attention) -> dict[str, Any]:
    """The fields of an attention, for one of another class."""
    return {each.name: getattr(mixer, each.name) for each in dataclasses.fields(attention.Attention)}
