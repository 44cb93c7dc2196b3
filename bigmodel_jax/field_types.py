"""Whether a value has the type that a field of a configuration class declares."""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pydantic
import pydantic_core

from bigmodel_jax import bounds

_HALF = re.compile('[\ud800-\udfff]')
# What pydantic, or the look-up of an annotation, raises of a class whose fields cannot be checked.
UNCHECKED = (pydantic.errors.PydanticUserError, pydantic_core.SchemaError, NameError)


def wrong(cls: type, values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Each of the values of fields of `cls` that has another type than is declared.

    Strict: no string passes for a number, no 7.9 for an int; an int passes for a float. Fields that hold configs accept
    any subclass of the declared class.

    Returns:
      The name of the field, the value within it that is wrong, and what it should be.
    """
    for name, value in values.items():
        try:
            _adapters(cls)[name].validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            inner, wanted = _explain(error.errors(include_url=False))
            yield name, inner, '. '.join([wanted, *bounds.advice(_hints(cls)[name])]).removesuffix('.')
        else:
            if isinstance(value, str) and _HALF.search(value):
                yield name, value, 'it holds half of a surrogate pair, which is not text'


def _explain(details: list[Any]) -> tuple[Any, str]:
    """The wrong value, and what it should be; a union's branches are joined by 'or'."""
    messages = []
    for detail in details:
        wanted = detail['ctx']['class'] if detail['type'] == 'is_instance_of' else ''
        said = detail['msg'].removeprefix('Input ').removeprefix('Value error, ')
        messages.append(f'should be a {wanted}' if wanted else said)
    return details[0]['input'], ' or '.join(dict.fromkeys(messages))


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _adapters(cls: Any) -> dict[str, pydantic.TypeAdapter]:
    hints = _hints(cls)
    return {
        name: pydantic.TypeAdapter(_instances(hints[name]))
        for name in (field.name for field in dataclasses.fields(cls))
    }


def _instances(hint: Any) -> Any:
    """The annotation with every class that pydantic would rebuild replaced by an isinstance check."""
    if isinstance(hint, type) and not typing.get_args(hint):
        if hint is float:
            return pydantic.FiniteFloat
        return hint if hint in (int, str, bool, type(None)) else pydantic.InstanceOf[hint]  # type: ignore[misc]
    arguments = tuple(_instances(argument) for argument in typing.get_args(hint))
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[arguments]
    if origin is typing.Literal or not arguments:
        return hint
    if origin is typing.Annotated:
        return functools.reduce(lambda inner, bound: Annotated[inner, bound], hint.__metadata__, arguments[0])
    return origin[arguments]
