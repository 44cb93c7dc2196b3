"""plan.html: one self-contained page on some plans; no script, nothing loaded from elsewhere, light and dark."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.parallel import torus
from bigmodel_jax.plan import plan as plans
from bigmodel_jax.plan import render

HTML, JSON = 'plan.html', 'plan.json'
WIDTH, ROW, LABEL, VALUE = 920.0, 26.0, 170.0, 90.0
# Of the picture of an array: its sides, and the lines that are still told apart.
TILE_WIDTH, TILE_HEIGHT, MOST_LINES = 190.0, 120.0, 32


class Bar(NamedTuple):
    """One bar of the waterfall, in the units of the picture."""

    name: str
    size: str
    x: float
    y: float
    width: float
    kind: str  # 'part', 'total' or 'over'.


class Waterfall(NamedTuple):
    """The memory of one chip; `limit_x` is where its memory ends."""

    height: float
    bars: list[Bar]
    limit_x: float
    limit: str


class PlanTile(NamedTuple):
    """How one array is cut: the lines, and the part that one chip holds."""

    name: str
    shape: str
    size: str
    cuts: list[str]
    lines_x: list[float]
    lines_y: list[float]
    own_width: float
    own_height: float


def check(directory: epath.PathLike) -> epath.Path:
    """Makes the directory for write().

    Raises:
      InputError: it cannot be made, or is a file.
    """
    folder = epath.Path(directory).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise config.InputError(f'--out {directory} cannot be made: {error}. Use another directory.') from error
    return folder


def write(found: Sequence[plans.Plan], directory: epath.PathLike) -> epath.Path:
    """Writes plan.json and plan.html, and returns the path of the page."""
    folder = check(directory)
    (folder / JSON).write_text(json.dumps([plans.to_json(plan) for plan in found], indent=1) + '\n')
    path = folder / HTML
    path.write_text(html(found))
    return path


def html(found: Sequence[plans.Plan]) -> str:
    """The page on some plans."""
    folders = [
        pathlib.Path(__file__).parent / 'templates',
        pathlib.Path(plans.__file__).parents[1] / 'report/templates',
    ]
    loader = jinja2.FileSystemLoader(folders)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {'duration': quantities.duration, 'size': quantities.size, 'seconds': render.seconds}
    sections = [_section(plan) for plan in found]
    return environment.get_template('plan.html').render(name=found[0].name, sections=sections, caveat=render.CAVEAT)


def _section(plan: plans.Plan) -> dict[str, Any]:
    """What the template shows of a plan."""
    return {
        'plan': plan,
        'mesh': torus.shape_text(plan.program.mesh),
        'waterfall': waterfall(plan),
        'tiles': [tile(array, plan.program.mesh) for array in plan.arrays],
        'dollars': render.dollars(plan),
        'price': render.price(plan),
        'source': render.source(plan),
        'transfers': render.together(plan),
        'terms': terms(plan),
    }


def waterfall(plan: plans.Plan) -> Waterfall:
    """The waterfall of a plan."""
    memory = plan.program.memory
    span = max(memory.peak, memory.limit)
    scale = (WIDTH - LABEL - VALUE) / span
    bars, start = [], 0
    for index, part in enumerate(plan.waterfall):
        kind = 'over' if start + part.bytes > memory.limit else 'part'
        bars.append(_bar(part.name, start, part.bytes, y=index * ROW, scale=scale, kind=kind))
        start += part.bytes
    total = 'total' if plan.fits else 'over'
    bars.append(_bar('peak', 0, memory.peak, y=len(bars) * ROW, scale=scale, kind=total))
    return Waterfall(
        height=len(bars) * ROW + 18,
        bars=bars,
        limit_x=LABEL + memory.limit * scale,
        limit=f'{quantities.size(memory.limit)} per chip',
    )


def _bar(name: str, start: int, size: int, *, y: float, scale: float, kind: str) -> Bar:
    return Bar(name, quantities.size(size), LABEL + start * scale, y, max(size * scale, 1.0), kind)


def terms(plan: plans.Plan) -> list[tuple[str, float, float]]:
    """Name, seconds and share of the longest, of each term of the step time."""
    time = plan.time
    found = {
        'compute': time.compute_s,
        'HBM': time.memory_s,
        'links, hidden': time.hidden_s,
        'links, exposed': time.exposed_s,
        'step': time.seconds,
    }
    longest = max(time.high_s, *found.values())
    return [(name, seconds, seconds / longest) for name, seconds in found.items()]


def tile(array: plans.ArrayEstimate, mesh: dict[str, int]) -> PlanTile:
    """The picture of an array as a rectangle: down its first large dimension, across all after it."""
    dimensions = [
        (logical or '-', size, entry, math.prod(mesh[axis] for axis in entry))
        for logical, size, entry in zip(array.axes, array.shape, array.cuts)
    ]
    cuts = [
        f'{logical} {size:,} by {" x ".join(entry)} {parts}' for logical, size, entry, parts in dimensions if parts > 1
    ]
    cut = sorted((each for each in dimensions if each[3] > 1), key=lambda each: -each[3])[:2]
    across = cut[0][3] if cut else 1
    down = cut[1][3] if len(cut) > 1 else 1
    return PlanTile(
        name=array.name,
        shape=' x '.join(f'{logical} {size:,}' for logical, size, _, _ in dimensions),
        size=quantities.size(array.chip_bytes),
        cuts=cuts or ['whole on every chip'],
        lines_x=_lines(across, TILE_WIDTH),
        lines_y=_lines(down, TILE_HEIGHT),
        own_width=max(TILE_WIDTH / across, 2.0),
        own_height=max(TILE_HEIGHT / down, 2.0),
    )


def _lines(parts: int, length: float) -> list[float]:
    shown = min(parts, MOST_LINES)
    return [length * line / shown for line in range(1, shown)]
