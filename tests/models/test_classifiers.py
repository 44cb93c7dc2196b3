"""A decoder that classifies: the parameters of its language model, and the class of the last token of each text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import batches, sources
from bigmodel_jax.data.text import labelled, text, tokenizers
from bigmodel_jax.evaluate.text import classified
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.interop import huggingface
from bigmodel_jax.models import classifiers, decoder
from bigmodel_jax.objectives import classification, language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import directory
from bigmodel_jax.train import initial_state, loop

SMALL = decoder.llama(vocab=23, width=8, layers=1, heads=2, kv_heads=1, hidden=12, rope_base=100.0)
MODEL = classifiers.DecoderClassifier(decoder=SMALL, classes=3)
TEXT = [4, 9, 2, 7, 11]


def shapes(model):
    batch = {'inputs': jnp.zeros((1, 4), jnp.int32)}
    found = jax.eval_shape(model.build().init, jax.random.key(0), batch)['params']
    return {
        jax.tree_util.keystr(path, simple=True, separator='.'): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    }


def test_its_parameters_are_those_of_the_decoder_without_an_output_matrix():
    before, after = shapes(SMALL), shapes(MODEL)
    output = {name for name in before if 'embedding.output' in name}
    assert output
    new = {name for name in after if name.startswith('score.')}
    assert {name: after[name] for name in after if name not in new} == {
        name: before[name] for name in before if name not in output
    }
    assert [after[name] for name in new] == [(8, 3)]


def test_the_class_is_read_at_the_last_token_wherever_the_padding_is():
    module = MODEL.build()
    row = {'inputs': jnp.asarray([TEXT])}
    params, apply = module.init(jax.random.key(0), row), jax.jit(module.apply)
    alone = apply(params, row)['logits'][0]
    padded = {
        'inputs': jnp.asarray([[*TEXT, 8, 3], [8, 3, *TEXT], [*TEXT[:4], 12, 8, 3]]),
        'segments': jnp.asarray([[1] * 5 + [0] * 2, [0] * 2 + [1] * 5, [1] * 5 + [0] * 2]),
        'positions': jnp.asarray([[0, 1, 2, 3, 4, 0, 0], [0, 0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 0, 0]]),
    }
    right, left, other = apply(params, padded)['logits']
    # Sums over seven keys, of which two count nothing.
    np.testing.assert_allclose(right, alone, atol=1e-6)
    np.testing.assert_allclose(left, alone, atol=1e-6)
    assert np.abs(other - alone).max() > 1e-3


def test_one_class_is_a_number():
    model = config.vary(MODEL, {'classes': 1})
    batch = {'inputs': jnp.zeros((2, 4), jnp.int32)}
    outputs, _ = jax.eval_shape(model.build().init_with_output, jax.random.key(0), batch)
    assert outputs['values'].shape == (2,)


def test_labels_of_more_classes_are_refused():
    fields = {
        'inputs': batches.Field((4,), np.dtype(np.int32), ('length',), 23),
        'labels': batches.Field((), np.dtype(np.int32), (), 4),
    }
    with pytest.raises(config.InputError, match=r'model\.classes=3, but the data has 4 classes'):
        MODEL.check(fields)


@pytest.mark.parametrize(
    ('inputs', 'padding', 'message'),
    [
        ({'input_ids': [TEXT, TEXT]}, None, 'have 2 rows, and config.json names no pad_token_id'),
        ({'input_ids': [TEXT], 'attention_mask': [[1, 1, 1, 1, 0]]}, 0, r'row 0 does not end .* is token 4'),
        ({'input_ids': [TEXT], 'labels': [3]}, 0, 'labels holds 3 to 3; there are 3 classes'),
    ],
)
def test_rows_whose_last_token_is_not_that_of_the_reference_are_refused(inputs, padding, message):
    known = next(each for each in huggingface.FAMILIES if each.architectures == ('LlamaForSequenceClassification',))
    values = known.config_of(MODEL) | {'pad_token_id': padding}
    with pytest.raises(config.InputError, match=message):
        known.batch({name: np.asarray(value) for name, value in inputs.items()}, MODEL, values)


@pytest.mark.slow
def test_from_a_language_model_to_classes(tmp_path):
    """A run begins with the parameters of a language model, and learns sentences that one word decides."""
    words = {1: ('good', 'fine', 'great', 'lovely'), 0: ('bad', 'dull', 'poor', 'awful')}
    pairs = [(label, one, other) for label in words for one in words[label] for other in words[label]]
    rows = [(f'a {one} film and a {other} plot', label) for label, one, other in pairs]
    table = tmp_path / 'table.tsv'
    table.write_text(''.join(f'{sentence}\t{label}\n' for sentence, label in rows))
    source = sources.Texts(texts=tuple(sentence for sentence, _ in rows))
    vocabulary = tokenizers.WordPiece(vocab=300, trained_on=source)
    body = config.vary(SMALL, {'vocab': 300, 'width': 16})
    base = Experiment(
        name='before', steps=2, data=text.Text(source=source, tokenizer=vocabulary, batch=8, length=12), model=body,
        objective=language.LanguageModel(), optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-2)),
        mesh=sharding.MeshShape(data=1), checkpoints=Checkpoints(every_steps=60), watch=Watch(log_every=60),
    )  # fmt: skip
    loop.train(base, tmp_path / 'before')
    labels = labelled.Labelled(
        source=sources.Tsv(path=str(table)), sentences=(0,), label=1, tokenizer=vocabulary, batch=16, length=14
    )
    changes = {
        'name': 'after', 'steps': 60, 'data': labels, 'objective': classification.Classification(),
        'model': classifiers.DecoderClassifier(decoder=body, classes=2),
        'initialization': initial_state.FromRun(run=str(tmp_path / 'before')),
        'evaluations': (classified.Classified(data=labels, scores=(classified.Accuracy(),), every_steps=60),),
    }  # fmt: skip
    result = loop.train(config.vary(base, changes), tmp_path / 'after')
    assert directory.open_run(tmp_path / 'after').environment[0]['start']['by_chance'] == ['score.weight']
    assert result.metrics['dev/accuracy'] > 0.9
