"""Twelve tokenizer.json files of the kinds that models have: ids and texts are those of the `tokenizers` library."""

import functools
import json
import random

import numpy as np
import pytest
import tokenizers as library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from bigmodel_jax.data.text.pretrained import pretrained_tokenizer

ALPHABETS = [
    'abcdefghijklmnopqrstuvwxyz ABCDE etaoin shrdlu', '0123456789.,;:!?()[]{}<>|/\\@#$%^&*-_=+~`\'"',
    ' \t  \n\r\xa0\u2003\u3000', 'äöüßÄÖÜéèêñçÅøæœłşğıİ', 'абвгдежзийклмнопрст',
    '\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb\u03bc',
    '\u05d0\u05d1\u05d2\u05d3\u05d4\u05d5\u05d6\u05d7\u05d8',
    '\u0627\u0628\u062a\u062b\u062c\u062d\u062e\u062f\u0630\u0631', 'हिन्दीकखग',
    '你好世界中文字符', 'ひらがなカタカナﾊﾝｶｸ',
    '한국어조선',
    '\U0001f642\U0001f680\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f3fd\U0001f1e9\U0001f1ea\u2764\ufe0f',
    'éäộ', '\u200b\u200d\u200e\u200f\u202e\ufeff\xad', '\x00\x01\x07\x08\x0b\x0c\x1b\x1f\x7f\x85',
    '\ufb01\ufb02\u2460\u2461\xbd\u2163\u338f\uff21\uff22\uff23\uff11\uff12\uff13',
    '\U0001d49c\U0001d505\u2102\U00010348\U00013000', '\ue000\U000f0000\ufffe\uffff',
]  # fmt: skip
WORDS = [
    'the', 'Hello', "don't", "I'LL", '1234567', '3.14', 'HTTP://x.y/z?q=1', 'def f(x):\n    return x', '<s>',
    '</s>', '[MASK]', '<|endoftext|>', '##ing', '▁', '<0x0A>', 'Ġ', 'naïve', 'İstanbul', 'ǅ', 'ﷺ', '  ',
    '\n\n\n', '\t\t',
]  # fmt: skip
LLAMA3 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'
)
QWEN = LLAMA3.replace('\\p{N}{1,3}', '\\p{N}')


def lines(count):
    """Odd text: every alphabet, whole words, runs of spaces, controls; never half a surrogate."""
    chosen = random.Random(0)

    def part():
        kind = chosen.random()
        if kind < 0.45:
            return ''.join(chosen.choices(chosen.choice(ALPHABETS), k=chosen.randint(1, 12)))
        if kind < 0.75:
            return chosen.choice(WORDS)
        if kind < 0.9:
            return chosen.choice([' ', '  ', '\n', '\t', ' \n ', '    ']) * chosen.randint(1, 3)
        code = chosen.randrange(0x110000)
        return chr(code) if not 0xD800 <= code < 0xE000 else '?'

    return ['', ' ', '\n', *(''.join(part() for _ in range(chosen.randint(1, 14))) for _ in range(count - 3))]


def byte_level_bpe(pattern=None, *, prefix=False, specials=('<|endoftext|>',), normalizer=None, **model):
    found = library.Tokenizer(models.BPE(**model))
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=pattern is None)]
    if pattern:
        parts.insert(0, pre_tokenizers.Split(library.Regex(pattern), 'isolated'))
    found.pre_tokenizer = pre_tokenizers.Sequence(parts)
    found.decoder = decoders.ByteLevel()
    if normalizer:
        found.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return found, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False), specials


