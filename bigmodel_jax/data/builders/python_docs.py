"""`python_docs`: real text without a download, from the documentation in every Python installation.

  python_docs/docs     the topics of the language reference and the docstrings of the standard library
  python_docs/sources  the modules of the standard library themselves

The text depends on the Python that prepares it, so the version names it: 1.311.7 is layout 1 of Python 3.11.7.
Nothing is imported: modules are parsed. Splits are by document: 90 % train, 5 % validation, 5 % test.
"""

import ast
import hashlib
import pathlib
import re
import sys
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from bigmodel_jax import config

LAYOUT = 1  # Raise it whenever the text changes.
VERSION = f'{LAYOUT}.{sys.version_info.major}{sys.version_info.minor}.{sys.version_info.micro}'

SKIPPED_FOLDERS = {'test', 'tests', 'idlelib', 'lib2to3', 'site-packages', 'dist-packages', '__pycache__', 'pydoc_data'}
# Says so at the top, or is a table of characters.
GENERATED = re.compile(
    r'\A(?i:.{0,500}(auto-?generated|generated (from|by|automatically)))|\ndecoding_(table|map) =', re.DOTALL
)
SHORTEST_CHARACTERS = 200  # Shorter files hold an import or nothing.
REPEATED_CHARACTERS = 60  # Docstrings at least this long are given once, so that no split repeats another's text.

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    """The documentation that Python carries."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name='docs', description='Language reference topics and docstrings.'),
        tfds.core.BuilderConfig(name='sources', description='Modules of the standard library.'),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        chosen: Any = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'{chosen.description} Python {sys.version.split()[0]}.',
            features=tfds.features.FeaturesDict({'title': tfds.features.Text(), 'text': tfds.features.Text()}),
            homepage='https://docs.python.org',
            license='Python Software Foundation License Version 2',
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list]:
        folder = pathlib.Path(sysconfig.get_path('stdlib'))
        chosen: Any = self.builder_config
        documents = {'docs': docs, 'sources': sources}[chosen.name]
        splits = {'train': [], 'validation': [], 'test': []}
        for title, text in documents(folder):
            splits[split_of(title)].append((title, {'title': title, 'text': text}))
        if not all(splits.values()):
            raise config.InputError(
                f'{folder} holds too little of the standard library for python_docs/{chosen.name}. '
                "Install Python's full standard library (on Debian: apt install libpython3-stdlib)."
            )
        return splits

    def _generate_examples(self, documents: list) -> Iterator:
        yield from documents


def split_of(title: str) -> str:
    """The split of a document: a function of its title alone."""
    percent = int.from_bytes(hashlib.sha256(title.encode()).digest()[:8], 'big') % 100
    return 'train' if percent < 90 else 'validation' if percent < 95 else 'test'


def docs(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Title and text of the language reference's topics, then of each documented module's docstrings."""
    yield from topics(folder / 'pydoc_data' / 'topics.py')
    seen = set()
    for title, text in modules(folder):
        documentation = '\n\n'.join(_documentation(ast.parse(text), seen))
        if documentation:
            yield f'module {title}', f'{title}\n{"=" * len(title)}\n\n{documentation}\n'


def sources(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Name and text of each module; no text twice, none that a program wrote."""
    seen = set()
    for title, text in modules(folder):
        if text not in seen and not GENERATED.search(text):
            seen.add(text)
            yield title, text


def modules(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Dotted name and text of each module of the standard library in `folder`, in the order of their paths."""
    for path in sorted(folder.rglob('*.py')):
        inner = path.relative_to(folder)
        if SKIPPED_FOLDERS.isdisjoint(inner.parts[:-1]) and not inner.name.startswith('_sysconfigdata'):
            with tokenize.open(path) as file:
                text = file.read()
            if len(text) >= SHORTEST_CHARACTERS:
                yield '.'.join(inner.with_suffix('').parts).removesuffix('.__init__'), text


def topics(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Title and text of each topic of the language reference that is not mostly contained in a longer one."""
    tree = ast.parse(path.read_text(encoding='utf-8')) if path.exists() else ast.Module([], [])
    texts = next((ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)), {})
    seen = set()
    for title in sorted(texts, key=lambda title: (-len(texts[title]), title)):
        # Whole sections are repeated as topics of their own ('if' within 'compound'), which would leak between splits.
        paragraphs = [' '.join(paragraph.split()) for paragraph in texts[title].split('\n\n')]
        if sum(paragraph in seen for paragraph in paragraphs) * 2 <= len(paragraphs):
            yield f'topic {title}', texts[title].strip() + '\n'
        seen.update(paragraphs)


def _documentation(node: ast.Module | Definition, seen: set[str]) -> Iterator[str]:
    """The docstring of `node`, then of each class and function in it: its signature, and the text indented."""
    docstring = ast.get_docstring(node)
    if docstring and docstring not in seen:
        if len(docstring) >= REPEATED_CHARACTERS:
            seen.add(docstring)
        yield docstring.strip()
    if isinstance(node, (ast.Module, ast.ClassDef)):
        for child in _definitions(node):
            inner = '\n\n'.join(_documentation(child, seen))
            if inner:
                yield f'{_signature(child)}\n{textwrap.indent(inner, "    ")}'


def _definitions(node: ast.AST) -> Iterator[Definition]:
    """The classes and functions directly in `node`, those under `if` and `try` included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS):
            yield child
        elif isinstance(child, (ast.If, ast.Try, ast.ExceptHandler)):
            yield from _definitions(child)


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ', '.join(map(ast.unparse, node.bases))
        return f'class {node.name}({bases})' if bases else f'class {node.name}'
    word = 'async def' if isinstance(node, ast.AsyncFunctionDef) else 'def'
    result = f' -> {ast.unparse(node.returns)}' if node.returns else ''
    return f'{word} {node.name}({ast.unparse(node.args)}){result}'
