"""BERT (Devlin et al., 2018) as transformers stores it: with both heads of pretraining, one, or none."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from bigmodel_jax.interop import family, fields, reference, rules
from bigmodel_jax.layers import ffn, norms
from bigmodel_jax.models import bert

rule = rules.rule
LAYER, ATTENTION, FFN = 'encoder.layer.{layer}', 'blocks.layers.attention', 'blocks.layers.ffn'
INPUTS = {
    'input_ids': 'inputs',
    'token_type_ids': 'types',
    'attention_mask': 'segments',
    'position_ids': 'positions',
    'labels': 'labels',
    'next_sentence_label': 'follows',
}


def dense(key: str, path: str, *, inside: bool = True, rows: str = 'P') -> tuple[rules.Rule, rules.Rule]:
    """The two lines of a matrix [`rows`, D] with a bias."""
    return (
        rule(f'{key}.weight', f'{rows} D -> D {rows}', f'{path}.weight', inside=inside),
        rule(f'{key}.bias', f'{rows} -> {rows}', f'{path}.bias', inside=inside),
    )


def _norm(key: str, path: str, *, inside: bool = True) -> tuple[rules.Rule, rules.Rule]:
    return (
        rule(f'{key}.weight', 'D -> D', f'{path}.scale', inside=inside),
        rule(f'{key}.bias', 'D -> D', f'{path}.bias', inside=inside),
    )


ENCODER = (
    rule('embeddings.word_embeddings.weight', 'V D -> V D', 'embedding.tokens.table'),
    rule('embeddings.position_embeddings.weight', 'T D -> T D', 'embedding.positions.table'),
    rule('embeddings.token_type_embeddings.weight', 'Y D -> Y D', 'embedding.types'),
    *_norm('embeddings.LayerNorm', 'embedding.norm'),
    *(
        each
        for name in ('query', 'key', 'value')
        for each in (
            rule(f'{LAYER}.attention.self.{name}.weight', '(H K) D -> D H K', f'{ATTENTION}.{name}'),
            rule(f'{LAYER}.attention.self.{name}.bias', '(H K) -> H K', f'{ATTENTION}.{name}_bias'),
        )
    ),
    rule(f'{LAYER}.attention.output.dense.weight', 'D (H K) -> H K D', f'{ATTENTION}.out'),
    rule(f'{LAYER}.attention.output.dense.bias', 'D -> D', f'{ATTENTION}.out_bias'),
    *_norm(f'{LAYER}.attention.output.LayerNorm', 'blocks.layers.attention_norm'),
    rule(f'{LAYER}.intermediate.dense.weight', 'F D -> D F', f'{FFN}.up'),
    rule(f'{LAYER}.intermediate.dense.bias', 'F -> F', f'{FFN}.up_bias'),
    rule(f'{LAYER}.output.dense.weight', 'D F -> F D', f'{FFN}.down'),
    rule(f'{LAYER}.output.dense.bias', 'D -> D', f'{FFN}.down_bias'),
    *_norm(f'{LAYER}.output.LayerNorm', 'blocks.layers.ffn_norm'),
)
POOLER = dense('pooler.dense', 'pooler')
MASKED = (
    *dense('cls.predictions.transform.dense', 'masked', inside=False),
    *_norm('cls.predictions.transform.LayerNorm', 'masked.norm', inside=False),
    rule('cls.predictions.bias', 'V -> V', 'masked.output_bias', inside=False),
)
NEXT = (
    rule('cls.seq_relationship.weight', 'C D -> D C', 'next_sentence.weight', inside=False),
    rule('cls.seq_relationship.bias', 'C -> C', 'next_sentence.bias', inside=False),
)
TIED = (
    rules.Copy('cls.predictions.decoder.weight', of='embeddings.word_embeddings.weight', inside=False),
    rules.Copy('cls.predictions.decoder.bias', of='cls.predictions.bias', inside=False),
)
BUFFERS = (r'embeddings\.(position_ids|token_type_ids)',)
PRETRAINING = rules.TensorRules((*ENCODER, *POOLER, *MASKED, *NEXT), TIED, BUFFERS, prefix='bert.')
# What the classes of transformers have; a BertModel by itself has no prefix.
TABLES = (
    PRETRAINING,
    dataclasses.replace(PRETRAINING, rules=(*ENCODER, *MASKED)),
    dataclasses.replace(PRETRAINING, rules=(*ENCODER, *POOLER, *MASKED)),
    rules.TensorRules((*ENCODER, *POOLER), (), BUFFERS, prefix='bert.'),
    rules.TensorRules((*ENCODER, *POOLER), (), BUFFERS),
    rules.TensorRules(ENCODER, (), BUFFERS),
)
# The released files have the names of TensorFlow.
OLD = (('LayerNorm.weight', 'LayerNorm.gamma'), ('LayerNorm.bias', 'LayerNorm.beta'))


FIELDS: fields.Table = {
    **fields.COMMON,
    **fields.without(
        'hidden_dropout_prob', 'attention_probs_dropout_prob',
        # Of the multilingual release, which no implementation reads.
        'directionality', 'pooler_fc_size', 'pooler_num_attention_heads', 'pooler_num_fc_layers',
        'pooler_size_per_head', 'pooler_type',
    ),
    'vocab_size': fields.Used(30_522),
    'hidden_size': fields.Used(768),
    'num_hidden_layers': fields.Used(12),
    'num_attention_heads': fields.Used(12),
    'intermediate_size': fields.Used(3_072),
    'hidden_act': fields.Used('gelu'),
    'max_position_embeddings': fields.Used(512),
    'type_vocab_size': fields.Used(2),
    'layer_norm_eps': fields.Used(1e-12),
    'tie_word_embeddings': fields.Only(True),
    'position_embedding_type': fields.Only('absolute'),
    'is_causal': fields.Only(False),  # Each position sees all others, unless is_decoder is set.
}  # fmt: skip


class BertFamily(family.Family):
    """BertForPreTraining, BertForMaskedLM and BertModel."""

    model_types: tuple[str, ...] = ('bert',)
    architectures: tuple[str, ...] = ('BertForPreTraining', 'BertForMaskedLM', 'BertModel')
    config_fields: fields.Table = FIELDS
    kind: type = bert.Bert
    parts: tuple[str, ...] = ('pooler', 'masked', 'next_sentence')  # First names of parameters that files may lack.
    needed: ClassVar[Mapping[str, tuple[str, ...]]] = {
        'prediction_logits': ('masked',),
        'seq_relationship_logits': ('pooler', 'next_sentence'),
        'pooler_output': ('pooler',),
        'loss': ('masked',),
    }

    def model(self, fields: fields.Fields) -> bert.Bert:
        activation = fields.choice('hidden_act', reference.ACTIVATIONS)
        norm = norms.LayerNorm(epsilon=fields.number('layer_norm_eps'))
        return bert.bert(
            vocab=fields.whole('vocab_size'),
            width=fields.whole('hidden_size'),
            layers=fields.whole('num_hidden_layers'),
            heads=fields.whole('num_attention_heads'),
            **{
                'block.ffn.hidden': fields.whole('intermediate_size'),
                'block.ffn.activation': activation,
                'block.residual.norm': norm,
                'norm': norm,
                'activation': activation,
                'length': fields.whole('max_position_embeddings'),
                'types': fields.whole('type_vocab_size'),
            },
        )

    def config(self, model: bert.Bert) -> dict[str, Any]:
        mlp = reference.need(model.block.ffn, ffn.Mlp, 'model.block.ffn')
        return {
            'model_type': 'bert',
            'architectures': ['BertForPreTraining'],
            'vocab_size': model.vocab,
            'hidden_size': model.width,
            'num_hidden_layers': model.layers,
            'num_attention_heads': reference.attention_of(model).heads,
            'intermediate_size': mlp.hidden,
            'max_position_embeddings': model.length,
            'type_vocab_size': model.types,
            'hidden_act': reference.activation_name(mlp.activation),
            'layer_norm_eps': reference.need(model.norm, norms.LayerNorm, 'model.norm').epsilon,
        }

    def sizes(self, model: bert.Bert) -> dict[str, int]:
        sizes = {'T': model.length, 'Y': model.types, 'P': model.width, 'C': 2}
        return family.decoder_sizes(model) | sizes

    def tables(self, model: bert.Bert) -> tuple[rules.TensorRules, ...]:
        return (*TABLES, *(dataclasses.replace(each, spellings=OLD) for each in TABLES))

    def absent(self, table: rules.TensorRules) -> tuple[str, ...]:
        there = {path.split('.')[0] for each in table.rules for path in each.paths}
        return tuple(name for name in self.parts if name not in there)

    def renamed(self, table: rules.TensorRules) -> Mapping[str, str]:
        return {'prediction_logits': 'logits'} if 'next_sentence' in self.absent(table) else {}

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return reference.batch_of(inputs, INPUTS, vocab=model.vocab)

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        def forward(module: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
            return *module.features(batch), module(batch)

        (x_BTD, pooled_BD, scores), streams, _ = reference.run(model.build(), params, batch, forward)
        found = {
            'prediction_logits': scores['mlm_logits'],
            'seq_relationship_logits': scores['nsp_logits'],
            'last_hidden_state': x_BTD,
            'pooler_output': pooled_BD,
            **reference.hidden_states('hidden_states', streams['blocks'], x_BTD),
        }
        if 'labels' in batch:
            found['loss'] = reference.mean_nll(found['prediction_logits'], batch['labels'])
        if 'labels' in batch and 'follows' in batch:
            scores_B1V, follows_B1 = scores['nsp_logits'][:, None], batch['follows'][:, None]
            found['loss'] = found['loss'] + reference.mean_nll(scores_B1V, follows_B1)
        return found
