"""Renders conversations with a Jinja chat template: a program, run by chat_templates.py in a process of its own.

A template comes with a downloaded model and may be crafted. It is sandboxed, so that it calls nothing; and as a sandbox
does not stop it from looping or from filling the memory, this process has little of both. It imports nothing of ours.

Reads one JSON object: `template`, `variables`, `conversations` (each a list of messages), `cpu_s`, `memory_bytes` and
`prompt` (whether to end with what asks for an answer). Writes a JSON list: for each conversation `text` and `spans`,
where in it each answer begins and ends; or `error`. Of a template that is no Jinja, one entry `unreadable`.
"""

import json
import os
import resource
import sys
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox


class Generation(ext.Extension):
    """{% generation %} ... {% endgeneration %}, by which some templates mark answers: what is within, as it is."""

    tags = {'generation'}  # noqa: RUF012  # As Jinja declares it.

    def parse(self, parser: Any) -> nodes.Node:
        """The statements between the two tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def compile_template(text: str) -> jinja2.Template:
    """Compiles a template as the `transformers` library does, but without its function for the current date."""
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols', Generation]
    )
    environment.filters['tojson'] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals['raise_exception'] = _raise
    return environment.from_string(text)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def rendered(template: jinja2.Template, messages: list[dict[str, str]], variables: dict[str, Any]) -> dict[str, Any]:
    """The text of a conversation and the spans of its answers.

    Raises:
      ValueError: an answer's span cannot be told, since the text before it depends on what comes after.
    """
    whole, spans = render(template, messages, variables), []
    for i, message in enumerate(messages):
        if message['role'] != 'assistant':
            continue
        before = render(template, messages[:i], variables) if i else ''
        prompt = render(template, messages[:i], variables, prompt=True) if i else ''
        until = render(template, messages[: i + 1], variables)
        start = len(os.path.commonprefix([prompt, until]))  # noqa: RUF071  # By characters, as is wanted here.
        end = len(until.rstrip())
        if start < len(before) or not whole.startswith(until[:end]):
            raise ValueError(f'it writes message {i + 1} or those before it differently when others follow')
        spans.append((start, end))
    return {'text': whole, 'spans': spans}


def render(
    template: jinja2.Template, messages: list[dict[str, str]], variables: dict[str, Any], *, prompt: bool = False
) -> str:
    return template.render(messages=messages, add_generation_prompt=prompt, **variables)


def answer(
    template: jinja2.Template, messages: list[dict[str, str]], variables: dict[str, Any], prompt: bool
) -> dict[str, Any]:
    try:
        if prompt:
            return {'text': render(template, messages, variables, prompt=True), 'spans': []}
        return rendered(template, messages, variables)
    # What a template may raise: its own errors, and those of Python's operations on what it is given.
    except (jinja2.TemplateError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        return {'error': f'{type(error).__name__}: {error}'}


def main() -> None:
    """Carries out the task that is read from standard input."""
    task = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (task['cpu_s'], task['cpu_s']))
    resource.setrlimit(resource.RLIMIT_AS, (task['memory_bytes'], task['memory_bytes']))
    try:
        template = compile_template(task['template'])
        found = [answer(template, each, task['variables'], task['prompt']) for each in task['conversations']]
    except (jinja2.TemplateError, RecursionError) as error:
        found = [{'unreadable': f'{type(error).__name__}: {error}'}]
    json.dump(found, sys.stdout)


if __name__ == '__main__':
    main()
