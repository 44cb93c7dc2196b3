"""Which tokens carry loss, token by token, with the chat templates of four families."""

import json

import pytest
from data import pretrained

import tiny
from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import chat_templates, instructions, loss_mask, preferences
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)
LLAMA3 = (
    '{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n'
    '{{ message.content | trim }}<|eot_id|>{% endfor %}'
    '{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}'
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message.role == 'assistant' else 'user' %}"
    '<start_of_turn>{{ role }}\n{{ message.content | trim }}<end_of_turn>\n{% endfor %}'
    '{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}'
)
MISTRAL = (
    '{{ bos_token }}{% for message in messages %}{% if message.role == "user" %}[INST] {{ message.content }} [/INST]'
    '{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}'
)
# Of each template: what is not trained on, and what is; a '|' stands where they meet.
MARKED = {
    'chatml': (CHATML, '<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n|bé<|im_end|>|\n'
               '<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n|d<|im_end|>|\n'),
    'llama3': (LLAMA3, '<s><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant'
               '<|end_header_id|>\n\n|bé<|eot_id|>|<|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>'
               '<|start_header_id|>assistant<|end_header_id|>\n\n|d<|eot_id|>|'),
    'gemma': (GEMMA, '<s><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\n|bé<end_of_turn>|\n'
              '<start_of_turn>user\nc<end_of_turn>\n<start_of_turn>model\n|d<end_of_turn>|\n'),
    'mistral': (MISTRAL, '<s>[INST] a [/INST]| bé</s>|[INST] c [/INST]| d</s>|'),
}  # fmt: skip
SPECIALS = (
    '<s>', '</s>', '<|im_start|>', '<|im_end|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>',
    '<start_of_turn>', '<end_of_turn>',
)  # fmt: skip
CHAT = [
    {'role': role, 'content': text}
    for role, text in (('user', 'a'), ('assistant', 'bé'), ('user', 'c'), ('assistant', 'd'))
]


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tokenizer') / 'chat'
    settings = {'bos_token': '<s>', 'eos_token': '</s>'}
    return pretrained_tokenizer.Pretrained(path=pretrained.byte_level(folder, SPECIALS, settings))


def lines(tmp_path, record, **fields):
    (tmp_path / 'data.jsonl').write_text(json.dumps(record))
    kind = preferences.Preferences if 'chosen' in record else instructions.Instructions
    data = kind(source=sources.JsonLines(pattern=str(tmp_path / 'data.jsonl')), batch=1, length=160, **fields)
    return loss_mask.shown(data.open(0), 1)


@pytest.mark.parametrize('name', MARKED)
def test_the_answers_and_what_ends_them_carry_loss(tmp_path, tokenizer, name):
    template, marked = MARKED[name]
    chat = chat_templates.Jinja(template=template)
    (found,) = lines(tmp_path, {'messages': CHAT}, tokenizer=tokenizer, template=chat)
    printed = [line.split(maxsplit=1) for line in str(found).split('\n')[1:]]
    carrying = [first == loss_mask.LOSS for first, _ in printed]
    built = tokenizer.build()
    wanted = []
    for number, part in enumerate(marked.split('|') if name == 'mistral' else _cut(marked)):
        ids = built.encode_rendered(part)[0] if part else []
        wanted += [(int(i), number % 2 == 1) for i in ids]
    assert list(zip(found.ids, carrying)) == wanted


def _cut(marked):
    """At a '|' that is not of a special token."""
    for name in SPECIALS:
        marked = marked.replace(name, name.replace('|', '\0'))
    return [part.replace('\0', '|') for part in marked.split('|')]


def test_what_is_printed(tmp_path, tokenizer):
    chat = chat_templates.Jinja(template=CHATML)
    (found,) = lines(tmp_path, {'messages': CHAT[:2]}, tokenizer=tokenizer, template=chat)
    title, *rows = str(found).split('\n')
    start, end = (tokenizer.build().id_of(name) for name in ('<|im_start|>', '<|im_end|>'))
    assert title == 'row 1 of 1, document 1: 24 tokens, of which 4 carry loss'
    assert rows[0] == f'       {start:>8}  {"<|im_start|>"!r}'
    assert rows[-2] == f'  loss {end:>8}  {"<|im_end|>"!r}'
    assert rows[-1].endswith(r"'\n'")
    assert 'loss' not in rows[-1]


def test_both_answers_of_a_preference(tmp_path):
    record = {'prompt': 'q', 'chosen': 'yes', 'rejected': 'n'}
    plain = chat_templates.Plain(user='U', assistant='A', separator='')
    chosen, rejected = lines(tmp_path, record, tokenizer=tokenizers.Bytes(), template=plain)
    assert (chosen.title, rejected.title) == ('row 1 of 1, chosen answer', 'row 1 of 1, rejected answer')
    assert chosen.tokens == ['<end>', *'UqAyes', '<end>']
    assert rejected.weights == [0, 0, 0, 0, 1, 1]


def test_data_that_is_no_text_is_refused():
    with pytest.raises(config.InputError, match=r'Tokens can be shown of text .*; the data has inputs, targets'):
        loss_mask.shown(tiny.Counting(batch=8).open(0), 1)
