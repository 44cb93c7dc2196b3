"""BLEU of a test set, on a model that learns to copy: what it translates, in which order, and how it is scored."""

import contextlib
import dataclasses

import pytest
import sacrebleu

from bigmodel_jax import config, verbs
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import pairs, tokenizers
from bigmodel_jax.evaluate import metric
from bigmodel_jax.evaluate.text import decoding, generation, translation
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import attention, blocks, ffn, norms, positions
from bigmodel_jax.models import seq2seq
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import preparation

SENTENCES = ('ab', 'b', 'aab', 'ba', 'bbbb', 'abab', 'a')
TEXTS = sources.Texts(texts=SENTENCES)
GREEDY = decoding.Greedy()
HOW = translation.Translation(
    source=TEXTS, target=TEXTS, decoding=GREEDY, every_steps=150, tokenize='char', longer_by=4, rows=4
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run on seven short strings."""
    length = 16
    experiment = Experiment(
        name='copy',
        steps=150,
        data=pairs.Pairs(source=TEXTS, target=TEXTS, tokenizer=tokenizers.Bytes(), batch=2, length=length),
        model=seq2seq.Seq2Seq(
            vocab=257,
            width=32,
            encoder_layers=1,
            decoder_layers=1,
            block=blocks.Block(
                mixer=attention.Attention(heads=2),
                ffn=ffn.Mlp(hidden=32),
                residual=blocks.PreNorm(norm=norms.LayerNorm()),
            ),
            positions=positions.Sinusoidal(),
        ),
        objective=language.LanguageModel(),
        mesh=sharding.MeshShape(data=1),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-2, warmup_steps=5)),
        evaluations=(HOW,),
        checkpoints=Checkpoints(every_steps=150),
    )
    workdir = tmp_path_factory.mktemp('copy')
    verbs.train(experiment, workdir)
    return verbs.open_run(workdir)


def test_the_score_is_that_of_sacrebleu_on_the_texts_in_order(run):
    trained, tokenizer = run.restore(), tokenizers.Bytes().build()

    def translated(sentences):
        model = trained.experiment.model
        return generation.translate(model, trained.params, tokenizer, sentences, how=GREEDY, longer_by=4, rows=4)

    found = translated(SENTENCES)
    assert found == [text for sentence in SENTENCES for text in translated([sentence])]
    assert len(set(found)) > 1
    _, (score,) = run.metrics('test/bleu')
    scorer = sacrebleu.metrics.BLEU(tokenize='char')
    assert score > 0
    assert score == scorer.corpus_score(found, [SENTENCES]).score
    assert run.measured('test/bleu') == metric.Metric(score, 'higher', 'BLEU', str(scorer.get_signature()))
    assert [(each['prompt'], each['text']) for each in run.artifacts[0].entries] == list(zip(SENTENCES, found))[:5]
    assert SENTENCES[0] in (run.path / 'report.html').read_text()


def test_sampling_from_a_model_with_an_encoder_translates(run):
    assert [each.text for each in run.sample('aab', tokens=4, how=GREEDY)] == translated_alone(run, 'aab')


def translated_alone(run, sentence):
    trained, tokenizer = run.restore(), tokenizers.Bytes().build()
    model = trained.experiment.model
    return generation.translate(model, trained.params, tokenizer, [sentence], how=GREEDY, longer_by=4)


def test_sides_of_different_lengths_are_refused(run):
    longer = dataclasses.replace(HOW, target=sources.Texts(texts=('a', 'b')))
    changed = config.vary(run.experiment, {'evaluations': (longer,)})
    with pytest.raises(config.InputError, match=r"'test': texts has 7 sentences and texts 2"):
        verbs.train(changed, run.path.parent / 'other')


def test_a_source_beyond_the_learned_positions_is_refused(run):
    changed = config.vary(run.experiment, {'model.positions': positions.Learned(length=16)})
    with pytest.raises(config.InputError, match='learned 16'):
        verbs.train(
            config.vary(changed, {'evaluations.0.source': sources.Texts(texts=('a' * 20,) * 7)}),
            run.path.parent / 'long',
        )


def test_the_source_of_the_most_tokens_is_checked_and_not_that_of_the_most_letters(run):
    """A letter may be several tokens; and what is translated is padded, which takes positions too."""
    texts = sources.Texts(texts=('a' * 30, 'é' * 20, *'abcde'))  # 31 and 41 tokens, padded to 48.
    changed = config.vary(run.experiment, {'evaluations.0.source': texts, 'evaluations.0.longer_by': 2})
    for length, fits in ((49, False), (50, True)):
        how = config.vary(changed, {'model.positions': positions.Learned(length=length)})
        with contextlib.nullcontext() if fits else pytest.raises(config.InputError, match=f'learned {length}'):
            preparation.build(how)
