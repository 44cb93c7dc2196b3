"""Chinese to English and back, from a TFDS data set, from two files, or from sentences made here.

Question: does a language without spaces between its words go through the same code, from characters to attention?
Source:   the Transformer of Vaswani et al. (2017), arXiv:1706.03762; pieces by Kudo and Richardson (2018),
          arXiv:1808.06226, which needs no words; Chinese is scored by sacrebleu with tokenize='zh'.
Target:   none published of this model on these data; smoke() is to translate a sentence that it has not seen.
Data:     wmt19_translate/zh-en, or any TFDS with fields of these names; or lines of two files, FOLDER/train.zh and
          FOLDER/train.en, and so for valid and test; .gz too if --arg ending=.gz.
Run:      python -m bigmodel_jax train experiments/chinese_english.py --workdir runs/zh_en
          ... experiments/chinese_english.py:to_chinese ... for the other direction
          ... experiments/chinese_english.py:local --arg folder=FOLDER ... for files
Check:    python -m bigmodel_jax train experiments/chinese_english.py:smoke --workdir /tmp/zh_en_smoke
"""

import itertools
from collections.abc import Callable

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import pairs, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import decoding, maps, translation
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import activations, attention, blocks, embeddings, ffn, norms, positions, stacks
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import seq2seq
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

VOCAB, WIDTH, STEPS = 32_000, 512, 100_000
FOLLOWED = '我爱北京天安门'

# (split, language) -> sentences; the splits are train, validation and test.
Parts = Callable[[str, str], records.Source]


def model(*, vocab: int, width: int, layers: int, heads: int, dropout: float) -> seq2seq.Seq2Seq:
    """The Transformer with the norms before the sublayers, which needs no long warm-up."""
    init = weights.Xavier()
    return seq2seq.Seq2Seq(
        vocab=vocab,
        width=width,
        encoder_layers=layers,
        decoder_layers=layers,
        block=blocks.Block(
            mixer=attention.Attention(heads=heads, init=init),
            ffn=ffn.Mlp(hidden=4 * width, activation=activations.Relu(), bias=True, init=init),
            residual=blocks.PreNorm(norm=norms.LayerNorm(), dropout=dropout),
        ),
        positions=positions.Sinusoidal(),
        embedding=embeddings.Embedding(scaled=True, dropout=dropout, init=weights.Normal(stddev=width**-0.5)),
    )


def translated(parts: Parts, *, source: str, target: str, followed: str) -> Experiment:
    """From the language `source` to `target`, both 'zh' or 'en'; the sentence `followed` is shown on its way."""
    both = sources.Joined(parts=(parts('train', 'zh'), parts('train', 'en')))
    vocabulary = tokenizers.SentencePiece(vocab=VOCAB, trained_on=both)

    def rows(split: str) -> pairs.Pairs:
        sides = parts(split, source), parts(split, target)
        return pairs.Pairs(source=sides[0], target=sides[1], tokenizer=vocabulary, batch=96, length=256)

    return Experiment(
        name=f'{source}_{target}',
        steps=STEPS,
        data=rows('train'),
        model=model(vocab=VOCAB, width=WIDTH, layers=6, heads=8, dropout=0.1),
        objective=language.LanguageModel(label_smoothing=0.1),
        optimizer=optimizers.AdamW(
            schedule=schedules.InverseSqrt(peak=7e-4, warmup_steps=4_000), b2=0.98, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=-1),
        checkpoints=Checkpoints(every_steps=1_000, keep_last=5),
        evaluations=(
            loss.Loss(data=rows('validation'), every_steps=1_000),
            translation.Translation(
                source=parts('test', source),
                target=parts('test', target),
                decoding=decoding.Beam(beams=4, length_penalty=0.6),
                every_steps=10_000,
                tokenize='zh' if target == 'zh' else '13a',
            ),
            maps.AttentionMaps(sentences=(followed,), decoding=decoding.Greedy(), every_steps=10_000),
        ),
    )


