"""What an operation of a compiled program does: computes, talks to other devices, or copies memory."""

import re
from typing import Literal

Kind = Literal['compute', 'collective', 'copy', 'control']
# Opcodes of XLA (https://openxla.org/xla/operation_semantics), and the names that jax.lax gives to its own. A program
# names an instruction after its opcode or after the JAX function that made it.
COLLECTIVE = re.compile(
    r'(^|[^a-z])(all-reduce|all-gather|reduce-scatter|collective-permute|collective-broadcast|all-to-all|psum|ppermute|'
    r'pmax|pmin|pshuffle|nccl\w*|rccl\w*|async-collective-(start|done))|^(send|recv)(-done)?\b',
)
COPY = re.compile(
    r'^(copy|slice|dynamic-slice|dynamic-update-slice)-(start|done)|^(copy|transpose)(\.|$)|^mem(cpy|set)'
)
# An operation with a body, which is executed and traced as operations of its own.
CONTROL = re.compile(r'^(while|conditional)(\.|$)')


def kind_of(name: str) -> Kind:
    """What an operation does, by its opcode, its category or its name: the names of a trace and of XLA mean the same.

    An 'async-collective-fusion' of a TPU computes while it moves what it computes with: it is compute.
    """
    plain = name.lower().replace('_', '-').replace(' ', '-')
    if CONTROL.match(plain):
        return 'control'
    if COLLECTIVE.search(plain):
        return 'collective'
    return 'copy' if COPY.match(plain) else 'compute'
