"""Webdataset tars, as `pairmill.tars` cuts them into samples.

A piece is a tar.  Its headers are read once, without its contents; reading rows is then one range of bytes.  The text
is in `KEY.txt`, or in `KEY.json` under `texts` (as our own export writes them) or `caption`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairmill import tars
from pairmill.bounded_tar import BoundedTar
from pairmill.config import digest
from pairmill.errors import RecipeError
from pairmill.uris import Found
from training.data.sample import group_ids, samples

_IMAGES = ("jpg", "jpeg", "png", "webp")
_MEMBERS = ("image", "txt", "json")
_JSON_TEXTS = ("texts", "caption", "captions", "text")
_INDEX_THREADS = 8


class _Index(NamedTuple):
    """Where the samples of a tar are.  keys: [n].  offset, size: int64 [n, 3], bytes, in order of _MEMBERS; 0: none."""

    keys: list[str]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]


class TarSource:
    """Tars of samples; one without an image is left out."""

    def __init__(self, found: Found, *, name: str, text_column: str | None = None) -> None:
        """text_column: the key of the json files with the text.  Raises RecipeError for a file that is not a tar."""
        self.name = name
        self._filesystem, self._text_key = found.filesystem, text_column
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            indexes = list(pool.map(self._index, found.paths))
        kept = [at for at, index in enumerate(indexes) if index.keys]
        self._paths = [found.paths[at] for at in kept]
        self._names = [found.names[at] for at in kept]
        self._indexes = [indexes[at] for at in kept]
        self.rows = np.array([len(index.keys) for index in self._indexes], np.int64)
        self.pieces = len(kept)
        counts = [len(index.keys) for index in indexes]
        self.fingerprint = digest([list(file) for file in zip(found.names, found.sizes, counts, strict=True)])

    def read(self, piece: int, start: int = 0, stop: int | None = None) -> pa.Table:
        """Samples [start, stop) of a tar as SAMPLE columns."""
        index = self._indexes[piece]
        rows = range(len(index.keys))[start:stop]
        if not rows:
            return samples([], [], [], np.zeros(0, np.int64))
        offset, size = index.offset[rows.start : rows.stop], index.size[rows.start : rows.stop]
        first = int(offset[size > 0].min())
        with self._filesystem.open_input_file(self._paths[piece]) as stream:
            data = stream.read_at(int((offset + size).max()) - first, first)

        def member(row: int, which: str) -> bytes | None:
            at = _MEMBERS.index(which)
            begin = int(offset[row, at]) - first
            return data[begin : begin + int(size[row, at])] if size[row, at] else None

        uids, images, texts, digests = [], [], [], []
        for row, number in enumerate(rows):
            facts = _facts(member(row, "json"))
            uids.append(str(facts.get("uid") or f"{self._names[piece]}/{index.keys[number]}"))
            images.append(member(row, "image"))
            texts.append(self._texts(member(row, "txt"), facts))
            digests.append(facts.get("sha256"))
        return samples(uids, images, texts, group_ids(None, digests, len(uids)))

    def _texts(self, txt: bytes | None, facts: dict[str, Any]) -> object:
        if self._text_key is not None:
            return facts.get(self._text_key)
        if isinstance(facts.get("texts"), list):
            return facts["texts"]
        if txt is not None:
            return txt.decode("utf-8", "replace")
        return next((facts[key] for key in _JSON_TEXTS if facts.get(key)), None)

    def _index(self, path: str) -> _Index:
        try:
            with (
                self._filesystem.open_input_file(path) as stream,
                BoundedTar.open(fileobj=stream, mode="r:") as tar,
            ):
                found = list(_samples(tar))
        except tarfile.TarError as error:
            raise RecipeError(
                "every .tar file of data.path must be a readable, uncompressed tar",
                value=f"{path}: {error}",
                fix="repair or remove the file",
            ) from None
        places = np.array([place for _, place in found], np.int64).reshape(len(found), len(_MEMBERS), 2)
        return _Index([key for key, _ in found], places[:, :, 0], places[:, :, 1])


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Key and (offset, size) of the members of each sample that has an image."""
    for key, members in tars.samples(tar):
        places: dict[str, tuple[int, int]] = {}
        for ending, member in members:
            kind = "image" if ending in _IMAGES else ending
            if kind in _MEMBERS:
                places[kind] = (member.offset_data, member.size)
        if "image" in places:
            yield key, [places.get(name, (0, 0)) for name in _MEMBERS]


def _facts(data: bytes | None) -> dict[str, Any]:
    try:
        facts = json.loads(data) if data else {}
    except ValueError:  # a sample with a broken json keeps its image and its .txt
        return {}
    return facts if isinstance(facts, dict) else {}
