"""BERT as published: pretraining of base and large in two phases, fine-tuning on GLUE and SQuAD, tables 5, 6 and 8.

Question: is this the paper's model and recipe, number by number? Experiments/bert_small.py trains one for real.
Source:   Devlin et al. (2018), arXiv:1810.04805. Where the paper is silent the released code decides: epsilon of Adam,
          linear warm-up over 10% of the fine-tuning, at most 20 (77) tokens told in a row of 128 (512).
Target:   MNLI-m 84.4, QNLI 88.4, MRPC 86.7, SST-2 92.7 and SQuAD F1 88.5 on the development sets (table 5, base).
Data:     English Wikipedia; BooksCorpus, a quarter of theirs, can no longer be had. GLUE and SQuAD by TFDS.
Run:      python -m bigmodel_jax train experiments/bert2018.py --workdir gs://BUCKET/bert/first
          ... experiments/bert2018.py:second --arg first=gs://BUCKET/bert/first --workdir gs://BUCKET/bert/second
          ... experiments/bert2018.py:glue/mnli --arg pretrained=gs://BUCKET/bert/second --workdir gs://BUCKET/bert/mnli
          ... experiments/bert2018.py:squad --arg pretrained=gs://BUCKET/bert/second --workdir gs://BUCKET/bert/squad
Check:    python -m bigmodel_jax train experiments/bert2018.py:smoke --workdir /tmp/bert_smoke
"""

from typing import NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import labelled, masking, questions, sentence_pairs, text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import answers, classified
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import bert
from bigmodel_jax.objectives import answer_spans, classification, masked, regression
from bigmodel_jax.optim import gradients, optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import initial_state

STEPS, WARMUP_STEPS, PEAK = 1_000_000, 10_000, 1e-4
FIRST_STEPS = 900_000  # Of 128 tokens; section A.2.
LEFT = (STEPS - FIRST_STEPS) / (STEPS - WARMUP_STEPS)  # Of the peak, after the first phase.
WIKIPEDIA = 'wikipedia/20220620.en'
VOCAB = tokenizers.WordPiece(vocab=30_522, trained_on=sources.Tfds(name=WIKIPEDIA, split='train[:5%]'))


# ---- pretraining ------------------------------------------------------------------------------------------------


def pairs(split: str, *, length: int, most: int) -> sentence_pairs.SentencePairs:
    return sentence_pairs.SentencePairs(
        source=sources.Tfds(name=WIKIPEDIA, split=split),
        tokenizer=VOCAB,
        batch=256,
        length=length,
        masking=masking.Masking(max_predictions=most),
    )


def adam(schedule: schedules.Scheduler) -> optimizers.AdamW:
    return optimizers.AdamW(schedule=schedule, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0)


RECIPE: tuple[claims.Claim, ...] = (
    claims.Setting(where='A.2', path='data.batch', value=256),
    claims.Setting(where='A.2', path='optimizer.b1', value=0.9),
    claims.Setting(where='A.2', path='optimizer.b2', value=0.999),
    claims.Setting(where='A.2', path='optimizer.weight_decay', value=0.01),
    claims.Setting(where='A.2', path='model.dropout', value=0.1),
    claims.Setting(where='A.2', path='model.block.residual.dropout', value=0.1),
    claims.Setting(where='A.2', path='model.block.mixer.dropout', value=0.1),
    claims.Setting(where='3.1', path='data.masking.rate', value=0.15),
)
MASKING: tuple[claims.Claim, ...] = (
    claims.Setting(where='3.1', path='data.masking.mask', value=0.8),
    claims.Setting(where='3.1', path='data.masking.random', value=0.1),
    claims.Setting(where='3.1', path='data.masking.same', value=0.1),
)
PHASE: tuple[claims.Claim, ...] = (
    claims.Setting(where='A.2: 90% of the steps', path='steps', value=FIRST_STEPS),
    claims.Setting(where='A.2', path='data.length', value=128),
    claims.LearningRate(where='A.2', step=WARMUP_STEPS, value=PEAK),
)
MISPRINT = claims.Product(
    where='A.2',
    of='sequences x tokens = tokens of a batch',
    factors=(256, 512),
    value=128_000,
    instead='131,072 in the second phase',
)


