"""Everything that a launch would do, as a text to read, to keep and to run by hand; it depends on its input alone."""

import shlex

from bigmodel_jax import config
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.states import LaunchBudget
from bigmodel_jax.launch.targets import target
from bigmodel_jax.plan.hardware import prices

END = 'END_OF_FILE'


def render(
    job: Job,
    on: target.Target,
    *,
    budget: LaunchBudget,
    folder: str,
    table: prices.Prices | None = None,
    spending: str = '',
) -> str:
    """A shell script: the price, what is prepared once, the files, and the commands of the first attempt.

    Args:
      folder: the directory of the launch, where the archive of the code is.
      table: prices; None for those of this package.
      spending: how far the budget of the run carries, where it has one.
    """
    place = target.AttemptPlace(job, 1, folder)
    lines = [
        f'# {config.format_value(on)}',
        f'# {price(on, budget, table)}',
        *([f'# {spending}'] if spending else []),
        f'# The code is {folder}/{target.ARCHIVE}, with the SHA-256 {job.digest}.',
    ]
    preparation = on.preparation(job)
    if preparation:
        lines += ['', '# Once for the project and the bucket:', *map(shlex.join, preparation)]
    for name, text in on.files(place).items():
        lines += ['', f"cat > {shlex.quote(f'{folder}/{name}')} <<'{END}'", text.rstrip('\n'), END]
    lines += ['', '# Starts it:', *map(shlex.join, on.create(place))]
    if not on.foreground:
        lines += ['', '# Shows what the hosts printed, and ends it:', shlex.join(on.logs(place))]
        lines += [*map(shlex.join, on.delete(place))]
    return '\n'.join(lines) + '\n'


def price(on: target.Target, budget: LaunchBudget, table: prices.Prices | None = None) -> str:
    """What a target costs by the hour, and at most."""
    rented = on.cost()
    if not rented.chip:
        return f'{rented.what}: no price is known here.'
    found = (prices.table() if table is None else table).get(rented.chip)
    if found is None:
        return f'{rented.what}: there is no price for {rented.chip}; --prices FILE gives one.'
    hourly = found.dollars * rented.chips
    doubt = '' if found.verified else ', not looked up since'
    return (
        f'{rented.what}: ${hourly:,.2f} an hour at the on-demand list price of ${found.dollars:.2f} for a chip '
        f'({found.region}, {found.date}{doubt}); at most {budget.hours:g} hours, ${hourly * budget.hours:,.2f}. Spot '
        'and reserved chips cost less.'
    )
