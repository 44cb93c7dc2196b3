"""Gemma 1, 2 and 3 (text) as transformers stores them: Llamas with scaled embeddings and norms of 1 plus the weights.

Gemma 2 has a norm on either side of each sublayer, a window in every other layer, and soft caps; Gemma 3 has norms on
heads, a window in five layers of six, and other rotary positions in the sixth.
"""

from typing import Any

from bigmodel_jax import config
from bigmodel_jax.interop import fields, reference, rules
from bigmodel_jax.interop.families import interleaved, llama, rope
from bigmodel_jax.layers import activations, attention, ffn, norms, positions
from bigmodel_jax.layers.variants import attentions, residuals
from bigmodel_jax.models import decoder

LAYER = 'blocks.layers'
SANDWICH = (
    llama.rule('layers.{layer}.input_layernorm.weight', 'D -> D', f'{LAYER}.attention_norm.scale'),
    llama.rule('layers.{layer}.post_attention_layernorm.weight', 'D -> D', f'{LAYER}.attention_output_norm.scale'),
    llama.rule('layers.{layer}.pre_feedforward_layernorm.weight', 'D -> D', f'{LAYER}.ffn_norm.scale'),
    llama.rule('layers.{layer}.post_feedforward_layernorm.weight', 'D -> D', f'{LAYER}.ffn_output_norm.scale'),
)
# 'gelu' of the released files means its approximation by tanh, which the reference says in a warning.
ACTIVATIONS = reference.ACTIVATIONS | {'gelu': activations.Gelu(approximate=True)}

GEMMA: fields.Table = {
    **{name: kind for name, kind in llama.LLAMA.items() if name not in ('mlp_bias', 'pretraining_tp')},
    'vocab_size': fields.Used(256_000),
    'hidden_size': fields.Used(3_072),
    'intermediate_size': fields.Used(24_576),
    'num_hidden_layers': fields.Used(28),
    'num_attention_heads': fields.Used(16),
    'num_key_value_heads': fields.Used(16),
    'head_dim': fields.Used(256),
    'hidden_act': fields.Used('gelu_pytorch_tanh'),
    'hidden_activation': fields.Only(None, 'gelu_pytorch_tanh'),  # Of older files; the reference reads hidden_act.
    'max_position_embeddings': fields.Used(8_192),
    'tie_word_embeddings': fields.Used(True),
    'use_bidirectional_attention': fields.Only(None, False),
}
GEMMA2: fields.Table = {
    **{name: kind for name, kind in GEMMA.items() if name != 'hidden_act'},
    # Older files have these too, and the reference does not read them.
    **fields.without('hidden_act', 'cache_implementation', 'sliding_window_size'),
    'hidden_size': fields.Used(2_304),
    'intermediate_size': fields.Used(9_216),
    'num_hidden_layers': fields.Used(26),
    'num_attention_heads': fields.Used(8),
    'num_key_value_heads': fields.Used(4),
    'hidden_activation': fields.Used('gelu_pytorch_tanh'),
    'query_pre_attn_scalar': fields.Used(256),
    'sliding_window': fields.Used(4_096),
    'layer_types': fields.Used(None),
    'final_logit_softcapping': fields.Used(30.0),
    'attn_logit_softcapping': fields.Used(50.0),
}
GEMMA3: fields.Table = {
    **GEMMA2,
    **fields.without('_sliding_window_pattern'),
    'vocab_size': fields.Used(262_208),
    'max_position_embeddings': fields.Used(131_072),
    'final_logit_softcapping': fields.Used(None),
    'attn_logit_softcapping': fields.Only(None),
    'use_bidirectional_attention': fields.Only(False, None),
    'sliding_window_pattern': fields.Used(6),
    'rope_theta': fields.Used(1_000_000.0),
    'rope_local_base_freq': fields.Used(10_000.0),
}
ROTARIES: fields.Table = {interleaved.SLIDING: fields.Used(None), interleaved.FULL: fields.Used(None)}


class Gemma(llama.Llama):
    """GemmaForCausalLM."""

    model_types = ('gemma',)
    architectures = ('GemmaForCausalLM',)
    config_fields = GEMMA
    rotary_kinds = rope.SIMPLE

    def model(self, fields: fields.Fields) -> decoder.Decoder:
        norm = norms.OffsetRmsNorm(epsilon=fields.number('rms_norm_eps'))
        changes = {'block.residual.norm': norm, 'norm': norm, 'embedding.scaled': True}
        return config.vary(super().model(fields), changes)

    def ffn(self, fields: fields.Fields) -> ffn.Ffn:
        activation = fields.choice('hidden_act', ACTIVATIONS)
        return ffn.Gated(hidden=fields.whole('intermediate_size'), activation=activation)

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        values = super().config(model)
        if values['hidden_act'] == 'gelu':  # Exact, which the name does not mean here.
            raise config.InputError('Gemma has no exact GELU; use activations.Gelu(approximate=True).')
        return values


