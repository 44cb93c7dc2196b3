"""Every test here has a cache of its own; TFDS data sets are prepared once."""

import json

import pytest


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch):
    """An empty cache."""
    root = tmp_path / 'cache'
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(root))
    return root


@pytest.fixture
def stories(tmp_path):
    """A JSONL file of 40 short texts of different lengths, and the texts."""
    texts = [f'Story {i}: ' + 'the cat sat on the mat. ' * (i % 7) + 'Größe 世界 🙂' * (i % 3) for i in range(40)]
    path = tmp_path / 'stories.jsonl'
    path.write_text(''.join(json.dumps({'text': text, 'id': i}) + '\n' for i, text in enumerate(texts)))
    return str(path), texts
