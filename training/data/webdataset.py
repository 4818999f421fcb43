"""Webdataset tars, as `pairmill.tars` cuts them into samples.

A piece is a tar.  Its headers are read once, without its contents; reading rows is then one range of bytes.  The text
is in `KEY.json` under `texts` (as our own export writes them), else in `KEY.txt` or `KEY.caption`, else in `KEY.json`
under `caption` or the like.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
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
from training.data import asked_columns
from training.data.sample import group_of, hex_id, samples

_MEMBERS = ("image", "txt", "json", "cls")
_KINDS = {
    **dict.fromkeys(tars.IMAGE_ENDINGS, "image"),
    **dict.fromkeys(tars.TEXT_ENDINGS, "txt"),
    "json": "json",
    "cls": "cls",
}
#: Of several pictures of a sample, CLIP_benchmark takes that of the ending listed first.
_EVALUATED = dict.fromkeys(("webp", "png", "jpg", "jpeg"), "image") | _KINDS
_JSON_TEXTS = ("texts", "caption", "captions", "text")
_INDEX_THREADS = 8


class _Index(NamedTuple):
    """Where the samples of a tar are.

    keys: [n].  offset, size: int64 [n, 4], bytes, in order of _MEMBERS; 0: none.  left_out: as `pairmill.tars` counts.
    """

    keys: list[str]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    left_out: Counter[str]


class TarSource:
    """Tars of samples; one without an image is left out and counted (`left_out`)."""

    def __init__(
        self,
        found: Found,
        *,
        name: str,
        text_column: str | None = None,
        evaluated: bool = False,
        asked: Mapping[str, str] = {},
    ) -> None:
        """text_column: the key of the json files with the text.  evaluated: each line of a `.txt` is a text, and tars
        are in the order of their numbers.
        asked: keys of the json files with what an objective asks for (`training.data.asked_columns`).

        Raises RecipeError for a file that is not a tar, if no sample has anything beside its image, and if the first
        one lacks a key that is asked for.
        """
        if evaluated:
            order = sorted(range(len(found.paths)), key=lambda at: _by_number(found.paths[at]))
            found = found._replace(
                paths=tuple(found.paths[at] for at in order),
                names=tuple(found.names[at] for at in order),
                sizes=tuple(found.sizes[at] for at in order),
            )
        self.name, self._evaluated = name, evaluated
        self._filesystem, self._text_key = found.filesystem, text_column
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            indexes = list(pool.map(self._index, found.paths))
        self.left_out: Mapping[str, int] = {
            reason: n for reason, n in sum((i.left_out for i in indexes), Counter()).items() if n
        }
        kept = [at for at, index in enumerate(indexes) if index.keys]
        self._paths = [found.paths[at] for at in kept]
        self._names = [found.names[at] for at in kept]
        self._indexes = [indexes[at] for at in kept]
        self.rows = np.array([len(index.keys) for index in self._indexes], np.int64)
        self.pieces = len(kept)
        self.labelled = any((index.size[:, _MEMBERS.index("cls")] > 0).any() for index in self._indexes)
        if kept and not any((index.size[:, 1:] > 0).any() for index in self._indexes):
            raise RecipeError(
                "a sample of data.path must have a text beside its image, in the next files of the tar",
                value=f"{name}: {int(self.rows.sum())} images, none followed by a text of its own name",
                fix="write the files of a sample one after the other, as `tar --sort=name` does",
            )
        self._asked = dict(asked)
        if kept and asked:
            self._check_asked()
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
            data: bytes = stream.read_at(int((offset + size).max()) - first, first)

        def member(row: int, which: str) -> bytes | None:
            at = _MEMBERS.index(which)
            if not size[row, at]:
                # CLIP_benchmark's empty .txt says that there is no caption, and no other file says one then.
                return b"" if self._evaluated and which == "txt" and offset[row, at] else None
            begin = int(offset[row, at]) - first
            return data[begin : begin + int(size[row, at])]

        uids, images, texts, groups, labels, lines, wrong = [], [], [], [], [], [], []
        values: dict[str, list[object]] = {name: [] for name in self._asked}
        for row, at in enumerate(rows):
            facts, problem = _facts(member(row, "json"))
            uids.append(str(facts.get("uid") or f"{self._names[piece]}/{index.keys[at]}"))
            images.append(member(row, "image"))
            own, by_lines, odd = self._texts(member(row, "txt"), facts)
            texts.append(own)
            lines.append(by_lines)
            problem = problem or odd
            group = facts.get("group_id")
            if group is not None and (isinstance(group, bool) or not isinstance(group, int | float)):
                problem, group = problem or f"a group_id must be an integer, not {type(group).__name__}", None
            number = group_of(group)
            groups.append(hex_id(facts.get("sha256")) if number < 0 else number)
            labels.append(_number(member(row, "cls")))
            for name, key in self._asked.items():
                values[name].append(facts.get(key))
            wrong.append(problem)
        places = [f"{self._names[piece]}, sample {index.keys[number]}" for number in rows]
        more = asked_columns.asked_of(values, texts)
        wrong = [one or other for one, other in zip(wrong, more.wrong, strict=True)]
        numbers = np.array(groups, np.int64)
        columns = uids, images, more.texts, numbers, labels, more.weights, more.tags, lines if self._evaluated else None
        return samples(*columns, places=places, wrong=wrong)

    def _check_asked(self) -> None:
        """Raise RecipeError unless the first sample's json has what is asked for."""
        offset, size = (int(of[0, _MEMBERS.index("json")]) for of in self._indexes[0][1:3])
        with self._filesystem.open_input_file(self._paths[0]) as stream:
            facts, _ = _facts(stream.read_at(size, offset) if size else None)
        for name, key in self._asked.items():
            if key not in facts:
                where = f"the .json of sample {self._indexes[0].keys[0]} of {self._names[0]}"
                raise asked_columns.no_column(name, key, where, sorted(facts))

    def _texts(self, txt: bytes | None, facts: dict[str, Any]) -> tuple[object, bool, str | None]:
        """The texts of a sample, whether they are the lines of its `.txt`, and what is wrong with it."""
        if self._text_key is not None:
            return facts.get(self._text_key), False, None
        if isinstance(facts.get("texts"), list):
            return facts["texts"], False, None
        if txt is None:
            return next((facts[key] for key in _JSON_TEXTS if facts.get(key)), None), False, None
        try:
            # With or without the mark that editors of Windows put first.
            text = txt.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return None, False, f"its text is not UTF-8: {error.reason}"
        return text.splitlines() if self._evaluated else text, self._evaluated, None

    def _index(self, path: str) -> _Index:
        try:
            with (
                self._filesystem.open_input_file(path) as stream,
                BoundedTar.open(fileobj=stream, mode="r:") as tar,
            ):
                left_out: Counter[str] = Counter()
                kinds = _EVALUATED if self._evaluated else _KINDS
                found = list(tars.samples(tar, kinds, _place, lambda kinds: "image" in kinds, left_out))
        except tarfile.TarError as error:
            raise RecipeError(
                "every .tar file of data.path must be a readable, uncompressed tar",
                value=f"{path}: {error}",
                fix="repair or remove the file",
            ) from None
        places = np.array([[files.get(kind, (0, 0)) for kind in _MEMBERS] for _, files in found], np.int64).reshape(
            len(found), len(_MEMBERS), 2
        )
        return _Index(_unique([key for key, _ in found]), places[:, :, 0], places[:, :, 1], left_out)


