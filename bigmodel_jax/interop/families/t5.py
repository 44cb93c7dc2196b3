"""T5 v1.0 (Raffel et al., 2019) and v1.1 as transformers stores them: matrices [out, in], positions in layer 0."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.interop.files import folder
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


FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without('dropout_rate', 'n_positions'),  # Distances go on growing beyond n_positions.
    'vocab_size': fields.Used(32_128),
    'd_model': fields.Used(512),
    'd_kv': fields.Used(64),
    'd_ff': fields.Used(2_048),
    'num_layers': fields.Used(6),
    'num_decoder_layers': fields.Used(None),  # As num_layers.
    'num_heads': fields.Used(8),
    'relative_attention_num_buckets': fields.Used(32),
    'relative_attention_max_distance': fields.Used(128),
    'layer_norm_epsilon': fields.Used(1e-6),
    'feed_forward_proj': fields.Used('relu'),
    'dense_act_fn': fields.Used(None),  # These two follow from feed_forward_proj.
    'is_gated_act': fields.Used(None),
    'tie_word_embeddings': fields.Used(True),
    'scale_decoder_outputs': fields.Used(None),
    'pad_token_id': fields.Used(0),
    'decoder_start_token_id': fields.Used(None),
    'is_encoder_decoder': fields.Only(True),
}


class T5(family.Family):
    """T5ForConditionalGeneration."""

    model_types = ('t5',)
    architectures = ('T5ForConditionalGeneration',)
    old_architectures = ('T5WithLMHeadModel',)
    config_fields = FIELDS
    aliases: ClassVar = {
        'hidden_size': 'd_model',
        'num_attention_heads': 'num_heads',
        'num_hidden_layers': 'num_layers',
        'head_dim': 'd_kv',
    }
    kind = seq2seq.Seq2Seq
    is_paired = True

    def model(self, fields: fields.Fields) -> seq2seq.Seq2Seq:
        tokens(fields)  # Which stand in no model, and are wrong here rather than with the first labels.
        hidden, activation = feed_forward(fields)
        heads, layers = fields.whole('num_heads'), fields.whole('num_layers')
        tied = fields.flag('tie_word_embeddings')
        # Transformers 5 says so apart, and that all are tied; see settled().
        scaled = fields.flag('scale_decoder_outputs') if fields.has('scale_decoder_outputs') else tied
        norm = norms.RmsNorm(epsilon=fields.number('layer_norm_epsilon'))
        return seq2seq.Seq2Seq(
            vocab=fields.whole('vocab_size'),
            width=fields.whole('d_model'),
            encoder_layers=layers,
            decoder_layers=fields.optional('num_decoder_layers') or layers,
            block=blocks.Block(
                mixer=attention.Attention(
                    heads=heads, head_width=fields.whole('d_kv'), scores=attention.DotProduct(scale=1.0)
                ),
                ffn=hidden(hidden=fields.whole('d_ff'), activation=activation),
                residual=blocks.PreNorm(norm=norm),
            ),
            positions=relative(fields, heads),
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
            'd_kv': reference.attention_of(model).width_of_head(model.width),
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

    def tables(self, model: seq2seq.Seq2Seq) -> tuple[rules.TensorRules, ...]:
        hidden, tied = type(model.block.ffn), model.embedding.tied
        shared = rule(SHARED, 'V D -> V D', 'embedding.table')
        output = () if tied else (rule(OUTPUT, 'V D -> V D', 'embedding.output'),)
        ties = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight', *((OUTPUT,) if tied else ()))
        every = (shared, *_stack('encoder', 2, hidden), *_stack('decoder', 3, hidden), *output)
        copies = tuple(rules.Copy(key, of=SHARED) for key in ties)
        # Cross-attention has no positions; the released files hold a table for it all the same.
        unused = (r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight',)
        return (rules.TensorRules(every, copies, buffers=unused),)

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return reference.pair_of(inputs, INPUTS, vocab=model.vocab, tokens=tokens(self.read(values, 'config.json')))

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        return family.seq2seq_outputs(model, params, batch)


def tokens(fields: fields.Fields) -> tuple[int, int]:
    """The token that the decoder's inputs begin with, and that of padding."""
    start, padding = fields.token('decoder_start_token_id'), fields.token('pad_token_id')
    padding = padding or 0
    return padding if start is None else start, padding


def feed_forward(fields: fields.Fields) -> tuple[type, activations.Activation]:
    """The class of the feed-forward layer, and its activation."""
    name = fields.value('feed_forward_proj')
    found = fields.choice('feed_forward_proj', FEED_FORWARD)
    # What follows from it stands in some files too, and the reference takes it from there.
    gated, _, activation = ('', '', name) if '-' not in name else name.partition('-')
    activation = 'gelu_new' if name == 'gated-gelu' else activation
    for follows, value in (('dense_act_fn', activation), ('is_gated_act', bool(gated))):
        if fields.has(follows):
            fields.agree({f'what feed_forward_proj={name!r} means, {follows}': value, follows: fields.value(follows)})
    return found


def relative(fields: fields.Fields, heads: int) -> positions.Relative:
    """The relative positions.

    Raises:
      InputError: there are too few buckets, or too near a distance, for their formula.
    """
    buckets, distance = (fields.whole(f'relative_attention_{name}') for name in ('num_buckets', 'max_distance'))
    if buckets < 4 or distance <= buckets // 2:
        raise config.InputError(
            f'config.json: relative_attention_num_buckets={buckets} and relative_attention_max_distance={distance}; '
            'there should be at least 4 buckets, and the distance should be more than half of them.'
        )
    return positions.Relative(heads=heads, buckets=buckets, max_distance=distance)
