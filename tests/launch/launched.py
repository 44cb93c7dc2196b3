"""The jobs and targets of the golden files: three experiments on every target."""

import pathlib

from bigmodel_jax.launch import dry_run
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.states import LaunchBudget
from bigmodel_jax.launch.targets import target

GOLDEN = pathlib.Path(__file__).with_name('golden')
EXPERIMENTS = {
    'quickstart': ('experiments/quickstart.py:smoke', (), ()),
    'vaswani2017': ('experiments/vaswani2017.py', (), ('HF_TOKEN',)),
    'pods': ('experiments/pods.py:sweep/llama2_7b_v5e', ('name="It\'s $HOME"',), ()),
}
TARGETS = {
    'this_machine': 'ThisMachine()',
    'simulated_hosts': 'SimulatedHosts(hosts=2, devices=4)',
    'slurm': "SlurmNodes(partition='main', gres='gpu:8', nodes=2, minutes=240)",
    'cloud_tpu': "CloudTpu(type='v5litepod-16', zone='us-west4-a', project='my-project', spot=True)",
    'cloud_tpu_multislice': "CloudTpu(type='v5p-128', zone='us-east5-a', project='my-project', slices=4, "
    'reserved=True)',
    'gke': "Gke(cluster='pods', project='my-project', zone='us-west4-a', type='v5litepod-16', slices=2, "
    "image='gcr.io/my-project/i:1', namespace='team', queue='team-queue', service_account='trainer', capacity='spot')",
    'skypilot': "SkyPilot(type='v5litepod-16')",
}  # fmt: skip
ON_A_CLOUD = ('cloud_tpu', 'cloud_tpu_multislice', 'gke', 'skypilot')
WITHOUT_SECRETS = ('gke',)
DIGEST = '0123456789abcdef' * 4


def job(experiment: str, on: str) -> Job:
    file, settings, secrets = EXPERIMENTS[experiment]
    return Job(
        experiment=file,
        workdir=f'gs://my-bucket/{experiment}' if on in ON_A_CLOUD else f'/shared/runs/{experiment}',
        digest=DIGEST,
        settings=settings,
        secrets=() if on in WITHOUT_SECRETS else secrets,
    )


def rendered(experiment: str, on: str) -> str:
    made, where = job(experiment, on), target.parse(TARGETS[on])
    where.check(made)
    return dry_run.render(made, where, budget=LaunchBudget(), folder=f'launches/{made.name}')


if __name__ == '__main__':  # Writes the golden files anew.
    GOLDEN.mkdir(exist_ok=True)
    for each in EXPERIMENTS:
        for place in TARGETS:
            (GOLDEN / f'{each}-{place}.sh').write_text(rendered(each, place))
