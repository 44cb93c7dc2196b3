"""The zones of Google Cloud that have each kind of TPU, and what it costs to read a bucket from another region.

Source: https://docs.cloud.google.com/tpu/docs/regions-zones, as stored between 2025 and September 2026. Zones come and
go; a zone that is not here but is known to have the chip is accepted with the field any_zone=True.
"""

import re

from bigmodel_jax import config

ZONES = {
    'v4': ('us-central2-b',),
    'v5e': ('us-central1-a', 'us-south1-a', 'us-west1-c', 'us-west4-a', 'europe-west4-b'),
    'v5p': ('us-central1-a', 'us-east5-a', 'europe-west4-b'),
    'v6e': (
        'us-central1-b', 'us-east1-d', 'us-east5-a', 'us-east5-b', 'us-south1-ai1b', 'europe-west4-a',
        'asia-northeast1-b', 'southamerica-west1-a',
    ),
    'tpu7x': ('us-central1-ai1a', 'us-central1-c'),
}  # fmt: skip
ZONE = re.compile(r'[a-z]+-[a-z]+[0-9]+-[a-z0-9]+')
# Dollars for each GiB that moves between regions of one continent, and between continents; unverified. The prices:
# https://cloud.google.com/storage/pricing.
WITHIN_CONTINENT, BETWEEN_CONTINENTS = 0.02, 0.08
# The regions of a multi-region bucket begin so.
MULTI = {'us': 'us-', 'eu': 'europe-', 'asia': 'asia-'}


def check(zone: str, chip: str, any_zone: bool) -> None:
    """Raises InputError if a zone is none, or is not known to have a chip."""
    if not ZONE.fullmatch(zone):
        raise config.InputError(f'zone={zone!r} is not a zone, such as us-west4-a.')
    known = ZONES.get(chip, ())
    if not any_zone and zone not in known:
        raise config.InputError(
            f'zone={zone!r} has no {chip} that is known of.{config.nearest(zone, known)} Zones with {chip}: '
            f'{", ".join(known)}. If it has some by now, say any_zone=True.'
        )


def region(zone: str) -> str:
    """'us-west4' of 'us-west4-a'."""
    return zone.rpartition('-')[0]


def transfer_warning(bucket: str, location: str, zone: str) -> str | None:
    """A sentence with the cost if a bucket is in another region than the machines; None if it is not.

    Args:
      location: of the bucket, as Cloud Storage names it: 'US-WEST4', 'EU', 'NAM4'.
    """
    place, here = location.lower(), region(zone)
    if place == here or here.startswith(MULTI.get(place, '\0')):
        return None
    same = place.split('-')[0] == here.split('-')[0]
    dollars = WITHIN_CONTINENT if same else BETWEEN_CONTINENTS
    return (
        f'gs://{bucket} is in {location}, and the machines are in {here}: each GiB between them, of data and '
        f'checkpoints, costs about ${dollars:.2f} and takes longer. A bucket in {here} costs nothing to read from '
        f'there: gcloud storage buckets create gs://NAME --location={here}'
    )
