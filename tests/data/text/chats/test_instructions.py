import json
import shutil

import jax
import numpy as np
import pytest
from data import pretrained

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import chat_templates, instructions
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer
from bigmodel_jax.models import decoder

TEMPLATE = (
    '{{ bos_token }}{% for message in messages %}'
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>\n"
    '{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}'
)
CHATS = [
    {'messages': [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'bcd'}]},
    {
        'messages': [
            {'role': 'user', 'content': 'ef'}, {'role': 'assistant', 'content': 'g'},
            {'role': 'user', 'content': 'h'}, {'role': 'assistant', 'content': 'ij'},
        ]
    },
]  # fmt: skip
PLAIN = chat_templates.Plain(user='U:', assistant='A:', separator='|')


@pytest.fixture(scope='module')
def chat_folder(tmp_path_factory):
    return pretrained.chat(tmp_path_factory.mktemp('tokenizer') / 'chat', TEMPLATE)


def written(tmp_path, chats):
    path = tmp_path / 'chats.jsonl'
    path.write_text(''.join(json.dumps(chat) + '\n' for chat in chats))
    return sources.JsonLines(pattern=str(path))


def data(source, **fields):
    fields = {'tokenizer': tokenizers.Bytes(), 'batch': 1, 'length': 40, 'template': PLAIN} | fields
    return instructions.Instructions(source=source, **fields)


def shown(batch, row=0):
    """The targets of a row as text, '#' being `end`, and below each of them whether it counts."""
    real = batch['segments'][row] > 0
    text = ''.join('#' if i == 256 else chr(i) for i in batch['targets'][row][real])
    return text, ''.join('^' if weight else ' ' for weight in batch['loss_weights'][row][real])


# ---- the mask -----------------------------------------------------------------------------------------------------


def test_the_loss_counts_the_answers_token_by_token(tmp_path):
    batch = data(written(tmp_path, CHATS)).build(0).eval_batch(0)
    text, mask = shown(batch)
    assert text == 'U:a|A:bcd#U:ef|A:g#U:h|A:ij#'
    assert mask == '      ^^^^       ^^      ^^^'
    assert batch['bytes'][0] == len('gijbcd')
    # The input is the token before the target; a conversation begins with the tokenizer's `begin`.
    segments, positions = batch['segments'][0][:28], batch['positions'][0][:28]
    assert segments.tolist() == [1] * 10 + [2] * 18
    assert positions.tolist() == [*range(10), *range(18)]
    inputs, targets = batch['inputs'][0][:28], batch['targets'][0][:28]
    first = positions == 0
    assert (inputs[first] == 256).all()
    np.testing.assert_array_equal(inputs[1:][~first[1:]], targets[:-1][~first[1:]])
    assert not batch['loss_weights'][0][28:].any()


def test_a_chat_template_is_the_tokenizers_own(tmp_path, chat_folder):
    tokenizer = pretrained_tokenizer.Pretrained(path=chat_folder)
    batch = data(written(tmp_path, CHATS), tokenizer=tokenizer, template=chat_templates.Jinja()).build(0).eval_batch(0)
    built = tokenizer.build()
    names = {i: name for name in ('<s>', '<|end|>', '<|user|>', '<|assistant|>') for i in [built.id_of(name)]}
    real = batch['segments'][0] > 0
    targets = [names.get(i) or built.decode([i]) for i in batch['targets'][0][real].tolist()]
    counted = [token for token, weight in zip(targets, batch['loss_weights'][0][real]) if weight]
    # Of each answer its words and what ends it; not the newline after it, nor the mark that asks for it.
    assert ''.join(counted) == 'bcd<|end|>g<|end|>ij<|end|>'
    assert ''.join(targets).startswith('<|user|>a<|end|>\n<|assistant|>bcd<|end|>\n<|user|>ef')
    first = batch['positions'][0][real] == 0
    assert (batch['inputs'][0][real][first] == built.begin).all()