def _place(member: tarfile.TarInfo) -> tuple[int, int]:
    return member.offset_data, member.size


def _by_number(path: str) -> list[str | int]:
    """Sorts 2.tar before 10.tar."""
    return [int(part) if at % 2 else part for at, part in enumerate(re.split(r"(\d+)", path))]


def _unique(keys: list[str]) -> list[str]:
    """The keys of a tar, with a number behind those that were there before: rows are named by them."""
    seen: Counter[str] = Counter()
    named = []
    for key in keys:
        seen[key] += 1
        named.append(f"{key}#{seen[key]}" if seen[key] > 1 else key)
    return named


def _number(data: bytes | None) -> int | None:
    """The number of a class, as webdataset decodes `.cls`; None for anything else."""
    try:
        number = int(data.decode()) if data else -1
    except ValueError:
        return None
    return number if 0 <= number < 2**63 else None


def _facts(data: bytes | None) -> tuple[dict[str, Any], str | None]:
    """What a json file says, and what is wrong with it: then the sample keeps its image and its .txt."""
    try:
        facts = json.loads(data) if data else {}
    except (ValueError, RecursionError) as error:
        return {}, f"its json cannot be read: {str(error).splitlines()[0]}"
    if not isinstance(facts, dict):
        return {}, f"its json must be an object, not {type(facts).__name__}"
    return facts, None
