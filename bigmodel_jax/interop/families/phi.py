"""Phi-3 and Phi-4 as transformers stores them: Llamas with fused projections, and a part of each head rotated."""

from typing import Any

from bigmodel_jax.interop import fields, rules
from bigmodel_jax.interop.families import llama, rope
from bigmodel_jax.models import decoder

FUSED = (
    llama.rule(
        'layers.{layer}.self_attn.qkv_proj.weight',
        '(H K) D -> D H K | (G K) D -> D G K | (G K) D -> D G K',
        *(f'{llama.ATTENTION}.{name}' for name in ('query', 'key', 'value')),
    ),
)
DENSE = (
    llama.rule('layers.{layer}.mlp.gate_up_proj.weight', '(2 F) D -> D F', f'{llama.FFN}.gate', f'{llama.FFN}.up'),
    llama.rule('layers.{layer}.mlp.down_proj.weight', 'D F -> F D', f'{llama.FFN}.down'),
)
PHI3: fields.Table = {
    **{name: kind for name, kind in llama.LLAMA.items() if name not in ('mlp_bias', 'pretraining_tp')},
    **fields.without('resid_pdrop', 'embd_pdrop'),
    'vocab_size': fields.Used(32_064),
    'hidden_size': fields.Used(3_072),
    'intermediate_size': fields.Used(8_192),
    'max_position_embeddings': fields.Used(4_096),
    rope.ORIGINAL: fields.Used(4_096),  # It counts, whatever the scaling itself says.
    'rms_norm_eps': fields.Used(1e-5),
    'partial_rotary_factor': fields.Used(1.0),
    'attention_bias': fields.Only(False),
    'sliding_window': fields.Used(None),
}


class Phi3(llama.Mistral):
    """Phi3ForCausalLM, of Phi-3 and of Phi-4."""

    model_types = ('phi3',)
    architectures = ('Phi3ForCausalLM',)
    config_fields = PHI3
    rotary_kinds = rope.PARTLY

    def tables(self, model: decoder.Decoder) -> tuple[rules.TensorRules, ...]:
        return (llama.table(model, DENSE, projections=FUSED),)

    def config(self, model: decoder.Decoder) -> dict[str, Any]:
        values = super().config(model)
        scaling = values.get('rope_scaling', {})
        if rope.ORIGINAL in scaling:
            values[rope.ORIGINAL] = scaling[rope.ORIGINAL]
        # The reference's default is token 32,000, which it refuses where the vocabulary has no such token.
        return {**values, 'pad_token_id': None}
