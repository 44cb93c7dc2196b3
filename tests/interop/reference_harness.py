"""What lm-eval makes of a model of tests/oracles, for tests/oracles/harness.json.

Needs lm-eval with accelerate, transformers and tokenizers, which the tests do not:

  python tests/interop/reference_harness.py > tests/oracles/harness.json

'ids' has every text that is tokenized, without the tokens that a tokenizer adds itself. Of 'begins' the tokenizer adds
<s> to every text, as that of Llama does; of 'bare' it adds nothing, but there is a <s>; of 'ends' there is none.
"""

import importlib
import importlib.metadata
import json
import pathlib
from typing import Any

ORACLE = pathlib.Path(__file__).parents[1] / 'oracles' / 'llama2_mha'
TEXT = 'the cat sat on the mat and the dog ate the hat. a man ran to the van; ten hens met. '
BEGIN, END = 1, 2
PAIRS = [
    ('the cat', ' sat on'),
    ('the cat ', 'sat on'),
    ('', ' the cat'),
    ('', '<s> the cat'),
    ('the ca', 't sat on the mat'),
    ('<s>the cat', ' sat on'),
    ('a man ran', ' to the van'),
    (TEXT * 4, ' the dog'),
]
TEXTS = ['the cat sat', TEXT * 6, ' ten hens met', 'a']
GREEDY: dict[str, Any] = {'do_sample': False, 'until': []}
WISHES = [
    ('the cat', {**GREEDY, 'max_gen_toks': 8}),
    ('the cat', {**GREEDY, 'max_gen_toks': 8, 'temperature': 0.0, 'num_beams': 1}),
    ('the cat', {**GREEDY, 'max_new_tokens': 5, 'repetition_penalty': 1.0}),
    ('the cat', {**GREEDY, 'max_gen_toks': 5, 'max_new_tokens': 3}),
    ('the cat', {'until': 'a', 'max_gen_toks': 8}),
    ('the cat', {'until': ['q', 'c'], 'max_gen_toks': 8}),
    ('the cat', {'until': [], 'max_gen_toks': 5, 'temperature': 0.7, 'do_sample': False, 'top_p': 0.9}),
    (TEXT * 4, {**GREEDY, 'max_gen_toks': 8}),
    ('<s>the cat', {**GREEDY, 'max_gen_toks': 8}),
]


def measured() -> dict[str, Any]:
    """What the installed lm-eval says."""
    transformers = importlib.import_module('transformers')
    adapter = importlib.import_module('lm_eval.models.huggingface').HFLM
    model = transformers.AutoModelForCausalLM.from_pretrained(ORACLE)
    plain = _tokenizer(transformers, adds=False)
    texts = {text for pair in PAIRS for text in _parts(*pair)} | {*TEXTS, '', 'a'} | {text for text, _ in WISHES}
    found: dict[str, Any] = {
        'lm_eval': importlib.metadata.version('lm-eval'),
        'transformers': transformers.__version__,
        'ids': {text: plain.encode(text) for text in sorted(texts)},
        'tokens': [plain.decode([i]) for i in range(len(plain))],
    }
    for name, tokenizer in (
        ('begins', _tokenizer(transformers, adds=True)),
        ('bare', plain),
        ('ends', _tokenizer(transformers, adds=False, has_begin=False)),
    ):
        lm = adapter(pretrained=model, tokenizer=tokenizer, batch_size=1, device='cpu')
        found[name] = {
            'log_likelihoods': [list(each) for each in lm.loglikelihood(_requests(PAIRS))],
            'generate': lm.generate_until(_requests([(text, dict(wish)) for text, wish in WISHES])),
        }
        if name != 'begins':  # Of which the harness counts <s> as a token of the text, after <s>.
            found[name]['rolling'] = lm.loglikelihood_rolling(_requests([(text,) for text in TEXTS]))
    return found


def _parts(context: str, continuation: str) -> tuple[str, ...]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation, context + continuation


def _requests(arguments: list[Any]) -> list[Any]:
    instance = importlib.import_module('lm_eval.api.instance').Instance
    return [instance(request_type='loglikelihood', doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def _tokenizer(transformers: Any, *, adds: bool, has_begin: bool = True) -> Any:
    tokenizers = importlib.import_module('tokenizers')
    special = ['<pad>', '<s>', '</s>', '<unk>']
    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token='<unk>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement='_', prepend_scheme='never')
    made.decoder = tokenizers.decoders.Metaspace(replacement='_', prepend_scheme='never')
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=97, special_tokens=special, show_progress=False)
    made.train_from_iterator([TEXT * 20], trainer)
    if adds:
        made.post_processor = tokenizers.processors.TemplateProcessing(single='<s> $A', special_tokens=[('<s>', BEGIN)])
    names = {'eos_token': '</s>', 'pad_token': '<pad>', 'unk_token': '<unk>'}
    names |= {'bos_token': '<s>'} if has_begin else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)


if __name__ == '__main__':
    print(json.dumps(measured(), indent=1))