def sizes(*, layers: int, width: int, heads: int, where: str = 'section 3') -> tuple[claims.Claim, ...]:
    return (
        claims.Setting(where=where, path='model.layers', value=layers),
        claims.Setting(where=where, path='model.width', value=width),
        claims.Setting(where=where, path='model.block.mixer.heads', value=heads),
    )


def counts(whole: int, encoder: int, printed: str) -> tuple[claims.Claim, ...]:
    """With the released vocabulary of 30,522 the counts are exact; the paper rounds them."""
    heads = ('masked.*', 'next_sentence.*')
    return (
        claims.Parameters(where='section 3', value=whole, printed=printed),
        claims.Parameters(where='section 3', value=encoder, printed=printed, without=heads),
    )


def experiment() -> Experiment:
    """BERT base, first phase: 900,000 steps of 128 tokens; the learning rate falls as if it went to 1,000,000."""
    of_base = (*counts(110_106_428, 109_482_240, '110M'), *sizes(layers=12, width=768, heads=12))
    return Experiment(
        name='bert2018_base',
        steps=FIRST_STEPS,
        data=pairs('train[:99%]', length=128, most=20),
        model=bert.BERT_BASE,
        objective=masked.MaskedLanguageModel(),
        optimizer=adam(schedules.WarmupLinear(peak=PEAK, warmup_steps=WARMUP_STEPS, final=PEAK * LEFT)),
        mesh=sharding.MeshShape(data=-1),
        checkpoints=Checkpoints(every_steps=5_000, keep_every=100_000),
        watch=Watch(log_every=100, fingerprints_every=1_000),
        evaluations=(loss.Loss(data=pairs('train[99%:]', length=128, most=20), every_steps=10_000, max_batches=40),),
        claims=(*of_base, *RECIPE, *MASKING, *PHASE, MISPRINT),
    )


def large() -> Experiment:
    """BERT large, first phase."""
    stated = (*counts(336_226_108, 335_141_888, '340M'), *sizes(layers=24, width=1_024, heads=16), *RECIPE, *MASKING)
    changes = {'name': 'bert2018_large', 'model': bert.BERT_LARGE, 'claims': (*stated, *PHASE)}
    return vary(experiment(), changes)


def second(first: str = 'runs/bert2018/first', of: str = 'base') -> Experiment:
    """Second phase: 100,000 steps of 512 tokens from the weights of the first; the moments of Adam begin anew."""
    base = {'base': experiment, 'large': large}[of]()
    changes = {
        'name': f'{base.name}_second',
        'steps': STEPS - FIRST_STEPS,
        'data': pairs('train[:99%]', length=512, most=77),
        'evaluations.0.data': pairs('train[99%:]', length=512, most=77),
        'optimizer.schedule': schedules.WarmupLinear(peak=PEAK * LEFT),
        'initialization': initial_state.FromRun(run=first),
        'claims': (claims.Setting(where='A.2', path='data.length', value=512), *RECIPE, *MASKING),
    }
    return vary(base, changes)


# ---- fine-tuning ------------------------------------------------------------------------------------------------


class Task(NamedTuple):
    """One of GLUE, as TFDS has it."""

    rows: int  # Of the training split.
    sentences: tuple[str, ...]
    classes: int
    scores: tuple[classified.Score, ...]
    dev: str = 'validation'


TASKS = {
    'mnli': Task(392_702, ('premise', 'hypothesis'), 3, (classified.Accuracy(),), 'validation_matched'),
    'qqp': Task(363_849, ('question1', 'question2'), 2, (classified.F1(), classified.Accuracy())),
    'qnli': Task(104_743, ('question', 'sentence'), 2, (classified.Accuracy(),)),
    'sst2': Task(67_349, ('sentence',), 2, (classified.Accuracy(),)),
    'cola': Task(8_551, ('sentence',), 2, (classified.Matthews(),)),
    'stsb': Task(5_749, ('sentence1', 'sentence2'), 1, (classified.Spearman(), classified.Pearson())),
    'mrpc': Task(3_668, ('sentence1', 'sentence2'), 2, (classified.F1(), classified.Accuracy())),
    'rte': Task(2_490, ('sentence1', 'sentence2'), 2, (classified.Accuracy(),)),
}
# Table 5, first row: the only scores of base on development sets that are printed for single tasks.
TABLE_5 = {'mnli': 0.844, 'qnli': 0.884, 'mrpc': 0.867, 'sst2': 0.927}
FINE_TUNING: tuple[claims.Claim, ...] = (
    claims.Setting(where='4.1', path='data.batch', value=32),
    claims.Setting(where='A.3', path='model.dropout', value=0.1),
)


