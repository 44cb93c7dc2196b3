"""Emoji with their names in several languages, from the files of two packages of npm.

`npm pack emoji-datasource-twitter@16.0.0 emojibase-data@17.0.0` fetches them; each archive, unpacked with tar, is a
folder called `package`. The pictures are Twemoji (CC-BY 4.0), the names those of Unicode's CLDR.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data import counter_rng, records, splits
from bigmodel_jax.data.sources import files, image_folder

PICTURES, LIST = 'img/twitter/64', 'emoji.json'
VARIATION = '-FE0F'  # Asks for the coloured form of a character; the two packages do not write it alike.
SHARES = (0.25, 0.5, 0.75)  # Of the tags in the variants of a caption.


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmojiPackages(records.Source):
    """Every emoji of which there is a picture, with all its skin tones; the files are held in memory.

    A record has `image`, [64, 64, 4] uint8; `hexcode`, its code points; `group`, those of its form without a skin tone,
    which its skin tones share; and for each language, such as 'en', a caption of the same name, the label and the tags
    ('waving hand, hello, hand'), and a list of captions 'en_variants': the label alone, that caption, and the label
    with some of the tags.
    """

    pictures: str  # The folder of emoji-datasource-twitter: it holds emoji.json and img/.
    texts: str  # The folder of emojibase-data: it holds a folder for each language.
    languages: tuple[str, ...] = ('en', 'de')
    part: splits.Subset | None = None  # Such as splits.by_group('group', shares=(0.85, 0.15))[0].

    def open(self) -> records.Records:
        folder, hashes = files.path_of(self.pictures), hashlib.sha256()
        pictures = _pictures(folder, hashes)
        named = {language: _named(files.path_of(self.texts) / language / 'data.json', language, hashes)
                 for language in self.languages}  # fmt: skip
        found = []
        for hexcode, group in named[self.languages[0]].groups.items():
            if hexcode not in pictures:
                continue  # Of a newer version of Unicode than the pictures, or a part that stands in no text alone.
            record = {'hexcode': hexcode, 'group': group, 'image': pictures[hexcode]}  # Decoded where it is read.
            for language, names in named.items():
                record |= names.captions(hexcode, language)
            found.append(record)
        fingerprint = {'sha256': hashes.hexdigest(), 'languages': list(self.languages), 'format': 'emoji 1'}
        named_records = records.RecordList(f'emoji in {folder}', found, fingerprint)
        return EmojiRecords(records.selected(named_records, self.part))


class EmojiRecords(records.Records):
    """Records whose images are decoded when they are read.

    Args:
      stored: the same with the content of each file.
    """

    def __init__(self, stored: records.Records):
        self._stored, self.name, self.fingerprint = stored, stored.name, stored.fingerprint

    def __len__(self) -> int:
        return len(self._stored)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [self._decoded(record) for record in self._stored.read(start, stop)]

    def gather(self, indices: Sequence[int]) -> list[records.Record]:
        return [self._decoded(record) for record in self._stored.gather(indices)]

    def shapes(self, field: records.Field) -> np.ndarray | None:
        return np.array([[64, 64, 4]] * len(self)) if field == 'image' else None

    @property
    def without_images(self) -> records.Records:
        return self._stored

    def _decoded(self, record: records.Record) -> records.Record:
        return {**record, 'image': image_folder.decode(record['image'], 4, f'the picture of {record["hexcode"]}')}


@dataclasses.dataclass(frozen=True)
class EmojiNames:
    """The names of all emoji in one language."""

    labels: Mapping[str, str]  # By hexcode.
    tags: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, str]  # The form without a skin tone.

    def captions(self, hexcode: str, language: str) -> dict[str, Any]:
        """The fields of a record."""
        if hexcode not in self.labels:
            raise config.InputError(
                f'emojibase-data has no name for {hexcode} in {language!r}; leave the language out.'
            )
        label, tags = self.labels[hexcode], self.tags[hexcode]
        whole = ', '.join((label, *tags))
        drawn = counter_rng.uniform(int(hashlib.sha256(hexcode.encode()).hexdigest()[:12], 16), np.arange(len(tags)))
        some = [', '.join((label, *(tag for tag, x in zip(tags, drawn.tolist()) if x < share))) for share in SHARES]
        return {language: whole, f'{language}_variants': list(dict.fromkeys([label, whole, *some]))}


def _pictures(folder: epath.Path, hashes: Any) -> dict[str, bytes]:
    """Hexcode -> the content of a PNG file."""
    found = {}
    for entry in _json(folder / LIST, hashes):
        for form in (entry, *entry.get('skin_variations', {}).values()):
            if form.get('has_img_twitter', True):
                path = folder / PICTURES / form['image'].replace('/', '_')
                content = files.read_bytes(path)
                hashes.update(content)
                found[_plain(form['unified'])] = content
    return found


def _named(path: epath.Path, language: str, hashes: Any) -> EmojiNames:
    labels, tags, groups = {}, {}, {}
    for entry in _json(path, hashes):
        for form in (entry, *entry.get('skins', ())):
            hexcode = _plain(form['hexcode'])
            labels[hexcode], groups[hexcode] = form['label'], _plain(entry['hexcode'])
            tags[hexcode] = tuple(dict.fromkeys(entry.get('tags') or ()))
    return EmojiNames(labels, tags, groups)


def _json(path: epath.Path, hashes: Any) -> Iterator[Mapping[str, Any]]:
    """The entries of a list in a JSON file."""
    content = files.read_bytes(path)
    hashes.update(content)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise config.InputError(f'{path} is not JSON: {error}. Unpack the package again.') from error
    if not isinstance(found, list):
        raise config.InputError(f'{path} is a JSON {type(found).__name__}, not a list; use the versions named above.')
    yield from found


def _plain(hexcode: str) -> str:
    return hexcode.upper().replace(VARIATION, '')
