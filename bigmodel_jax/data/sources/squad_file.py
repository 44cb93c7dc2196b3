"""Files of SQuAD 1.1, as records of the same form as those of TFDS."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data import records
from bigmodel_jax.data.sources import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class SquadFile(records.Source):
    """A file of SQuAD 1.1 as it was published: 'train-v1.1.json', 'dev-v1.1.json'.

    A record has `question`, `context` and `answers`, which has lists `text` and `answer_start`.

    Source: Rajpurkar et al. (2016), arXiv:1606.05250.
    """

    path: str

    def open(self) -> records.Records:
        path = files.path_of(self.path)
        content, fingerprint = files.read_text(path)
        try:
            found = list(_published(json.loads(content)))
        except (ValueError, KeyError, TypeError) as error:
            raise config.InputError(f'{path} is not a file of SQuAD: {type(error).__name__}: {error}.') from error
        return records.RecordList(path.name, found, {'sha256': fingerprint['sha256'], 'questions': len(found)})


def _published(tree: Any) -> Iterator[records.Record]:
    paragraphs = [paragraph for article in tree['data'] for paragraph in article['paragraphs']]
    for paragraph in paragraphs:
        for each in paragraph['qas']:
            texts = [answer['text'] for answer in each['answers']]
            starts = [int(answer['answer_start']) for answer in each['answers']]
            answers = {'text': texts, 'answer_start': starts}
            yield {'question': each['question'], 'context': paragraph['context'], 'answers': answers}
