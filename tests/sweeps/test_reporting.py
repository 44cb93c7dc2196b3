"""The report of a sweep: its numbers, that it says what is missing, and that it gives the same bytes every time."""

import csv
import html.parser
import io
import json
import math
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import rich.console
from scipy import stats

from bigmodel_jax import __main__ as command_line
from bigmodel_jax import config
from bigmodel_jax.sweeps import arms, reporting, sweep, sweep_directory
from bigmodel_jax.sweeps.planning import costs, recorded_costs
from bigmodel_jax.sweeps.reporting import answer as answers
from bigmodel_jax.sweeps.reporting import fields, formats, grids, markup, page, screen, tables, writing
from sweeps import made_sweeps

CHANGES = {'baseline': {}, 'deep': {'model.layers': 3}, 'other_rate': {'optimizer.schedule.peak': 0.02}}
VALUES = {
    'baseline': {0: 2.00, 1: 2.10, 2: 1.95, 3: 2.04, 4: 2.02},
    'deep': {0: 1.90, 1: 2.01, 2: 1.84, 3: 1.95, 4: 1.91},
    'other_rate': {0: 2.03, 1: 2.05, 2: 1.99, 3: 2.00, 4: 2.06},
}
FILES = ('report.html', 'figure.svg', 'table.md', 'table.tex', 'results.json', 'results.csv')


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> sweep_directory.SweepDirectory:
    columns = {'validation/loss': {'baseline': 2.0, 'deep': 1.8}, 'cost': {'deep': 3.0}}
    directory = made_sweeps.make(tmp_path_factory.mktemp('sweep') / 's', CHANGES, VALUES, columns=columns)
    reporting.write(directory)
    return directory


def test_the_numbers_are_those_of_scipy(finished: sweep_directory.SweepDirectory) -> None:
    written = json.loads((finished.path / 'results.json').read_text())
    (deep,) = (each for each in written['arms'] if each['arm'] == 'deep')
    a, b = (np.array(list(VALUES[arm].values())) for arm in ('deep', 'baseline'))
    test = stats.ttest_rel(a, b)
    found = deep['comparison']
    np.testing.assert_allclose(found['interval'], test.confidence_interval(), rtol=1e-9)
    np.testing.assert_allclose([found['p_t'], found['difference']], [test.pvalue, (a - b).mean()], rtol=1e-9)
    np.testing.assert_allclose([deep['mean'], deep['sd']], [a.mean(), a.std(ddof=1)], rtol=1e-12)
    np.testing.assert_allclose(found['variance_paired'], (a - b).var(ddof=1), rtol=1e-9)
    assert (found['finding'], written['complete']) == ('better', True)
    assert {each['seed']: each['value'] for each in deep['runs']} == VALUES['deep']
    assert {each['commit'] for each in deep['runs']} == {made_sweeps.COMMIT}
    rows = list(csv.DictReader(io.StringIO((finished.path / 'results.csv').read_text())))
    assert {(row['arm'], int(row['seed'])): float(row['value']) for row in rows} == {
        (arm, seed): value for arm, each in VALUES.items() for seed, value in each.items()
    }


def test_a_second_report_has_the_same_bytes_wherever_and_whenever_it_is_made(
    finished: sweep_directory.SweepDirectory, tmp_path: pathlib.Path
) -> None:
    before = {name: (finished.path / name).read_bytes() for name in FILES}
    copied = pathlib.Path(shutil.copytree(finished.path, tmp_path / 'elsewhere'))
    for name in FILES:
        (copied / name).unlink()
    again = sweep_directory.open_sweep(copied)
    for entry in again.description.trials:  # Started once more, on another day.
        path = pathlib.Path(again.trial(entry))
        (path / 'metrics.jsonl').unlink()
        made_sweeps.finish(path, made_sweeps.experiment(again, entry), VALUES[entry.arm][entry.seed], started=9.0)
    reporting.write(again)
    assert {name: (copied / name).read_bytes() for name in FILES} == before


def test_the_paper_stands_beside_what_was_measured(finished: sweep_directory.SweepDirectory) -> None:
    table = tables.papers(answers.collect(finished))
    assert table is not None
    assert [column.heading for column in table.columns] == ['arm', 'paper', 'ours', 'difference', 'paper']
    assert [tuple(group) for group in table.groups] == [('', 0, 1), ('validation/loss', 1, 3), ('cost', 4, 1)]
    assert '| arm | validation/loss: paper | ours | difference | cost: paper |' in markup.markdown([table])
    assert r'& \multicolumn{3}{c}{validation/loss} & \multicolumn{1}{c}{cost} \\' in markup.latex([table])
    texts = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert texts['deep'] == ['1.8', '1.92 ± 0.06', '+0.12', '3']
    assert texts['other_rate'][:1] == ['']
    assert table.notes == ("Difference: ours minus the paper's.", 'Not measured here: cost.')


