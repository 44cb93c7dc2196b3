"""Numbers as a person reads them: counts, sizes, durations, dates."""

import datetime
import math

SIZE_UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB')
COUNT_UNITS = ('', 'k', 'M', 'B', 'T')


def count(value: float) -> str:
    """A count to three digits: 950, 12.3k, 124M."""
    if not math.isfinite(value):
        return str(value)
    unit = 0
    # 999.5 would be shown as 1000.
    while abs(value) >= 999.5 and unit < len(COUNT_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f'{value:.3g}{COUNT_UNITS[unit]}'


def whole(value: int) -> str:
    """An integer with its thousands apart: 124,439,808."""
    return f'{value:,}'


def number(value: float) -> str:
    """A measured value to four digits: 1.880, 0.05210, 12,700, 3.000e-05."""
    if value == 0:
        return '0'
    return f'{value:,.0f}' if 1e4 <= abs(value) < 1e9 else f'{value:#.4g}'.removesuffix('.')


def size(size_bytes: int) -> str:
    """Bytes in binary units: 512 B, 1.50 MiB."""
    value, unit = float(size_bytes), 0
    while value >= 1023.5 and unit < len(SIZE_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f'{size_bytes} B' if unit == 0 else f'{value:.3g} {SIZE_UNITS[unit]}'


def duration(seconds: float) -> str:
    """'45 s', '3 min 05 s', '2 h 10 min'."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    if seconds < 3600:
        return f'{seconds // 60} min {seconds % 60:02d} s'
    return f'{seconds // 3600} h {seconds % 3600 // 60:02d} min'


def moment(unix_s: float) -> str:
    """A point in time: 2025-03-01 14:05 UTC."""
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime('%Y-%m-%d %H:%M UTC')
