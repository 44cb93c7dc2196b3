"""FLOPs of a step, counted in the program before it is compiled (its jaxpr).

The compiler's own count (`cost_analysis()`) takes the body of a loop once, however often it runs, and a custom kernel
not at all; here a scan counts as often as it is long, and a kernel by what it computes in each block.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from bigmodel_jax.kernels import kernel as kernels

# One operation for each number of the result; those of exp, log and the like are taken as one too.
ELEMENTWISE = {
    'add', 'add_any', 'sub', 'mul', 'div', 'neg', 'max', 'min', 'abs', 'exp', 'exp2', 'expm1', 'log', 'log1p', 'tanh',
    'logistic', 'erf', 'sin', 'cos', 'sqrt', 'rsqrt', 'pow', 'integer_pow', 'square', 'erf_inv', 'cumsum', 'cumprod',
}  # fmt: skip
# One operation for each number that goes in.
REDUCTIONS = {'reduce_sum', 'reduce_max', 'reduce_min', 'reduce_prod', 'argmax', 'argmin', 'scatter-add', 'scatter_add'}
# These pass a constant on as it is.
CONSTANT = {'convert_element_type', 'copy', 'copy_p', 'device_put', 'broadcast_in_dim', 'reshape', 'pvary', 'pcast'}
VISIBLE_SHARE = re.compile(rf'{kernels.VISIBLE}([0-9.]+)')
RECOMPUTED = 'rematted_computation'  # What jax.checkpoint calls the operations that it repeats.


class Work(NamedTuple):
    """Floating-point operations on all devices together; a multiply-add is two."""

    total: float = 0.0
    matmul: float = 0.0  # Of matrix products, convolutions and kernels.
    repeated: float = 0.0  # Of `matmul`, what is computed again in the backward pass.
    unskipped: float = 0.0  # The rest of `matmul`, as if no kernel skipped the blocks that its mask hides.
    masked: float = 0.0  # Of the rest of `matmul`, what makes scores that a causal mask or a window then hides.

    @property
    def model(self) -> float:
        """The FLOPs of the model, which MFU is a share of: nothing repeated, and causal attention at one half."""
        return self.matmul - self.repeated - self.masked

    def masked_to(self, share: float) -> 'Work':
        """The work of an attention of whose scores only `share` counts."""
        return self._replace(masked=max(self.matmul - self.repeated - share * self.unskipped, 0.0))

    def __add__(self, other: 'Work') -> 'Work':  # type: ignore[override]  # Sums; work is not joined like tuples.
        return Work(*(a + b for a, b in zip(self, other)))

    def scaled(self, factor: float) -> 'Work':
        return Work(*(each * factor for each in self))


def work(program: core.ClosedJaxpr) -> Work:
    """The work of a program, such as `jax.jit(step).trace(...).jaxpr`.

    Of the branches of a condition the largest is counted; a loop that ends when the data say so is counted once.
    """
    return _walk(program.jaxpr, [*program.consts], [None] * len(program.jaxpr.invars))


def _walk(jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> Work:
    """The work of a jaxpr.

    Args:
      consts, inputs: the values that are known, such as the mask of a kernel; None for the others.
    """
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs]))
    done = Work()
    for equation in jaxpr.eqns:
        values = [each.val if isinstance(each, core.Literal) else known.get(each) for each in equation.invars]
        if equation.primitive.name in CONSTANT and values[0] is not None:
            known[equation.outvars[0]] = values[0]
        part = _equation(equation, values)
        scope = str(equation.source_info.name_stack)
        if RECOMPUTED in scope:
            part = part._replace(repeated=part.matmul, unskipped=0.0, masked=0.0)
        elif (found := VISIBLE_SHARE.search(scope)) is not None:
            part = part.masked_to(float(found[1]))
        done = done + part
    return done


def _equation(equation: Any, values: list[Any]) -> Work:
    name, params = equation.primitive.name, equation.params
    if name in RULES:
        return RULES[name](equation, values)
    inner = [body for value in params.values() for body in _bodies(value)]
    if name == 'cond':
        return max((_call(body, values[1:]) for body in inner), key=lambda part: part.total, default=Work())
    if inner:
        return sum((_call(body, values) for body in inner), Work())
    size = _size(equation.outvars[0].aval) if equation.outvars else 0
    is_float = bool(equation.outvars) and jax.numpy.issubdtype(_dtype(equation.outvars[0].aval), jax.numpy.inexact)
    if name in ELEMENTWISE and is_float:
        return Work(total=size)
    return Work(total=_size(equation.invars[0].aval)) if name in REDUCTIONS and is_float else Work()


def _bodies(value: Any) -> Iterator[Any]:
    """The programs among the parameters of an operation."""
    for each in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(each, (core.Jaxpr, core.ClosedJaxpr)):
            yield each


def _call(body: Any, values: Sequence[Any]) -> Work:
    jaxpr, consts = (body.jaxpr, body.consts) if isinstance(body, core.ClosedJaxpr) else (body, ())
    inputs = list(values) if len(values) == len(jaxpr.invars) else [None] * len(jaxpr.invars)
    return _walk(jaxpr, consts, inputs)


def _size(aval: Any) -> int:
    return math.prod(getattr(aval, 'shape', ()))


def _rank(variable: Any) -> int:
    return len(getattr(variable.aval, 'shape', ()))


def _dtype(aval: Any) -> Any:
    return getattr(aval, 'dtype', np.dtype(np.int32))


def _matmul(flops: float) -> Work:
    return Work(total=flops, matmul=flops, unskipped=flops)


def _dot(equation: Any, _: list[Any]) -> Work:
    contracted = equation.params['dimension_numbers'][0][0]
    shape = equation.invars[0].aval.shape
    return _matmul(2 * _size(equation.outvars[0].aval) * math.prod(shape[axis] for axis in contracted))


def _convolution(equation: Any, _: list[Any]) -> Work:
    """Each number of the result sees the kernel once: its window times the channels of its group.

    In the gradient of a convolution with strides the input is spread out with zeros between, which are not counted: a
    stride of 2 leaves one in four.
    """
    kernel, numbers = equation.invars[1].aval.shape, equation.params['dimension_numbers']
    outputs, zeros = kernel[numbers.rhs_spec[0]], math.prod(equation.params['lhs_dilation'])
    return _matmul(2 * _size(equation.outvars[0].aval) * math.prod(kernel) / outputs / zeros)


def _ragged_dot(equation: Any, _: list[Any]) -> Work:
    """Each row meets the matrix of its own group: as many operations as one product of all rows with one matrix."""
    return _matmul(2 * _size(equation.invars[0].aval) * equation.outvars[0].aval.shape[-1])


def _scan(equation: Any, values: list[Any]) -> Work:
    body = equation.params['jaxpr']
    # Constants come first; then what goes round, as often as it comes out; then the slices, which have lost an axis.
    inside = body.jaxpr if isinstance(body, core.ClosedJaxpr) else body
    sliced = sum(_rank(a) != _rank(b) for a, b in zip(equation.invars, inside.invars))
    carried = sum(_rank(a) == _rank(b) for a, b in zip(equation.outvars, inside.outvars))
    constant = len(inside.invars) - sliced - carried
    inputs = [*values[:constant], *[None] * (len(inside.invars) - constant)]
    return _call(body, inputs).scaled(equation.params['length'])


def _while(equation: Any, _: list[Any]) -> Work:
    return sum((_call(equation.params[name], ()) for name in ('cond_jaxpr', 'body_jaxpr')), Work())


def _shard_map(equation: Any, values: list[Any]) -> Work:
    """The shapes inside are those of one device."""
    params = equation.params
    manual = params.get('manual_axes') or params['mesh'].axis_names
    devices = math.prod(params['mesh'].shape[axis] for axis in manual)
    return _call(params['jaxpr'], values).scaled(devices)


def _kernel(equation: Any, values: list[Any]) -> Work:
    """A Pallas kernel: what its author says, or its body in each block of the grid that its mask does not skip."""
    params = equation.params
    estimate = params.get('cost_estimate')
    if estimate is not None:
        return _matmul(estimate.flops)
    mapping, name = params['grid_mapping'], str(params.get('name') or params.get('name_and_src_info') or '')
    blocks = math.prod(size for size in mapping.grid if isinstance(size, int))
    body = _walk(params['jaxpr'], (), [None] * len(params['jaxpr'].invars)).scaled(blocks)
    if 'splash' not in name:
        return body
    # The second array that splash attention reads ahead says of each block whether it has anything to do.
    mask = values[1] if mapping.num_index_operands > 1 else None
    done = body if mask is None else body.scaled(float(np.mean(np.asarray(mask) != 0)))
    repeated = _repeated_share(name, str(params['jaxpr']).count('dot_general'))
    return done._replace(repeated=done.matmul * repeated, unskipped=body.matmul * (1 - repeated))


def _repeated_share(name: str, products: int) -> float:
    """The share of a splash kernel's products that compute again what the forward pass, or the other kernel, did.

    Backward there are five: the scores again, and the gradients of the weights, values, keys and queries. In two
    kernels, the one for the queries makes the scores and the gradients of the weights for itself.
    """
    if 'dq' in name:
        return 2 / 3
    return 1 / products if 'dkv' in name else 0.0


def _custom_call(equation: Any, values: list[Any]) -> Work:
    """A function with its own derivative: its forward pass; the backward pass stands elsewhere."""
    params = equation.params
    body = next(params[name] for name in ('call_jaxpr', 'fun_jaxpr', 'jaxpr') if name in params)
    return _call(body, values)


RULES: dict[str, Callable[[Any, list[Any]], Work]] = {
    'dot_general': _dot,
    'conv_general_dilated': _convolution,
    'ragged_dot': _ragged_dot,
    'ragged_dot_general': _ragged_dot,
    'scan': _scan,
    'while': _while,
    'shard_map': _shard_map,
    'pallas_call': _kernel,
    'custom_vjp_call': _custom_call,
    'custom_vjp_call_jaxpr': _custom_call,
    'custom_jvp_call': _custom_call,
}