def test_a_prompt_is_what_stands_before_the_answer(tmp_path, chat_folder):
    for template, vocabulary in [
        (PLAIN, tokenizers.Bytes()), (chat_templates.Jinja(), pretrained_tokenizer.Pretrained(path=chat_folder))
    ]:  # fmt: skip
        tokenizer = vocabulary.build()
        (whole,) = template.encode([CHATS[0]['messages']], tokenizer, str)
        prompt = template.encode_prompt(CHATS[0]['messages'][:1], tokenizer)
        np.testing.assert_array_equal(whole.ids[~whole.answers][: len(prompt)], prompt)
        assert whole.answers.argmax() == len(prompt)


@pytest.mark.parametrize(
    'record',
    [
        {'instruction': 'Add', 'input': '1 2', 'output': '3'},
        {'prompt': 'Add\n\n1 2', 'completion': '3'},
        {'messages': [{'role': 'user', 'content': 'Add\n\n1 2'}, {'role': 'assistant', 'content': '3'}]},
    ],
)
def test_three_forms_of_a_record(tmp_path, record):
    text, mask = shown(data(written(tmp_path, [record])).build(0).eval_batch(0))
    assert (text, mask) == ('U:Add\n\n1 2|A:3#', ' ' * 13 + '^^')


def test_special_tokens_in_a_message_are_text(tmp_path):
    record = {'prompt': '</s>', 'completion': '<|end|>'}
    assert shown(data(written(tmp_path, [record])).build(0).eval_batch(0))[0] == 'U:</s>|A:<|end|>#'


# ---- packing ------------------------------------------------------------------------------------------------------


def test_no_conversation_sees_another(tmp_path):
    def logits(chats):
        batch = data(written(tmp_path, chats)).build(0).eval_batch(0)
        return batch, np.asarray(apply(params, batch)['logits'][0])

    module = decoder.gpt(vocab=320, width=8, layers=1, heads=1, length=40).build()
    params = jax.jit(module.init)(jax.random.key(0), data(written(tmp_path, CHATS)).build(0).eval_batch(0))
    apply = jax.jit(module.apply)
    second = {'messages': [{'role': 'user', 'content': 'z'}, {'role': 'assistant', 'content': 'yxw'}]}
    (one, first), (two, changed) = logits(CHATS), logits([second, CHATS[1]])
    differ = one['segments'][0] == 1
    assert (one['inputs'] != two['inputs'])[0][differ].any()
    np.testing.assert_array_equal(first[~differ], changed[~differ])
    assert (first[differ] != changed[differ]).any()


def test_every_conversation_is_in_one_row(tmp_path):
    chats = [{'prompt': f'{i}', 'completion': 'x' * (i % 23 + 1)} for i in range(60)]
    built = data(written(tmp_path, chats), batch=4).build(0)
    seen = []
    for index in range(built.steps_per_pass):
        batch = built.eval_batch(index)
        for row in np.flatnonzero(batch['example_weights']):
            seen += shown(batch, row)[0].removesuffix('#').split('#')
    assert sorted(seen) == sorted(f'U:{chat["prompt"]}|A:{chat["completion"]}' for chat in chats)


def test_long_conversations_are_refused_or_cut(tmp_path, capsys):
    chats = [*CHATS, {'prompt': 'p' * 50, 'completion': 'lost'}, {'prompt': 'p' * 25, 'completion': 'q' * 30}]
    source = written(tmp_path, chats)
    with pytest.raises(config.InputError, match=r'2 of 4 conversations are longer than length=40.*line 4\) has 61'):
        data(source).build(0)
    built = data(source, cut=True, batch=2).build(0)
    said = capsys.readouterr().err.replace('\n', ' ')
    assert '2 of 4 conversations are longer than 40 tokens and are cut at their ends; 1 of them have no answer' in said
    batch = built.eval_batch(0)
    assert ['U:' + 'p' * 25 + '|A:' + 'q' * 10, ' ' * 30 + '^' * 10] in [list(shown(batch, row)) for row in range(2)]
    with pytest.raises(config.InputError, match='No conversation has an answer within 3 tokens'):
        data(source, cut=True, length=3).build(0)


