"""What `check` says of claims: by eval_shape alone, against counts that were made elsewhere."""

import json
import pathlib

import pytest

import tiny
from bigmodel_jax import claims, config, experiment_file, verbs
from bigmodel_jax.__main__ import main
from bigmodel_jax.models import decoder
from bigmodel_jax.papers import checks

EXPERIMENTS = pathlib.Path(__file__).parents[2] / 'experiments'
# Of the reference implementations, counted from their instantiated classes or by a closed form checked against one:
# which experiment has them as an arm, under which name.
COUNTS = {
    'gpt2.py': {'117M': 124_439_808, '345M': 354_823_168, '762M': 774_030_080, '1542M': 1_557_611_200},
    'bert2018.py': {'experiment': 110_106_428, 'large': 336_226_108},
    'gpt3.py': {
        '125M': 125_226_240,
        '350M': 355_871_744,
        '1.3B': 1_315_723_264,
        '2.7B': 2_651_553_280,
        '6.7B': 6_658_404_352,
        '175B': 174_604_259_328,
    },
    'vaswani2017.py': {
        'base': 63_045_632,
        'B_keys16': 55_967_744,
        'C_layers2': 33_644_544,
        'C_layers4': 48_345_088,
        'C_layers8': 77_746_176,
        'C_width1024': 163_815_424,
        'C_hidden1024': 50_450_432,
        'C_hidden4096': 88_236_032,
        'big': 214_171_648,
    },
    'llama.py': {
        'llama2_7b': 6_738_415_616,
        'llama2_13b': 13_015_864_320,
        'llama2_70b': 68_976_648_192,
        'llama3_8b': 8_030_261_248,
        'llama3_70b': 70_553_706_496,
        'llama3_405b': 405_853_388_800,
    },
    'mixtral.py': {'top_2': 46_702_792_704},
    't5.py': {
        'small': 60_506_624,
        'base': 222_903_552,
        'large': 737_668_096,
        '11b': 11_307_321_344,
        'v1_1_small': 76_961_152,
        'v1_1_base': 247_577_856,
        'v1_1_large': 783_150_080,
        'v1_1_xxl': 11_135_332_352,
    },
}


def with_claims(*every):
    return config.check(config.vary(tiny.experiment(), {'claims': every}))


def verdicts(experiment, **others):
    return [each.verdict for each in verbs.check({'base': experiment, **others}, only=['base'])]


@pytest.mark.parametrize('file', sorted(EXPERIMENTS.glob('*.py')), ids=lambda file: file.stem)
def test_no_claim_of_an_experiment_file_differs(file):
    found = verbs.check(experiment_file.load_arms(str(file))[0])
    assert not [each.to_json() for each in found if each.verdict == checks.DIFFERS]
    assert json.dumps([each.to_json() for each in found])
    counts = {(each.arm, each.found) for each in found if isinstance(each.claim, claims.Counted)}
    assert set(COUNTS.get(file.name, {}).items()) <= counts


def test_each_claim_compares_what_it_says():
    facts = checks.ExperimentFacts(tiny.experiment())
    count, positions = facts.parameters(), facts.parameters() - facts.parameters(('positions.*',))
    assert positions == 16 * facts.setting('model.width')
    right = (
        claims.Parameters(where='table 1', value=count),
        claims.Parameters(where='table 1', value=count + 40, tolerance=50, printed='4k'),
        claims.Parameters(where='table 1', value=count - positions, without=('positions.*',)),
        claims.Flops(where='table 1', value=6.0 * count * 8 * 16 * 20),
        claims.Setting(where='table 1', path='model.block.mixer.heads', value=8),
        claims.Setting(where='table 1', path='checkpoints.keep_best', value=None),
        claims.LearningRate(where='table 1', step=1, value=facts.learning_rate(1)),
        claims.Shape(where='table 1', parameter='positions.table', value=(16, 16)),
        claims.TokensPerStep(where='table 1', value=128),
    )
    assert verdicts(with_claims(*right)) == [checks.AGREES] * len(right)
    wrong = [
        config.vary(claim, {'value': (1,) if isinstance(claim, claims.Shape) else 7, **tolerance})
        for claim in right
        for tolerance in [{'tolerance': 0} if isinstance(claim, claims.Counted) else {}]
    ]
    assert verdicts(with_claims(*wrong)) == [checks.DIFFERS] * len(right)


def test_arms_are_compared_with_one_another():
    base = tiny.experiment()
    wider = config.vary(base, {'model.vocab': 128})
    more = (128 - base.model.vocab) * base.model.width
    claim = claims.ParametersMore(where='table 3', than='wider', value=-more)
    assert verdicts(with_claims(claim), wider=wider) == [checks.AGREES]


