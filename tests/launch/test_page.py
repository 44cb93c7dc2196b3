"""The page on launching shows the commands and the price that launch prints."""

import dataclasses
import re

from launch import launched

import style_rules
from bigmodel_jax.launch import dry_run
from bigmodel_jax.launch.states import LaunchBudget
from bigmodel_jax.launch.targets import target

PAGE = (style_rules.ROOT / 'docs' / 'howto' / 'launch.md').read_text()


def test_the_page_and_the_dry_run_agree() -> None:
    job = dataclasses.replace(launched.job('vaswani2017', 'cloud_tpu'), secrets=())
    on = target.parse(launched.TARGETS['cloud_tpu'])
    assert f'--on "{launched.TARGETS["cloud_tpu"]}" --workdir {job.workdir} --dry-run' in PAGE
    text = dry_run.render(job, on, budget=LaunchBudget(), folder=f'launches/{job.name}')
    shown = re.findall(r'^gcloud .*$', PAGE, re.MULTILINE)
    once = text.partition('bucket:\n')[2].partition('\n\n')[0]
    start = text.partition('# Starts it:\n')[2].partition('\n\n')[0]
    assert shown == [*once.splitlines(), *start.replace(job.key, 'CODE').splitlines()]
    assert len(shown) == 5
    price = text.splitlines()[1]
    assert all(amount in PAGE and amount in price for amount in ('16 chips v5e', '$1.20', '$19.20', '$460.80'))
    assert LaunchBudget() == LaunchBudget(attempts=20, hours=24)


def test_every_target_of_the_page_is_one() -> None:
    for text in re.findall(r'^\| `(\w+\(.*?\))` \|', PAGE, re.MULTILINE):
        target.parse(text)
