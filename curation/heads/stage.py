"""Score, as a stage: one head over pictures or embeddings; a recipe has any number, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.heads import HEADS, loaded
from curation.schema import set_columns
from curation.stage import Column, NamedStage, Runtime, live_mask
from pairmill.errors import IntegrityError, reworded
from pairmill.own_code import Guard
from pairmill.registry import ChosenBy, NamedConfig, is_import_path

T = TypeVar("T")

#: Seconds that a user's own head may take for the pictures of a shard, unless its configuration has `timeout_s`.
_TIMEOUT_S = 3600.0


class Score(NamedStage):
    """Score every picture by a head: a column of its own, which selections read.

    Nothing is dropped.  A row without a picture, or without what the head reads, has null.
    """

    section, segment = "score", "score"
    Config = NamedConfig
    Entry = Annotated[NamedConfig, ChosenBy(HEADS)]
    meaning = "heads that score pictures, by name: each adds the column NAME; {name: …, key: …} sets a head's own keys"

    def __init__(self, config: NamedConfig, given: str) -> None:
        super().__init__(config, given)
        head = HEADS.get(config.name)
        self.libraries = tuple(getattr(head, "libraries", ()))
        # What reads pixels holds a model; what reads vectors is done in the time of a short task.
        self.pool = "model" if head.input == "pixels" else "tasks"
        self._source = "image" if head.input == "pixels" else f"image_embedding_{getattr(config, 'embedding', '')}"
        more = getattr(head, "reads", None)
        self._more = tuple(more(config)) if more is not None else ()
        self.reads = (self._source, *self._more)
        self._columns: dict[str, pa.DataType] = {}
        self._names = [given if not at else f"{given}_{field.name}" for at, field in enumerate(head.columns)]
        self.adds = tuple(
            Column(name, field.type, f"{config.name}: {field.name}", carried=not pa.types.is_nested(field.type))
            for name, field in zip(self._names, head.columns, strict=True)
        )

    @classmethod
    def configured(cls, given: Any, *, at: str) -> Any:
        """The configuration of the head that an entry chooses.  Raises RecipeError."""
        with reworded({HEADS.key: at}, value=True):
            return ChosenBy(HEADS).parse(given)

    def entries(self) -> tuple[Any, ...]:
        """The head."""
        return (HEADS.get(self.config.name),)

    def own_code(self) -> tuple[str, ...]:
        """The head, if it is a user's own."""
        return (self.config.name,) if is_import_path(self.config.name) else ()

    def revision(self) -> str:
        """What the head's scores depend on beside its keys.

        Raises UserError if a file is missing, JobError if a user's own head fails.
        """
        found = self._keyed(lambda: self._guarded(lambda: HEADS.get(self.config.name).revision(self.config)))
        if not isinstance(found, str):
            raise IntegrityError(f"the revision of the head of score.{self.given} must be a text; found: {found!r}")
        return found

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Take note of the columns before, for `probe`."""
        self._columns = dict(columns)

    def probe(self) -> None:
        """Raise UserError for a head that cannot be loaded here, or not with the columns before it."""
        head: Any = HEADS.get(self.config.name)
        if (probe := getattr(head, "probe", None)) is not None:
            self._keyed(lambda: self._guarded(lambda: probe(self.config, self._columns)))

    def setup(self, runtime: Runtime) -> None:
        """Load the head.  Raises UserError if that is not possible here."""
        self._keyed(lambda: self._guarded(lambda: loaded(self.config)))

    def __call__(self, rows: pa.Table) -> pa.Table:
        mask = pc.and_(live_mask(rows), rows[self._source].is_valid()).combine_chunks()
        some = rows.filter(mask)
        made = self._scored(some) if len(some) else HEADS.get(self.config.name).columns.empty_table()
        # A row of the shard -> its place among those that were scored.
        place = pa.array(np.cumsum(np.asarray(mask)) - 1, mask=~np.asarray(mask))
        columns = {name: made.column(at).take(place) for at, name in enumerate(self._names)}
        return set_columns(rows, columns)

    def _scored(self, rows: pa.Table) -> pa.Table:
        """What the head gives for some rows.  Raises IntegrityError for another form than it declares."""
        columns = HEADS.get(self.config.name).columns

        def scores(some: pa.Table) -> pa.Table:
            found = loaded(self.config)(some[self._source], **{name: some[name] for name in self._more})
            if not isinstance(found, pa.Table) or found.schema != columns or len(found) != len(some):
                raise IntegrityError(
                    f"the head of score.{self.given} must give {columns} for {len(some)} pictures; found: "
                    f"{found.schema if isinstance(found, pa.Table) else type(found).__name__}, "
                    f"{len(found) if isinstance(found, pa.Table) else 'no'} rows"
                )
            return found

        if not is_import_path(self.config.name):
            return self._keyed(lambda: scores(rows))
        answers = self._guard.answers(lambda some: self._keyed(lambda: scores(some)), rows)
        return pa.concat_tables([answer.value for answer in answers])

    @property
    def _guard(self) -> Guard:
        return Guard(f"score.{self.given}: {self.config.name}", getattr(self.config, "timeout_s", _TIMEOUT_S))

    def _guarded(self, work: Callable[[], T]) -> T:
        return self._guard.called(work) if is_import_path(self.config.name) else work()

    def _keyed(self, work: Callable[[], T]) -> T:
        """`work`, whose errors name the key of this stage."""
        with reworded({HEADS.key: f"{self.section}.{self.given}"}, value=True):
            return work()
