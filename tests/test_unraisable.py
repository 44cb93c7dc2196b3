"""What no code can catch is printed by the interpreter, unless it only repeats a failure that is told elsewhere."""

import asyncio

import pytest

from bigmodel_jax.cli import process

WAITING = """
async def waiting():
    try:
        await future
    except BaseException as error:
        raise Exception('while reading') from error
"""


def abandoned(file):
    """What is left when a coroutine of this file is given up while it waits."""
    loop = asyncio.new_event_loop()
    names = {'future': loop.create_future()}
    exec(compile(WAITING, file, 'exec'), names)
    coroutine = names['waiting']()
    coroutine.send(None)
    del coroutine
    loop.close()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_read_that_is_given_up_says_nothing_and_any_other_coroutine_does(monkeypatch):
    said = []
    monkeypatch.setattr('sys.__unraisablehook__', said.append)
    monkeypatch.setattr('sys.unraisablehook', process._unraisable)
    abandoned('site-packages/orbax/checkpoint/serialization.py')
    assert said == []
    abandoned('site-packages/own/reading.py')
    assert [str(what.exc_value) for what in said] == ['while reading']
