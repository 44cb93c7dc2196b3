"""Llama, Mistral and Mixtral as transformers stores them: matrices [out, in], the halves of a head rotated."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, gpt2, reference, rules
from bigmodel_jax.interop.fields import Fields
from bigmodel_jax.layers import ffn, moe, norms, positions
from bigmodel_jax.models import decoder

rule = rules.rule
ATTENTION, FFN = 'blocks.layers.attention', 'blocks.layers.ffn'
COMMON = (
    rule('embed_tokens.weight', 'V D -> V D', 'embedding.table'),
    rule('layers.{layer}.input_layernorm.weight', 'D -> D', 'blocks.layers.attention_norm.scale'),
    rule('layers.{layer}.self_attn.q_proj.weight', '(H K) D -> D H K', f'{ATTENTION}.query'),
    rule('layers.{layer}.self_attn.k_proj.weight', '(G K) D -> D G K', f'{ATTENTION}.key'),
    rule('layers.{layer}.self_attn.v_proj.weight', '(G K) D -> D G K', f'{ATTENTION}.value'),
    rule('layers.{layer}.self_attn.o_proj.weight', 'D (H K) -> H K D', f'{ATTENTION}.out'),
    rule('layers.{layer}.post_attention_layernorm.weight', 'D -> D', 'blocks.layers.ffn_norm.scale'),
    rule('norm.weight', 'D -> D', 'norm.scale'),
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
FREQUENCIES = (r'(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq',)


class Llama(family.Family):
    """LlamaForCausalLM."""

    model_types = ('llama',)
    kind = decoder.Decoder
    without_effect: tuple[str, ...] = ('max_position_embeddings', 'attention_dropout', 'pretraining_tp')
    epsilon, base = 1e-6, 10_000.0  # Where config.json does not say.
    kv_heads: int | None = None  # None: as many as heads.

    def model(self, fields: Fields) -> decoder.Decoder:
        fields.only(attention_bias=False, mlp_bias=False, is_encoder_decoder=False)
        heads, epsilon = fields.whole('num_attention_heads'), fields.number('rms_norm_eps', self.epsilon)
        base = decoder.llama(
            vocab=fields.whole('vocab_size'),
            width=fields.whole('hidden_size'),
            layers=fields.whole('num_hidden_layers'),
            heads=heads,
            kv_heads=fields.whole('num_key_value_heads', self.kv_heads or heads),
            hidden=fields.whole('intermediate_size'),
            rope_base=self.base,
        )
        changes = {
            'block.attention.head_width': fields.optional('head_dim'),
            'block.attention.rotary': rotary(fields, self.base),
            'block.attention.window': self.window(fields),
            'block.residual.norm.epsilon': epsilon,
            'norm.epsilon': epsilon,
            'embedding.tied': fields.flag('tie_word_embeddings', False),
            'block.ffn': self.ffn(fields),
        }
        return config.vary(base, changes)

    def window(self, fields: Fields) -> int | None:
        """The width of the band of attention."""
        fields.only(sliding_window=None)
        return None

    def ffn(self, fields: Fields) -> ffn.Ffn:
        """The feed-forward layer."""
        activation = fields.choice('hidden_act', reference.ACTIVATIONS, 'silu')
        return ffn.Gated(hidden=fields.whole('intermediate_size'), activation=activation)

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        shape = model.block.attention
        turned = reference.need(shape.rotary, positions.Rotary, 'model.block.attention.rotary')
        last = reference.need(model.norm, norms.RmsNorm, 'model.norm')
        values = {
            'model_type': self.model_types[0],
            'architectures': [f'{self.model_types[0].title()}ForCausalLM'],
            'vocab_size': model.vocab,
            'hidden_size': model.width,
            'intermediate_size': getattr(model.block.ffn, 'hidden', None),
            'num_hidden_layers': model.layers,
            'num_attention_heads': shape.heads,
            'num_key_value_heads': shape.kv_heads or shape.heads,
            'head_dim': shape.head_width,
            'hidden_act': reference.activation_name(getattr(model.block.ffn, 'activation', None)),
            'rms_norm_eps': last.epsilon,
            'rope_theta': turned.base,
            'rope_scaling': None if turned.scaling is None else scaling_values(turned.scaling),
            'sliding_window': shape.window,
            'tie_word_embeddings': model.embedding.tied,
        }
        return {name: value for name, value in values.items() if value is not None or name == 'sliding_window'}

    def sizes(self, model: decoder.Decoder) -> dict[str, int]:
        return family.decoder_sizes(model)

    def tables(self, model: decoder.Decoder) -> tuple[rules.Table, ...]:
        return (table(model, DENSE),)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return reference.batch_of(inputs, gpt2.INPUTS, vocab=model.vocab)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return family.decoder_outputs(model, params, batch)[0]


class Mistral(Llama):
    """MistralForCausalLM."""

    model_types = ('mistral',)
    kv_heads = 8

    def window(self, fields: Fields) -> int | None:
        return fields.optional('sliding_window')


class Mixtral(Mistral):
    """MixtralForCausalLM."""

    model_types = ('mixtral',)
    without_effect = (*Llama.without_effect, 'router_jitter_noise')
    epsilon, base = 1e-5, 1_000_000.0

    def ffn(self, fields: Fields) -> ffn.Ffn:
        experts, chosen = fields.whole('num_local_experts', 8), fields.whole('num_experts_per_tok', 2)
        weight = fields.number('router_aux_loss_coef', 0.001)
        layers, counts = fields.whole('num_hidden_layers'), fields.flag('output_router_logits', False)
        return moe.Routed(
            experts=experts,
            hidden=fields.whole('intermediate_size'),
            top_k=chosen,
            activation=fields.choice('hidden_act', reference.ACTIVATIONS, 'silu'),
            # Their loss is one for all layers, and `chosen` at best, where ours is 1 in each.
            balance=weight * chosen / layers if counts else 0.0,
        )

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        routed = reference.need(model.block.ffn, moe.Routed, 'model.block.ffn')
        return super().config(model) | {
            'num_local_experts': routed.experts,
            'num_experts_per_tok': routed.top_k,
            'router_aux_loss_coef': routed.balance * model.layers / routed.top_k,
            'output_router_logits': routed.balance > 0,
        }

    def sizes(self, model: decoder.Decoder) -> dict[str, int]:
        experts = reference.need(model.block.ffn, moe.Routed, 'model.block.ffn').experts
        return super().sizes(model) | {'E': experts, 'expert': experts}

    def tables(self, model: decoder.Decoder) -> tuple[rules.Table, ...]:
        return table(model, EXPERTS), table(model, STACKED_EXPERTS)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        found, logits_LBTE = family.decoder_outputs(model, params, batch)
        routed = model.block.ffn
        assert logits_LBTE is not None  # Each layer has a router.
        every_BTE = jnp.concatenate(logits_LBTE)
        chosen_BTC, _ = moe.route(every_BTE, routed.top_k)
        found['aux_loss'] = routed.top_k * moe.imbalance(every_BTE, chosen_BTC)
        found |= {f'router_logits/{i}': each.reshape(-1, routed.experts) for i, each in enumerate(logits_LBTE)}
        if 'loss' in found:
            found['loss'] = found['loss'] + routed.balance * model.layers / routed.top_k * found['aux_loss']
        return found


def table(model: decoder.Decoder, layers: tuple[rules.Rule, ...]) -> rules.Table:
    """The table of a Llama with these feed-forward layers."""
    tied = model.embedding.tied
    every = (*COMMON, *layers) if tied else (*COMMON, *layers, OUTPUT)
    return rules.Table(every, copies=(TIED,) if tied else (), buffers=FREQUENCIES, prefix='model.')


def rotary(fields: Fields, base: float) -> positions.Rotary:
    """Rotary positions: of 'rope_parameters' (transformers 5), or 'rope_theta' and 'rope_scaling'."""
    new, old = fields.within('rope_parameters'), fields.within('rope_scaling')
    if fields.has('rope_parameters') and fields.has('rope_scaling'):
        raise config.InputError('config.json has rope_parameters and rope_scaling; leave one out.')
    found = new if fields.has('rope_parameters') else old
    base = found.number('rope_theta', fields.number('rope_theta', base))
    found.only(partial_rotary_factor=1.0)
    kinds = {'default': False, 'llama3': True}
    scaled = found.choice('rope_type' if found.has('rope_type') else 'type', kinds, 'default')
    scaling = None
    if scaled:
        scaling = positions.Llama3Scaling(
            factor=found.number('factor'),
            low=found.number('low_freq_factor'),
            high=found.number('high_freq_factor'),
            length=found.whole('original_max_position_embeddings'),
        )
    found.refuse_unknown(without_effect=('type', 'rope_type'))
    return positions.Rotary(base=base, scaling=scaling)


def scaling_values(scaling: positions.Llama3Scaling) -> dict[str, Any]:
    """The 'rope_scaling' of a config.json."""
    return {
        'rope_type': 'llama3',
        'factor': scaling.factor,
        'low_freq_factor': scaling.low,
        'high_freq_factor': scaling.high,
        'original_max_position_embeddings': scaling.length,
    }
