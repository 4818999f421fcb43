"""What each table of a run is made from: this decides what a changed recipe makes stale, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from curation import download, filters, pack
from curation.duplicates.kinds import PIXELS, kinds_of, reads
from curation.filters.where import compile_where
from curation.plan import Plan
from curation.recaption import CAPTION_PLACEHOLDER
from curation.recaption import model_revision as captioner_revision
from curation.schema import Stage
from curation.shards import Table
from curation.translate import model_revision as translator_revision
from pairmill.config import digest
from pairmill.errors import RecipeError, nearest
from pairmill.layout import FILTER_TABLE, filter_table
from pairmill.store import Store, shard_file
from pipelines.recipe import CurateRecipe

_DROPS = ("drop_stage", "drop_reason")


@dataclass(frozen=True)
class Tables:
    """The tables of one recipe, in the order the data flows; None where the stage is off."""

    recipe: CurateRecipe
    images: Table
    filtered: Table
    recaptioned: Table | None
    translated: Table | None

    def selected(self, store: Store) -> Table:
        """The selection: a global table, so its key holds the content of every shard it looks at."""
        contents = [store.index(name) for name in (self.images.name, self.filtered.name)]
        seen = digest([[entry.content for _, entry in sorted(index.items())] for index in contents])
        identity = [self.recipe.deduplicate.identity(), seen]
        return Table(self.selection, ("keep", "reason"), identity, (), (Stage.DEDUPLICATE,))

    @property
    def selection(self) -> str:
        """The selection's name in the store."""
        return f"selections/{self.recipe.deduplicate.name}"

    @property
    def rewritten(self) -> list[Table]:
        """The tables of the rewrite segment."""
        return [table for table in (self.recaptioned, self.translated) if table is not None]

    def collect_reads(self) -> Mapping[str, tuple[str, ...]]:
        """What filtering needs of images that are there already."""
        wanted = set(filters.columns_read(self.recipe.filter)) & set(download.COLUMNS.names)
        return {self.images.name: (*sorted(wanted | {"status"}), *_DROPS)}

    def narrow_reads(self) -> Mapping[str, tuple[str, ...]]:
        """What deduplication needs to know of a row, beside the columns of the plan."""
        wanted = reads(self.recipe.deduplicate)
        images = [name for name in wanted if name in download.COLUMNS.names]
        measured = [*filters.FILTER_COLUMNS.names, *(f"would_drop_{r}" for r in self.recipe.filter.score_only)]
        filtered = [name for name in wanted if name in measured]
        return {self.images.name: tuple(images), self.filtered.name: (*filtered, *_DROPS)}

    def rewrite_reads(self) -> Mapping[str, tuple[str, ...]]:
        """What captioning and translating need."""
        image = ("image",) if self.recaptioned else ()
        reads = {
            self.images.name: image,
            self.filtered.name: ("caption", "language", *_DROPS),
            self.selection: ("keep", "reason"),
        }
        return reads | ({self.recaptioned.name: ("recaptions",)} if self.recaptioned else {})

    def pack_reads(self) -> Mapping[str, tuple[str, ...]]:
        """What the product holds."""
        there = {self.images.name, self.filtered.name, *(t.name for t in self.rewritten)}
        return {name: columns for name, columns in pack.READS.items() if name in there} | {
            self.selection: ("keep", "reason")
        }


def tables_of(recipe: CurateRecipe, plan: Plan, store: Store, *, beside: bool = False) -> Tables:
    """The tables of a planned run.  Raises UserError if a model cannot be found or a column does not exist.

    beside: the filters' table is the selection's own (`columns/filter-NAME`), so that the run's stays as it is.
    """
    _check_score(recipe)
    known = _filterable(store.schema(shard_file("plan", 0)))
    _check_kinds(recipe, known)
    if recipe.filter.where is not None:
        compile_where(recipe.filter.where, known)
    images = Table(
        "images",
        (*download.COLUMNS.names, *_DROPS),
        {"plan": plan.fingerprint, "download": recipe.download.identity(), "image": recipe.image.identity()},
        upstream=(),
        stages=(Stage.PLAN, Stage.DOWNLOAD, Stage.INSPECT),
    )
    filtered = Table(
        filter_table(recipe.deduplicate.name) if beside else FILTER_TABLE,
        (*filters.FILTER_COLUMNS.names, *(f"would_drop_{r}" for r in recipe.filter.score_only), *_DROPS),
        recipe.filter.identity(),
        (images.name,),
        (Stage.FILTER,),
    )
    selection = f"selections/{recipe.deduplicate.name}"
    recaptioned = translated = None
    if recipe.recaption.active:
        asks_for_alt = any(CAPTION_PLACEHOLDER in p.text for p in recipe.recaption.resolved_prompts().values())
        alt_texts = (filtered.name,) if asks_for_alt else ()
        recaptioned = Table(
            "columns/recaption",
            ("recaptions", "recaption_status", "recaption_error"),
            [recipe.recaption.identity(), captioner_revision(recipe.recaption)],
            (images.name, selection, *alt_texts),
            (Stage.RECAPTION,),
        )
    if recipe.translate.active:
        translated = Table(
            "columns/translate",
            ("translations", "translate_status", "translate_error"),
            [recipe.translate.identity(), translator_revision(recipe.translate)],
            (filtered.name, selection, *((recaptioned.name,) if recaptioned else ())),
            (Stage.TRANSLATE,),
        )
    return Tables(recipe, images, filtered, recaptioned, translated)


def _filterable(planned: pa.Schema) -> pa.Schema:
    """What `filter.where` and kinds of duplicates may name: our columns, and the input list's own of other names."""
    fields = {f.name: f for f in [*planned, *download.COLUMNS, *filters.FILTER_COLUMNS]}
    own = [] if "input" not in planned.names else list(planned.field("input").type)
    return pa.schema([f for f in fields.values() if f.name != "input"] + [f for f in own if f.name not in fields])


def _check_score(recipe: CurateRecipe) -> None:
    score = recipe.deduplicate.score
    known = [PIXELS, *download.COLUMNS.names, *filters.FILTER_COLUMNS.names]
    if score not in known:
        raise RecipeError(
            "deduplicate.score names a numeric column", value=score, fix=f"perhaps you mean: {nearest(score, known)}"
        )


def _check_kinds(recipe: CurateRecipe, known: pa.Schema) -> None:
    for kind in kinds_of(recipe.deduplicate):
        for name in kind.reads:
            if name not in known.names:
                raise RecipeError(
                    f"a kind of duplicate must read columns of the input list, the images or the filter: {kind.name}",
                    value=name,
                    fix=f"perhaps you mean: {nearest(name, known.names)}",
                )
