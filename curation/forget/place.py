"""A run directory as forgetting sees it: every existing table, whether used or not, and every other file."""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from curation.code import CODE_FILE
from curation.common_texts import COMMON_TEXT
from curation.dataset_card import CARD
from curation.duplicates.kinds import DeduplicateConfig
from curation.duplicates.stage import Deduplicate
from curation.engines.generations import Generations
from curation.erase import NOTES
from curation.flow import Flow, Tables
from curation.forget.lost import flow_of_what_is_there
from curation.pack import Pack, PackConfig
from curation.parts import WantedPart, wanted_parts
from curation.plan import Planned, open_plan
from curation.results.report import REPORTS
from curation.schema import DROPS
from curation.selections.config import SelectionConfig
from curation.selections.stage import Select
from curation.selections.steps import Rules
from curation.table import COLUMNS, IMAGES, PLAN, Table, tables_there
from pairmill.layout import (
    GENERATIONS,
    PAIRS,
    PLAN_COPY,
    PLAN_JSON,
    PROBES,
    RECIPE_COPY,
    RECIPE_FILE,
    REFERENCES,
    SELECTIONS,
    filter_table,
    select_stage,
)
from pairmill.pending import FORGOTTEN_COPY, FORGOTTEN_FILE
from pairmill.recipe_file import run_recipe
from pairmill.run_records import JOURNAL, read_record, record_numbers, write_record
from pairmill.store import MANIFESTS, Store, shard_file
from pairmill.table_files import content_digest

#: The names of data files.
_SHARD = re.compile(r"(shard|part)-([0-9]{6,})\.parquet")
#: The files and folders of a run directory.
_KNOWN = frozenset(
    {
        *(PLAN, IMAGES, COLUMNS, SELECTIONS, PAIRS, NOTES, JOURNAL, FORGOTTEN_FILE, FORGOTTEN_COPY),
        *(RECIPE_FILE, RECIPE_COPY, CARD, CODE_FILE, MANIFESTS, ".lock"),
        *REPORTS,
        PROBES,
        REFERENCES,
        GENERATIONS,
    }
)