def test_the_first_update_has_number_1():
    experiment = config.vary(tiny.experiment(), {'optimizer.schedule.warmup_steps': 10, 'optimizer.schedule.peak': 1.0})
    rates = [checks.ExperimentFacts(experiment).learning_rate(step) for step in (1, 5, 10)]
    assert rates == pytest.approx([0.1, 0.5, 1.0], rel=1e-6)  # Rounding of float32.


def test_a_paper_can_contradict_itself():
    product = claims.Product(where='table 2.1', of='24 heads', factors=(24, 128), value=2_048, instead='16 heads')
    found = verbs.check({'base': with_claims(product, config.vary(product, {'factors': (16, 128)}))})
    assert [each.verdict for each in found] == [checks.CONTRADICTION, checks.AGREES]
    assert [found[0].said, found[0].shown, found[0].note] == ['2,048', '24 x 128 = 3,072', 'instead: 16 heads']


def test_a_contradiction_is_the_papers_only_if_the_dimensions_are():
    count = verbs.parameters(tiny.experiment())
    claim = claims.PrintedParameters(where='table 2', value=count + 90, tolerance=50, printed='5k', exact=count)
    vocab = {'model.vocab': 128}
    assert verdicts(with_claims(claim)) == [checks.CONTRADICTION]
    assert verdicts(with_claims(config.vary(claim, {'value': count + 50}))) == [checks.AGREES]
    assert verdicts(config.vary(with_claims(claim), vocab)) == [checks.DIFFERS]


def test_no_vocabulary_gives_what_two_rows_print():
    base = tiny.experiment()
    arms = {'base': base, 'deep': config.vary(base, {'model.layers': 4})}
    counts = {arm: verbs.parameters(each) for arm, each in arms.items()}
    width = base.model.width

    def found(**printed):
        claim = claims.OneVocabulary(where='table 3', arms=tuple(printed.items()), tolerance=width)
        return verbs.check({**arms, 'base': config.vary(base, {'claims': (claim,)})})[0]

    agreeing = found(base=counts['base'] + 10 * width, deep=counts['deep'] + 11 * width)
    assert agreeing.verdict == checks.AGREES
    vocab = base.model.vocab
    assert agreeing.found == (('base', vocab + 9, vocab + 11), ('deep', vocab + 10, vocab + 12))
    assert found(base=counts['base'], deep=counts['deep'] + 11 * width).verdict == checks.CONTRADICTION


def test_active_parameters_leave_out_the_experts_that_a_token_does_not_see():
    model = decoder.mixtral(vocab=64, width=16, layers=2, heads=4, kv_heads=2, hidden=32, experts=4)
    experts = 2 * 4 * 3 * 16 * 32
    facts = checks.ExperimentFacts(config.vary(tiny.experiment(), {'model': model}))
    claim = claims.ActiveParameters(
        where='section 2', value=facts.parameters() - experts // 2, used=2, experts=4, routed=ROUTED
    )
    assert claim.agrees(claim.found(facts))


ROUTED = ('*.ffn.gate', '*.ffn.up', '*.ffn.down')


@pytest.mark.parametrize(
    ('claim', 'message'),
    [
        (claims.Setting(where='table 1', path='model.layrs', value=1), "no 'layrs'. Did you mean 'layers'?"),
        (claims.Shape(where='table 1', parameter='position.table', value=(1,)), "Did you mean 'positions.table'?"),
        (claims.ParametersMore(where='table 1', than='big', value=1), "There is no arm 'big'"),
        (claims.Measured(where='t', metric='a/b', value=1, tolerance=0, on=(('data.spl', 1),)), "data has no 'spl'"),
    ],
)
def test_a_misspelt_claim_is_an_error(claim, message):
    with pytest.raises(config.InputError, match='The claim') as error:
        verbs.check({'base': with_claims(claim)})
    assert message in str(error.value)


def test_check_needs_no_devices_and_no_data(tmp_path, capfd):
    gone = {'data.source': "TextFile(path='/gone')", 'mesh.data': 256, 'mesh.tensor': 8}
    options = [word for path, value in gone.items() for word in ('--set', f'{path}={value}')]
    file, written = str(EXPERIMENTS / 'gpt2.py'), tmp_path / 'verdicts.json'
    assert main(argv=['check', f'{file}:sweep/345M', *options, '--json', str(written)]) == 0
    found = json.loads(written.read_text())
    assert {each['arm'] for each in found} == {'345M'}
    assert found[0] | {'stated': 354_823_168, 'found': 354_823_168, 'verdict': 'agrees'} == found[0]
    assert 'the paper contradicts itself in 1' in capfd.readouterr().out
    assert main(argv=['check', f'{file}:sweep/345M', '--set', 'model.layers=23']) == 1
    assert 'DIFFERS' in capfd.readouterr().out
    assert main(argv=['check', f'{file}:sweep/346M']) == 2
    assert "Did you mean '345M'?" in capfd.readouterr().err
