"""What a verb of the command line is, and how its file is found."""

import argparse
import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bigmodel_jax import cli


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
      summary: one line for the list of verbs.
      add_arguments: declares the arguments on the verb's parser.
      run: does it, and returns the exit status, where None means 0.
      epilog: what --help says at its end.
      file_as: how an experiment file that is run as a program names itself: 'positional', as the EXPERIMENT; 'option',
        as --experiment; None, not at all.
      uses_jax: False for a verb that only reads files and starts without JAX, which takes seconds.
      prepare: is called before JAX is imported, which takes seconds; None: nothing is to be done then.
      several_hosts: every host of a run may start it.
    """

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    epilog: str | None = None
    file_as: str | None = 'positional'
    uses_jax: bool = True
    prepare: Callable[[argparse.Namespace], None] | None = None
    several_hosts: bool = False


def find(name: str) -> Verb:
    """The verb of that name; imports its file and no other verb's."""
    found: Verb = importlib.import_module(f'{cli.__name__}.{name}').VERB
    return found


def every() -> Mapping[str, Verb]:
    """All verbs, in the order of --help."""
    return {name: find(name) for name in cli.VERBS}
