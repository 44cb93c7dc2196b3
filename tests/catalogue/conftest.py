"""Twenty runs that no test changes."""

import pytest
from catalogue import run_folder


@pytest.fixture(scope='session')
def twenty(tmp_path_factory):
    return run_folder.twenty(tmp_path_factory.mktemp('catalogue') / 'runs')
