"""What this version makes of experiments that older versions stored, where a class or a field has another name now.

A field that is new and has a default needs no entry: where it is absent, it has its default.
"""

from collections.abc import Mapping
from typing import Any

CLASS = 'class'
# Class, as 'module:Class' -> its name now.
CLASSES: dict[str, str] = {}
# Class, as it is called now -> field -> its name now; None for one that is gone and whose value has no effect any more.
FIELDS: dict[str, dict[str, str | None]] = {}


def migrate(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of one config, without those inside it, as this version writes it."""
    if CLASS not in stored:
        return dict(stored)
    name = CLASSES.get(stored[CLASS], stored[CLASS])
    fields = FIELDS.get(name, {})
    kept = {fields.get(field, field): value for field, value in stored.items() if field != CLASS}
    return {CLASS: name} | {field: value for field, value in kept.items() if field is not None}