def tfds(name: str) -> Parts:
    """The fields 'zh' and 'en' of a TFDS; its last 5,000 pairs of training are held out where WMT19 has no test."""
    splits = {'train': 'train[:-5000]', 'validation': 'validation', 'test': 'train[-5000:]'}
    return lambda split, language_of: sources.TextField(
        source=sources.Tfds(name=name, split=splits[split]), field=language_of
    )


def files(folder: str, ending: str) -> Parts:
    names = {'train': 'train', 'validation': 'valid', 'test': 'test'}
    return lambda split, language_of: sources.Lines(path=f'{folder}/{names[split]}.{language_of}{ending}')


def experiment(name: str = 'wmt19_translate/zh-en') -> Experiment:
    return translated(tfds(name), source='zh', target='en', followed=FOLLOWED)


def to_chinese(name: str = 'wmt19_translate/zh-en') -> Experiment:
    return translated(tfds(name), source='en', target='zh', followed='I love Tiananmen in Beijing.')


def local(folder: str, ending: str = '') -> Experiment:
    return translated(files(folder, ending), source='zh', target='en', followed=FOLLOWED)


# ---- sentences made here -----------------------------------------------------------------------------------------

WHO = {'我': 'I', '你': 'you', '我们': 'we', '他们': 'they'}
DO = {'爱': 'love', '看': 'see', '喜欢': 'like', '记得': 'remember'}
WHERE = {'北京': 'Beijing', '上海': 'Shanghai', '西安': "Xi'an", '南京': 'Nanjing'}
WHAT = {'天安门': 'Tiananmen', '长城': 'the Great Wall', '外滩': 'the Bund', '博物馆': 'the museum', '公园': 'the park'}


def sentences() -> list[tuple[str, str]]:
    """320 pairs, such as 我爱北京天安门 and 'I love Tiananmen in Beijing': English has the place last."""
    chosen = itertools.product(WHO, DO, WHERE, WHAT)
    return [
        (who + do + where + what, f'{WHO[who]} {DO[do]} {WHAT[what]} in {WHERE[where]}')
        for who, do, where, what in chosen
    ]


def made(split: str, language_of: str) -> records.Source:
    """Every 19th pair, FOLLOWED being the first, is held out for validation and test."""
    kept = [pair for i, pair in enumerate(sentences()) if (i % 19 == 0) == (split != 'train')]
    return sources.Texts(texts=tuple(pair[language_of == 'en'] for pair in kept))


def smoke() -> Experiment:
    """Seconds on a laptop: learns from 303 pairs, translates the 17 others, and follows one of them."""
    smaller = {
        'name': 'zh_en_smoke',
        'steps': 160,
        'model': model(vocab=400, width=64, layers=1, heads=2, dropout=0.0),
        'model.stack': stacks.Stack(scan=False),
        'optimizer.schedule': schedules.WarmupCosine(peak=3e-3, warmup_steps=20, final=1e-4),
        'watch.log_every': 20,
        'evaluations.0.every_steps': 160,
        'evaluations.1.every_steps': 160,
        'evaluations.1.longer_by': 16,
        'evaluations.1.decoding': decoding.Greedy(),  # Compiles in half the time.
        'evaluations.2.every_steps': 160,
        'evaluations.2.longer_by': 16,
    }
    # From the words by themselves: of so few sentences, whole phrases would become pieces.
    words = [word for each in (WHO, DO, WHERE, WHAT) for pair in each.items() for word in pair]
    vocabulary = tokenizers.SentencePiece(vocab=400, kind='bpe', trained_on=sources.Texts(texts=tuple(words)))
    for data in ('data', 'evaluations.0.data'):
        smaller |= {f'{data}.batch': 8, f'{data}.length': 64, f'{data}.tokenizer': vocabulary}
    return vary(translated(made, source='zh', target='en', followed=FOLLOWED), smaller)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