def glue(pretrained: str = 'runs/bert2018/second', learning_rate: float = 2e-5, seed: int = 0) -> dict[str, Experiment]:
    """A run for each task: 3 epochs of batches of 32; of the rates 5e-5, 4e-5, 3e-5 and 2e-5 they took the best."""
    return {name: _glue(name, TASKS[name], pretrained, learning_rate=learning_rate, seed=seed) for name in TASKS}


def _glue(name: str, task: Task, pretrained: str, *, learning_rate: float, seed: int) -> Experiment:
    def split(word: str) -> labelled.Labelled:
        source, columns = sources.Tfds(name=f'glue/{name}', split=word), task.sentences
        rows = labelled.Labelled(source=source, sentences=columns, tokenizer=VOCAB, batch=32, length=128)
        return vary(rows, {'classes': task.classes})

    steps = 3 * task.rows // 32
    metric = f'dev/{task.scores[-1].name}'
    on = (('data.source.name', f'glue/{name}'), ('data.tokenizer.vocab', 30_522))
    scores: tuple[claims.Claim, ...] = ()
    if name in TABLE_5:
        scores = (claims.Measured(where='table 5', metric=metric, value=TABLE_5[name], tolerance=0.0005, on=on),)
    return Experiment(
        name=f'bert2018_{name}',
        seed=seed,
        steps=steps,
        data=split('train'),
        model=bert.Classifier(encoder=bert.BERT_BASE, classes=task.classes),
        objective=regression.Regression() if task.classes == 1 else classification.Classification(),
        optimizer=adam(schedules.WarmupLinear(peak=learning_rate, warmup_steps=steps // 10)),
        mesh=sharding.MeshShape(data=-1),
        initialization=initial_state.FromRun(run=pretrained),
        evaluations=(classified.Classified(data=split(task.dev), scores=task.scores, every_steps=steps),),
        claims=(*FINE_TUNING, *scores),
    )


def squad(pretrained: str = 'runs/bert2018/second', learning_rate: float = 5e-5, seed: int = 0) -> Experiment:
    """SQuAD 1.1: 3 epochs of batches of 32 (section 4.2); windows of 384 tokens, 128 apart, as in the released code."""

    def split(word: str) -> questions.Questions:
        return questions.Questions(
            source=sources.Tfds(name='squad/v1.1', split=word),
            tokenizer=VOCAB,
            batch=32,
            length=384,
            stride=128,
        )

    steps = 3 * 87_599 // 32  # Questions; long texts give more rows than these.
    on = (('data.source.name', 'squad/v1.1'), ('data.tokenizer.vocab', 30_522))
    return Experiment(
        name='bert2018_squad',
        seed=seed,
        steps=steps,
        data=split('train'),
        model=bert.QuestionAnswering(encoder=bert.BERT_BASE),
        objective=answer_spans.AnswerSpans(),
        optimizer=adam(schedules.WarmupLinear(peak=learning_rate, warmup_steps=steps // 10)),
        mesh=sharding.MeshShape(data=-1),
        initialization=initial_state.FromRun(run=pretrained),
        evaluations=(answers.Answers(data=split('validation'), every_steps=steps),),
        claims=(
            claims.Setting(where='4.2', path='data.batch', value=32),
            claims.Setting(where='4.2', path='optimizer.schedule.peak', value=5e-5),
            claims.Measured(where='table 2, base', metric='dev/exact_match', value=80.8, tolerance=0.05, on=on),
            claims.Measured(where='table 2, base', metric='dev/f1', value=88.5, tolerance=0.05, on=on),
        ),
    )


# ---- tables -----------------------------------------------------------------------------------------------------

# Table 6: layers, width, heads; the last two rows but one are base and large.
SIZES = ((3, 768, 12), (6, 768, 3), (6, 768, 12), (12, 768, 12), (12, 1_024, 16), (24, 1_024, 16))
# Table 8: how many of the tokens to be told stand as [MASK], as they are, and as any other.
SHARES = ((0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.8, 0.0, 0.2), (0.8, 0.2, 0.0), (0.0, 0.2, 0.8), (0.0, 0.0, 1.0))


def sweep() -> dict[str, Experiment]:
    """What tables 5, 6 and 8 pretrain (first phases); each is then fine-tuned by glue() and squad()."""
    return {'large': large()} | _objectives() | _sizes() | _maskings()


def _objectives() -> dict[str, Experiment]:
    """Table 5, without the BiLSTM that its last row adds when it fine-tunes."""
    base = experiment()
    no_nsp = {'name': 'no_nsp', 'objective.next_sentence': 0.0}
    rows = text.Text(
        source=sources.Tfds(name=WIKIPEDIA, split='train[:99%]'),
        tokenizer=VOCAB,
        batch=256,
        length=128,
        packing=text.Documents(),
    )
    held_out = vary(rows, {'source': sources.Tfds(name=WIKIPEDIA, split='train[99%:]')})
    kept = tuple(each for each in base.claims if 'masking' not in getattr(each, 'path', ''))
    left_to_right = {
        'name': 'ltr_no_nsp',
        'objective.next_sentence': 0.0,
        'model.block.mixer.causal': True,
        'data': rows,
        'evaluations.0.data': held_out,
        'gradients': gradients.Microbatches(parts=4),  # Logits of every token.
        'claims': kept,
    }
    return {'no_nsp': vary(base, no_nsp), 'ltr_no_nsp': vary(base, left_to_right)}


def _sizes() -> dict[str, Experiment]:
    arms = {}
    for layers, width, heads in SIZES:
        name = f'layers{layers}-width{width}-heads{heads}'
        model = bert.bert(vocab=30_522, width=width, layers=layers, heads=heads)
        stated = (*sizes(layers=layers, width=width, heads=heads, where='table 6'), *RECIPE, *MASKING)
        arms[name] = vary(experiment(), {'name': name, 'model': model, 'claims': (*stated, *PHASE)})
    return arms


def _maskings() -> dict[str, Experiment]:
    arms = {}
    for mask, same, random in SHARES:
        name = f'mask{mask * 100:.0f}-same{same * 100:.0f}-random{random * 100:.0f}'
        how = masking.Masking(max_predictions=20, mask=mask, same=same, random=random)
        shares = tuple(
            claims.Setting(where='table 8', path=f'data.masking.{word}', value=value)
            for word, value in (('mask', mask), ('same', same), ('random', random))
        )
        changes = {'name': name, 'data.masking': how, 'evaluations.0.data.masking': how}
        arms[name] = vary(experiment(), changes | {'claims': (*RECIPE, *shares)})
    return arms


def smoke() -> Experiment:
    """Seconds: pretraining at 1/1000 of the size, on data that needs no download."""

    def tiny(split: str) -> sentence_pairs.SentencePairs:
        docs = sources.Tfds(name='python_docs', split='train')
        return sentence_pairs.SentencePairs(
            source=sources.Tfds(name='python_docs', split=split),
            tokenizer=tokenizers.WordPiece(vocab=2_000, trained_on=docs),
            batch=8,
            length=32,
            masking=masking.Masking(max_predictions=5),
        )

    changes = {
        'name': 'bert2018_smoke',
        'steps': 20,
        'data': tiny('train'),
        'model': bert.bert(vocab=2_000, width=32, layers=1, heads=2, length=32),
        'optimizer.schedule.warmup_steps': 5,
        'evaluations.0.data': tiny('validation'),
        'evaluations.0.max_batches': 4,
        'watch.log_every': 5,
        'mesh': sharding.MeshShape(data=1),
        'claims': (),
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
