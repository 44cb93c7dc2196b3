"""T5 v1.0 (Raffel et al., 2019) and v1.1 as transformers stores them: matrices [out, in], positions in layer 0."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, folder, reference, rules
from bigmodel_jax.interop.fields import Fields
from bigmodel_jax.layers import activations, attention, blocks, embeddings, ffn, norms, positions
from bigmodel_jax.models import seq2seq

rule = rules.rule
SHARED, OUTPUT = 'shared.weight', 'lm_head.weight'
FEED_FORWARD: dict[str, tuple[type, activations.Activation]] = {
    'relu': (ffn.Mlp, activations.Relu()),
    'gelu': (ffn.Mlp, activations.Gelu(approximate=False)),
    'gelu_new': (ffn.Mlp, activations.Gelu()),
    'gated-gelu': (ffn.Gated, activations.Gelu()),  # By tanh: transformers makes gelu_new of it.
    'gated-silu': (ffn.Gated, activations.Silu()),
    'gated-relu': (ffn.Gated, activations.Relu()),
}
INPUTS = {
    'input_ids': 'source',
    'attention_mask': 'source_segments',
    'decoder_input_ids': 'inputs',
    'decoder_attention_mask': 'segments',
    'labels': 'labels',
}
FFN = {ffn.Mlp: {'wi': 'up'}, ffn.Gated: {'wi_0': 'gate', 'wi_1': 'up'}}


def _attention(stack: str, place: int, name: str, path: str) -> tuple[rules.Rule, ...]:
    key = f'{stack}.block.{{{stack}}}.layer.{place}'
    ours = f'{stack}.layers.{path}'
    return (
        *(
            rule(f'{key}.{name}.{its}.weight', '(H K) D -> D H K', f'{ours}.{each}')
            for its, each in (('q', 'query'), ('k', 'key'), ('v', 'value'))
        ),
        rule(f'{key}.{name}.o.weight', 'D (H K) -> H K D', f'{ours}.out'),
        rule(f'{key}.layer_norm.weight', 'D -> D', f'{ours}_norm.scale'),
    )


def _stack(stack: str, sublayers: int, hidden: type) -> tuple[rules.Rule, ...]:
    key, ours = f'{stack}.block.{{{stack}}}.layer.{sublayers - 1}', f'{stack}.layers'
    first = f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    return (
        rule(first, 'N H -> N H', f'{stack}_positions.table'),
        *_attention(stack, 0, 'SelfAttention', 'attention'),
        *(_attention(stack, 1, 'EncDecAttention', 'cross') if stack == 'decoder' else ()),
        *(
            rule(f'{key}.DenseReluDense.{its}.weight', 'F D -> D F', f'{ours}.ffn.{each}')
            for its, each in FFN[hidden].items()
        ),
        rule(f'{key}.DenseReluDense.wo.weight', 'D F -> F D', f'{ours}.ffn.down'),
        rule(f'{key}.layer_norm.weight', 'D -> D', f'{ours}.ffn_norm.scale'),
        rule(f'{stack}.final_layer_norm.weight', 'D -> D', f'{stack}_norm.scale'),
    )


class T5(family.Family):
    """T5ForConditionalGeneration."""

    model_types = ('t5',)
    kind = seq2seq.Seq2Seq
    # The last two repeat feed_forward_proj; distances go on growing beyond n_positions.
    without_effect = ('dropout_rate', 'n_positions', 'classifier_dropout', 'dense_act_fn', 'is_gated_act')

    def model(self, fields: Fields) -> seq2seq.Seq2Seq:
        fields.only(is_encoder_decoder=True, is_decoder=False, add_cross_attention=False)
        hidden, activation = fields.choice('feed_forward_proj', FEED_FORWARD, 'relu')
        heads, layers = fields.whole('num_heads'), fields.whole('num_layers')
        tied = fields.flag('tie_word_embeddings', True)
        # Transformers 5 says so apart, and that all are tied; see settled().
        scaled = fields.flag('scale_decoder_outputs', tied)
        norm = norms.RmsNorm(epsilon=fields.number('layer_norm_epsilon', 1e-6))
        return seq2seq.Seq2Seq(
            vocab=fields.whole('vocab_size'),
            width=fields.whole('d_model'),
            encoder_layers=layers,
            decoder_layers=fields.whole('num_decoder_layers', layers),
            block=blocks.Block(
                attention=attention.Attention(
                    heads=heads, head_width=fields.whole('d_kv'), scores=attention.DotProduct(scale=1.0)
                ),
                ffn=hidden(hidden=fields.whole('d_ff'), activation=activation),
                residual=blocks.PreNorm(norm=norm),
            ),
            positions=positions.Relative(
                heads=heads,
                buckets=fields.whole('relative_attention_num_buckets', 32),
                max_distance=fields.whole('relative_attention_max_distance', 128),
            ),
            norm=norm,
            embedding=embeddings.Embedding(tied=tied, output_scaled=scaled),
        )

    def settled(self, model: seq2seq.Seq2Seq, source: folder.Folder) -> seq2seq.Seq2Seq:
        # Whatever the config of transformers 5 says, an output matrix of its own is used where there is one.
        if 'scale_decoder_outputs' not in source.config or OUTPUT not in source.entries:
            return model
        tied = SHARED not in source.entries or folder.equal_bits(source.read(OUTPUT), source.read(SHARED))
        return config.vary(model, {'embedding.tied': tied})

    def config(self, model: seq2seq.Seq2Seq) -> dict[str, Any]:
        known = reference.need(model.positions, positions.Relative, 'model.positions')
        hidden = model.block.ffn
        kind = (type(hidden), getattr(hidden, 'activation', None))
        names = [name for name, each in FEED_FORWARD.items() if each == kind]
        if not names:
            raise config.InputError(f'T5 has no feed-forward layer {config.format_value(hidden)}.')
        return {
            'model_type': 't5',
            'architectures': ['T5ForConditionalGeneration'],
            'is_encoder_decoder': True,
            'vocab_size': model.vocab,
            'd_model': model.width,
            'd_kv': model.block.attention.width_of_head(model.width),
            'd_ff': getattr(hidden, 'hidden', None),
            'num_layers': model.encoder_layers,
            'num_decoder_layers': model.decoder_layers,
            'num_heads': known.heads,
            'relative_attention_num_buckets': known.buckets,
            'relative_attention_max_distance': known.max_distance,
            'layer_norm_epsilon': reference.need(model.norm, norms.RmsNorm, 'model.norm').epsilon,
            'feed_forward_proj': names[0],
            'tie_word_embeddings': model.embedding.tied,
            'scale_decoder_outputs': model.embedding.output_scaled,
            'pad_token_id': 0,
            'decoder_start_token_id': 0,
            'eos_token_id': 1,
        }

    def sizes(self, model: seq2seq.Seq2Seq) -> dict[str, int]:
        known = reference.need(model.positions, positions.Relative, 'model.positions')
        return family.seq2seq_sizes(model) | {'N': known.buckets}

    def tables(self, model: seq2seq.Seq2Seq) -> tuple[rules.Table, ...]:
        hidden, tied = type(model.block.ffn), model.embedding.tied
        shared = rule(SHARED, 'V D -> V D', 'embedding.table')
        output = () if tied else (rule(OUTPUT, 'V D -> V D', 'embedding.output'),)
        ties = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight', *((OUTPUT,) if tied else ()))
        every = (shared, *_stack('encoder', 2, hidden), *_stack('decoder', 3, hidden), *output)
        copies = tuple(rules.Copy(key, of=SHARED) for key in ties)
        # Cross-attention has no positions; the released files hold a table for it all the same.
        unused = (r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight',)
        return (rules.Table(every, copies, buffers=unused),)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return reference.pair_of(inputs, INPUTS, vocab=model.vocab, values=values)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return family.seq2seq_outputs(model, params, batch)
