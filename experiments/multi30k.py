"""A small Transformer on Multi30k, German to English and back: translation for real, in an hour on two CPU cores.

Question: does the code of experiments/vaswani2017.py learn to translate?
Source:   Vaswani et al. (2017), arXiv:1706.03762, on Elliott et al. (2016), arXiv:1605.00459: 29,000
          descriptions of images.
Target:   sacrebleu of 25 or more on test_2016_flickr, German to English, by a model of about 5 million parameters.
Data:     github.com/multi30k/dataset, folder data/task1/raw: train, val and test_2016_flickr in .de.gz and .en.gz.
Run:      python -m bigmodel_jax train experiments/multi30k.py --arg path=DATA --workdir runs/multi30k
          ... experiments/multi30k.py:to_german ... for the other direction.
Check:    python -m bigmodel_jax train experiments/multi30k.py:smoke --workdir /tmp/multi30k_smoke
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import pairs, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import decoding, translation
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers import blocks, norms, stacks
from bigmodel_jax.models import seq2seq
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

VOCAB, WIDTH, LAYERS = 6_000, 256, 3
DROPOUT = 0.15
STEPS = 2_600  # Twelve passes.


def lines(path: str, split: str, language: str) -> records.Source:
    return sources.Lines(path=f'{path}/{split}.{language}.gz')


def model(*, vocab: int, width: int, layers: int) -> seq2seq.Seq2Seq:
    """The Transformer with the norms before the sublayers, which needs no long warm-up."""
    original = seq2seq.transformer(
        vocab=vocab, width=width, layers=layers, heads=width // 64, hidden=2 * width, dropout=DROPOUT
    )
    before = {
        'block.residual': blocks.PreNorm(norm=norms.LayerNorm(), dropout=DROPOUT),
        'norm': norms.LayerNorm(),
        'stack': stacks.Stack(scan=False),
    }
    return vary(original, before)


def translated(path: str, *, source: str, target: str) -> Experiment:
    """From the language `source` to `target`; files as in DATA/train.de.gz."""
    both = sources.Joined(parts=(lines(path, 'train', 'de'), lines(path, 'train', 'en')))
    vocabulary = tokenizers.Bpe(vocab=VOCAB, trained_on=both)

    def rows(split: str) -> pairs.Pairs:
        sides = lines(path, split, source), lines(path, split, target)
        return pairs.Pairs(source=sides[0], target=sides[1], tokenizer=vocabulary, batch=24, length=96)

    def score(split: str, name: str, *, every: int) -> translation.Translation:
        return translation.Translation(
            source=lines(path, split, source),
            target=lines(path, split, target),
            decoding=decoding.Beam(beams=4, length_penalty=0.6),
            every_steps=every,
            name=name,
        )

    return Experiment(
        name=f'multi30k_{source}_{target}',
        steps=STEPS,
        data=rows('train'),
        model=model(vocab=VOCAB, width=WIDTH, layers=LAYERS),
        objective=language.LanguageModel(label_smoothing=0.1),
        optimizer=optimizers.Muon(
            schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=100), weight_decay=0.1, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=500),
        watch=Watch(log_every=50),
        evaluations=(
            loss.Loss(data=rows('val'), every_steps=500),
            score('test_2016_flickr', 'test_2016', every=STEPS),
        ),
    )


def experiment(path: str = 'data/multi30k') -> Experiment:
    return translated(path, source='de', target='en')


def to_german(path: str = 'data/multi30k') -> Experiment:
    return translated(path, source='en', target='de')


def smoke() -> Experiment:
    """Seconds: the numbers from 0 to 99 in words, 'siebenundvierzig' to 'forty-seven'; every fifth is held out."""
    sides = [german(number) for number in range(100)], [english(number) for number in range(100)]

    def part(side: int, *, held_out: bool) -> records.Source:
        return sources.Texts(texts=tuple(word for i, word in enumerate(sides[side]) if (i % 5 == 0) == held_out))

    vocabulary = tokenizers.Bpe(vocab=300, trained_on=sources.Texts(texts=(*sides[0], *sides[1])))

    def rows(*, held_out: bool) -> pairs.Pairs:
        texts = part(0, held_out=held_out), part(1, held_out=held_out)
        return pairs.Pairs(source=texts[0], target=texts[1], tokenizer=vocabulary, batch=4, length=64)

    changes = {
        'name': 'multi30k_smoke',
        'steps': 20,
        'data': rows(held_out=False),
        'model': model(vocab=300, width=64, layers=1),
        'optimizer.schedule.warmup_steps': 5,
        'watch.log_every': 5,
        'evaluations.0.data': rows(held_out=True),
        'evaluations.1.source': part(0, held_out=True),
        'evaluations.1.target': part(1, held_out=True),
        'evaluations.1.every_steps': 20,
        'evaluations.1.longer_by': 8,
    }
    return vary(experiment(), changes)


GERMAN = ('null', 'eins', 'zwei', 'drei', 'vier', 'fünf', 'sechs', 'sieben', 'acht', 'neun', 'zehn', 'elf', 'zwölf')
GERMAN_TENS = ('zwanzig', 'dreißig', 'vierzig', 'fünfzig', 'sechzig', 'siebzig', 'achtzig', 'neunzig')
ENGLISH = (
    *('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve'),
    *('thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen', 'nineteen'),
)
ENGLISH_TENS = ('twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty', 'ninety')


def german(number: int) -> str:
    """0 to 99 in words."""
    if number <= 12:
        return GERMAN[number]
    tens, ones = divmod(number, 10)
    if tens == 1:
        return {6: 'sech', 7: 'sieb'}.get(ones, GERMAN[ones]) + 'zehn'
    one = 'ein' if ones == 1 else GERMAN[ones]
    return (f'{one}und' if ones else '') + GERMAN_TENS[tens - 2]


def english(number: int) -> str:
    """0 to 99 in words."""
    if number < 20:
        return ENGLISH[number]
    tens, ones = divmod(number, 10)
    return ENGLISH_TENS[tens - 2] + (f'-{ENGLISH[ones]}' if ones else '')


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