def test_the_effects_of_the_paper_stand_beside_ours_with_a_verdict(
    finished: sweep_directory.SweepDirectory, tmp_path: pathlib.Path
) -> None:
    columns = {'validation/loss': {'baseline': 2.0, 'deep': 1.9, 'other_rate': 2.5}}
    told = made_sweeps.make(tmp_path / 's', CHANGES, VALUES, columns=columns)
    table = tables.paper_effects(answers.collect(told))
    assert table is not None
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    low, high = stats.ttest_rel(list(VALUES['deep'].values()), list(VALUES['baseline'].values())).confidence_interval()
    assert low < -0.1 < high
    assert (rows['deep'][0], rows['deep'][2:]) == ('\N{MINUS SIGN}0.100', ['better', 'agrees'])
    assert (rows['other_rate'][0], rows['other_rate'][3]) == ('+0.500', 'another size')
    assert rows['baseline'][2:] == ['baseline', formats.UNKNOWN]
    reversed_ = {'validation/loss': {'baseline': 2.0, 'deep': 2.1, 'other_rate': 2.02}}
    table = tables.paper_effects(answers.collect(made_sweeps.make(tmp_path / 't', CHANGES, VALUES, columns=reversed_)))
    assert table is not None
    assert [row[-1].text for row in table.rows[1:]] == ['contradicts', 'not settled']
    assert tables.paper_effects(answers.collect(made_sweeps.make(tmp_path / 'u', CHANGES, VALUES))) is None


def test_the_size_of_each_arm_is_recorded_once_and_only_of_its_present_experiment(tmp_path: pathlib.Path) -> None:
    directory = made_sweeps.make(tmp_path / 's', CHANGES, VALUES)
    before = tables.sizes(answers.collect(directory))
    assert [cell.text for cell in before.rows[1]][1:] == ['1,234', *[formats.UNKNOWN] * 3]
    base = made_sweeps.tiny.experiment()
    described = sweep.complete(sweep.Sweep(arms=arms.named(base, CHANGES), seeds=(0,)))
    recorded_costs.write(directory, described)
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in tables.sizes(answers.collect(directory)).rows}
    assert rows['baseline'][0] == '7,872'
    assert rows['baseline'][3] == '+0.00%'
    ratio = costs.cost(described.arms['deep']).flops / costs.cost(base).flops
    assert rows['deep'][3] == f'{100 * (ratio - 1):+.2f}%'
    changed = made_sweeps.make(tmp_path / 's', {**CHANGES, 'deep': {'model.layers': 5}}, VALUES)
    assert set(recorded_costs.read(changed)) == {'baseline', 'other_rate'}


def test_an_unfinished_sweep_says_so_in_every_format(tmp_path: pathlib.Path) -> None:
    values = {**VALUES, 'deep': {0: 1.9, 1: 2.01, 2: math.nan}}
    directory = made_sweeps.make(tmp_path / 's', CHANGES, values)
    failed = next(each for each in directory.description.trials if (each.arm, each.seed) == ('deep', 3))
    directory.failure(failed).write_text(json.dumps({'reason': 'the training failed', 'lines': ['boom']}))
    damaged = next(each for each in directory.description.trials if (each.arm, each.seed) == ('other_rate', 4))
    (directory.trial(damaged) / 'experiment.json').write_text('{')
    reporting.write(directory)
    found = answers.collect(directory)
    assert found.state == 'Unfinished: 12 of 15 trials are finished, 2 failed. Every number can still change.'
    for name in ('report.html', 'table.md', 'table.tex'):
        assert 'Unfinished: 12 of 15' in (directory.path / name).read_text(), name
    written = json.loads((directory.path / 'results.json').read_text())
    assert written['complete'] is False
    by_seed = {each['seed']: each for each in written['arms'][1]['runs']}
    assert [by_seed[seed]['state'] for seed in range(5)] == [*['finished'] * 3, 'failed', 'not started']
    assert (by_seed[2]['value'], by_seed[2]['diverged']) == (None, True)
    assert written['arms'][1]['comparison']['finding'] == 'diverged'
    assert 'deep: seed 3 failed (the training failed).' in tables.comparisons(found).notes


def test_a_sweep_of_which_nothing_is_known_yet_has_a_report(tmp_path: pathlib.Path) -> None:
    directory = made_sweeps.make(tmp_path / 's', CHANGES, {**VALUES, 'deep': {}})
    for entry in directory.description.trials:
        shutil.rmtree(directory.trial(entry), ignore_errors=True)
    assert '0 of 15 trials are finished' in reporting.write(directory).read_text()


