"""Marian's translation models as transformers stores them: Vaswani et al. (2017), with biases everywhere."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.interop.families import t5
from bigmodel_jax.layers import attention, blocks, embeddings, ffn, norms, positions
from bigmodel_jax.models import seq2seq

rule = rules.rule
# Of each side, whose heads and F may differ: those of the heads and their width, and that of F.
LETTERS = {'encoder': ('A B', 'C'), 'decoder': ('H K', 'F')}
HEADS = {'q': 'query', 'k': 'key', 'v': 'value'}


def _norm(key: str, path: str) -> tuple[rules.Rule, rules.Rule]:
    return rule(f'{key}.weight', 'D -> D', f'{path}.scale'), rule(f'{key}.bias', 'D -> D', f'{path}.bias')


def _attention(key: str, path: str, heads: str) -> tuple[rules.Rule, ...]:
    """The rules of an attention; `heads` are the letters of its heads and their width."""
    return (
        *(
            rule(f'{key}.{its}_proj.weight', f'({heads}) D -> D {heads}', f'{path}.{ours}')
            for its, ours in HEADS.items()
        ),
        *(
            rule(f'{key}.{its}_proj.bias', f'({heads}) -> {heads}', f'{path}.{ours}_bias')
            for its, ours in HEADS.items()
        ),
        rule(f'{key}.out_proj.weight', f'D ({heads}) -> {heads} D', f'{path}.out'),
        rule(f'{key}.out_proj.bias', 'D -> D', f'{path}.out_bias'),
        *_norm(f'{key}_layer_norm', f'{path}_norm'),
    )


def stack_rules(stack: str) -> tuple[rules.Rule, ...]:
    """The layers of a side, 'encoder' or 'decoder', whose sizes have the letters of LETTERS."""
    key, ours = f'{stack}.layers.{{{stack}}}', f'{stack}.layers'
    heads, hidden = LETTERS[stack]
    return (
        *_attention(f'{key}.self_attn', f'{ours}.attention', heads),
        *(_attention(f'{key}.encoder_attn', f'{ours}.cross', heads) if stack == 'decoder' else ()),
        rule(f'{key}.fc1.weight', f'{hidden} D -> D {hidden}', f'{ours}.ffn.up'),
        rule(f'{key}.fc1.bias', f'{hidden} -> {hidden}', f'{ours}.ffn.up_bias'),
        rule(f'{key}.fc2.weight', f'D {hidden} -> {hidden} D', f'{ours}.ffn.down'),
        rule(f'{key}.fc2.bias', 'D -> D', f'{ours}.ffn.down_bias'),
        *_norm(f'{key}.final_layer_norm', f'{ours}.ffn_norm'),
    )


def _sinusoids(sizes: rules.Sizes) -> np.ndarray:
    return positions.sinusoid_table(sizes['T'], width=sizes['D'], base=10_000.0)


TABLE = rules.TensorRules(
    rules=(
        rule('shared.weight', 'V D -> V D', 'embedding.table'),
        *stack_rules('encoder'),
        *stack_rules('decoder'),
        rule('final_logits_bias', '1 V -> V', 'embedding.output_bias', inside=False),
    ),
    copies=(
        rules.Copy('encoder.embed_tokens.weight', of='shared.weight'),
        rules.Copy('decoder.embed_tokens.weight', of='shared.weight'),
        rules.Copy('lm_head.weight', of='shared.weight', inside=False),
        rules.Copy('encoder.embed_positions.weight', formula=_sinusoids),
        rules.Copy('decoder.embed_positions.weight', formula=_sinusoids),
    ),
    prefix='model.',
)


# Ours fill the table of positions when a program is compiled; the released models have 512.
LONGEST = 2**17
FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without(
        'dropout', 'attention_dropout', 'activation_dropout', 'encoder_layerdrop', 'decoder_layerdrop', 'init_std',
        'classif_dropout',
        # The bias of the output layer is in the files in any case; positions that are not counted from 0 were BART's.
        'add_bias_logits', 'extra_pos_embeddings',
    ),
    'vocab_size': fields.Used(58_101),
    'decoder_vocab_size': fields.Used(None),  # As vocab_size.
    'max_position_embeddings': fields.Used(1_024),
    'd_model': fields.Used(1_024),
    'encoder_layers': fields.Used(12),
    'encoder_ffn_dim': fields.Used(4_096),
    'encoder_attention_heads': fields.Used(16),
    'decoder_layers': fields.Used(12),
    'decoder_ffn_dim': fields.Used(4_096),
    'decoder_attention_heads': fields.Used(16),
    'activation_function': fields.Used('gelu'),
    'scale_embedding': fields.Used(False),
    'pad_token_id': fields.Used(58_100),
    'decoder_start_token_id': fields.Used(58_100),
    'is_encoder_decoder': fields.Only(True),
    'share_encoder_decoder_embeddings': fields.Only(True),
    'tie_word_embeddings': fields.Only(True),
    'static_position_embeddings': fields.Only(True),
    'normalize_before': fields.Only(False),
    'normalize_embedding': fields.Only(False),
    'add_final_layer_norm': fields.Only(False),
}  # fmt: skip


class Marian(family.Family):
    """MarianMTModel."""

    model_types = ('marian',)
    architectures = ('MarianMTModel',)
    config_fields = FIELDS
    aliases: ClassVar = {
        'num_attention_heads': 'encoder_attention_heads',
        'hidden_size': 'd_model',
        'num_hidden_layers': 'encoder_layers',
    }
    kind = seq2seq.Seq2Seq
    is_paired = True

    def model(self, fields: fields.Fields) -> seq2seq.Seq2Seq:
        t5.tokens(fields)
        vocab = fields.whole('vocab_size')
        others = fields.optional('decoder_vocab_size') or vocab
        length = fields.whole('max_position_embeddings')
        if length > LONGEST:
            raise config.InputError(
                f'config.json: max_position_embeddings={length:,} asks for a table of so many positions; at most '
                f'{LONGEST:,} are made.'
            )
        if others != vocab:
            raise config.InputError(
                f'config.json: decoder_vocab_size={others} and vocab_size={vocab}; two that differ are not implemented.'
            )
        encoder, block = (_block(fields, side) for side in ('encoder', 'decoder'))
        return seq2seq.Seq2Seq(
            vocab=vocab,
            width=fields.whole('d_model'),
            encoder_layers=fields.whole('encoder_layers'),
            decoder_layers=fields.whole('decoder_layers'),
            block=block,
            encoder=None if encoder == block else encoder,
            positions=positions.SinusoidTable(length=length),
            norm=None,
            embedding=embeddings.Embedding(scaled=fields.flag('scale_embedding'), output_bias=True),
        )

    def config(self, model: seq2seq.Seq2Seq) -> dict[str, Any]:
        table = reference.need(model.positions, positions.SinusoidTable, 'model.positions')
        mlp = reference.need(model.block.ffn, ffn.Mlp, 'model.block.ffn')
        encoder = model.encoder or model.block
        return {
            'model_type': 'marian',
            'architectures': ['MarianMTModel'],
            'is_encoder_decoder': True,
            'vocab_size': model.vocab,
            'd_model': model.width,
            'encoder_layers': model.encoder_layers,
            'decoder_layers': model.decoder_layers,
            'encoder_attention_heads': reference.need(encoder.mixer, attention.Attention, 'model.encoder.mixer').heads,
            'decoder_attention_heads': reference.attention_of(model).heads,
            'encoder_ffn_dim': reference.need(encoder.ffn, ffn.Mlp, 'model.encoder.ffn').hidden,
            'decoder_ffn_dim': mlp.hidden,
            'activation_function': reference.activation_name(mlp.activation),
            'scale_embedding': model.embedding.scaled,
            'max_position_embeddings': table.length,
            'share_encoder_decoder_embeddings': True,
            'static_position_embeddings': True,
            'normalize_before': False,
            # As in the released files: padding is the last token, and begins what the decoder reads.
            'pad_token_id': model.vocab - 1,
            'decoder_start_token_id': model.vocab - 1,
            'eos_token_id': 0,
        }

    def sizes(self, model: seq2seq.Seq2Seq) -> dict[str, int]:
        table = reference.need(model.positions, positions.SinusoidTable, 'model.positions')
        encoder = model.encoder_block
        mixer = reference.need(encoder.mixer, attention.Attention, 'model.encoder.mixer')
        own = {'A': mixer.heads, 'B': mixer.width_of_head(model.width), 'C': getattr(encoder.ffn, 'hidden', 0)}
        return family.seq2seq_sizes(model) | own | {'T': table.length}

    def tables(self, model: seq2seq.Seq2Seq) -> tuple[rules.TensorRules, ...]:
        return (TABLE,)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return reference.pair_of(
            inputs, t5.INPUTS, vocab=model.vocab, tokens=t5.tokens(self.read(values, 'config.json'))
        )

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return family.seq2seq_outputs(model, params, batch)


def _block(fields: fields.Fields, side: str) -> blocks.Block:
    """The block of one side."""
    activation = fields.choice('activation_function', reference.ACTIVATIONS)
    return blocks.Block(
        mixer=attention.Attention(heads=fields.whole(f'{side}_attention_heads'), bias=True),
        ffn=ffn.Mlp(hidden=fields.whole(f'{side}_ffn_dim'), activation=activation, bias=True),
        residual=blocks.PostNorm(norm=norms.LayerNorm(epsilon=1e-5)),
    )
