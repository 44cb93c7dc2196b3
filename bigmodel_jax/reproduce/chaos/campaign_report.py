"""What chaos found, as a table and as JSON."""

import collections
import dataclasses
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import rich.table

from bigmodel_jax.reproduce.chaos import campaign, observer

FILE = 'chaos.json'


def write(root: pathlib.Path, facts: dict[str, Any], pace: observer.Pace, chaos: campaign.Chaos) -> None:
    """Writes root/chaos.json.

    Args:
      facts: what was asked for, and 'differences'.
    """
    kills = [dataclasses.asdict(kill) | {'lost_s': kill.lost_s} for kill in chaos.kills]
    content = facts | {
        'kills': kills,
        'problems': chaos.problems,
        'late': chaos.late,
        'undisturbed': pace._asdict(),
        'disturbed_s': chaos.whole_s,
    }
    (root / FILE).write_text(json.dumps(content, indent=1) + '\n')


def table(pace: observer.Pace, chaos: campaign.Chaos, *, asked: int) -> rich.table.Table:
    """The figures.

    Args:
      asked: how many kills were asked for.
    """
    shown = rich.table.Table(box=None, show_header=False, pad_edge=False)
    shown.add_column()
    shown.add_column()
    kills = chaos.kills
    by_host = collections.Counter(host for kill in kills for host in kill.hosts)
    lingered = sum(len(kill.lingered) for kill in kills)
    shown.add_row('kills', f'{len(kills)} of {asked}')
    shown.add_row('  inside saves', str(sum(kill.inside_save for kill in kills)))
    shown.add_row('  before the first report', str(sum(kill.aimed_at == 'WhileStarting' for kill in kills)))
    shown.add_row('  of several hosts at once', str(sum(len(kill.hosts) > 1 for kill in kills)))
    shown.add_row('  by host', ', '.join(f'{host}: {count}' for host, count in sorted(by_host.items())))
    shown.add_row('hosts that did not end by themselves', f'{lingered}, killed after {campaign.GRACE_S:.0f} s')
    shown.add_row('sessions whose hosts met too late', str(chaos.late))
    shown.add_row('steps done again', _spread([kill.steps_again for kill in kills], 'steps'))
    shown.add_row('time to restart', _spread([kill.restart_s for kill in kills], 's'))
    shown.add_row('time lost to a kill', _spread([kill.lost_s for kill in kills], 's'))
    shown.add_row('undisturbed run', f'{pace.whole_s:.1f} s, {pace.steps} steps of {1_000 * pace.step_s:.1f} ms')
    overhead = chaos.whole_s - pace.whole_s
    shown.add_row('disturbed run', f'{chaos.whole_s:.1f} s, {overhead:.1f} s more')
    return shown


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return 'none'
    middle, most, total = statistics.median(values), max(values), sum(values)
    return f'{middle:.3g} {unit} (median), {most:.3g} at most, {total:.4g} in all'
