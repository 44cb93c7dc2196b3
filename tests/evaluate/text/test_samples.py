"""Samples: a model that has learned one text by heart writes it; text goes in and comes out."""

import functools

import jax
import numpy as np
import optax
import pytest

import drawing
from bigmodel_jax import config
from bigmodel_jax.data import batches, sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.data.text.chats import chat_templates, instructions
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.evaluate.text import decoding, generation, samples
from bigmodel_jax.layers import positions
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.parallel import sharding

TEXT = 'naïve café 日本'
PROMPTS = ('naïve', '', TEXT[:-1])
BYTES = tokenizers.ByteTokenizer()
MODEL = decoder.gpt(vocab=257, width=32, layers=1, heads=2, length=40)


@functools.cache
def learned():
    """Parameters that know TEXT by heart, from one end token to the next."""
    ids = np.array([[BYTES.end, *BYTES.encode(TEXT), BYTES.end]], np.int32)
    module, optimizer = MODEL.build(), optax.adam(1e-2)

    def loss(params):
        logits = module.apply({'params': params}, {'inputs': ids[:, :-1]})['logits']
        return language.cross_entropy(logits, ids[:, 1:])[0].mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    params = drawing.variables(module, {'inputs': ids[:, :-1]})['params']
    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=100)[0][0])(params)


class TextExamples(batches.ArrayExamples):
    """Examples with a tokenizer, as those of text have."""

    tokenizer = BYTES


DOCUMENTS = text.Text(source=sources.TextFile(path='text.txt'), tokenizer=tokenizers.Bytes(), batch=2, length=8)
SHORT = chat_templates.Plain(user='U:', assistant='A:', separator='|')
CHATS = instructions.Instructions(
    source=sources.JsonLines(pattern='chats.jsonl'), tokenizer=tokenizers.Bytes(), batch=2, length=8, template=SHORT
)


def setting(kind=TextExamples, model=MODEL, data=DOCUMENTS):
    arrays = {'inputs': np.zeros((4, 8), np.int32)}
    fields = {'inputs': batches.Field((8,), np.dtype(np.int32), ('length',), 257)}
    training = batches.Batches(kind(arrays, fields, fingerprint={}), rows=2, seed=0)
    return evaluation.EvaluationContext(
        model=model,
        module=model.build(),
        objective=language.LanguageModel(),
        data=data,
        open_training=lambda: training,
        tokenizer=training.examples.tokenizer,
        place=sharding.MeshShape(data=1).build(),
        seed=0,
    )


def config_of(*prompts, tokens=12):
    return samples.Samples(prompts=prompts, tokens=tokens, decoding=decoding.Greedy(), every_steps=10)


@pytest.mark.slow
def test_it_writes_what_it_has_learned():
    outcome = config_of(*PROMPTS, tokens=18).build(setting()).run(learned(), {})
    assert [(each.prompt, each.text) for each in outcome.artifacts] == [
        ('naïve', ' café 日本'),
        # 18 of 19 bytes: half a character is shown as such.
        ('', TEXT[:-1] + '\N{REPLACEMENT CHARACTER}'),
        (TEXT[:-1], '本'),
    ]


def test_a_model_of_conversations_is_asked_with_the_template_of_its_data():
    asked = SHORT.encode_prompt([{'role': 'user', 'content': 'naïve'}], BYTES)
    greedy = {'tokens': 8, 'how': decoding.Greedy()}
    (written,) = generation.generate(MODEL, learned(), BYTES, ['naïve'], encode=lambda _: asked, **greedy)
    (plain,) = generation.generate(MODEL, learned(), BYTES, ['naïve'], **greedy)
    assert written != plain
    for template, wanted in [(True, written), (False, plain)]:
        evaluated = config.vary(config_of('naïve', tokens=8), {'template': template})
        (shown,) = evaluated.build(setting(data=CHATS)).run(learned(), {}).artifacts
        assert shown.text == wanted


def test_write_needs_no_run():
    texts = generation.generate(MODEL, learned(), BYTES, PROMPTS[::-1], tokens=18, how=decoding.Greedy())
    assert [texts[0], texts[2]] == ['本', ' café 日本']


@pytest.mark.parametrize(
    ('evaluated', 'place', 'message'),
    [
        (config_of('x'), {'kind': batches.ArrayExamples}, 'the training data has no tokenizer'),
        (config_of('x' * 30), {}, '31 tokens and 12 new ones take 42 positions'),
        (config_of('x'), {'model': config.vary(MODEL, {'vocab': 100})}, 'but the model knows 0 to 99'),
        (config_of(), {}, '0 prompts'),
        (config.vary(config_of('x'), {'template': False}), {}, 'Text has no template'),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_it_runs(evaluated, place, message):
    with pytest.raises(config.InputError, match=message):
        evaluated.build(setting(**place))


def test_without_learned_positions_there_is_no_limit():
    config_of('x' * 500).build(setting(model=config.vary(MODEL, {'positions': positions.Sinusoidal()})))
