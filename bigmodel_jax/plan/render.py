"""A plan on the terminal: what it needs, how long it takes, what it costs, and why."""

from collections.abc import Sequence

import rich.console
import rich.table
import rich.text

from bigmodel_jax.console import quantities
from bigmodel_jax.parallel import torus
from bigmodel_jax.plan import estimates, search
from bigmodel_jax.plan import plan as plans

BAR_WIDTH = 36
CAVEAT = (
    'By formula: temporaries, HBM traffic and collectives are estimates. The compiled peak was up to 10% higher for '
    'decoders of dense layers, and up to 24% higher with routed experts; compile before renting.'
)
MFU = 'model FLOPs, with causal attention at one half and nothing computed again, over the peak'


def render(plan: plans.Plan) -> rich.console.Group:
    """All of one plan."""
    return rich.console.Group(
        head(plan),
        *_caveat(plan),
        '',
        memory(plan),
        *_advice(plan),
        '',
        roofline(plan),
        '',
        transfers(plan),
        '',
        cost(plan),
        '',
    )


def head(plan: plans.Plan) -> rich.text.Text:
    """The slice, the mesh, and whether it fits."""
    program = plan.program
    needed, limit = program.memory.peak, program.memory.limit
    verdict = (f'fits: {quantities.size(needed)} of {quantities.size(limit)} per chip', 'bold green')
    if not plan.fits:
        over = quantities.size(needed - limit)
        verdict = (f'does not fit: {over} over the {quantities.size(limit)} of a chip', 'bold red')
    elif plan.uncertain:
        text = f'may not fit: {quantities.size(needed)} of {quantities.size(limit)} per chip by formula; compile it'
        verdict = (text, 'bold yellow')
    remat = f', remat {plan.remat}' if plan.remat else ''
    micro = f', {plan.microbatches} microbatches' if plan.microbatches > 1 else ''
    return rich.text.Text.assemble(
        (f'{plan.name} on {program.slice}', 'bold'),
        f'   {torus.shape_text(program.mesh)}{remat}{micro}   ({source(plan)})\n',
        verdict,
    )


def source(plan: plans.Plan) -> str:
    """Where the numbers come from."""
    words = {
        'analytic': 'by formula, not compiled',
        'refused': 'refused by the compiler, whose peak this is; the rest by formula',
        'compiled': f'compiled in {quantities.duration(plan.program.compile_seconds or 0)}',
    }
    return words[plan.program.source]


def memory(plan: plans.Plan) -> rich.table.Table:
    """The waterfall: each bar begins where the one before it ended; the line is the limit of the chip."""
    table = _table('Memory per chip', '', '')
    peak, limit = plan.program.memory.peak, plan.program.memory.limit
    # Of a chip that is nearly empty only the beginning is drawn.
    scale = BAR_WIDTH / (max(peak, limit) if 4 * peak > limit else peak)
    start = 0
    for part in plan.waterfall:
        table.add_row(part.name, quantities.size(part.bytes), _bar(start, part.bytes, limit, scale))
        start += part.bytes
    table.add_row('[bold]peak', f'[bold]{quantities.size(peak)}', _bar(0, peak, limit, scale))
    return table


def _bar(start: int, size: int, limit: int, scale: float) -> str:
    begin, end = round(start * scale), max(round((start + size) * scale), round(start * scale) + 1)
    mark = round(limit * scale)
    cells = ['█' if begin <= cell < end else ' ' for cell in range(BAR_WIDTH + 1)]
    if mark <= BAR_WIDTH and cells[mark] == ' ':
        cells[mark] = '│'
    return ''.join(cells)


def _caveat(plan: plans.Plan) -> list[str]:
    return [] if plan.program.source == 'compiled' else [f'[yellow]{CAVEAT}']


def _advice(plan: plans.Plan) -> list[str]:
    return ['', '[bold]What would help', *(f'  {line}' for line in plan.advice)] if plan.advice else []


def roofline(plan: plans.Plan) -> rich.table.Table:
    """The terms of the step time."""
    time, counts = plan.time, plan.program.counts
    table = _table('Step time', '', '')
    flops = f'{counts.matmul_flops / 1e12:,.1f} TFLOP of matrix products, {counts.model_flops / 1e12:,.1f} of the model'
    table.add_row('compute', seconds(time.compute_s), flops)
    table.add_row('HBM', seconds(time.memory_s), f'{counts.hbm_bytes / 1e9:,.1f} GB read and written')
    table.add_row('links, hidden', seconds(time.hidden_s), 'beside the computation')
    table.add_row('links, exposed', seconds(time.exposed_s), 'the computation waits')
    if time.slowdown > 1:
        table.add_row('slices', f'x {time.slowdown:.3f}', 'slowdown of several slices, by experience')
    bar = f'{seconds(time.low_s)} to {seconds(time.high_s)}; bound by {time.bound}'
    table.add_row('[bold]step', f'[bold]{seconds(time.seconds)}', bar)
    mfus = f'{time.mfu * time.seconds / time.high_s:.0%} to {time.mfu * time.seconds / time.low_s:.0%}'
    table.add_row('[bold]MFU', f'[bold]{time.mfu:.1%}', f'{mfus}; {MFU}')
    if time.other_mfus:
        table.add_row('', '', '[dim]by others: ' + ', '.join(f'{name} {value:.1%}' for name, value in time.other_mfus))
    rows = plan.factors
    known = (
        f'compute at {rows.compute:.0%} of the peak, fitted to {rows.fitted} published runs, of which {rows.outside} '
        f'lie outside the range: the worst of {rows.held_out} others'
    )
    if not rows.fitted:
        known = f'no published run of this chip: compute at {rows.compute:.0%} of the peak, the mean of all others'
    table.add_row('', '', f'[dim]{known}')
    return table