def test_the_tables_fit_a_terminal_of_80_columns(
    finished: sweep_directory.SweepDirectory, tmp_path: pathlib.Path
) -> None:
    columns = {'validation/perplexity': {'post_layer_norm': 7.25}, 'validation/loss': {'baseline': 2.01}}
    changes = {('post_layer_norm' if arm == 'deep' else arm): each for arm, each in CHANGES.items()}
    values = {('post_layer_norm' if arm == 'deep' else arm): each for arm, each in VALUES.items()}
    wide = made_sweeps.make(tmp_path / 's', changes, values, columns=columns)
    stream = io.StringIO()
    rich.console.Console(file=stream, width=80).print(screen.shown(answers.collect(wide)))
    assert re.search(r'post_layer_norm +7.25 +7.50 ± 0.00 +\+0.25 +1.92 ± 0.06', stream.getvalue())
    assert '\N{HORIZONTAL ELLIPSIS}' not in stream.getvalue()
    digits = {
        'validation/perplexity': {'post_layer_norm': 12345.6789},
        'validation/loss': {'post_layer_norm': 2.012345},
    }
    wider = made_sweeps.make(tmp_path / 't', changes, values, columns=digits)
    stream = io.StringIO()
    rich.console.Console(file=stream, width=80).print(screen.shown(answers.collect(wider)))
    assert re.search(r'post_layer_norm +12,345.6789 +7.5000 ± 0.0000 +\N{MINUS SIGN}12,338.1789', stream.getvalue())
    assert re.search(r'post_layer_norm +2.012345 +1.92', stream.getvalue()), 'each part has the names of the arms'
    stream = io.StringIO()
    rich.console.Console(file=stream, width=80).print(screen.shown(answers.collect(finished)))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert '\N{HORIZONTAL ELLIPSIS}' not in stream.getvalue()
    assert any(re.match(r' deep +5 +1\.92\d* ± ', line) and line.rstrip().endswith('better') for line in lines)


NASTY = '"><script>alert(1)</script>$x_1$ & \\input{/etc/passwd} | `ls` =1+1\x1b[2J'


def test_values_that_were_measured_in_different_ways_are_not_compared(tmp_path: pathlib.Path) -> None:
    values = {'baseline': {0: 2.0, 1: 2.1}, 'deep': {0: 1.9, 1: 2.0}}
    made = made_sweeps.make(tmp_path / 's', {'baseline': {}, 'deep': {'model.layers': 3}}, values)
    for entry in made.description.trials:
        path = pathlib.Path(made.trial(entry))
        (path / 'metrics.jsonl').unlink()
        signature = 'frechet extractor:ResNet@' + ('1' if entry.arm == 'baseline' else '2')
        value = values[entry.arm][entry.seed]
        made_sweeps.finish(path, made_sweeps.experiment(made, entry), value, signature=signature)
    with pytest.raises(config.InputError, match=r'cannot be compared; the signatures are\n.*ResNet@1\n.*ResNet@2'):
        reporting.write(sweep_directory.open_sweep(made.path))


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links.update(str(value) for name, value in attrs if name in ('href', 'src'))


def test_a_crafted_name_is_only_text(finished: sweep_directory.SweepDirectory) -> None:
    crafted = made_sweeps.renamed(finished, 'deep', NASTY)
    found = answers.collect(crafted)
    tags = Tags()
    tags.feed(page.render(found))
    assert 'script' not in tags.tags
    assert all(re.match(r'(trials/[\w.,=+%-]+/|table\.|results\.|figure\.)', link) for link in tags.links)
    table = tables.comparisons(found)
    latex, markdown = markup.latex([table]), markup.markdown([table])
    assert r'\input' not in latex
    assert r'\$x\_1\$ \& \textbackslash{}input\{' in latex
    bare = re.sub(r'\\[a-z]+ ?|\\[&%$#_{}\\]', '', latex)  # Without commands and escaped characters.
    assert bare.count('{') == bare.count('}')
    rows = [line for line in bare.splitlines() if 'script' in line and 'caption' not in line]
    assert [line.count('&') for line in rows] == [len(table.columns) - 1]
    assert '<script' not in markdown.replace(r'\<', '')
    assert all(line.count('|') - line.count(r'\|') in (0, 7) for line in markdown.splitlines())
    assert '\x1b' not in latex + markdown


def test_a_spreadsheet_takes_no_name_for_a_formula(finished: sweep_directory.SweepDirectory) -> None:
    text = markup.comma_separated(answers.collect(made_sweeps.renamed(finished, 'deep', '=1+1')))
    assert {row['arm'] for row in csv.DictReader(io.StringIO(text))} == {'baseline', "'=1+1", 'other_rate'}