class Place:
    """A run directory: its plan, its recipe, and its tables."""

    def __init__(self, store: Store) -> None:
        """Raises RunDirError if nothing is planned, UserError for a recipe that is wrong even without its lost code."""
        self.store = store
        self.plan = open_plan(store)
        self.recipe: Mapping[str, Any] = run_recipe(store)
        self.flow, self.lost, changed = flow_of_what_is_there(self.recipe)
        self.selection: str = self.flow.selecting.selection
        self.tables = Tables(self.flow, selection=self.selection, lenient=True)
        unkeyed = [*self.tables.unkeyed, *(self._unowned() if self.lost else ())]
        #: Tables whose rewritten shards become stale; the selection is made again in any case.
        self.unkeyed = tuple(dict.fromkeys([*unkeyed, *(name for name in changed if name != SELECTIONS)]))

    @property
    def pack(self) -> PackConfig:
        """How the product is packed."""
        config: PackConfig = self.flow.of(Pack).config
        return config

    # Tables

    def own_tables(self) -> list[Table]:
        """The tables that the recipe makes, each after those that it is made from."""
        planned = Table(PLAN, (*Planned(None).column_names(), *DROPS), None, (), (Planned.name,))
        counted = {name for stage in self.flow.stages for name in stage.counted}
        whole = [Table(name, (COMMON_TEXT,), None, (), (), drops=False) for name in sorted(counted)]
        # In the tables after a lost stage its drops are those of an earlier one; the others know nothing of it.
        lost = tuple(self._lost_stages())
        return [planned, *whole, *(replace(table, before=(*table.before, *lost)) for table in self.tables.all)]

    def _unowned_table(self, folder: str) -> Table:
        """A table as its own files describe it.

        It is not read while its stage is off, so its drops are counted only if the stage is merely lost.
        """
        named = self._stages_of(folder) if self.lost else []
        shards = sorted(self.store.index(folder))
        if not (named and set(DROPS) <= set(self.store.schema(shard_file(folder, shards[0])).names)):
            return Table(folder, (), None, (IMAGES,), (), drops=False)
        before = {*self.flow.order, *self._lost_stages()} - {*named}
        return Table(folder, DROPS, None, (IMAGES,), tuple(named), tuple(sorted(before)))

    def _stages_of(self, folder: str) -> list[str]:
        """The stages whose drops the manifests of a table count, in order: each gets what the one before keeps."""
        rows: Counter[tuple[str, str]] = Counter()
        for made in self.store.manifests(folder):
            for name, counts in made["stages"].items():
                rows.update({(name, key): counts[key] for key in ("rows_in", "rows_kept")})
        names = dict.fromkeys(name for name, _ in rows)
        return sorted(names, key=lambda name: (-rows[name, "rows_in"], -rows[name, "rows_kept"]))

    def _unowned(self) -> list[str]:
        """Folders of columns that no stage of the flow fills."""
        known = {table.name for table in self.tables.all} | {name for s in self.flow.stages for name in s.counted}
        return [folder for folder in tables_there(self.store, COLUMNS) if folder not in known]

    def _lost_stages(self) -> list[str]:
        """The names of the stages whose code is lost, and of others that are not in the flow."""
        if not self.lost:
            return []
        named = (name for folder in self._unowned() for name in self._stages_of(folder))
        return [name for name in dict.fromkeys(named) if name not in self.flow]

    def other_tables(self) -> list[tuple[list[Table], list[str]]]:
        """The other existing tables: each with those that its drops follow from, and which of them are not ours.

        They are selections of other recipes, with what those are made from, and tables of inactive stages.
        """
        known = {table.name for table in self.own_tables()}
        found: list[tuple[list[Table], list[str]]] = []
        for folder in tables_there(self.store, SELECTIONS):
            if folder in known:
                continue
            name = folder.rpartition("/")[2]
            beside = bool(self.store.index(filter_table(name)))
            tables = Tables(self._flow_through(folder), selection=name, beside=beside, keyed=False)
            chain = [*tables.before("global"), tables.named(folder)]
            found.append((chain, [table.name for table in chain if table.name not in known]))
            known |= {table.name for table in chain}
        for folder in tables_there(self.store, COLUMNS):
            if folder not in known:
                found.append(([self._unowned_table(folder)], [folder]))
        return found

    def _flow_through(self, folder: str) -> Flow:
        """The flow as it passes another selection, which a recipe's rules or the deduplication of another one made."""
        made: Mapping[str, Any] = next((manifest["stages"] for manifest in self.store.manifests(folder)), {})
        by_rules = select_stage(made) == Select.name
        stage = Select(Rules(folder, SelectionConfig())) if by_rules else Deduplicate(DeduplicateConfig())
        if stage.name == self.flow.selecting.name:
            return self.flow
        return Flow([stage if one is self.flow.selecting else one for one in self.flow.stages], self.flow.rules)

    def caches(self) -> list[Generations]:
        """The caches of generations: the run's own, and those that its recipe names."""
        sections = (section for section in self.recipe.values() if isinstance(section, Mapping))
        named = dict.fromkeys(place for one in sections if isinstance(place := one.get("cache"), str))
        return [Generations(self.store.within(GENERATIONS)), *map(Generations, named)]

    def files(self, shards: Iterable[int], parts: Iterable[int]) -> list[pafs.FileInfo]:
        """The existing data files of some shards, of every table, and of some parts."""
        tables = [table for table in tables_there(self.store) if table != PAIRS]
        names = [shard_file(table, shard) for shard in shards for table in tables]
        names += [shard_file(PAIRS, part) for part in parts]
        found = self.store.filesystem.get_file_info([self.store.path(name) for name in names])
        return [info for info in found if info.type == pafs.FileType.File]

    # The product

    def wanted_parts(self) -> dict[int, WantedPart]:
        """The parts as they should be, by number; none before every table is complete, or if code is lost."""
        if self.lost or any(len(self.store.index(table.name)) < self.plan.shards for table in self.tables.all):
            return {}
        return {part.number: part for part in wanted_parts(self.store, self.tables, self.plan)}

    def part_numbers(self) -> list[int]:
        """The parts that have data, committed or not."""
        names = [n for n in self.store.names(PAIRS) if n.startswith("part-") and n.endswith(".parquet")]
        return [int(name.removeprefix("part-").removesuffix(".parquet")) for name in names]

    def content(self, rows: pa.Table) -> str:
        """The content of a part with these rows."""
        return content_digest(rows)

    def commit_part(self, number: int, key: str, rows: pa.Table) -> None:
        """Commit a part as packing does."""
        groups = self.pack.row_group_rows
        self.store.commit(PAIRS, number, key, rows, {}, row_group_rows=groups)

    # Everything else

    def look_around(self, urls: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Files and folders that do not belong to a run; and files of the run, outside its tables, that name a URL."""
        strays = (*sorted({info.base_name for info in self._listed("")} - _KNOWN), *self._not_ours())
        texts = (
            RECIPE_FILE,
            RECIPE_COPY,
            PLAN_JSON,
            PLAN_COPY,
            *(f"{JOURNAL}/{name}" for name in self.store.names(JOURNAL)),
        )
        sought = [url.encode() for url in urls]
        mentions = []
        for name in texts:
            text = self.store.read_bytes(name) if self.store.exists(name) else b""
            if any(url in text for url in sought):
                mentions.append(name)
        return strays, tuple(mentions)

    def _not_ours(self) -> Iterator[str]:
        """Files in the folders of the run that no job reads and no forgetting rewrites."""
        tables = tables_there(self.store)
        for folder in (*tables, COLUMNS, SELECTIONS, JOURNAL):
            for info in self._listed(folder):
                name = info.base_name
                if info.type == pafs.FileType.Directory:
                    ours = name == MANIFESTS or f"{folder}/{name}" in tables
                else:
                    ours = self._is_ours(folder, name)
                if not ours:
                    yield f"{folder}/{name}"

    def _is_ours(self, folder: str, name: str) -> bool:
        if folder == JOURNAL:
            return name.startswith("run-") and name.endswith(".json")
        shard = _SHARD.fullmatch(name)
        if shard is None or (shard[1] == "part") != (folder == PAIRS):
            return f"{folder}/{name}" in (PLAN_JSON, PLAN_COPY) or name == "plan.json"
        # Shards of the plan and parts that do not count are removed.
        return folder in (PLAN, PAIRS) or int(shard[2]) < self.plan.shards

    def record(self, work: Mapping[str, Any], began: float) -> None:
        """Record in the journal when, how many rows, and which copies still hold them; never which rows."""
        there = record_numbers(self.store)
        number = max(there, default=0) + 1
        last = read_record(self.store, there[-1]) if there else None
        forgot = {name: work[name] for name in ("at", "rows", "kept", "not_cleaned")}
        if self.lost:
            forgot["without"] = list(self.lost)  # so its tables do not fit each other before the next job
        if last is not None and last.get("forgot") == forgot:
            return  # killed after this line
        made = {
            "run": number,
            "command": "pairmill forget",
            "started_at": began,
            "finished_at": time.time(),
            "failed": None,
            "segments": {},
            "versions": {"python": platform.python_version(), "pairmill": version("pairmill")},
            "cluster": {},
            "forgot": forgot,
        }
        write_record(self.store, made, "forget.record")

    def _listed(self, folder: str) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.store.path(folder).rstrip("/"), allow_not_found=True)
        found: list[pafs.FileInfo] = self.store.filesystem.get_file_info(selector)
        return [info for info in found if not info.base_name.endswith(".partial")]
