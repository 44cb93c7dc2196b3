"""What convert and certify print."""

import rich.console
import rich.table

from bigmodel_jax.interop import certifying, conversion


def converted(done: conversion.Converted) -> str:
    """Where it is, how much it was, and what was not used."""
    lines = [f'{done.path}: {done.tensors:,} tensors, {done.size_bytes / 1e6:,.1f} MB', *done.notes]
    return '\n'.join(lines)


def certified(found: certifying.Certificate) -> rich.console.Group:
    """The largest difference of each output."""
    title = f'Largest difference from the reference, in {found.dtype}; up to {found.tolerance:.2g} is rounding:'
    table = rich.table.Table('output', 'difference', '', box=None)
    for row in found.rows:
        shown = '-' if row.difference is None else f'{row.difference:.2e}'
        verdict = 'agrees' if found.holds(row) else 'DIFFERS'
        table.add_row(row.name, shown, ', '.join(filter(None, (verdict, row.remark))))
    return rich.console.Group(title, table)


def verdict(found: certifying.Certificate) -> str:
    """The first output that differs, and what was not compared."""
    lines = [*found.notes]
    if found.unknown:
        lines.append(f'Not in the file, hence not compared: {", ".join(found.unknown)}.')
    differing = sum(not found.holds(row) for row in found.rows)
    if differing:
        lines.append(f'{differing} of {len(found.rows)} outputs differ; the first is {found.first}.')
    else:
        lines.append(f'All {len(found.rows)} outputs agree.')
    return '\n'.join(lines)
