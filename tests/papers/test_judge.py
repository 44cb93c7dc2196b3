"""The verdicts of measured claims: one for each, whatever the run is."""

import json

import numpy as np
import pytest

from bigmodel_jax import claims, config
from bigmodel_jax.__main__ import main
from bigmodel_jax.evaluate import metric
from bigmodel_jax.papers import judge
from bigmodel_jax.report import report
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from runs import run_maker

SIGNATURE = 'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0'


def bleu(**changes):
    return claims.Measured(**{'where': 'table 2', 'metric': 'test/bleu', 'value': 27.3, 'tolerance': 0.05, **changes})


def run_with(workdir, *every, score=None, signature=None, seed=0, **changes):
    """A finished run whose experiment makes these claims, and that reached this score."""
    run_maker.finished(workdir, steps=100)
    experiment = config.vary(run_maker.example(100), {'claims': every, 'seed': seed, 'model.vocab': 320, **changes})
    (workdir / 'experiment.json').write_text(json.dumps(config.to_json(experiment)))
    with event_log.EventWriter(workdir / event_log.FILE) as writer:
        if score is not None:
            about = {'direction': 'higher', 'unit': 'BLEU'} | ({} if signature is None else {'signature': signature})
            record = {'kind': 'evaluation', 'step': 100, 'name': 'test', 'metrics': {'bleu': score}}
            writer.append({**record, 'about': {'bleu': about}})
    return directory.open_run(workdir)


def only(run, seeds=()):
    (found,) = judge.judge(run, seeds)
    return found


@pytest.mark.parametrize(
    ('score', 'verdict', 'reason'),
    [
        (27.3, judge.MATCHED, '+0; one seed: no interval'),
        (27.25, judge.MATCHED, '-0.05; one seed: no interval'),
        (27.24, judge.NOT_REPRODUCED, '-0.06, worse; one seed: no interval'),
        (28.3, judge.NOT_REPRODUCED, '+1, better; one seed: no interval'),
        (float('nan'), judge.NOT_REPRODUCED, '+nan; one seed: no interval'),
    ],
)
def test_one_seed_matches_or_not(tmp_path, score, verdict, reason):
    found = only(run_with(tmp_path / 'a', bleu(), score=score))
    assert (found.verdict, found.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ('scores', 'verdict'),
    [
        ((27.2, 27.4), judge.MATCHED),
        ((26.0, 27.0, 28.0), judge.WITHIN_NOISE),
        ((26.9, 27.0, 27.1), judge.NOT_REPRODUCED),
    ],
)
def test_several_seeds_give_an_interval(tmp_path, scores, verdict):
    runs = [run_with(tmp_path / str(seed), bleu(), score=score, seed=seed) for seed, score in enumerate(scores)]
    found = only(runs[0], runs[1:])
    assert found.verdict == verdict
    assert ', '.join(map(str, range(len(scores)))) in found.reason
    assert '95% interval' in found.reason


def test_the_interval_is_students():
    # Student (1908), table I: 2.776 is the 97.5% point for 4 degrees of freedom, 12.706 for 1.
    low, high = judge.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * np.sqrt(2.5 / 5)
    np.testing.assert_allclose([low, high], [3 - half, 3 + half], rtol=1e-6)  # Of the printed digits.
    np.testing.assert_allclose(judge.interval([0.0, 2.0]), [1 - 12.706205, 1 + 12.706205], rtol=1e-6)


@pytest.mark.parametrize(
    ('claim', 'signature', 'reason'),
    [
        (bleu(missing='the test set was never released'), None, 'because the test set was never released'),
        (bleu(on=(('data.length', 256),)), None, 'because data.length is 64 here and 256 in the paper'),
        (bleu(on=(('data.split', 'test'),)), None, "because the paper has data.split='test', but data.split: data has"),
        (bleu(signature=SIGNATURE), None, f'because its signature is not recorded here and {SIGNATURE} in the paper'),
        (bleu(signature=SIGNATURE), 'tok:zh', f'because its signature is tok:zh here and {SIGNATURE} in the paper'),
    ],
)
def test_what_is_not_comparable_says_why(tmp_path, claim, signature, reason):
    found = only(run_with(tmp_path / 'a', claim, score=27.3, signature=signature))
    assert found.verdict == judge.NOT_COMPARABLE
    assert found.reason.startswith(reason)


