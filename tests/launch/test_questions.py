"""Questions about a launch, and its end, need no JAX, whose import takes longer than they do."""

import subprocess
import sys

from etils import epath
from launch import launched

from bigmodel_jax.launch import states
from bigmodel_jax.launch.targets import target

PROGRAM = """import pathlib, sys
from bigmodel_jax import __main__
from bigmodel_jax.launch import launching, programs
for folder in pathlib.Path(sys.argv[1]).glob('*.launch'):
    about, record = launching.open_launch(folder)
    about.on.observe(about.place(record), lambda command: programs.Answer(1, err='(NotFound)'))
    about.on.is_gone(about.place(record), lambda command: programs.Answer(1, err='(NotFound)'))
    assert about.on.delete(about.place(record)) and about.on.logs(about.place(record))
    assert __main__.main(argv=['launch', '--workdir', str(folder).removesuffix('.launch'), '--status']) == 0
assert __main__.main(argv=['launch', '--workdir', sys.argv[1] + '/none', '--stop']) == 2
print(sorted({'jax', 'flax', 'optax'} & set(sys.modules)))
"""


def test_a_question_imports_no_jax_whatever_the_target(tmp_path):
    names = ('slurm', 'cloud_tpu', 'gke', 'skypilot')
    for name in names:
        folder = epath.Path(tmp_path) / f'{name}.launch'
        folder.mkdir()
        on = target.parse(launched.TARGETS[name])
        states.Launch(launched.job('quickstart', name), on, states.LaunchBudget(), folder).save(states.Record())
    done = subprocess.run([sys.executable, '-c', PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *said, imported = done.stdout.splitlines()
    assert said == ['requested. Attempt 1.'] * len(names)
    assert imported == '[]'
