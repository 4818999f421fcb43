"""The recipe section `data`: which datasets, which texts of a row, how images are cropped, how reading is organised.

data:
  path: runs/demo                                  # one dataset …
  weight: weight                                   # rows of its selection drawn by their weights
  datasets: [{path: …, selection: strict, weight: 3}, {path: …, weight: 1}]     # … or several, mixed by weight
  columns: {noise_prob: score_noise}               # for an objective that asks for noise_prob
  texts: [{kind: alt, p: 0.2}, {kind: long, p: 0.8}]                            # one slot, sampled by kind
  texts: [[{kind: alt, language: en}], [{language: zh}], [{kind: long, transforms: [sentences]}]]   # three slots
  texts: [{kind: alt}, {kind: short, min_score: {clip: 0.25}}]                  # captions that fit their picture
  slots: 8                                         # the last slot six times: six different sentences
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from pairmill.config import EXECUTION, Config
from pairmill.errors import RecipeError, nearest
from pairmill.layout import NEGATIVE, OTHER_KINDS, TEXT_KINDS
from pairmill.registry import ChosenBy, NamedConfig
from training.data.asked_columns import COLUMNS
from training.data.batch_policy import BatchPolicy
from training.data.step_texts import SlotDraw
from training.data.text_transforms import TEXT_TRANSFORMS

ANY = "any"


class TextSelector(Config):
    """Some of a row's texts: those of one kind and language, as transforms make them."""

    kind: str = Field(
        ANY,
        description=f"kind of text: {', '.join((*TEXT_KINDS, *OTHER_KINDS))}, or any: one that "
        f"describes the picture, so none of {', '.join(OTHER_KINDS)}",
    )
    language: str = Field(
        ANY, description="language (ISO 639), or any; `zh` takes `zh-Hant` too, `zh-Hant` only traditional Chinese"
    )
    p: float = Field(1.0, gt=0, description="probability, normalised over the selectors that a row has texts for")
    min_score: Mapping[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        {},
        description="NAME of the curation recipe's `embed` -> least cosine of picture and text by that model, from the "
        "columns score_NAME and score_NAME_texts; texts without such a score are left out",
    )
    harder_by: str | None = Field(
        None,
        description="NAME of the curation recipe's `embed`: of what is found, a text that fits the picture less by its "
        "score w is drawn more often, p ~ max w - w (1-to-K); texts without such a score only if none has one; null: "
        "all alike",
    )
    transforms: tuple[Annotated[NamedConfig, ChosenBy(TEXT_TRANSFORMS)], ...] = Field(
        (),
        description="transforms of each text before one is drawn, in this order; sentences: each sentence is a text "
        "(DreamLIP); with keys of their own as {name: …, key: …}",
    )

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without `transforms`, `min_score` and `harder_by` where there are none."""
        added = ("transforms", "min_score", "harder_by")
        return {name: value for name, value in super().identity().items() if name not in added or value}

    def scored_by(self) -> tuple[str, ...]:
        """The dual encoders whose scores decide which text is drawn."""
        return (*self.min_score, *([] if self.harder_by is None else [self.harder_by]))

    @model_validator(mode="after")
    def _known_kind(self) -> TextSelector:
        if self.kind not in (*TEXT_KINDS, *OTHER_KINDS, ANY):
            raise RecipeError(
                "data.texts: kind must be a kind of text that a row can hold",
                value=self.kind,
                fix=f"perhaps you mean: {nearest(self.kind, (*TEXT_KINDS, *OTHER_KINDS, ANY))}",
            )
        return self


#: A slot holds one text of the row, sampled among what its selectors find.
Slot: TypeAlias = tuple[TextSelector, ...]


class DatasetConfig(Config):
    """One dataset of a mixture."""

    path: str = Field(
        description="run directory of `pairmill curate`; or Parquet file, folder or glob; or folder, glob or {a..b} "
        "pattern of webdataset tars"
    )
    selection: str | None = Field(
        None,
        description="selection of the run directory; null: the packed pairs, or a dataset without selections",
    )
    weight: float = Field(1.0, gt=0, description="share of the rows of a batch, relative to the other datasets")
    row_weight: str | None = Field(
        None,
        description="column of the selection that says how often a row is read, relative to its other rows: `weight`, "
        "if the selection has one; null: all alike",
    )


class AugmentConfig(Config):
    """The training crop: open_clip's defaults (`AugmentationCfg`), torchvision's RandomResizedCrop."""

    at: ClassVar[str] = "data.augment"

    scale: tuple[float, float] = Field((0.9, 1.0), description="area of the crop, as a share of the image's")
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="aspect ratio of the crop, width over height")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high or (name == "scale" and high > 1):
                raise RecipeError(
                    f"{self.at}.{name} must be a range of positive numbers{' up to 1' if name == 'scale' else ''}",
                    value=[low, high],
                    fix="give the smaller bound first, e.g. [0.9, 1.0]",
                )
        return self


#: Keys of `DataConfig` that are part of a run's identity only where they are set.
_ADDED = ("cluster_by", "keep_together", "sampled_slots")

_Share = Annotated[float, Field(ge=0, le=1)]


class ViewsConfig(AugmentConfig):
    """More views of a row, for an objective that needs them: strong augmentation of its image, other draws of a text.

    An objective that needs `view_tokens` (`pixpro`) gets two crops of each image, made likewise, whatever the number.
    Defaults: MoCo v2's.  See `training.data.strong_views`.
    """

    at: ClassVar[str] = "data.views"

    number: int = Field(1, ge=1, description="views of a row, besides what is trained on anyway")
    scale: tuple[float, float] = Field((0.2, 1.0), description="area of the crop, as a share of the image's")
    mirror_p: _Share = Field(0.5, description="probability that an image is mirrored")
    jitter_p: _Share = Field(0.8, description="probability that brightness, contrast and saturation change")
    jitter: float = Field(0.4, ge=0, le=1, description="by which share of each they change, at most")
    grey_p: _Share = Field(0.2, description="probability that an image becomes grey")
    blur_p: _Share = Field(0.5, description="probability of a blur, by a Gaussian of 0.1 to 2 pixels")
    hue: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="by which share of the circle of hues they turn at most, where brightness changes",
    )
    transforms: tuple[Annotated[NamedConfig, ChosenBy(TEXT_TRANSFORMS)], ...] = Field(
        (), description="what is done to the text of each view, in this order, as data.texts[].transforms; eda: EDA"
    )

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without `hue` and `transforms` where there are none."""
        added = ("hue", "transforms")
        return {name: value for name, value in super().identity().items() if name not in added or value}


