"""report.html of a sweep: one self-contained page; no script, nothing loaded from elsewhere, light and dark."""

import functools
import pathlib
from collections.abc import Iterator, Sequence

import jinja2

from bigmodel_jax.report import pages
from bigmodel_jax.sweeps.reporting import drawings, effects, fields, grids, tables
from bigmodel_jax.sweeps.reporting.answer import ArmResult, SweepAnswer

LARGE, NARROW = (920.0, 340.0), (450.0, 260.0)


@functools.cache
def environment() -> jinja2.Environment:
    """The templates of the page, which share style and escaping with those of a run's report."""
    shared = pages.environment()
    assert shared.loader is not None
    own = jinja2.FileSystemLoader(pathlib.Path(__file__).parent / 'templates')
    made = shared.overlay(loader=jinja2.ChoiceLoader([own, shared.loader]))
    made.filters['shown'] = fields.shown
    return made


def render(answer: SweepAnswer) -> str:
    """The page on a sweep; the same bytes for the same runs."""
    metric, baseline, grid = answer.about.metric, answer.about.baseline, grids.fitted(answer)
    page = environment().get_template('sweep.html')
    return page.render(
        answer=answer,
        about=answer.about,
        comparisons=tables.comparisons(answer),
        details=tables.details(answer) if answer.compared else None,
        papers=[table for table in (tables.papers(answer), tables.paper_effects(answer)) if table is not None],
        sizes=tables.sizes(answer),
        grid=None if grid is None else grids.table(answer, grid),
        runs=tables.trials(answer),
        forests=_forests(answer, effects.of_arms(answer), f'difference of {metric} from {baseline}'),
        mains=[] if grid is None else _forests(answer, grids.shown(answer, grid.main), f'effect on {metric}'),
        interactions=[]
        if grid is None
        else _forests(answer, grids.shown(answer, grid.interactions), f'difference of effects on {metric}'),
        bands=[
            (size, drawings.bands(answer, width=width, height=height))
            for size, (width, height) in (('large', LARGE), ('narrow', NARROW))
        ],
        sensitivities=list(sensitivities(answer)),
        hidden=hidden,
    )


def _forests(
    answer: SweepAnswer, shown: Sequence[effects.ShownEffect], title: str
) -> list[tuple[str, drawings.ForestDrawing | None]]:
    """For wide screens and paper, and for narrow ones."""
    return [
        ('large', drawings.forest(shown, answer, title=title, width=LARGE[0], narrow=False)),
        ('narrow', drawings.forest(shown, answer, title=title, width=NARROW[0], narrow=True)),
    ]


def hidden(answer: SweepAnswer, arm: str, runs: tuple[str, ...]) -> str:
    """What a cell knows of its origin, as the text under the pointer."""
    if not arm:
        return ''
    commits = sorted({each.commit for each in answer.trials if each.entry.name in runs} - {''})
    parts = [answer.experiment(arm), *(f'commit {each}' for each in commits), *runs]
    return '\n'.join(parts)


def sensitivities(answer: SweepAnswer) -> Iterator[drawings.LinesDrawing]:
    """A chart for each numeric field that arms change alone, with the baseline among them."""
    by_path: dict[str, list[tuple[float, ArmResult]]] = {}
    for arm in answer.arms:
        (path, (_, here)), *others = list(arm.changes.items()) or [('', (None, None))]
        if path and not others and fields.is_number(here):
            assert isinstance(here, int | float)
            by_path.setdefault(path, []).append((float(here), arm))
    for path, arms in by_path.items():
        base = fields.value(answer.about.arms[answer.about.baseline], path)
        known = {x: arm for x, arm in [*arms, *_baseline(answer, base)] if arm.finite}
        found = drawings.sensitivity(answer, path, known) if len(known) > 2 else None
        if found is not None:
            yield found


def _baseline(answer: SweepAnswer, value: object) -> Iterator[tuple[float, ArmResult]]:
    if fields.is_number(value):
        assert isinstance(value, int | float)
        yield float(value), answer.baseline