class Gemma2(Gemma):
    """Gemma2ForCausalLM."""

    model_types = ('gemma2',)
    architectures = ('Gemma2ForCausalLM',)
    config_fields = GEMMA2

    def model(self, fields: fields.Fields) -> decoder.Decoder:
        base = super().model(fields)
        norm = reference.block_of(base).residual.norm
        scale = fields.number('query_pre_attn_scalar', above=0.0) ** -0.5
        changes = {
            'mixer.scores': self.scores(fields, scale),
            'residual': residuals.SandwichNorm(norm=norm, output_norm=norm),
        }
        full = config.vary(reference.block_of(base), changes)
        kinds = interleaved.layer_types(fields, self.default_types(fields, base.layers))
        sliding = full
        if interleaved.SLIDING in kinds:
            local = {'mixer.window': fields.whole('sliding_window'), 'mixer.rotary': self.local_rotary(fields)}
            sliding = config.vary(full, local)
        base = config.vary(base, {'embedding.output_soft_cap': cap(fields, 'final_logit_softcapping')})
        return interleaved.interleave(base, [sliding if each == interleaved.SLIDING else full for each in kinds])

    def scores(self, fields: fields.Fields, scale: float) -> attention.DotProduct:
        """The score of a query and a key."""
        return attention.DotProduct(scale=scale, soft_cap=cap(fields, 'attn_logit_softcapping'))

    def default_types(self, fields: fields.Fields, layers: int) -> list[str]:
        """The kinds of layers where a file does not name them: every other one has no window."""
        fields.optional('sliding_window')
        return [interleaved.FULL if index % 2 else interleaved.SLIDING for index in range(layers)]

    def local_rotary(self, fields: fields.Fields) -> positions.Rotary:
        """The rotary positions of a layer with a window."""
        return self.rotary(fields)

    def ffn(self, fields: fields.Fields) -> ffn.Ffn:
        activation = fields.choice('hidden_activation', reference.ACTIVATIONS)
        return ffn.Gated(hidden=fields.whole('intermediate_size'), activation=activation)

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        values = llama.Llama.config(self, model)
        values['hidden_activation'] = values.pop('hidden_act')
        shapes = [interleaved.block_of_layer(model, index).mixer for index in range(model.layers)]
        windows = {each.window for each in shapes if each.window is not None}
        scale = shapes[0].scores.scale or shapes[0].width_of_head(model.width) ** -0.5
        return values | {
            'query_pre_attn_scalar': nearest_whole(scale**-2),
            'attn_logit_softcapping': shapes[0].scores.soft_cap,
            'final_logit_softcapping': model.embedding.output_soft_cap,
            'sliding_window': next(iter(windows), None),
            'layer_types': [interleaved.FULL if each.window is None else interleaved.SLIDING for each in shapes],
        }

    def tables(self, model: decoder.Decoder) -> tuple[rules.TensorRules, ...]:
        return (llama.table(model, llama.DENSE, norms=SANDWICH),)


class Gemma3(Gemma2):
    """Gemma3ForCausalLM, which reads text alone."""

    model_types = ('gemma3_text',)
    architectures = ('Gemma3ForCausalLM',)
    config_fields = GEMMA3

    def scores(self, fields: fields.Fields, scale: float) -> attention.DotProduct:
        norm = norms.OffsetRmsNorm(epsilon=fields.number('rms_norm_eps'))
        return attentions.NormedDotProduct(scale=scale, norm=norm)

    def default_types(self, fields: fields.Fields, layers: int) -> list[str]:
        period = fields.whole('sliding_window_pattern')
        fields.optional('sliding_window')
        return [interleaved.SLIDING if (index + 1) % period else interleaved.FULL for index in range(layers)]

    def rotary(self, fields: fields.Fields) -> positions.Rotary:
        scaling = fields.value('rope_scaling')
        if scaling is None:
            return self._rotary(fields, interleaved.FULL, 'rope_theta')
        if fields.value('rope_parameters') is not None:
            raise config.InputError('config.json: rope_parameters and rope_scaling contradict each other; delete one.')
        inner = fields.within('rope_scaling', rope.table_of(scaling, self.rotary_kinds))
        return rope.of_object(fields, inner, self.rotary_kinds, name='rope_scaling')

    def local_rotary(self, fields: fields.Fields) -> positions.Rotary:
        return self._rotary(fields, interleaved.SLIDING, 'rope_local_base_freq')

    def _rotary(self, fields: fields.Fields, kind: str, theta: str) -> positions.Rotary:
        of_kinds = fields.within('rope_parameters', ROTARIES)
        inner = of_kinds.within(kind, rope.table_of(of_kinds.value(kind), self.rotary_kinds))
        return rope.of_object(fields, inner, self.rotary_kinds, name=f'rope_parameters.{kind}', theta=theta)

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        values = super().config(model)
        every = [interleaved.block_of_layer(model, index).mixer for index in range(model.layers)]
        turned = {each.window is None: reference.need(each.rotary, positions.Rotary, 'rotary') for each in every}
        for name in ('rope_theta', 'rope_scaling', 'attn_logit_softcapping'):
            values.pop(name, None)
        if True in turned:
            values |= rope.values(turned[True])
        if False in turned:
            values['rope_local_base_freq'] = turned[False].base
        return values


def cap(fields: fields.Fields, name: str) -> float | None:
    """A soft cap, or None where the field is null."""
    return None if fields.value(name) is None else fields.number(name, above=0.0)


def nearest_whole(number: float) -> float | int:
    """A number as an integer where it is one but for rounding; config.json has an integer there."""
    return round(number) if abs(number - round(number)) < 1e-6 * number else number