def metaspace_bpe(*, scheme='first', fallback=True):
    """As Llama 2 (normalizer), or with a pre-tokenizer as in newer conversions."""
    found = library.Tokenizer(models.BPE(unk_token='<unk>', byte_fallback=fallback, fuse_unk=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    parts = [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
    found.decoder = decoders.Sequence([*parts, decoders.Strip(' ', 1, 0)] if scheme != 'never' else parts)
    names = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=names, show_progress=False)
    return found, trainer, ('<s>', '</s>')


def llama2():
    found, trainer, specials = metaspace_bpe()
    found.pre_tokenizer = None
    found.normalizer = normalizers.Sequence([normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')])
    return found, trainer, specials


def word_piece(*, lower):
    found = library.Tokenizer(models.WordPiece(unk_token='[UNK]'))
    found.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=None)
    found.pre_tokenizer, found.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    names = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    return found, trainers.WordPieceTrainer(vocab_size=500, special_tokens=names, show_progress=False), tuple(names)


def unigram(*, scheme='always', extra=()):
    found = library.Tokenizer(models.Unigram())
    found.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(library.Regex(' {2,}'), ' ')]
    )
    split = [pre_tokenizers.WhitespaceSplit()] if scheme == 'always' else []
    found.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    found.decoder = decoders.Metaspace(prepend_scheme=scheme)
    names = ['<pad>', '</s>', '<unk>']
    trainer = trainers.UnigramTrainer(vocab_size=3_000, special_tokens=names, unk_token='<unk>', show_progress=False)
    return found, trainer, (*names, *extra)


def characters():
    """Each character by itself, with digits apart, as models of code or of music have it."""
    found = library.Tokenizer(models.BPE(unk_token='<unk>'))
    found.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return found, trainers.BpeTrainer(vocab_size=300, special_tokens=['<unk>', '</s>'], show_progress=False), ('</s>',)


KINDS = {
    'gpt2': (byte_level_bpe, '<|endoftext|>', {'prefix': False}, ''),
    'roberta': (byte_level_bpe, '</s>', {'prefix': True, 'specials': ('<s>', '</s>', '<mask>')}, '<s> $A </s>'),
    'llama3': (
        byte_level_bpe, '</s>', {'pattern': LLAMA3, 'specials': ('<s>', '</s>'), 'ignore_merges': True}, '<s> $A',
    ),
    'qwen': (
        byte_level_bpe, '<|endoftext|>',
        {'pattern': QWEN, 'specials': ('<|endoftext|>', '<|im_start|>', '<|im_end|>'), 'normalizer': normalizers.NFC()},
        '',
    ),
    'llama2': (llama2, '</s>', {}, '<s> $A'),
    'mistral': (metaspace_bpe, '</s>', {'scheme': 'first'}, '<s> $A'),
    'gemma': (metaspace_bpe, '</s>', {'scheme': 'never'}, '<s> $A'),
    'bert_uncased': (word_piece, '[SEP]', {'lower': True}, '[CLS] $A [SEP]'),
    'bert_cased': (word_piece, '[SEP]', {'lower': False}, '[CLS] $A [SEP]'),
    't5': (unigram, '</s>', {'extra': tuple(f'<extra_id_{i}>' for i in range(4))}, '$A </s>'),
    'xlm_roberta': (unigram, '</s>', {'scheme': 'first', 'extra': ('<s>', '<mask>')}, '<s> $A </s>'),
    'characters': (characters, '</s>', {}, ''),
}  # fmt: skip


@functools.cache
def trained(name, folder):
    """The directory of a tokenizer of this kind."""
    make, end, settings, template = KINDS[name]
    model, trainer, specials = make(**settings)
    model.train_from_iterator(lines(200), trainer)
    model.add_special_tokens([library.AddedToken(each, special=True, normalized=False) for each in specials])
    model.add_tokens([library.AddedToken('ADDED word', special=False, lstrip=True)])
    if template:
        names = [each for each in template.split() if each != '$A']
        model.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(each, model.token_to_id(each)) for each in names]
        )
    folder.mkdir()
    model.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(
        json.dumps({'eos_token': end, 'tokenizer_class': 'PreTrainedTokenizerFast'})
    )
    return folder


def check(folder, texts):
    """Compares the ids, the texts, and what stands around a text; special tokens in it are text here."""
    theirs = library.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    ours = pretrained_tokenizer.Pretrained(path=str(folder)).build()
    rendered = [ours.encode_rendered(text)[0] for text in texts]
    for text, found, wanted in zip(texts, rendered, theirs.encode_batch(texts, add_special_tokens=False)):
        np.testing.assert_array_equal(found, wanted.ids, err_msg=repr(text))
        assert ours.decode(found) == theirs.decode(wanted.ids), repr(text)
    theirs.encode_special_tokens = True
    plain = theirs.encode_batch(texts, add_special_tokens=False)
    whole = theirs.encode_batch(texts, add_special_tokens=True)
    for text, found, wanted, around in zip(texts, ours.encode_many(texts), plain, whole):
        np.testing.assert_array_equal(found, wanted.ids, err_msg=repr(text))
        np.testing.assert_array_equal(ours.encode_with_special_tokens(text), around.ids, err_msg=repr(text))
        assert ours.decode(found) == theirs.decode(wanted.ids), repr(text)


@pytest.mark.parametrize('name', KINDS)
def test_ids_and_texts_are_those_of_the_library(name, tmp_path):
    check(trained(name, tmp_path / name), lines(40))


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_ten_thousand_odd_lines(name, tmp_path):
    texts = lines(10_000)
    check(trained(name, tmp_path / name), texts)