def test_same_conditions_and_signature_are_comparable(tmp_path):
    claim = bleu(on=(('data.length', 64),), signature=SIGNATURE)
    assert only(run_with(tmp_path / 'a', claim, score=27.3, signature=SIGNATURE)).verdict == judge.MATCHED


def test_what_was_not_run_says_so(tmp_path):
    assert only(run_with(tmp_path / 'a', bleu())).reason == "the run of seed 0 has no metric 'test/bleu'"
    half = run_maker.unfinished(tmp_path / 'b', 500)
    experiment = config.vary(run_maker.example(), {'claims': (bleu(metric='validation/loss'),)})
    (half / 'experiment.json').write_text(json.dumps(config.to_json(experiment)))
    found = only(directory.open_run(half))
    assert (found.verdict, found.reason) == (judge.NOT_RUN, 'the run of seed 0 is at step 500 of 2,000')


def test_seeds_must_differ_in_the_seed_alone(tmp_path):
    first = run_with(tmp_path / '0', bleu(), score=27.0)
    other = run_with(tmp_path / '1', bleu(), score=27.0, seed=1, **{'optimizer.b2': 0.95})
    with pytest.raises(config.InputError, match=r'more than the seed: optimizer\.b2: 0\.99 -> 0\.95'):
        judge.judge(first, [other])
    with pytest.raises(config.InputError, match='seed=0, and so are the same run'):
        judge.judge(first, [run_with(tmp_path / '2', bleu(), score=27.0)])


def test_no_claim_is_left_out(tmp_path, capfd):
    every = (
        claims.Setting(where='table 1', path='model.width', value=128),
        claims.Setting(where='table 1', path='model.layers', value=6),
        claims.ParametersMore(where='table 1', than='big', value=1),
        claims.Product(where='table 1', of='<b>', factors=(3, 4), value=13, instead='3 x 4'),
        bleu(value=20.0),
        bleu(metric='test/chrf'),
    )
    run_with(tmp_path / 'a', *every, score=27.0)
    run_with(tmp_path / 'b', *every, score=27.1, seed=1)
    words = ['agrees', 'DIFFERS', 'not checked', 'the paper contradicts itself', 'not reproduced', 'not run']
    assert [each.verdict for each in judge.judge(directory.open_run(tmp_path / 'a'))] == words
    assert main(argv=['report', str(tmp_path / 'a'), '--seeds', str(tmp_path / 'b')]) == 0
    printed, page = capfd.readouterr().out, (tmp_path / 'a' / report.FILE).read_text()
    for word in (*words, '95% interval', 'instead: 3 x 4'):
        assert word in printed
        assert word in page
    assert '&lt;b&gt;' in page
    assert 'There is no arm' in page


def test_a_page_without_claims_does_not_speak_of_them(tmp_path):
    page = report.render(directory.open_run(run_maker.finished(tmp_path / 'a', steps=100)))
    assert 'What the paper says' not in page


def test_the_signature_in_the_log_of_an_older_version_counts(tmp_path):
    run = run_with(tmp_path / 'a', bleu(signature=SIGNATURE), score=27.3)
    log = run.path / event_log.FILE
    older = [{key: value for key, value in record.items() if key != 'about'} for record in event_log.read(log)]
    log.unlink()
    with event_log.EventWriter(log) as writer:
        for record in older:
            writer.append(record)
        signatures = [{'metric': 'bleu', 'signature': SIGNATURE}]
        writer.append({'kind': 'signatures', 'step': 100, 'name': 'test', 'signatures': signatures})
    again = directory.open_run(run.path)
    assert only(again).verdict == judge.MATCHED
    assert again.measured('test/bleu') == metric.Metric(27.3, 'higher', 'BLEU', SIGNATURE)
