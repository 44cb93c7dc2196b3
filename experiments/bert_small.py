"""A small BERT, pretrained on the Python documentation and fine-tuned on SST-2 and CoLA: for real, on two CPU cores.

Question: what does pretraining on half a million tokens, far from film reviews, do for the tasks; and what, with the
          tasks' own sentences besides? The same model is fine-tuned from both and from scratch, with the same seeds.
Source:   Devlin et al. (2018), arXiv:1810.04805, at 1/70 of the size of base; text of one source, rows of 64 tokens.
Target:   78% on SST-2's development set. Epochs are fixed beforehand: no checkpoint is picked by its score.
Data:     DATA/sst2/{train,dev}.tsv: sentence and label, 6,920 whole sentences of the Stanford Sentiment Treebank, not
          GLUE's phrases. DATA/cola/raw/*.tsv: CoLA's public release (nyu-mll.github.io/CoLA). The vocabulary is learnt
          from the documentation and the sentences of both training sets, without their labels.
Run:      scripts/bert_small DATA runs/bert_small, or
          python -m bigmodel_jax train experiments/bert_small.py --arg path=DATA --workdir runs/bert_small/pretrained
          ... experiments/bert_small.py:finetune/sst2 --arg path=DATA --arg pretrained=runs/bert_small/pretrained ...
Check:    python -m bigmodel_jax train experiments/bert_small.py:smoke --workdir /tmp/bert_small_smoke
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import labelled, masking, sentence_pairs, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import classified
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers import stacks
from bigmodel_jax.models import bert
from bigmodel_jax.objectives import classification, masked
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import initial_state

VOCAB, WIDTH, LAYERS, HEADS, LENGTH = 8_000, 128, 3, 2, 64
EPOCHS, BATCH = 4, 32
SST2_ROWS, COLA_ROWS = 6_920, 8_551  # Of the training sets.


def docs(split: str) -> records.Source:
    return sources.Tfds(name='python_docs', split=split)


def sst2(path: str, split: str) -> records.Source:
    """Columns: the sentence, and the label."""
    return sources.Tsv(path=f'{path}/sst2/{split}.tsv')


def cola(path: str, split: str) -> records.Source:
    """Columns: where the sentence is from, the label, the authors' mark, and the sentence."""
    return sources.Tsv(path=f'{path}/cola/raw/{split}.tsv')


SENTENCE = {'sst2': 0, 'cola': 3}  # The column of the sentence; that of the label is 1.


def docs_and_sentences(path: str) -> records.Source:
    """The documentation, and the sentences of both training sets without their labels."""
    tables = {'sst2': sst2(path, 'train'), 'cola': cola(path, 'in_domain_train')}
    parts = [sources.TextField(source=table, field=SENTENCE[name]) for name, table in tables.items()]
    return sources.Joined(parts=(docs('train'), *parts))


def vocabulary(path: str) -> tokenizers.Vocabulary:
    return tokenizers.WordPiece(vocab=VOCAB, trained_on=docs_and_sentences(path))


# Few layers compile quickly, and run faster without the loop.
MODEL = bert.bert(vocab=VOCAB, width=WIDTH, layers=LAYERS, heads=HEADS, length=LENGTH, stack=stacks.Stack(scan=False))


def pairs(split: str, tokenizer: tokenizers.Vocabulary) -> sentence_pairs.SentencePairs:
    how = masking.Masking(max_predictions=10)
    return sentence_pairs.SentencePairs(source=docs(split), tokenizer=tokenizer, batch=64, length=LENGTH, masking=how)


def experiment(path: str = 'data') -> Experiment:
    """Pretraining: 15 passes over 503,000 tokens."""
    tokenizer = vocabulary(path)
    return Experiment(
        name='bert_small',
        steps=2_000,
        data=pairs('train', tokenizer),
        model=MODEL,
        objective=masked.MaskedLanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupLinear(peak=1e-3, warmup_steps=200), weight_decay=0.01, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=500),
        watch=Watch(log_every=50),
        evaluations=(loss.Loss(data=pairs('validation', tokenizer), every_steps=500),),
    )


def adapted(path: str = 'data') -> Experiment:
    """Pretraining on the sentences of the tasks too, without labels (Gururangan et al., 2020, arXiv:2004.10964)."""
    return vary(experiment(path), {'name': 'bert_small_adapted', 'data.source': docs_and_sentences(path)})


def finetune(path: str = 'data', pretrained: str = '', seed: int = 0) -> dict[str, Experiment]:
    """SST-2 and CoLA, from the run in `pretrained`, or from scratch without one."""
    tokenizer = vocabulary(path)
    start = initial_state.FromRun(run=pretrained) if pretrained else None

    def rows(task: str, table: records.Source) -> labelled.Labelled:
        columns = (SENTENCE[task],)
        return labelled.Labelled(
            source=table, sentences=columns, label=1, tokenizer=tokenizer, batch=BATCH, length=LENGTH
        )

    def score(data: labelled.Labelled, name: str, *scores: classified.Score, epoch: int) -> classified.Classified:
        return classified.Classified(data=data, scores=scores, every_steps=epoch, name=name)

    Scores = tuple[classified.Classified, ...]

    def task(name: str, train: records.Source, evaluations: Scores, epoch: int) -> Experiment:
        steps = EPOCHS * epoch
        return Experiment(
            name=f'bert_small_{name}',
            seed=seed,
            steps=steps,
            data=rows(name, train),
            model=bert.Classifier(encoder=MODEL, classes=2),
            objective=classification.Classification(),
            optimizer=optimizers.AdamW(
                schedule=schedules.WarmupLinear(peak=5e-4, warmup_steps=steps // 10), weight_decay=0.01, clip_norm=1.0
            ),
            mesh=sharding.MeshShape(data=1),
            initialization=start,
            checkpoints=Checkpoints(every_steps=steps, keep_last=1),
            watch=Watch(log_every=50),
            evaluations=evaluations,
        )

    epoch = SST2_ROWS // BATCH
    of_sst2 = (score(rows('sst2', sst2(path, 'dev')), 'dev', classified.Accuracy(), epoch=epoch),)
    found = {'sst2': task('sst2', sst2(path, 'train'), of_sst2, epoch)}
    epoch = COLA_ROWS // BATCH
    of_cola = tuple(
        score(rows('cola', cola(path, f'{word}_dev')), name, classified.Matthews(), classified.Accuracy(), epoch=epoch)
        for word, name in (('in_domain', 'dev'), ('out_of_domain', 'out_of_domain'))
    )
    return found | {'cola': task('cola', cola(path, 'in_domain_train'), of_cola, epoch)}


def smoke() -> Experiment:
    """Seconds: pretraining of a tiny one, whose vocabulary is learnt from the documentation alone."""
    tokenizer = tokenizers.WordPiece(vocab=2_000, trained_on=docs('train'))
    changes = {
        'steps': 20,
        'data.tokenizer': tokenizer,
        'data.batch': 8,
        'data.length': 32,
        'model': bert.bert(vocab=2_000, width=32, layers=1, heads=2, length=32),
        'optimizer.schedule.warmup_steps': 5,
        'evaluations': (),
        'watch.log_every': 5,
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
