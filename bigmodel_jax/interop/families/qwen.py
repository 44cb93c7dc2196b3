"""Qwen 2, 2.5 and 3 as transformers stores them: Llamas with biases on queries, keys and values, or norms on heads."""

from typing import Any

from bigmodel_jax import config
from bigmodel_jax.interop import fields, reference, rules
from bigmodel_jax.interop.families import interleaved, llama
from bigmodel_jax.layers import norms
from bigmodel_jax.layers.variants import attentions
from bigmodel_jax.models import decoder

QWEN2: fields.Table = {
    **{name: kind for name, kind in llama.LLAMA.items() if name not in ('mlp_bias', 'pretraining_tp')},
    'vocab_size': fields.Used(151_936),
    'intermediate_size': fields.Used(22_016),
    'num_key_value_heads': fields.Used(32),
    'max_position_embeddings': fields.Used(32_768),
    'attention_bias': fields.Only(True),  # It has them, whatever is said here.
    'use_sliding_window': fields.Used(False),
    'sliding_window': fields.Used(4_096),
    'max_window_layers': fields.Used(28),
    'layer_types': fields.Used(None),
}
QWEN3: fields.Table = {
    **QWEN2,
    'head_dim': fields.Used(128),
    'attention_bias': fields.Used(False),
}


class Qwen2(llama.Llama):
    """Qwen2ForCausalLM, of Qwen 2 and 2.5."""

    model_types = ('qwen2',)
    architectures = ('Qwen2ForCausalLM',)
    config_fields = QWEN2

    def model(self, fields: fields.Fields) -> decoder.Decoder:
        base = super().model(fields)
        full = config.vary(base.block, {'mixer': self.mixer(fields, base)})
        window, layers = fields.optional('sliding_window'), base.layers
        first = fields.value('max_window_layers')
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise config.InputError(f'config.json: max_window_layers={first!r} should be an integer, at least 0.')
        if not fields.flag('use_sliding_window'):
            window = None
        kinds = interleaved.layer_types(
            fields,
            [
                interleaved.SLIDING if window is not None and index >= first else interleaved.FULL
                for index in range(layers)
            ],
        )
        if interleaved.SLIDING in kinds and window is None:
            raise config.InputError(
                f'config.json: layer_types has {interleaved.SLIDING!r}, but there is no window: '
                'use_sliding_window is false, or sliding_window is null.'
            )
        sliding = config.vary(full, {'mixer.window': window})
        return interleaved.interleave(base, [sliding if each == interleaved.SLIDING else full for each in kinds])

    def mixer(self, fields: fields.Fields, base: decoder.Decoder) -> Any:
        """The attention of a layer without a window."""
        return attentions.QkvBiasAttention(**llama.bare(reference.attention_of(base)) | {'bias': True})

    def bias(self, fields: fields.Fields) -> bool:
        return False

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        shapes = [interleaved.block_of_layer(model, index).mixer for index in range(model.layers)]
        windows = {each.window for each in shapes if each.window is not None}
        kinds = [interleaved.FULL if each.window is None else interleaved.SLIDING for each in shapes]
        return super().config(model) | {
            'use_sliding_window': bool(windows),
            'sliding_window': next(iter(windows), None),
            'layer_types': kinds,
        }


class Qwen3(Qwen2):
    """Qwen3ForCausalLM."""

    model_types = ('qwen3',)
    architectures = ('Qwen3ForCausalLM',)
    config_fields = QWEN3

    def mixer(self, fields: fields.Fields, base: decoder.Decoder) -> Any:
        norm = norms.RmsNorm(epsilon=fields.number('rms_norm_eps'))
        changes = {'scores': attentions.NormedDotProduct(norm=norm), 'bias': fields.flag('attention_bias')}
        return config.vary(reference.attention_of(base), changes)

    def tables(self, model: decoder.Decoder) -> tuple[rules.TensorRules, ...]:
        return (llama.table(model, llama.DENSE),)