def test_the_fingerprint_knows_the_template(tmp_path, chat_folder):
    source, vocabulary = written(tmp_path, CHATS), pretrained_tokenizer.Pretrained(path=chat_folder)
    changed = shutil.copytree(chat_folder, tmp_path / 'changed')
    (changed / 'chat_template.jinja').write_text(TEMPLATE.replace('\n', ' '))
    prints = [
        data(source, tokenizer=each, template=chat_templates.Jinja()).build(0).examples.fingerprint
        for each in (vocabulary, vocabulary, pretrained_tokenizer.Pretrained(path=str(changed)))
    ]
    assert prints[0] == prints[1] != prints[2]
    assert prints[0]['tokenizer'] == prints[2]['tokenizer']


# ---- wrong data and crafted templates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        ({'text': 'a'}, r'line 1 is not a conversation.*It has: text\.'),
        ({'messages': 'a'}, r'line 1: "messages" is a str, not a list'),
        ({'messages': [3]}, r'line 1: message 1 is a int, not an object'),
        ({'messages': [{'role': 'user', 'text': 'a'}]}, r"line 1, message 1 has no field 'content'"),
        ({'messages': [{'role': 'user', 'content': None}]}, r"message 1: 'content' is a NoneType, not text"),
        ({'messages': [{'role': 'user', 'content': 'a'}]}, r'line 1 has no message of the role "assistant"'),
        (
            {'messages': [{'role': 'usr', 'content': 'a'}, {'role': 'assistant', 'content': 'a'}]},
            r"line 1: Plain\(\) has no heading for the role 'usr'\. Did you mean 'user'",
        ),
    ],
)
def test_a_record_that_is_no_conversation_is_named(tmp_path, record, message):
    with pytest.raises(config.InputError, match=message):
        data(written(tmp_path, [record])).build(0)


@pytest.mark.parametrize(
    ('template', 'message'),
    [
        ('{% if %}', 'cannot be read: TemplateSyntaxError'),
        ('{{ raise_exception("roles must alternate") }}', r'line 1: .* fails: TemplateError: roles must alternate'),
        ('{{ messages[9].role }}{{ 1 / 0 }}', 'fails'),
        ('{{ messages.__class__.__mro__[1].__subclasses__() }}', 'fails: SecurityError'),
        ('{{ messages.append(1) }}', 'fails: SecurityError'),
        ("{% include '/etc/passwd' %}", 'fails: TypeError: no loader'),
        ('{{ messages | length }}', 'before it differently when others follow'),
        ("{{ 'a' * 4000000000 }}", r'could not be rendered in \d+ s of computing and 2 GiB'),
    ],
)
def test_a_crafted_template_is_refused(tmp_path, chat_folder, template, message):
    vocabulary, given = pretrained_tokenizer.Pretrained(path=chat_folder), chat_templates.Jinja(template=template)
    with pytest.raises(config.InputError, match=message):
        data(written(tmp_path, CHATS[1:]), tokenizer=vocabulary, template=given).build(0)


def test_a_template_that_never_ends_is_stopped(tmp_path, chat_folder, monkeypatch):
    monkeypatch.setattr(chat_templates, 'CPU_S', 1)
    loops = '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}'
    vocabulary, given = pretrained_tokenizer.Pretrained(path=chat_folder), chat_templates.Jinja(template=loops)
    with pytest.raises(config.InputError, match='could not be rendered in 1 s of computing'):
        data(written(tmp_path, CHATS), tokenizer=vocabulary, template=given).build(0)


def test_a_tokenizer_without_a_chat_template_says_what_to_do(tmp_path):
    with pytest.raises(config.InputError, match=r'this one has none\. Give one, .*, or use Plain\(\)'):
        data(written(tmp_path, CHATS), template=chat_templates.Jinja()).build(0)


def test_a_prompt_is_the_message_of_a_user_that_is_to_be_answered():
    config_of_chats = data(sources.Texts(texts=('',)))
    tokenizer = tokenizers.Bytes().build()
    found = config_of_chats.encode_prompt('ab', tokenizer)
    np.testing.assert_array_equal(found, tokenizer.encode_prompt('U:ab|A:'))
