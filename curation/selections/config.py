"""The recipe section `selections`: name -> an expression over selections, or the rules of one.

selections:
  base: {dedup: [exact, near_image]}
  good: {from: base, where: "score_clip > quantile(score_clip, 0.7, by=language)"}
  mix: "good | (trusted & ~nsfw)"

A selection's rules apply in this order: from, uids, where, decontaminate, dedup, quota, top, balance.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from curation.duplicates.kinds import KINDS, PIXELS, DeduplicateConfig, strongest_first
from curation.duplicates.other_runs import OtherRun, OtherRunConfig
from curation.selections.balance_rule import BalanceConfig
from curation.selections.decontaminate_rule import DecontaminateBy
from curation.selections.expression import ALL
from curation.selections.skew_rule import SkewConfig
from curation.selections.uids import uids_digest
from pairmill.config import OF_ENTRY, Config
from pairmill.errors import RecipeError
from pairmill.registry import ChosenBy, NamedConfig, is_import_path

#: What a group of kinds of duplicates is called for short.
KINDS_FOR_SHORT = {
    "exact": ("duplicate_pair", "duplicate_image"),
    "near_image": ("near_duplicate_image",),
    "minhash": ("near_duplicate_text",),
    "semantic": ("semantic_duplicate",),
}


class _Share(Config):
    """So many rows, or such a share of them."""

    rows: int | None = Field(
        None,
        ge=1,
        le=1 << 62,
        description="rows that stay; set this or share; rows of equal uid and `by` stay together, so a list that "
        "repeats rows may leave more: `dedup: [exact]` comes before and leaves one of them",
    )
    share: float | None = Field(None, gt=0, le=1, description="share of the rows that stays, rounded up")

    @model_validator(mode="after")
    def _either(self) -> _Share:
        if (self.rows is None) == (self.share is None):
            raise RecipeError(
                "top and quota of a selection must have either rows or share",
                value=f"rows: {self.rows}, share: {self.share}",
                fix="set one of them",
            )
        return self


class QuotaConfig(_Share):
    """A cap for each group of rows; `share` is of all rows that come to this rule, whatever their group."""

    per: str = Field(
        description="what divides rows into groups: a column or an expression; host: the host of the row's url; rows "
        "where it is null are a group too"
    )
    by: str | None = Field(
        None,
        description="number by which the best of a group stay, highest first, then the smallest uid; null and NaN come "
        "last; null: by uid alone, which is as good as by chance",
    )


class TopConfig(_Share):
    """The best rows; with `per`, of each group, and `share` is of the group's rows then."""

    by: str | None = Field(
        None, description="number by which the best stay, as in quota.by; write -x for the lowest of x"
    )
    per: str | None = Field(None, description="what divides rows into groups, as in quota.per; null: all together")


if TYPE_CHECKING:

    class _From(Config): ...

else:
    _From = create_model(
        "_From",
        __base__=Config,
        **{
            "from": (
                str,
                Field(
                    ALL,
                    description="expression over selections whose rows it chooses from: names, | & ~ and parentheses; "
                    "all: every row that no stage dropped",
                ),
            )
        },
    )


def _spelled_out(value: Any) -> Any:
    """Kinds by their own names, for `dedup`; what is no list is left to the check."""
    if not isinstance(value, list | tuple):
        return value
    found: list[Any] = []
    for given in value:
        name = given.get("name") if isinstance(given, dict) else given
        names = KINDS_FOR_SHORT.get(name, ()) if isinstance(name, str) else ()
        unknown = isinstance(name, str) and not is_import_path(name) and not names and name not in KINDS.names
        if unknown or (names and not set(names) <= set(KINDS.names)):
            known = [short for short, kinds in KINDS_FOR_SHORT.items() if set(kinds) <= set(KINDS.names)]
            raise RecipeError(
                "dedup of a selection must name kinds of duplicates",
                value=name,
                fix=f"choose among {', '.join([*known, *KINDS.names])}, or give an import path package.module:Class",
            )
        keys = given if isinstance(given, dict) else {}
        found += [{**keys, "name": one} for one in names] if names else [given]
    return found


def _rule_of_weights(value: Any) -> Any:
    """A mapping as the rule that it must be, so that a mistake is one of its keys."""
    if not isinstance(value, dict):
        return value
    try:
        return SkewConfig.checked(value, at="weight")
    except RecipeError as error:
        raise PydanticCustomError(OF_ENTRY, "{key}", {"key": "weight", "error": error}) from error


