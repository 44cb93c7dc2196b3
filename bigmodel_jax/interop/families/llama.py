"""Llama, Mistral and Mixtral as transformers stores them: matrices [out, in], the halves of a head rotated."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.interop.families import gpt2
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
    'attention_bias': fields.Only(False),
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
ROTARY: fields.Table = {
    'rope_type': fields.Used(None),
    'type': fields.Used(None),  # Its old name.
    'rope_theta': fields.Used(None),
    'partial_rotary_factor': fields.Only(1.0),
}
LLAMA3: fields.Table = {
    **ROTARY,
    'factor': fields.Used(None),
    'low_freq_factor': fields.Used(None),
    'high_freq_factor': fields.Used(None),
    'original_max_position_embeddings': fields.Used(None),
}
FREQUENCIES = (r'(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq',)


class Llama(family.Family):
    """LlamaForCausalLM."""

    model_types: tuple[str, ...] = ('llama',)
    architectures: tuple[str, ...] = ('LlamaForCausalLM',)
    old_architectures = ('LLaMAForCausalLM',)
    config_fields: fields.Table = LLAMA
    kind = decoder.Decoder

    def model(self, fields: fields.Fields) -> decoder.Decoder:
        heads, epsilon = fields.whole('num_attention_heads'), fields.number('rms_norm_eps')
        turned = rotary(fields)
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
            'block.residual.norm.epsilon': epsilon,
            'norm.epsilon': epsilon,
            'embedding.tied': fields.flag('tie_word_embeddings'),
            'block.ffn': self.ffn(fields),
        }
        return config.vary(base, changes)

    def window(self, fields: fields.Fields) -> int | None:
        """The width of the band of attention."""
        return None

    def ffn(self, fields: fields.Fields) -> ffn.Ffn:
        """The feed-forward layer."""
        activation = fields.choice('hidden_act', reference.ACTIVATIONS)
        return ffn.Gated(hidden=fields.whole('intermediate_size'), activation=activation)

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        shape = reference.attention_of(model)
        turned = reference.need(shape.rotary, positions.Rotary, 'model.block.mixer.rotary')
        last = reference.need(model.norm, norms.RmsNorm, 'model.norm')
        values = {
            'model_type': self.model_types[0],
            'architectures': [f'{self.model_types[0].title()}ForCausalLM'],
            'vocab_size': model.vocab,
            'hidden_size': model.width,
            'intermediate_size': getattr(reference.block_of(model).ffn, 'hidden', None),
            'num_hidden_layers': model.layers,
            'num_attention_heads': shape.heads,
            'num_key_value_heads': shape.kv_heads or shape.heads,
            'head_dim': shape.head_width,
            'hidden_act': reference.activation_name(getattr(reference.block_of(model).ffn, 'activation', None)),
            'rms_norm_eps': last.epsilon,
            'rope_theta': turned.base,
            'rope_scaling': None if turned.scaling is None else scaling_values(turned.scaling),
            **({'sliding_window': shape.window} if 'sliding_window' in self.config_fields else {}),
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


def table(model: decoder.Decoder, layers: tuple[rules.Rule, ...]) -> rules.TensorRules:
    """The table of a Llama with these feed-forward layers."""
    tied = model.embedding.tied
    every = (*COMMON, *layers) if tied else (*COMMON, *layers, OUTPUT)
    return rules.TensorRules(every, copies=(TIED,) if tied else (), buffers=FREQUENCIES, prefix='model.')


def rotary(fields: fields.Fields) -> positions.Rotary:
    """Rotary positions: of 'rope_parameters' (transformers 5), or 'rope_theta' and 'rope_scaling'."""
    given = {name: fields.value(name) for name in ('rope_parameters', 'rope_scaling')}
    given = {name: value for name, value in given.items() if value not in (None, {})}
    fields.agree(given or {'rope_parameters': None})
    name = next(iter(given), 'rope_parameters')
    kind = _rope_type(given.get(name))
    inner = fields.within(name, LLAMA3 if kind == 'llama3' else ROTARY)
    named = [inner.value(each) for each in ('rope_type', 'type') if inner.has(each)]
    kinds = {'default': None, 'llama3': None}
    for each in ('rope_type', 'type'):
        if inner.has(each):
            inner.choice(each, kinds)
    if len(named) == 2:
        inner.agree({'rope_type': named[0], 'type': named[1]})
    inside = inner.has('rope_theta')
    if inside and fields.has('rope_theta'):
        fields.agree({'rope_theta': fields.value('rope_theta'), f'rope_theta in {name}': inner.value('rope_theta')})
    base = (inner if inside else fields).number('rope_theta', above=0.0)
    return positions.Rotary(base=base, scaling=_llama3(fields, inner) if kind == 'llama3' else None)


def _rope_type(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return None
    return value.get('rope_type', value.get('type'))


def _llama3(fields: fields.Fields, inner: fields.Fields) -> positions.Llama3Scaling:
    length = 'original_max_position_embeddings'
    given = {each: source.value(length) for each, source in ((length, fields), (f'{length} inside', inner))}
    given = {each: value for each, value in given.items() if value is not None}
    fields.agree(given or {length: None})
    source, name = (
        (inner if inner.value(length) is not None else fields),
        length if given else 'max_position_embeddings',
    )
    low, high = inner.number('low_freq_factor', above=0.0), inner.number('high_freq_factor', above=0.0)
    if high <= low:
        raise config.InputError(f'config.json: high_freq_factor={high:g} should be more than low_freq_factor={low:g}.')
    factor = inner.number('factor', above=0.0)
    return positions.Llama3Scaling(factor=factor, low=low, high=high, length=source.whole(name))


def scaling_values(scaling: positions.Llama3Scaling) -> dict[str, Any]:
    """The 'rope_scaling' of a config.json."""
    return {
        'rope_type': 'llama3',
        'factor': scaling.factor,
        'low_freq_factor': scaling.low,
        'high_freq_factor': scaling.high,
        'original_max_position_embeddings': scaling.length,
    }