@pytest.mark.skipif(shutil.which('pdflatex') is None, reason='there is no LaTeX here')
def test_latex_takes_the_table(finished: sweep_directory.SweepDirectory, tmp_path: pathlib.Path) -> None:
    table = tables.comparisons(answers.collect(made_sweeps.renamed(finished, 'deep', NASTY)))
    packages = r'\usepackage[T1]{fontenc}\usepackage{booktabs,textcomp}'
    text = rf'\documentclass{{article}}{packages}\begin{{document}}{markup.latex([table])}\end{{document}}'
    (tmp_path / 't.tex').write_text(text)
    subprocess.run(['pdflatex', '-halt-on-error', 't.tex'], cwd=tmp_path, check=True, capture_output=True)


def test_a_numeric_field_that_arms_change_alone_has_a_curve(tmp_path: pathlib.Path) -> None:
    rates = {f'rate{i}': {'optimizer.schedule.peak': rate} for i, rate in enumerate((0.001, 0.1))}
    values = dict(zip(('baseline', *rates), VALUES.values()))
    directory = made_sweeps.make(tmp_path / 's', {'baseline': {}, **rates}, values)
    (chart,) = page.sensitivities(answers.collect(directory))
    assert chart.x_title == 'optimizer.schedule.peak'
    (line,) = chart.lines
    assert [title.split(' at ')[1] for title in line.titles] == ['0.001', '0.01', '0.1']
    assert len(line.bars) == 3


def test_fields_that_differ_are_found_without_any_class() -> None:
    there = {'class': 'A', 'seed': 1, 'part': {'class': 'a:B', 'x': 1}, 'list': [{'class': 'C', 'y': 1}], 'name': 'n'}
    here = {'class': 'A', 'seed': 1, 'part': {'class': 'a:D', 'z': 2}, 'list': [{'class': 'C', 'y': 3}], 'name': 'm'}
    assert fields.changes(there, here) == {'part': (there['part'], here['part']), 'list.0.y': (1, 3)}
    assert [fields.shown(each) for each in (there['part'], 0.5, True)] == ['B', '0.5', 'True']


def test_the_verb_reports_a_sweep(finished: sweep_directory.SweepDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(None, ['report', str(finished.path)]) in (0, None)
    assert capsys.readouterr().out.rstrip().endswith('report.html')
    assert command_line.main(None, ['report', str(finished.path), '--seeds', 'a']) == 2
    assert 'leave them out' in capsys.readouterr().err


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path: pathlib.Path) -> None:
    directory = made_sweeps.make(tmp_path / 's', CHANGES, VALUES)
    pathlib.Path(directory.path / writing.LATEX).symlink_to(tmp_path / 'other')
    with pytest.raises(config.InputError, match='symbolic link'):
        reporting.write(directory)
    assert not (directory.path / 'report.html').exists()


def test_numbers_have_as_many_digits_as_their_noise_allows() -> None:
    assert formats.number(-0.0312, 3, sign=True) == '\N{MINUS SIGN}0.031'
    assert formats.number(math.nan, 3) == formats.UNKNOWN
    assert [formats.probability(p) for p in (0.0312, 1e-9, 1.0)] == ['0.031', '<0.0001', '1']


def test_a_grid_has_main_effects_and_an_interaction(tmp_path: pathlib.Path) -> None:
    """A planted model: each field adds its effect, and both together one more."""
    changes = {
        'a': {'model.layers': 1, 'model.width': 16},
        'b': {'model.layers': 2, 'model.width': 16},
        'c': {'model.layers': 1, 'model.width': 32},
        'd': {'model.layers': 2, 'model.width': 32},
    }
    rng = np.random.default_rng(0)
    planted = {'a': 0.0, 'b': -0.5, 'c': 0.2, 'd': -0.5}
    values = {arm: {seed: 3 + mean + 0.001 * rng.normal() for seed in range(3)} for arm, mean in planted.items()}
    factors = ('model.layers', 'model.width')
    directory = made_sweeps.make(tmp_path / 's', changes, values, baseline='a', factors=factors)
    found = answers.collect(directory)
    grid = grids.fitted(found)
    assert grid is not None
    layers, width = grids.shown(found, grid.main)
    (both,) = grids.shown(found, grid.interactions)
    np.testing.assert_allclose([layers.difference, width.difference, both.difference], [-0.6, 0.1, -0.2], atol=0.005)
    assert [each.finding for each in (layers, width, both)] == ['better', 'worse', 'better']
    text = reporting.write(directory).read_text()
    assert 'Main effects and interactions of the grid.' in (directory.path / 'table.md').read_text()
    assert text.count('layers=2, width=32 against') == 2  # In the chart for wide screens and in that for narrow ones.
