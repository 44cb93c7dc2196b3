"""The tables of keys are read in both directions, and every kind of file that there is comes back as it was."""

import ml_dtypes
import numpy as np
import pytest
from interop import published

from bigmodel_jax import config
from bigmodel_jax.interop import huggingface, matching, rules
from bigmodel_jax.models import decoder

SIZES = {'layer': 2, 'D': 3, 'H': 2, 'K': 5}


def there_and_back(directory):
    """The tensors of a directory, out of the parameters that were made of them."""
    opened, found = published.matched(directory)
    tree = matching.nested(matching.parameters(found, opened))
    return found, dict(matching.file_tensors(tree, found.tensors))


@pytest.mark.parametrize('case', published.CASES)
def test_every_tensor_comes_back(case):
    found, again = there_and_back(published.ORACLES / case)
    tensors = published.tensors(published.ORACLES / case)
    assert published.same(again, {key: tensors[key] for key in tensors if key not in found.copies})
    # Every parameter of the model is in the files, once.
    abstract = huggingface.whole(found.model, found.family)
    assert found.shapes == abstract
    assert sorted(path for rule in found.table.rules for path in rule.paths) == sorted(abstract)


@pytest.mark.parametrize('case', published.CASES)
def test_config_comes_back(case):
    """A model of ours has a config.json, which gives the model again."""
    _, found = published.matched(published.ORACLES / case)
    values = found.family.config_of(found.model)
    assert config.difference(found.family.describe(values, 'config.json'), found.model) == []


def bare_gpt2(tensors):
    """As the released file: the base model, with the causal mask."""
    bare = {key.removeprefix('transformer.'): tensor for key, tensor in tensors.items()}
    return bare | {'h.0.attn.bias': np.tri(24, dtype=np.uint8)[None, None]}


def tied_gpt2(tensors):
    return tensors | {'lm_head.weight': tensors['transformer.wte.weight']}


def experts_apart(tensors):
    """As on the hub: a matrix for each expert."""
    found = {}
    for key, tensor in tensors.items():
        layer, _, rest = key.partition('.mlp.')
        if rest == 'gate.weight':
            found[f'{layer}.block_sparse_moe.gate.weight'] = tensor
        elif rest == 'experts.gate_up_proj':
            for expert, matrix in enumerate(tensor):
                w1, w3 = np.split(matrix, 2)
                found[f'{layer}.block_sparse_moe.experts.{expert}.w1.weight'] = w1
                found[f'{layer}.block_sparse_moe.experts.{expert}.w3.weight'] = w3
        elif rest == 'experts.down_proj':
            for expert, matrix in enumerate(tensor):
                found[f'{layer}.block_sparse_moe.experts.{expert}.w2.weight'] = matrix
        else:
            found[key] = tensor
    return found


def without_tables(tensors):
    return {key: tensor for key, tensor in tensors.items() if 'embed_positions' not in key}


def masked_bert(tensors):
    return {key: tensor for key, tensor in tensors.items() if 'pooler' not in key and 'seq_rel' not in key}


def base_bert(tensors):
    return {key.removeprefix('bert.'): tensor for key, tensor in tensors.items() if not key.startswith('cls.')}


def old_bert(tensors):
    def renamed(key):
        return key.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')

    decoded = {'cls.predictions.decoder.weight': tensors['bert.embeddings.word_embeddings.weight']}
    return {renamed(key): tensor for key, tensor in tensors.items()} | decoded


def old_t5(tensors):
    table = tensors['decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight']
    unused = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
    return tensors | {unused: table, 'encoder.embed_tokens.weight': tensors['shared.weight']}


def halved(tensors):
    return {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    ('case', 'changed', 'copies', 'dropped'),
    [
        ('gpt2', bare_gpt2, 0, 1),
        ('gpt2', tied_gpt2, 1, 0),
        ('gpt2', halved, 0, 0),
        ('mixtral', experts_apart, 0, 0),
        ('marian_vaswani', without_tables, 0, 0),
        ('bert_pretraining', masked_bert, 0, 0),
        ('bert_pretraining', base_bert, 0, 0),
        ('bert_pretraining', old_bert, 1, 0),
        ('t5_v1_0', old_t5, 1, 1),
    ],
)
def test_other_kinds_of_files(case, changed, copies, dropped, tmp_path):
    tensors = changed(published.tensors(published.ORACLES / case))
    directory = published.write(tmp_path / 'changed', tensors, published.values(case))
    found, again = there_and_back(directory)
    assert (len(found.copies), len(found.dropped)) == (copies, dropped)
    left = {key: tensor for key, tensor in tensors.items() if key not in (*found.copies, *found.dropped)}
    assert published.same(again, left)
    assert len(found.notes) == (1 if dropped else 0)  # What is left out is said.


def test_t5_of_transformers_5(tmp_path):
    """Its config says that every output matrix is tied, and apart from that whether the logits are scaled."""
    values = {case: published.values(case) | {'tie_word_embeddings': True} for case in ('t5_v1_0', 't5_v1_1')}
    values['t5_v1_0'] |= {'scale_decoder_outputs': True}
    values['t5_v1_1'] |= {'scale_decoder_outputs': False}
    for case, said in values.items():
        directory = published.write(tmp_path / case, published.tensors(published.ORACLES / case), said)
        _, found = published.matched(directory)
        assert found.model == published.matched(published.ORACLES / case)[1].model


def test_experts_apart_are_experts_together(tmp_path):
    tensors = published.tensors(published.ORACLES / 'mixtral')
    apart = published.write(tmp_path / 'apart', experts_apart(tensors), published.values('mixtral'))
    opened, found = published.matched(apart)
    whole = matching.parameters(*reversed(published.matched(published.ORACLES / 'mixtral')))
    assert published.same(matching.parameters(found, opened), whole)


@pytest.mark.parametrize(
    ('axes', 'paths', 'file', 'ours'),
    [
        ('D -> D', 1, (3,), (3,)),
        ('(H K) D -> D H K', 1, (10, 3), (3, 2, 5)),
        ('D (H K) -> H K D', 1, (3, 10), (2, 5, 3)),
        ('D (3 H K) -> D H K', 3, (3, 30), (3, 2, 5)),
        ('1 D -> D', 1, (1, 3), (3,)),
    ],
)
def test_layout(axes, paths, file, ours):
    layout = rules.rule('key', axes, *[f'path{i}' for i in range(paths)]).layout(SIZES)
    tensor = np.arange(np.prod(file)).reshape(file)
    parts = layout.read(tensor)
    assert (layout.file, [part.shape for part in parts]) == (file, [ours] * paths)
    np.testing.assert_array_equal(layout.write(parts), tensor)


def test_layout_of_fused_heads():
    """c_attn: [in, query | key | value], the heads one after another in each."""
    layout = rules.rule('key', 'D (3 H K) -> D H K', 'query', 'key', 'value').layout(SIZES)
    tensor = np.arange(90).reshape(3, 30)
    for i, part in enumerate(layout.read(tensor)):
        np.testing.assert_array_equal(part.reshape(3, 10), tensor[:, 10 * i : 10 * (i + 1)])


def test_a_model_without_a_family_says_why():
    model = decoder.gpt(vocab=29, width=16, layers=2, heads=4, length=8, **{'block.mixer.window': 4})
    family = next(each for each in huggingface.FAMILIES if each.model_types == ('gpt2',))
    with pytest.raises(config.InputError, match=r'block\.mixer\.window: None -> 4'):
        family.config_of(model)
