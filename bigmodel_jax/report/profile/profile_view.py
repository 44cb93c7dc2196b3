"""A profile on the terminal: in words first, then in numbers."""

from collections.abc import Iterator

import rich.console
import rich.table
import rich.text

from bigmodel_jax.plan import render
from bigmodel_jax.report.profile import breakdown
from bigmodel_jax.report.profile.profiled_run import RunProfile
from bigmodel_jax.train.monitoring import profiling, watching

# Each part of a step as a sentence says it, and as a table does.
WORDS = {
    'compute': ('computing', 'compute'),
    'collectives': ('in collectives that nothing was computed beside', 'collectives, exposed'),
    'copies': ('copying memory', 'memory copies'),
    'input': ('waiting for a batch', 'waiting for input'),
    'idle': ('idle', 'idle'),
}
WORTH_SAYING = 0.01  # The share of a step from which on something is said in words.
MOST_DEVICES = 16
ORIGIN_WIDTH = 76


def profiled(found: RunProfile) -> rich.console.Group:
    """All of it for rich.console.Console.print()."""
    return rich.console.Group(
        rich.text.Text(head(found), 'bold'),
        *(rich.text.Text(line) for line in sentences(found.breakdown)),
        *(rich.text.Text(line) for line in beside_plan(found)),
        '',
        causes(found),
        *_devices(found.breakdown),
        '',
        *ops(found),
        '',
        *(rich.text.Text(line) for line in how_to_open(found)),
    )


def head(found: RunProfile) -> str:
    """What was profiled, and the time of a step."""
    steps, devices = found.breakdown.steps, len(found.breakdown.devices)
    return (
        f'steps {steps[0]:,} to {steps[1]:,} of {found.run.path}: {render.seconds(found.breakdown.step_s)} a step '
        f'on {devices} device{"s" if devices > 1 else ""}'
    )


def sentences(found: breakdown.Breakdown) -> Iterator[str]:
    """Where the time went, in words."""
    shares = {cause: found.seconds(cause) / found.step_s for cause in breakdown.CAUSES}
    said = [cause for cause in breakdown.CAUSES if shares[cause] >= WORTH_SAYING]
    words = [f'{shares[cause]:.0%} {WORDS[cause][0]}' for cause in sorted(said, key=lambda cause: -shares[cause])]
    yield f'Of a step, a device spent {_listed(words)}.'
    hidden, exposed = found.seconds('hidden'), found.seconds('collectives')
    if hidden + exposed >= WORTH_SAYING * found.step_s:
        share = hidden / (hidden + exposed)
        yield (
            f'Collectives ran for {render.seconds(hidden + exposed)}, and {share:.0%} of that was hidden behind '
            'computation. What is exposed includes waiting for slower devices.'
        )
    phases: dict[str, float] = {}
    for device in found.devices:
        for name, ns in device.idle_phases:
            phases[name] = phases.get(name, 0) + ns / found.window_ns / len(found.devices)
    meanwhile = [
        f'{watching.PHASES.get(name, name)} ({share:.0%})'
        for name, share in sorted(phases.items(), key=lambda pair: -pair[1])
        if share >= WORTH_SAYING
    ]
    if meanwhile:
        yield f'While the devices were idle, the host was {_listed(meanwhile)}.'


def _listed(words: list[str]) -> str:
    """'a, b and c'."""
    return f'{", ".join(words[:-1])} and {words[-1]}' if len(words) > 1 else ''.join(words)


def causes(found: RunProfile) -> rich.table.Table:
    """The parts of a step, which add up to it; beside them what plan predicts."""
    times, prediction = found.breakdown, found.prediction
    planned = [] if isinstance(prediction, str) else ['plan', 'difference']
    table = _table('Step time', 'seconds', 'share', *planned)
    rows = [(WORDS[cause][1], times.seconds(cause), cause) for cause in breakdown.CAUSES]
    for name, seconds, cause in [*rows, ('step', times.step_s, None)]:
        cells = [render.seconds(seconds), f'{seconds / times.step_s:.1%}']
        if not isinstance(prediction, str):
            expected = prediction.parts[cause] if cause else prediction.time.seconds
            sign = '-' if seconds < expected else '+'
            cells += [render.seconds(expected), f'{sign}{render.seconds(abs(seconds - expected))}']
        table.add_row(name, *cells, style='' if cause else 'bold')
    return table


def beside_plan(found: RunProfile) -> Iterator[str]:
    """What plan predicts, in words."""
    prediction = found.prediction
    if isinstance(prediction, str):
        yield prediction
        return
    time, step_s = prediction.time, found.breakdown.step_s
    parts = prediction.parts
    more = {cause: found.breakdown.seconds(cause) - parts[cause] for cause in breakdown.CAUSES}
    most = max(more, key=lambda cause: abs(more[cause]))
    inside = 'within' if time.low_s <= step_s <= time.high_s else 'outside'
    yield (
        f'plan predicts {render.seconds(time.seconds)} on {prediction.slice} by formula: arithmetic '
        f'{render.seconds(time.compute_s)}, memory traffic {render.seconds(time.memory_s)} (the longer one counts), '
        f'collectives {render.seconds(time.hidden_s)} beside it and {render.seconds(time.exposed_s)} exposed. The '
        f'step is {inside} its range of {render.seconds(time.low_s)} to {render.seconds(time.high_s)}.'
    )
    yield (
        f'What differs most is {WORDS[most][1]}: {render.seconds(abs(more[most]))} '
        f'{"more" if more[most] > 0 else "less"} than predicted.'
    )


def _devices(found: breakdown.Breakdown) -> Iterator[rich.console.RenderableType]:
    """Each device by itself, where they are several."""
    if not 1 < len(found.devices) <= MOST_DEVICES:
        return
    table = _table('Share of the step', *(WORDS[cause][1] for cause in breakdown.CAUSES))
    for device in found.devices:
        table.add_row(device.device, *(f'{ns / found.window_ns:.1%}' for ns in device.parts.values()))
    yield ''
    yield table


def ops(found: RunProfile) -> Iterator[rich.text.Text]:
    """The operations that took the most time, each with where it came from in the line below."""
    yield rich.text.Text(f'{"Most expensive operations":<40}{"times":>7}{"seconds":>10}{"share":>8}', 'bold')
    each_step = found.breakdown.count * len(found.breakdown.devices)
    for op in found.ops:
        seconds = found.breakdown.op_seconds(op)
        share = f'{seconds / found.breakdown.step_s:.1%}'
        times = f'{op.count / each_step:.3g}'
        yield rich.text.Text(f'{op.name[:28]:<29}{op.kind:<11}{times:>7}{render.seconds(seconds):>10}{share:>8}')
        if origin := found.origin(op):
            yield rich.text.Text(f'    {short(origin)}', 'dim')


def short(origin: str) -> str:
    """The end of where an operation came from, which says the most."""
    return origin if len(origin) <= ORIGIN_WIDTH else f'...{origin[3 - ORIGIN_WIDTH :]}'


def how_to_open(found: RunProfile) -> Iterator[str]:
    """Where the trace is, and what draws it."""
    folder = found.run.path / profiling.FOLDER
    yield f'trace: {found.folder}'
    yield f'Draw it with `xprof --port 8791 {folder}` (pip install xprof), then open http://localhost:8791;'
    yield 'or open its perfetto_trace.json.gz at https://ui.perfetto.dev.'


def _table(title: str, *columns: str) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False, header_style='bold')
    table.add_column(title)
    for column in columns:
        table.add_column(column, justify='right')
    return table
