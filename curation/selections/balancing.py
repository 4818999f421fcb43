"""The rule `balance` of a selection: rows thinned by what their captions name (`curation.balancing`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from curation.balancing.balance import Counts, Floats, probabilities, staying, thresholds
from curation.balancing.matching import Matcher, Matches
from curation.balancing.metadata import ANY, metadata_digest, read_metadata
from pairmill.config import Config

#: Why a row goes: chance was against it, or its caption names nothing of the metadata.
BALANCE, NO_ENTRY = "balance", "no_entry"

#: How many captions name an entry, with a key that brings equal entries together.
MENTIONS = pa.schema([("language", pa.string()), ("entry", pa.int32()), ("rows", pa.int64())])


class BalanceConfig(Config):
    """MetaCLIP's balancing (Xu et al. 2024): captions of common things are thinned, those of rare things all stay."""

    metadata: Path = Field(
        description="file of the entries that captions are looked up in: .txt, an entry a line; .json, a list, or "
        "a list for each language; `pairmill metadata` makes one"
    )
    t: int | dict[str, int] = Field(
        20_000,
        description="captions of an entry above which they are thinned: of English, and for other languages what "
        "leaves the same share of mentions below it, as in MetaCLIP 2; or a number for each language; MetaCLIP has "
        "20,000 for 400 million pairs",
    )
    text: str = Field("caption", description="column of the captions")
    language: str = Field("language", description="column of their languages, which choose among the lists")
    seed: int = Field(0, ge=0, lt=1 << 31, description="seed of chance, which with uid and entry decides")

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


@lru_cache(maxsize=2)
def _lists(file: str) -> dict[str, list[str]]:
    return read_metadata(Path(file))


@lru_cache(maxsize=64)
def _matcher(file: str, language: str) -> Matcher:
    return Matcher(_lists(file)[language])
