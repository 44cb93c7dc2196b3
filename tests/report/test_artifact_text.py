"""Artifacts on a terminal: what they say is there, and nothing of it moves the cursor."""

import io

import numpy as np
import pytest

from bigmodel_jax.console import terminal
from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.report import artifact_text

EVIL = '\x1b[2J[red]'
LINE = artifacts.Line(name='line', x=(0.0, 1.0, 2.0), y=(0.0, float('nan'), 4.0))


@pytest.mark.parametrize(
    ('artifact', 'wanted'),
    [
        (artifacts.Text(prompt='once', text=' upon'), 'once upon\n'),
        (artifacts.Text(prompt='ja', text='yes', reference='yeah', title='t'), 't\nja\nyes\nyeah\n'),
        (artifacts.Table(columns=('a', 'bc'), rows=(('x', 0.123456), ('yz', 2))), 'a   bc\nx   0.1235\nyz  2\n'),
        (artifacts.Audio.of(np.zeros(4_000), 8_000, title='tone'), 'tone: 0.5 s, 8,000 Hz\n'),
        (artifacts.Image.of(np.array([[0.0, 1.0], [0.0, 1.0]])), 'image (2 x 2 pixels)\n █\n\n'),
        (artifacts.Figure(panels=(artifacts.Chart(lines=(LINE,)),)), 'line 0 to 4    █\n\n'),
        (
            artifacts.Figure(panels=(artifacts.Heatmap(values=((0.0, 1.0),), rows=('r',), columns=('a', 'b')),)),
            'r   ██\n\n',
        ),
    ],
)
def test_it_says_what_the_artifact_is(artifact, wanted):
    assert printed(artifact) == wanted


def test_a_text_cannot_write_to_the_terminal():
    assert printed(artifacts.Text(prompt=EVIL, text=EVIL)) == '\\x1b[2J[red]\\x1b[2J[red]\n'


def printed(artifact):
    written = io.StringIO()
    terminal.Console(file=written, width=200).print(artifact_text.render(artifact), soft_wrap=True)
    return written.getvalue()
