"""Small tokenizers in the files of the libraries that would have made them."""

import io
import json
import pathlib

import sentencepiece
import tokenizers as library

PAGE = ['The quick brown fox jumps over the lazy dog.\n    Größe, 世界! 🙂', 'Hello there, how are you?'] * 30


def byte_level(folder: pathlib.Path, specials: tuple[str, ...], settings: dict, *, bos: str | None = None) -> str:
    """A directory with a byte-level BPE as GPT-2 and Llama 3 have it; with `bos`, its file puts that in front."""
    model = library.Tokenizer(library.models.BPE())
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(PAGE, trainer)
    model.add_special_tokens(list(specials))
    if bos:
        numbered = [(bos, model.token_to_id(bos))]
        model.post_processor = library.processors.TemplateProcessing(single=f'{bos} $A', special_tokens=numbered)
    folder.mkdir(exist_ok=True)
    model.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    return str(folder)


def gpt2(folder: pathlib.Path) -> str:
    return byte_level(folder, ('<|endoftext|>',), {'bos_token': '<|endoftext|>', 'eos_token': '<|endoftext|>'})


def chat(folder: pathlib.Path, template: str | None = None) -> str:
    """With a BOS of its own, and the marks of a conversation."""
    settings = {'bos_token': '<s>', 'eos_token': {'content': '<|end|>'}, 'chat_template': template}
    return byte_level(folder, ('<s>', '<|end|>', '<|user|>', '<|assistant|>'), settings, bos='<s>')


def sentence_piece(folder: pathlib.Path, settings: dict | None = None) -> str:
    """A directory with a tokenizer.model as Llama 2 has it."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PAGE), model_writer=content, model_type='bpe', vocab_size=340, byte_fallback=True,
        hard_vocab_limit=False, normalization_rule_name='identity', remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / 'tokenizer.model').write_bytes(content.getvalue())
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings or {'tokenizer_class': 'LlamaTokenizer'}))
    return str(folder)
