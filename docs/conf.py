"""The documentation: scripts/docs builds it into build/docs. The pages of the API are made from the docstrings."""

import pathlib
from typing import Any

import bigmodel_jax

project = 'bigmodel_jax'
version = release = bigmodel_jax.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_theme = 'furo'
default_role = 'code'  # What stands in single backticks in a docstring.
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'undoc-members': False, 'show-inheritance': True}
autodoc_mock_imports = ['wandb', 'torch', 'lm_eval', 'sacrebleu', 'sklearn', 'libtpu', 'shtab']
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # Else what "Attributes:" lists is there twice.
myst_heading_anchors = 3
# Equal names in several modules; docstrings are plain text, of which reStructuredText sees some as markup.
suppress_warnings = ['ref.python', 'docutils']

ROOT = pathlib.Path(bigmodel_jax.__file__).parent
API = pathlib.Path(__file__).parent / 'api'


def rooms() -> dict[str, list[str]]:
    """Folder of the package -> its modules, as dotted names; 'bigmodel_jax' has those in no folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        if parts[-1] not in ('__init__', '__main__'):
            found.setdefault(parts[0] if len(parts) > 1 else 'bigmodel_jax', []).append('.'.join(parts))
    return found


def _write_api(app: Any) -> None:
    """Writes a page for each folder of the package."""
    API.mkdir(exist_ok=True)
    names = rooms()
    for room, modules in names.items():
        parts = [f'# {room}\n']
        for module in modules:
            parts.append(f'## {module}\n\n```{{eval-rst}}\n.. automodule:: bigmodel_jax.{module}\n```\n')
        (API / f'{room}.md').write_text('\n'.join(parts))
    listed = '\n'.join(names)
    toctree = f'```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```'
    (API / 'index.md').write_text(f'# API\n\nOne page for each folder.\n\n{toctree}\n')


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect('builder-inited', _write_api)
