"""Decontaminate, as a stage: which rows match an evaluation set; a recipe may have several, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from curation.decontamination.evaluation_set import EvaluationSet, evaluation_set
from curation.decontamination.item_fingerprints import called, indexed, make_piece, report_unread, stale_pieces
from curation.decontamination.match_kinds import KINDS, DecontaminateConfig, Matches, MatchKind, Pictures, Places
from curation.images.config import ImageConfig
from curation.schema import set_columns
from curation.stage import Column, NamedStage, Runtime, live_mask
from curation.table import IMAGES
from pairmill.config import digest
from pairmill.errors import IntegrityError, RecipeError, nearest
from pairmill.registry import is_import_path
from pairmill.store import Store

#: Matches of each kind that are listed for a row, the best ones.
MOST_LISTED = 20

#: One match: its kind, the item's name in the set (`references/NAME/` has its picture), how alike they are.
MATCH = pa.struct([("kind", pa.string()), ("item", pa.string()), ("similarity", pa.float32())])


class Decontaminate(NamedStage):
    """Compare every picture and its caption with those of an evaluation set, and list what matches.

    Nothing is dropped: the rule `decontaminate` of a selection does that.  A match has its kind, the name of the item
    in the set and a similarity: 1 for `same_image`; for `near_image` 1 less the difference of the part in which the
    pictures differ most, as a share of 255 levels; for `embedding` the cosine; for `caption` the share of the item's
    n-grams that the row has.

    To show both pictures: the row's is in `images/`, in the same shard and row; the item's is in `references/NAME/`, a
    line for each item with `item`, `status`, `error`, `sha256`, `phash`, `colours`, `original_width`,
    `original_height`, `captions`, `thumbnail` (WebP of at most 160 pixels).  Items whose picture could not be read have
    their status and error there, and are counted in the manifests; their bytes and captions are compared all the same.
    """

    section, segment = "decontaminate", "score"
    libraries = ("numpy", "opencv-python-headless", "pillow", "regex", "simplejpeg")
    Config = DecontaminateConfig
    meaning = "evaluation sets that the run is compared with, by name: NAME adds matches_NAME and contaminated_NAME"

    def __init__(self, config: DecontaminateConfig, given: str) -> None:
        super().__init__(config, given)
        self.adds = (
            Column(f"contaminated_{given}", pa.string(), "strongest kind by which the row matches; null: none"),
            Column(f"matches_{given}", pa.list_(MATCH), f"the best {MOST_LISTED} matches of each kind; null: none"),
            Column(f"match_count_{given}", pa.int32(), "how many matches there are, listed or not"),
        )
        self._take(config)

    def _take(self, config: DecontaminateConfig) -> None:
        self.config = config
        self.kinds: tuple[MatchKind, ...] = tuple(KINDS.get(one.name)(one) for one in config.kinds)
        self.reads = tuple(dict.fromkeys(name for kind in self.kinds for name in kind.reads))
        models = tuple(dict.fromkeys(name for kind in self.kinds for name in kind.models))
        # What the set's pictures are made into must be known, as the run's own pictures are made into it.
        self.looks_at = ("inspect", *models)  # type: ignore[misc]  # by the kinds
        self.models = models

    def see(self, columns: Collection[str]) -> None:
        """Fill in what the kinds leave to the columns of the stages before.  Raises RecipeError."""
        kinds = tuple(KINDS.get(one.name).resolved(one, columns) for one in self.config.kinds)
        self._take(self.config.model_copy(update={"kinds": kinds}))
        for name in self.models:
            given = name.removeprefix("embed-")
            if f"image_embedding_{given}" not in columns:
                known = [one.removeprefix("image_embedding_") for one in columns if one.startswith("image_embedding_")]
                raise RecipeError(
                    f"decontaminate.{self.given}.kinds must name an embedding of the section embed",
                    value=given,
                    fix=f"perhaps you mean: {nearest(given, known)}" if known else "add it to `embed`",
                )

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for an embedding of pictures whose text is painted over: nobody looks for it in items."""
        for name in self.models:
            if self.others[name].config.mask_text is not None:
                raise RecipeError(
                    f"decontaminate.{self.given}.kinds must name an embedding of whole pictures",
                    value=f"embed.{name.removeprefix('embed-')} has mask_text",
                    fix="add the model to `embed` once more, under another name and without mask_text, and name that",
                )

    @cached_property
    def given_set(self) -> EvaluationSet:
        """The set as its files are.  Raises RecipeError if there is none."""
        return evaluation_set(self.config.path, self.config.image_column, self.config.text_column)

    def revision(self) -> str:
        """The content of the set, and what is kept of it.  Raises UserError if it or a model is gone."""
        given = self.given_set
        return digest([self.kept_of_items(), *(given.content(number) for number in range(len(given.pieces)))])

    def probe(self) -> None:
        """Raise RecipeError for a set that is not there, or lacks the columns."""
        self.given_set.check()

    # The set

    def kept_of_items(self) -> object:
        """Plain data that decides what is kept of each item, beside its files."""
        own = self.config.identity()
        models = [[self.others[name].identity(), self.others[name].revision()] for name in self.models]
        kinds = [[name, self._own_keys(kind)] for name, kind in ((kind.name, kind) for kind in self.kinds)]
        pictures: ImageConfig = self.others["inspect"].config
        return [kinds, own.get("sources"), pictures.identity(), pictures.policy(), models]

    @staticmethod
    def _own_keys(kind: MatchKind) -> object:
        """The keys of a kind, if it keeps anything of an item itself."""
        return kind.config.identity() if len(kind.columns) else None

    def outstanding_pieces(self, store: Store) -> list[int]:
        """The pieces of the set that must be fingerprinted.  Raises UserError if the set or a model is gone."""
        return stale_pieces(store, self.given, self.given_set, self.kept_of_items())

    def make_pieces(self, store: Store, numbers: Collection[int]) -> None:
        """Fingerprint some pieces of the set, in this process."""
        models = {name: self.others[name] for name in self.models}
        for model in models.values():
            model.setup(Runtime(store))  # a model that is loaded stays
        config, identity = self.others["inspect"].config, self.kept_of_items()
        for number in numbers:
            make_piece(store, self.given, self.given_set, number, identity, self.kinds, config, models)  # type: ignore[arg-type]

    def warning(self, store: Store) -> str:
        """What of the set could not be compared, for the log; '' if all could."""
        said = report_unread(store, self.given)
        return f"decontaminate.{self.given}: {said}" if said else ""

    # The rows

    def setup(self, runtime: Runtime) -> None:
        """Load what is kept of the set."""
        if runtime.store is None:
            raise IntegrityError(f"stage {self.name} must be set up with the run's store")
        settings = digest([kind.config.identity() for kind in self.kinds])
        self._store = runtime.store
        self._items, self._indexes = indexed(runtime.store, self.given, self.kinds, settings)

    def __call__(self, rows: pa.Table) -> pa.Table:
        at = np.flatnonzero(np.asarray(live_mask(rows)))
        some = rows.take(pa.array(at))
        pictures = self._pictures(rows, at)
        found = [
            self._found(kind, some, index, pictures) for kind, index in zip(self.kinds, self._indexes, strict=True)
        ]
        lists: list[list[dict[str, Any]] | None] = [None] * len(rows)
        strongest: list[str | None] = [None] * len(rows)
        counts = np.zeros(len(rows), np.int32)
        for kind, matches in zip(self.kinds, found, strict=True):
            np.add.at(counts, at[matches.row], 1)
            for row, item, similarity in _best(matches):
                place = int(at[row])
                listed = lists[place] = lists[place] or []
                strongest[place] = strongest[place] or kind.name
                listed.append({"kind": kind.name, "item": self._items[item], "similarity": similarity})
        compared = np.zeros(len(rows), np.bool_)
        compared[at] = True
        values = (
            pa.array(strongest, pa.string()),
            pa.array(lists, pa.list_(MATCH)),
            pa.array(counts, pa.int32(), mask=~compared),
        )
        return set_columns(rows, {column.name: value for column, value in zip(self.adds, values, strict=True)})

    def _pictures(self, rows: pa.Table, at: Places) -> Pictures:
        """The stored pictures of the rows at some places; a shard's are read once, and only if a kind asks for any."""
        held: list[pa.ChunkedArray] = [rows["image"]] if "image" in rows.schema.names else []

        def pictures(some: Places) -> list[bytes | None]:
            if not held:
                held.append(self._store.load(IMAGES, rows["_shard"][0].as_py(), ["image"])["image"])
            found: list[bytes | None] = held[0].take(pa.array(at[some])).to_pylist()
            return found

        return pictures

    def _found(self, kind: MatchKind, rows: pa.Table, index: Any, pictures: Pictures) -> Matches:
        """A kind's matches.  Raises IntegrityError for rows or items that there are not."""
        found: Matches = called(kind, lambda: kind.matches(rows, index, pictures))
        if is_import_path(kind.config.name):
            row, item, similarity = (np.asarray(part) for part in found)
            there = row.ndim == 1 and row.shape == item.shape == similarity.shape
            within = (there and not len(row)) or (row.min() >= 0 and row.max() < len(rows))
            if not (there and within and (not len(item) or (item.min() >= 0 and item.max() < len(self._items)))):
                raise IntegrityError(f"the kind {kind.name} of decontaminate must give rows and items that there are")
            found = Matches(row.astype(np.int64), item.astype(np.int64), similarity.astype(np.float32))
        return found

    def facts(self, rows: pa.Table) -> dict[str, Any]:
        """How many rows match, in all and by their strongest kind."""
        matched = rows[self.adds[0].name].drop_null().to_pylist()
        return {"matched": len(matched), "kinds": dict(Counter(matched))}


def _best(matches: Matches) -> list[tuple[int, int, float]]:
    """Row, item and similarity of the best matches of each row, by row, best first."""
    order = np.lexsort((matches.item, -matches.similarity, matches.row))
    row = matches.row[order]
    begins = np.ones(len(row), np.bool_)
    begins[1:] = row[1:] != row[:-1]
    first = np.flatnonzero(begins)
    place = np.arange(len(row)) - np.repeat(first, np.diff(np.append(first, len(row))))
    kept = order[place < MOST_LISTED]
    return list(
        zip(matches.row[kept].tolist(), matches.item[kept].tolist(), matches.similarity[kept].tolist(), strict=True)
    )