def transfers(plan: plans.Plan) -> rich.table.Table:
    """The collectives of a step, those of one kind over the same axes together."""
    table = _table('Collectives', 'over', 'GiB a step', 'times', 'seconds', '')
    for row in together(plan):
        table.add_row(*row)
    if not plan.transfers:
        table.add_row('none', '', '', '', '', '')
    return table


def together(plan: plans.Plan) -> list[tuple[str, str, str, str, str, str]]:
    """Kind, axes, GiB per step, executions, time, and whether it is hidden, as text; the longest first."""
    groups: dict[tuple[str, str, bool], list[tuple[estimates.Collective, float]]] = {}
    for each, time_s in plan.transfers:
        over = ' x '.join(each.axes) or f'{each.group} chips'
        key = each.kind, over + (' (DCN)' if each.over_dcn else ''), each.asynchronous
        groups.setdefault(key, []).append((each, time_s))
    rows = []
    for (kind, over, hidden), members in groups.items():
        size = sum(each.bytes * each.times for each, _ in members) / 2**30
        times, total_s = sum(each.times for each, _ in members), sum(time_s for _, time_s in members)
        rows.append((total_s, (kind, over, f'{size:,.2f}', f'{times:,}', seconds(total_s), 'hidden' if hidden else '')))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def cost(plan: plans.Plan) -> rich.table.Table:
    """The whole run."""
    found = plan.cost
    table = _table(f'Run of {plan.steps:,} steps', '', '')
    count, name = plan.units_per_step
    table.add_row('time', quantities.duration(found.hours * 3600), f'{quantities.count(plan.steps * count)} {name}')
    table.add_row('chip-hours', f'{found.chip_hours:,.1f}', 'start, evaluations and checkpoints come on top')
    table.add_row('[bold]dollars', f'[bold]{dollars(plan)}', f'[dim]{price(plan)}')
    return table


def dollars(plan: plans.Plan) -> str:
    """What the run costs, as text; without a price that is said."""
    return 'unknown' if plan.cost.dollars is None else f'${plan.cost.dollars:,.2f}'


def price(plan: plans.Plan) -> str:
    """The price that was taken, with its date."""
    found = plan.cost.price
    if found is None:
        return f'the price table has none for {plan.program.chip}; give one with --prices FILE'
    known = found.date if found.verified else f'unverified list price of {found.date}; replace with --prices'
    return f'${found.dollars:.2f} a chip and hour, {found.region}, {known}'


def overview(found: Sequence[plans.Plan]) -> rich.table.Table:
    """One line for each plan."""
    table = _table('Slice', 'mesh', 'peak', 'of', 'step', 'MFU', 'time', 'dollars')
    for plan in found:
        memory = plan.program.memory
        fits = '[red]' if not plan.fits else '[yellow]' if plan.uncertain else ''
        table.add_row(
            plan.program.slice,
            torus.shape_text(plan.program.mesh),
            f'{fits}{quantities.size(memory.peak)}',
            quantities.size(memory.limit),
            seconds(plan.time.seconds),
            f'{plan.time.mfu:.0%}',
            quantities.duration(plan.cost.hours * 3600),
            dollars(plan),
        )
    return table


def ranking(result: search.SearchResult, count: int) -> rich.console.Group:
    """The best choices of a search, and why the others are none."""
    table = _table('', 'slice', 'mesh', 'batch', 'remat', 'peak', 'step', 'MFU', 'dollars')
    for rank, choice in enumerate(result.ranked[:count], 1):
        money = 'unknown' if choice.dollars is None else f'${choice.dollars:,.0f}'
        table.add_row(
            f'{rank}',
            choice.slice,
            torus.shape_text(choice.mesh),
            f'{choice.batch:,}' + (f' in {choice.microbatches}' if choice.microbatches > 1 else ''),
            choice.remat,
            quantities.size(choice.peak),
            seconds(choice.time.seconds),
            f'{choice.time.mfu:.0%}',
            money,
        )
    text = f'{len(result.ranked)} of {result.tried} choices fit. {result.why}'
    skipped = [f'  {line}' for line in result.skipped]
    return rich.console.Group(table, '', text, *(['', '[bold]Left out', *skipped] if skipped else []))


def _table(first: str, *others: str) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False, header_style='bold', padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        numeric = name in ('GiB a step', 'times', 'seconds', 'peak', 'of', 'step', 'MFU', 'dollars')
        table.add_column(
            name, justify='right' if numeric else 'left', no_wrap=name in ('mesh', 'slice', 'batch', 'remat') or numeric
        )
    return table


def seconds(value: float) -> str:
    """0, 340 us, 12.3 ms, 4.56 s."""
    for unit, scale in (('s', 1.0), ('ms', 1e-3), ('us', 1e-6)):
        if value >= scale:
            return f'{value / scale:.3g} {unit}' if value < 1e3 else f'{value:,.0f} s'
    return '0'
