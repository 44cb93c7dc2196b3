"""Every page of the documentation does what it says: its files, programs and commands are executed in their order."""

import os
import pathlib
import re
import shlex

import pytest

import style_rules
from bigmodel_jax import __main__ as command_line

DOCS = style_rules.ROOT / 'docs'
PAGES = sorted((DOCS / 'howto').glob('*.md'))
FENCED = re.compile(r'^```(python|bash)(?: title="([^"]+)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)
PARSED_ONLY = '# parsed only'
# What others train too; the pages themselves are parsed in every run.
SLOW = ('export', 'images', 'own_data', 'own_metric', 'resume', 'scale', 'sweep')


def blocks(page: pathlib.Path) -> list[tuple[str, str, str]]:
    """(language, file name or '', content) of each block of a page."""
    return [match.groups(default='') for match in FENCED.finditer(page.read_text())]


def commands(page: pathlib.Path) -> list[str]:
    return [line for language, _, text in blocks(page) if language == 'bash' for line in text.splitlines() if line]


def words(line: str) -> list[str]:
    """The arguments of a command of this package."""
    split = shlex.split(line, comments=True)
    return split[split.index('--') + 1 :] if split[0].startswith('scripts/') else split[3:]


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(r'^howto/(\w+)$', (DOCS / 'index.md').read_text(), re.MULTILINE)
    assert sorted(listed) == [page.stem for page in PAGES]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_command_parses(page):
    for line in commands(page):
        command_line.parser().parse_args(words(line))


@pytest.mark.parametrize(
    'page', [pytest.param(page, marks=[pytest.mark.slow] if page.stem in SLOW else [], id=page.stem) for page in PAGES]
)
def test_a_page_is_executed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments').symlink_to(style_rules.ROOT / 'experiments')
    (tmp_path / 'input.txt').write_text('The quick brown fox jumps over the lazy dog. ' * 100)
    names: dict = {'__name__': page.stem}
    for language, file, text in blocks(page):
        if file:
            pathlib.Path(file).write_text(text)
        elif language == 'python':
            exec(compile(''.join(_own_file(page)) + text, page.name, 'exec'), names)
        for line in text.splitlines() if language == 'bash' else []:
            if line and PARSED_ONLY not in line:
                assert command_line.main(argv=words(line)) == 0, line
    assert os.listdir(tmp_path)


def _own_file(page: pathlib.Path) -> list[str]:
    """The file that a page shows, whose names its later snippets use."""
    return [text for language, file, text in blocks(page) if file and page.stem == 'own_layer']