class NegativesConfig(Config):
    """Texts that do not fit the image of their row, for an objective that needs them."""

    texts: tuple[TextSelector, ...] = Field(
        (TextSelector(kind=NEGATIVE),),
        min_length=1,
        description="which of a row's texts they are, as a slot's selectors",
    )
    number: int = Field(1, ge=1, description="of a row, at most, drawn anew in each epoch")


class DataConfig(Config):
    """What a batch is made of.  Raises RecipeError where keys contradict each other."""

    path: str | None = Field(None, description="the only dataset; see data.datasets[].path")
    selection: str | None = Field(None, description="selection of data.path; see data.datasets[].selection")
    weight: str | None = Field(
        None, description="column by which rows of data.selection are drawn; see data.datasets[].row_weight"
    )
    datasets: tuple[DatasetConfig, ...] = Field((), description="several datasets, mixed by weight")
    image_column: str | None = Field(
        None, description="column of a foreign Parquet dataset with the encoded image; null: the usual names"
    )
    text_column: str | None = Field(
        None, description="column (webdataset: key of the json) with the text or texts; null: the usual names"
    )
    columns: Mapping[str, str] = Field(
        {},
        description=f"what the columns are called that loss.objective asks for, of {', '.join(COLUMNS)}; one left out "
        "is called so; in Parquet, a selection or a table of its run, or the .json of tars; read only if asked for",
    )
    texts: tuple[TextSelector | Slot, ...] = Field(
        (TextSelector(),),
        min_length=1,
        description="text slots; a list of selectors is one slot, a list of lists several",
    )
    slots: int | None = Field(
        None,
        ge=1,
        description="number of text slots; the last of data.texts is repeated to fill them; equal slots draw different "
        "texts as long as the row has any; null: as many as data.texts lists",
    )
    sampled_slots: int | None = Field(
        None,
        ge=1,
        description="how many of the text slots a step has, drawn anew in each, the same for all rows, in their order "
        "(1-to-K's caption_num); null: all",
    )
    group: Literal["image", "text"] = Field(
        "image",
        description="which rows are no negatives of each other; image: rows of one group_id or sha256 of the dataset, "
        "else of the same bytes; text: rows of one text in the first slot (case, width and spaces aside), as alt "
        "texts repeat",
    )
    batch_size: int = Field(256, ge=1, description="rows of a step over all workers")
    cluster_by: tuple[str, ...] = Field(
        (),
        description="columns of integers, like that of a `clusters` head; a batch is of rows that agree in all (MCL), "
        "as far as lanes * bundle_rows rows hold enough of them; a null is a number of its own; [] for none",
    )
    keep_together: str | None = Field(
        None,
        description="column of integers: rows of one number are in one batch, on one worker (SaHa's hard groups), if "
        "they lie within one shard or row group of half of bundle_rows, and are at most batch_size / lanes; null for "
        "none",
    )
    shuffle: bool = Field(True, description="whether each epoch permutes pieces, and rows within bundles, anew")
    augment: AugmentConfig = AugmentConfig()
    views: ViewsConfig = ViewsConfig()
    negatives: NegativesConfig = NegativesConfig()
    lanes: int = Field(
        8,
        ge=1,
        description="parallel read positions; must be at least the number of workers; they decide what a batch holds, "
        "so that it is the same for any number of workers; lowered to the largest divisor of batch_size",
    )
    bundle_rows: int = Field(1024, ge=1, description="rows that are read, decoded and permuted together, approximately")

    reader_cpus: float = Field(
        0.5, gt=0, description="cores that reading a bundle reserves in Ray", json_schema_extra=EXECUTION
    )
    look_ahead: int = Field(
        8,
        ge=1,
        description="bundles of a worker that are being read or are ready in the object store",
        json_schema_extra=EXECUTION,
    )
    queue_batches: int = Field(2, ge=1, description="batches assembled ahead of the step", json_schema_extra=EXECUTION)
    timeout_s: float = Field(
        600.0,
        gt=0,
        description="seconds without data from the readers after which the step fails",
        json_schema_extra=EXECUTION,
    )

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if (self.path is None) == (not self.datasets):
            raise RecipeError(
                "data must name one dataset by path, or several by datasets",
                value=f"path: {self.path}, datasets: {len(self.datasets)}",
                fix="set data.path, or data.datasets, not both",
            )
        if self.selection is not None and self.datasets:
            raise RecipeError(
                "data.selection must come with data.path", value=self.selection, fix="set it in data.datasets"
            )
        self._one_policy()
        if self.weight is not None and self.datasets:
            raise RecipeError(
                "data.weight must come with data.path", value=self.weight, fix="set row_weight in data.datasets"
            )
        for name in self.columns:
            if name not in COLUMNS:
                raise RecipeError(
                    f"data.columns must only hold {', '.join(COLUMNS)}",
                    value=name,
                    fix=f"perhaps you mean: {nearest(name, COLUMNS)}",
                )
        flat = [isinstance(entry, TextSelector) for entry in self.texts]
        if any(flat) != all(flat) or not (all(flat) or all(self.texts)):
            raise RecipeError(
                "data.texts must be a list of selectors (one slot), or a list of non-empty lists of them (a slot each)",
                value=self.model_dump(mode="json")["texts"],
                fix="put each slot's selectors into a list of their own",
            )
        if self.slots is not None and self.slots < len(self._listed()):
            raise RecipeError(
                "data.slots must be at least the number of slots that data.texts lists",
                value=f"{self.slots} < {len(self._listed())}",
                fix="leave data.slots out, or list fewer",
            )
        if self.sampled_slots is not None and self.sampled_slots > len(self.text_slots()):
            raise RecipeError(
                "data.sampled_slots must be at most the number of text slots",
                value=f"{self.sampled_slots} > {len(self.text_slots())}",
                fix="list more slots in data.texts, or leave data.sampled_slots out",
            )
        return self

    def _one_policy(self) -> None:
        chosen = [key for key in ("cluster_by", "keep_together") if getattr(self, key)]
        if len(chosen) > 1:
            raise RecipeError(
                "data must set at most one of cluster_by and keep_together",
                value=f"{list(self.cluster_by)} and {self.keep_together}",
                fix="leave one of them out",
            )
        if chosen and len(self.datasets) > 1:
            raise RecipeError(
                f"data.{chosen[0]} must come with a single dataset: batches of several are mixed by weight",
                value=f"{len(self.datasets)} in data.datasets",
                fix=f"curate them into one run, or leave {chosen[0]} out",
            )
        if chosen and any(one.row_weight is not None for one in self.mixture()):
            raise RecipeError(
                f"data.weight must be null with data.{chosen[0]}, which reads each row once an epoch",
                value=self.mixture()[0].row_weight,
                fix=f"leave data.weight or {chosen[0]} out",
            )

    def batch_policy(self) -> BatchPolicy | None:
        """Which rows share a batch; None: chance decides."""
        if self.keep_together is not None:
            return BatchPolicy((self.keep_together,), groups=True)
        return BatchPolicy(self.cluster_by) if self.cluster_by else None

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without what was added later and is not set."""
        found = super().identity()
        return {name: value for name, value in found.items() if name not in _ADDED or value}

    def _listed(self) -> list[Slot]:
        slots = [entry for entry in self.texts if isinstance(entry, tuple)]
        return slots or [tuple(entry for entry in self.texts if isinstance(entry, TextSelector))]

    def text_slots(self) -> tuple[Slot, ...]:
        """The K slots in order."""
        listed = self._listed()
        return (*listed, *[listed[-1]] * ((self.slots or 0) - len(listed)))

    def slots_of_a_step(self) -> int:
        """K, of a batch."""
        return self.sampled_slots or len(self.text_slots())

    def slot_draw(self, seed: int) -> SlotDraw | None:
        """Which slots a step has; None: all."""
        if self.sampled_slots is None:
            return None
        return SlotDraw(len(self.text_slots()), self.sampled_slots, seed)

    def negative_slots(self) -> tuple[Slot, ...]:
        """The N slots of texts that do not fit."""
        return (self.negatives.texts,) * self.negatives.number

    def scored_by(self) -> tuple[str, ...]:
        """The dual encoders whose scores decide which texts are used, sorted."""
        return tuple(
            sorted(
                {
                    name
                    for slot in (*self.text_slots(), self.negatives.texts)
                    for one in slot
                    for name in one.scored_by()
                }
            )
        )

    def called(self, asked: Sequence[str]) -> dict[str, str]:
        """What the columns that an objective asks for are called in the data."""
        return {name: self.columns.get(name, name) for name in asked}

    def mixture(self) -> tuple[DatasetConfig, ...]:
        """The datasets in order, one or several."""
        if self.path is not None:
            return (DatasetConfig(path=self.path, selection=self.selection, row_weight=self.weight),)
        return self.datasets