class SelectionConfig(_From):
    """Which rows of a run are in a selection; the rules apply in the order of these keys."""

    uids: Path | None = Field(
        None,
        description="file of uids, as DataComp writes them, of the rows that stay: .npy, dtype u8,u8; "
        "see docs/selections.md",
    )
    uid_column: str = Field(
        "uid",
        description="column with the uids that `uids` holds, 32 hex digits each; input.uid: those of DataComp's lists",
    )
    where: str | None = Field(
        None,
        description="expression that is true for rows that stay, as filter.where, over the columns of every stage "
        "and of the list; also quantile(x, 0.7, by=language) and count(by=host(url)) over the "
        "rows of `from`, those that `uids` leaves; rows for which it is null go",
    )
    decontaminate: DecontaminateBy | None = Field(
        None,
        description="evaluation sets of the section `decontaminate`, whose matches go: a name, names, or a mapping of "
        "`against` and `kinds`; null: none",
    )
    dedup: Annotated[tuple[Annotated[NamedConfig, ChosenBy(KINDS)], ...], BeforeValidator(_spelled_out)] = Field(
        (),
        description="kinds of duplicates among the rows so far, of which the best stays: as deduplicate.kinds, or for "
        "short exact, near_image, minhash, semantic",
    )
    against: dict[str, OtherRun] = Field(
        {},
        description="names of your own -> curated runs whose rows take part in `dedup` and are better than any row "
        "here, so that none stays that is a duplicate of one of them: each a run directory, or a mapping of `run` and "
        "`selection`; the columns compared must be there, embeddings by the same model",
    )
    keep: Literal["best", "all"] = Field(
        "best",
        description="which rows of a family of `dedup` stay; all: every one, with a column `group_id`, as "
        "deduplicate.keep",
    )
    score: str = Field(PIXELS, description="pixels, or a numeric column that ranks duplicates, as deduplicate.score")
    quota: QuotaConfig | None = Field(None, description="cap for each group of rows; null: none")
    top: TopConfig | None = Field(None, description="the best rows; null: all")
    balance: BalanceConfig | None = Field(
        None, description="MetaCLIP's balancing of what captions name, among the rows that are left; null: none"
    )
    weight: Annotated[str | SkewConfig | None, BeforeValidator(_rule_of_weights)] = Field(
        None,
        description="expression, or a rule against skew, for a column `weight` of the rows that stay, as numbers; "
        "what is no positive finite number becomes 0, a positive one outside float32 (1.4e-45 to 3.4e38) the nearest "
        "in it; functions over all rows are over those of `from` that `uids` leaves",
    )

    @field_validator("dedup")
    @classmethod
    def _each_once_strongest_first(cls, value: tuple[NamedConfig, ...]) -> tuple[NamedConfig, ...]:
        return strongest_first(value, "dedup of a selection")

    @field_validator("against")
    @classmethod
    def _named(cls, value: dict[str, OtherRunConfig]) -> dict[str, OtherRunConfig]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise RecipeError("a name in against must be of letters, digits, _ and -", value=name, fix="rename it")
        return value

    @model_validator(mode="after")
    def _duplicates_that_are_looked_for(self) -> SelectionConfig:
        if self.keep == "all" and not self.dedup:
            raise RecipeError(
                "a selection with keep: all must say by dedup what counts as a duplicate",
                value="keep: all; no dedup",
                fix="add, for example, dedup: [exact, near_image]; without dedup every row stays anyway",
            )
        if self.against and not self.dedup:
            raise RecipeError(
                "a selection with against must say by dedup what counts as a duplicate",
                value=f"against: {', '.join(self.against)}; no dedup",
                fix="add, for example, dedup: [exact, near_image]",
            )
        if self.against and self.keep == "all":
            raise RecipeError(
                "a selection with against must keep the best of each family: that is the other run's row",
                value="keep: all",
                fix="leave keep out, or make a selection with against first, and one with keep: all from it",
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The keys that are set, with the content of the file of uids, and the source of kinds that are not ours.

        Raises RecipeError for a file that holds no uids.
        """
        nothing = SelectionConfig().model_dump(mode="json")
        found = {name: value for name, value in super().identity().items() if value != nothing[name]}
        if self.uids is not None:
            found["uids"] = uids_digest(self.uids)
        if self.dedup:
            found["dedup"] = self.duplicates.identity()
        if self.against:
            # What the runs hold counts, and not where they are (`selected_tables.over_all`).
            found["against"] = {name: one.selection for name, one in self.against.items()}
        if self.balance is not None:
            found["balance"] = self.balance.identity()
        return found

    @property
    def source(self) -> str:
        """The expression `from`."""
        return str(getattr(self, "from"))

    @property
    def duplicates(self) -> DeduplicateConfig:
        """What its duplicates are, as the deduplicate section says it."""
        return DeduplicateConfig(enabled=bool(self.dedup), kinds=self.dedup, score=self.score, keep=self.keep)

    @property
    def skew(self) -> SkewConfig | None:
        """The rule against skew, if its weights follow one."""
        return self.weight if isinstance(self.weight, SkewConfig) else None

    @property
    def groups(self) -> bool:
        """Whether the duplicates that it finds stay, in groups."""
        return bool(self.dedup) and self.keep == "all"


def _mapping(value: Any) -> Any:
    return {"from": value} if isinstance(value, str) else value


#: A selection as a recipe may give it: an expression alone is its `from`.
Selection = Annotated[SelectionConfig, BeforeValidator(_mapping, json_schema_input_type=str | SelectionConfig)]


class Section(Config):
    """The section by itself, for a recipe that has nothing else."""

    selections: dict[str, Selection] = Field({}, description="as in the curation recipe")
