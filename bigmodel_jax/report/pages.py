"""The templates of the pages of runs and sweeps, and how they print numbers."""

import functools
import pathlib

import jinja2

from bigmodel_jax.console import quantities


@functools.cache
def environment() -> jinja2.Environment:
    """The templates."""
    # Samples, prompts, diffs and names may hold HTML: everything is escaped.
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent / 'templates')
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        'whole': quantities.whole, 'duration': quantities.duration, 'moment': quantities.moment,
        'number': quantities.number,
    }  # fmt: skip
    return made
