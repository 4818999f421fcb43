"""The rule `balance` of a selection: rows thinned by what their captions name (`curation.balancing`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.balancing.balance import Counts, Floats, probabilities, staying, thresholds
from curation.balancing.matching import Matcher, Matches
from curation.balancing.metadata import ANY, list_name, metadata_digest, read_metadata, shown_name
from pairmill.config import Config, file_stamp
from pairmill.errors import RecipeError

#: Why a row goes: chance was against it, or its caption names nothing of the metadata.
BALANCE, NO_ENTRY = "balance", "no_entry"

#: How many captions name an entry, with a key that brings equal entries together.
MENTIONS = pa.schema([("language", pa.string()), ("entry", pa.int32()), ("rows", pa.int64())])


#: A number of captions at most: as far as counts go.
_MOST = 1 << 62


class BalanceConfig(Config):
    """MetaCLIP's balancing (Xu et al. 2024): captions of common things are thinned, those of rare things all stay."""

    metadata: Path = Field(
        description="file of the entries that captions are looked up in: .txt, an entry a line; .json, a list, or "
        "a list for each language; `pairmill metadata` makes one"
    )
    t: Annotated[int, Field(ge=1, le=_MOST)] | dict[str, int] = Field(
        20_000,
        description="captions of an entry above which they are thinned: of English, and for other languages what "
        "leaves the same share of mentions below it, as in MetaCLIP 2; or a number for each list of the file, such "
        "as en, or other; MetaCLIP has 20,000 for 400 million pairs",
    )
    text: str = Field("caption", description="column of the captions")
    language: str = Field("language", description="column of their languages, which choose among the lists")
    seed: int = Field(0, ge=0, lt=1 << 31, description="seed of chance, which with uid and entry decides")

    @field_validator("t")
    @classmethod
    def _of_lists(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        """A number for each list, by the names that lists have when their file is read."""
        if not isinstance(value, dict):
            return value
        found: dict[str, int] = {}
        for language, t in value.items():
            if (name := list_name(language)) in found:
                raise RecipeError(
                    "balance.t of a selection must name each language once",
                    value=f"{language}: {shown_name(name)} is there already",
                    fix="take one of them out",
                )
            if not 1 <= t <= _MOST:
                raise RecipeError(
                    f"balance.t of a selection must be a number from 1 to {_MOST} for each list",
                    value=f"{language}: {t}",
                    fix="correct it",
                )
            found[name] = t
        return found

    def identity(self) -> dict[str, Any]:
        """The keys, with the content of the file.  Raises RecipeError if it cannot be read."""
        return {**super().identity(), "metadata": metadata_digest(self.metadata)}


class Mentioned(NamedTuple):
    """Rows of one list of entries.  at: [N] positions.  matches: of their captions."""

    language: str
    at: npt.NDArray[np.int64]
    matches: Matches


class Balance:
    """One rule, on rows of shards."""

    def __init__(self, config: BalanceConfig) -> None:
        self.config = config
        self._file = str(config.metadata.absolute())  # workers are in other folders

    def check(self, columns: Mapping[str, pa.DataType], at: str) -> None:
        """Raise RecipeError for a file that cannot be read, a `t` of a list that it lacks, and columns without texts.

        columns: there must be those that are read.  at: the key of the recipe, for messages.
        """
        lists = _lists(self._file)
        if isinstance(t := self.config.t, dict) and (unknown := [name for name in t if name not in lists]):
            raise RecipeError(
                f"{at}.t must name lists of {self.config.metadata}",
                value=shown_name(unknown[0]),
                fix=f"the file has {', '.join(map(shown_name, lists))}",
            )
        for key in ("text", "language"):
            name = getattr(self.config, key)
            if not _holds_texts(columns[name]):
                raise RecipeError(
                    f"{at}.{key} must be a column of texts",
                    value=f"{name}, which is {columns[name]}",
                    fix="name another",
                )

    @property
    def digest(self) -> str:
        """What names the content of the file.  Raises RecipeError if it cannot be read."""
        return _digest(self._file, _stamp(self._file))

    def entries(self) -> dict[str, list[str]]:
        """List -> its entries, in the order of their numbers.  Raises RecipeError for a file that cannot be read."""
        return _lists(self._file)

    def mentioned(self, rows: pa.Table, live: npt.NDArray[np.bool_]) -> Iterator[Mentioned]:
        """What the captions of the live rows name, list by list."""
        texts, languages = rows[self.config.text].to_pylist(), rows[self.config.language].to_pylist()
        lists = _lists(self._file)
        by_list: dict[str, list[int]] = {}
        for at in np.flatnonzero(live).tolist():
            name = languages[at] if languages[at] in lists else ANY
            if texts[at] and name in lists:
                by_list.setdefault(name, []).append(at)
        for name, positions in sorted(by_list.items()):
            matches = _matcher(self._file, name)([texts[at] for at in positions])
            yield Mentioned(name, np.array(positions, np.int64), matches)

    def counted(self, rows: pa.Table, live: npt.NDArray[np.bool_]) -> pa.Table:
        """How many captions of a shard's live rows name each entry: schema `MENTIONS`, and `key`."""
        found = [MENTIONS.empty_table().append_column("key", pa.array([], pa.int64()))]
        for number, one in enumerate(self.mentioned(rows, live)):
            mentions = np.bincount(one.matches.entries)
            entry = np.flatnonzero(mentions)
            columns = {
                "language": pa.array([one.language] * len(entry), pa.string()),
                "entry": pa.array(entry, pa.int32()),
                "rows": pa.array(mentions[entry], pa.int64()),
                "key": pa.array(entry + (number << 40), pa.int64()),
            }
            found.append(pa.table(columns))
        return pa.concat_tables(found)

    def found(self, mentions: pa.Table) -> dict[str, Floats]:
        """Language -> the probability of each of its entries.  mentions: of all shards together, schema `MENTIONS`."""
        counts: dict[str, Counts] = {}
        for language, entries in _lists(self._file).items():
            some = mentions.filter(pc.equal(mentions["language"], language))
            sums = np.bincount(some["entry"].to_numpy(), some["rows"].to_numpy(), len(entries))
            counts[language] = sums.astype(np.int64)
        t = thresholds(counts, self.config.t)
        return {language: probabilities(n, t[language]) for language, n in counts.items()}

    def left_out(
        self, rows: pa.Table, live: npt.NDArray[np.bool_], found: Mapping[str, Floats]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Reason -> mask of the live rows that go."""
        uids = rows["uid"].to_pylist()
        stays, named = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
        for one in self.mentioned(rows, live):
            some = [uids[at] for at in one.at]
            stays[one.at], named[one.at] = staying(one.matches, some, found[one.language], self.config.seed)
        return {NO_ENTRY: live & ~named, BALANCE: live & named & ~stays}


def added(mentions: pa.Table) -> pa.Table:
    """Mentions of equal language and entry added up; schema `MENTIONS`."""
    found = mentions.group_by(["language", "entry"]).aggregate([("rows", "sum")])
    return found.rename_columns([name.removesuffix("_sum") for name in found.schema.names]).select(MENTIONS.names)


def _holds_texts(kind: pa.DataType) -> bool:
    """A column without any value may have no type of its own."""
    if pa.types.is_dictionary(kind):
        return _holds_texts(kind.value_type)
    of_texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_one(kind) for is_one in of_texts)


@lru_cache(maxsize=16)
def _digest(file: str, stamp: tuple[int, ...] | None) -> str:
    return metadata_digest(Path(file))


def _lists(file: str) -> dict[str, list[str]]:
    return _read(file, _stamp(file))


def _matcher(file: str, language: str) -> Matcher:
    return _built(file, language, _stamp(file))


def _stamp(file: str) -> tuple[int, ...] | None:
    """What changes with a file; None if there is none, of which reading it says why."""
    try:
        return file_stamp(Path(file))
    except OSError:
        return None


@lru_cache(maxsize=2)
def _read(file: str, stamp: tuple[int, ...] | None) -> dict[str, list[str]]:
    return read_metadata(Path(file))


@lru_cache(maxsize=64)
def _built(file: str, language: str, stamp: tuple[int, ...] | None) -> Matcher:
    return Matcher(_read(file, stamp)[language])
