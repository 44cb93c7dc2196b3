import json
import pathlib
import shutil

import numpy as np
import pytest
import tokenizers as library
from data import pretrained

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer
from bigmodel_jax.models import decoder

Pretrained = pretrained_tokenizer.Pretrained
TEXTS = ['The lazy dog jumps', '', ' Größe 🙂  a\n b', '<s> in a text <|end|>']


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A directory of each kind."""
    root = tmp_path_factory.mktemp('tokenizers')
    return {
        'gpt2': pretrained.gpt2(root / 'gpt2'),
        'chat': pretrained.chat(root / 'chat', 'template'),
        'sentence_piece': pretrained.sentence_piece(root / 'sentence_piece'),
    }


@pytest.fixture
def copied(folders, tmp_path):
    """Makes a copy of one of the directories, to change it."""
    return lambda name: pathlib.Path(shutil.copytree(folders[name], tmp_path / f'copy_of_{name}'))


@pytest.mark.parametrize('name', ['gpt2', 'chat'])
@pytest.mark.parametrize('words', TEXTS[:3])
def test_ids_are_those_of_the_library(folders, name, words):
    expected = library.Tokenizer.from_file(f'{folders[name]}/tokenizer.json').encode(words).ids
    tokenizer = Pretrained(path=folders[name]).build()
    assert tokenizer.encode_with_special_tokens(words).tolist() == expected
    assert tokenizer.encode_prompt(words).tolist() == (expected or [tokenizer.begin])


@pytest.mark.parametrize('name', ['gpt2', 'chat', 'sentence_piece'])
@pytest.mark.parametrize('words', TEXTS)
def test_a_text_comes_back_and_holds_no_special_token(folders, name, words):
    tokenizer = Pretrained(path=folders[name]).build()
    ids = tokenizer.encode(words)
    assert tokenizer.decode(ids) == words
    assert not {tokenizer.begin, tokenizer.end} & set(ids.tolist())
    space_in_front = name == 'sentence_piece' and words != ''
    assert tokenizer.token_bytes[ids].sum() == len(words.encode()) + space_in_front


@pytest.mark.parametrize(('name', 'begin', 'end'), [('gpt2', 290, 290), ('chat', 290, 291), ('sentence_piece', 1, 2)])
def test_special_tokens_are_those_of_the_files(folders, name, begin, end):
    tokenizer = Pretrained(path=folders[name]).build()
    assert (tokenizer.begin, tokenizer.end) == (begin, end)


def test_what_is_given_goes_before_the_files(folders):
    tokenizer = Pretrained(path=folders['chat'], bos='<|user|>', eos='<|assistant|>', add_eos=True).build()
    assert tokenizer.encode_with_special_tokens('').tolist() == [292, 293]
    assert Pretrained(path=folders['chat'], add_bos=False).build().encode_prompt('a').tolist() != [290]
    assert Pretrained(path=folders['gpt2'], add_bos=True).build().encode_prompt('a')[0] == 290


@pytest.mark.parametrize(
    'files',
    [
        {'special_tokens_map.json': {'eos_token': {'content': '<|end|>'}}},
        {'generation_config.json': {'eos_token_id': [291, 290]}, 'config.json': {'eos_token_id': 290}},
        {'config.json': {'eos_token_id': 291}},
    ],
    ids=lambda files: next(iter(files)),
)
def test_the_end_is_found_in_the_file_that_has_it(copied, files):
    folder = copied('chat')
    (folder / 'tokenizer_config.json').unlink()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    assert Pretrained(path=str(folder)).build().end == 291


@pytest.mark.parametrize('name', ['gpt2', 'chat', 'sentence_piece'])
def test_a_run_needs_only_its_own_copy(copied, name, tmp_path):
    folder = copied(name)
    original = Pretrained(path=str(folder), add_eos=True).build()
    original.save(tmp_path / 'run')
    shutil.rmtree(folder)
    loaded = tokenizers.load(tmp_path / 'run')
    assert loaded.fingerprint == original.fingerprint
    assert (loaded.begin, loaded.end, loaded.size) == (original.begin, original.end, original.size)
    for words in TEXTS:
        expected = original.encode_with_special_tokens(words)
        np.testing.assert_array_equal(loaded.encode_with_special_tokens(words), expected)
    assert loaded.chat_template == original.chat_template


@pytest.mark.parametrize('name', ['chat', 'sentence_piece'])
def test_a_damaged_copy_is_refused(folders, name, tmp_path):
    tokenizer = Pretrained(path=folders[name]).build()
    for damaged in tokenizer.files():
        tokenizer.save(tmp_path)
        (tmp_path / damaged).write_bytes(tokenizer.files()[damaged][:-9])
        with pytest.raises(config.InputError, match=r'tokenizer'):
            tokenizers.load(tmp_path)


def test_fingerprint_says_what_changes_ids(folders, copied):
    one = Pretrained(path=folders['chat']).build().fingerprint
    folder = copied('chat')
    assert Pretrained(path=str(folder)).build().fingerprint == one
    assert Pretrained(path=str(folder), eos='<|user|>').build().fingerprint != one
    content = json.loads((folder / 'tokenizer.json').read_text())
    ids = content['model']['vocab']
    ids['a'], ids['b'] = ids['b'], ids['a']
    (folder / 'tokenizer.json').write_text(json.dumps(content))
    assert Pretrained(path=str(folder)).build().fingerprint != one


@pytest.mark.parametrize('packing', [text.Windows(), text.Documents()], ids=['windows', 'documents'])
def test_a_document_begins_with_bos_and_ends_with_eos(folders, packing):
    source = sources.Texts(texts=('The dog', 'The fox'))
    data = text.Text(source=source, tokenizer=Pretrained(path=folders['chat']), batch=2, length=7, packing=packing)
    batch, tokenizer = data.build(0).eval_batch(0), Pretrained(path=folders['chat']).build()
    parts = [tokenizer.encode(words).tolist() for words in source.texts]
    real = batch['loss_weights'] > 0
    inputs, targets = batch['inputs'][real].tolist(), batch['targets'][real].tolist()
    bos, eos = tokenizer.begin, tokenizer.end
    orders = [parts, parts[::-1]]
    assert inputs in [[bos, *a, bos, *b] for a, b in orders]
    assert targets in [[*a, eos, *b, eos] for a, b in orders]


def test_a_model_with_too_small_a_vocabulary_is_refused(folders):
    data = text.Text(
        source=sources.Texts(texts=('The dog jumps',)),
        tokenizer=Pretrained(path=folders['chat']),
        batch=1,
        length=4,
    )
    model = decoder.gpt(vocab=256, width=8, layers=1, heads=1, length=4)
    with pytest.raises(config.InputError, match=r'model\.vocab=256 is too small: the tokenizer has 294 tokens'):
        model.check(data.build(0).fields)


# ---- wrong files --------------------------------------------------------------------------------------------------


def test_a_missing_tokenizer_says_what_there_is(folders, tmp_path):
    with pytest.raises(config.InputError, match=r"There is no tokenizer at .*Did you mean 'tokenizer\.json'"):
        Pretrained(path=f'{folders["gpt2"]}/tokeniser.json').build()
    (tmp_path / 'vocab.json').write_text('{}')
    with pytest.raises(config.InputError, match=r'holds no tokenizer.*It holds: vocab\.json.*save_pretrained'):
        Pretrained(path=str(tmp_path)).build()


def test_no_end_is_guessed(copied):
    folder = copied('chat')
    (folder / 'tokenizer_config.json').unlink()
    with pytest.raises(config.InputError, match=r"which token ends a text.*eos=.*'<s>', '<\|end\|>'"):
        Pretrained(path=str(folder)).build()
    with pytest.raises(config.InputError, match=r"has no token '</s>', which is said to be its eos token"):
        Pretrained(path=str(folder), eos='</s>').build()
    with pytest.raises(config.InputError, match="'a' is said to end a text, but the same letters in a text"):
        Pretrained(path=str(folder), eos='a').build()


def test_pieces_that_are_numbered_anew_are_refused(copied):
    folder = copied('sentence_piece')
    (folder / 'tokenizer_config.json').write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    with pytest.raises(config.InputError, match='XLMRobertaTokenizer numbers the pieces'):
        Pretrained(path=str(folder)).build()


CRAFTED = {
    'no JSON': b'\xff',
    'deep': b'[' * 100_000,
    'an id of gigabytes': b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}',
    'a regular expression that never ends': json.dumps(
        {
            'version': '1.0',
            'pre_tokenizer': {
                'type': 'Split', 'pattern': {'Regex': '(a+)+$'}, 'behavior': 'Isolated', 'invert': False
            },
            'model': {'type': 'BPE', 'vocab': {'a': 0, '!': 1}, 'merges': []},
        }
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize('content', CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_file_is_refused(tmp_path, content):
    (tmp_path / 'tokenizer.json').write_bytes(content)
    (tmp_path / 'config.json').write_text('{"eos_token_id": 1}')
    with pytest.raises(config.InputError, match=r'tokenizer\.json'):
        Pretrained(path=str(tmp_path)).build().encode('a' * 60 + '?')


@pytest.mark.parametrize('content', ['[', '[]', '{"eos_token": 3}', '{"add_bos_token": "yes"}', '[' * 100_000])
def test_a_crafted_configuration_is_refused(copied, content):
    folder = copied('chat')
    (folder / 'tokenizer_config.json').write_text(content)
    with pytest.raises(config.InputError, match=r'tokenizer_config\.json'):
        Pretrained(path=str(folder)).build()


def test_a_crafted_model_file_is_refused(copied):
    folder = copied('sentence_piece')
    (folder / 'tokenizer.model').write_bytes(b'not a model')
    with pytest.raises(config.InputError, match='is not a SentencePiece model'):
        Pretrained(path=str(folder)).build()
