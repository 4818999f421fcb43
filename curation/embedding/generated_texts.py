"""Embed the texts that models wrote, as a stage: after captioning and translating, beside the pictures' vectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.blurring import boxes_column
from curation.embedding.config import EmbedConfig
from curation.embedding.encoder_stage import EncoderStage
from curation.embedding.text_vectors import text_vectors
from curation.embedding.vectors import vector_column, vectors_of
from curation.schema import set_columns
from curation.stage import Column, live_mask
from pairmill.faults import fault_point
from pairmill.layout import OTHER_KINDS, row_texts, score_column, text_scores_column

if TYPE_CHECKING:
    from curation.embedding.encoders import DualEncoder

#: Columns of texts that models wrote, in the order of `layout.row_texts` -> what their best score is called.
_SOURCES = {"recaptions": "recaption", "rewrites": "rewrite", "translations": "translation"}


class EmbedTexts(EncoderStage):
    """Embed captions, rewritten texts and translations with a dual encoder, and score how well they fit the picture.

    The picture's vector is that of `embed-NAME`: no picture is read.  A score is the cosine of the two.  Equal texts of
    a shard are embedded once.  A text of nothing but spaces has no vector, and no text of a row without a picture has a
    score.
    """

    segment, prefix = "rewrite", "embed_texts"
    only_with = ("recaption", "rewrite_texts", "translate")
    optional = tuple(_SOURCES)

    def __init__(self, config: EmbedConfig, given: str, *, encoder: DualEncoder | None = None) -> None:
        """encoder: as for `EncoderStage`."""
        super().__init__(config, given, encoder=encoder)
        self._picture, self._score = f"image_embedding_{given}", score_column(given)
        self.reads = (self._picture, self._score, "caption")
        # The picture's vector follows from the picture, what is painted over, and the model: its numbers need not be
        # compared.
        painted = () if config.mask_text is None else (boxes_column(config.mask_text),)
        self.decided_by = ("image", "caption", *_SOURCES, *painted)  # type: ignore[misc]  # by the configuration
        written = "of each text that a model wrote, in the order of `texts`"
        self._each = (
            Column(f"written_embedding_{given}", _list(self.vector), f"unit vector {written}"),
            Column(f"written_windows_{given}", _list(pa.int16()), f"windows {written}: as `text_windows_{given}`"),
            Column(
                text_scores_column(given),
                _list(pa.float32()),
                "cosine of picture and each of `texts`, in their order: the caption, then what models wrote",
                carried=True,
            ),
        )
        self.see(_SOURCES)

    @property
    def active(self) -> bool:
        """Whether the recipe asks for more texts than the caption."""
        return bool(self.config.texts == "all")

    def see(self, columns: Collection[str]) -> None:
        """Add the best score of each kind of text that there is."""
        self._kinds = tuple(source for source in _SOURCES if source in columns)
        best = ((f"{self._score}_{_SOURCES[source]}", _SOURCES[source]) for source in self._kinds)
        self.adds = (
            *self._each,
            *(Column(name, pa.float32(), f"highest cosine of picture and {kind}", carried=True) for name, kind in best),
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        live = np.asarray(live_mask(rows))
        names = [name for name in ("caption", *_SOURCES) if name in rows.schema.names]
        sources: list[dict[str, Any]] = rows.select(names).to_pylist()
        texts = [_written(row) if is_live else [] for row, is_live in zip(sources, live, strict=True)]
        flat = [text for written in texts for text in written]
        row_of = np.repeat(np.arange(len(rows)), [len(written) for written in texts])
        there = np.array([bool(text.strip()) for text in flat], np.bool_)
        vectors, windows = self._embedded([text for text in flat if text.strip()])
        cosines = self._cosines(rows, vectors, row_of[there])

        offsets = np.searchsorted(row_of, np.arange(len(rows) + 1))
        each = (
            vector_column(vectors, there),
            pa.array(_placed(windows, there, 0), mask=~there),
            pa.array(_placed(cosines, there, np.nan), from_pandas=True),
        )
        made = [_lists(one, offsets, live) for one in each]
        own: list[list[float | None] | None] = made[2].to_pylist()
        captions = rows[self._score].to_pylist()
        every = [None if scores is None else [alt, *scores] for alt, scores in zip(captions, own, strict=True)]
        made[2] = pa.array(every, _list(pa.float32()))
        made += [
            pa.array([_best(scores, row, source) for scores, row in zip(own, sources, strict=True)], pa.float32())
            for source in self._kinds
        ]
        return set_columns(rows, {column.name: value for column, value in zip(self.adds, made, strict=True)})

    def _embedded(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]]:
        """The vectors of N texts, [N, D], and their windows, [N]; equal ones are embedded once."""
        if not texts:
            return np.zeros((0, self.size), np.float32), np.zeros(0, np.int16)
        places = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        fault_point("engine.embed_texts")
        vectors, windows = text_vectors(self.encoder, list(places), self.config.long_texts)
        at = [places[text] for text in texts]
        return vectors[at], windows[at]

    def _cosines(
        self, rows: pa.Table, vectors: npt.NDArray[np.float32], row_of: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """The cosine of N texts and the pictures of their rows, [N]; NaN without a picture.  row_of: [N]."""
        pictures, seen = vectors_of(rows[self._picture])
        cosines, mask = np.full(len(row_of), np.nan, np.float32), seen[row_of]
        if mask.any():
            images = pictures[(np.cumsum(seen) - 1)[row_of[mask]]].astype(np.float32)
            images /= np.linalg.norm(images, axis=1, keepdims=True).clip(1e-12)
            cosines[mask] = np.einsum("nd,nd->n", images, vectors[mask])
        return cosines


def _written(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row that models wrote, in the order of `layout.row_texts`."""
    return [str(text["text"] or "") for text in row_texts({"language": None, **row})[1:]]


def _best(scores: Sequence[float | None] | None, row: Mapping[str, Any], source: str) -> float | None:
    """The highest score of a row's descriptions of one source.  scores: of all that models wrote."""
    kinds = [
        (name, text.get("kind"))
        for name in _SOURCES
        for text in row.get(name) or ()
        if name != "translations" or text["text"] is not None
    ]
    found = [
        score
        for score, (name, kind) in zip(scores or (), kinds, strict=False)
        if score is not None and name == source and kind not in OTHER_KINDS
    ]
    return max(found, default=None)


def _placed(values: npt.NDArray[Any], mask: npt.NDArray[np.bool_], none: float) -> npt.NDArray[Any]:
    """`values`, one for each true of `mask`, at those places; `none` elsewhere."""
    placed = np.full(len(mask), none, values.dtype)
    placed[mask] = values
    return placed


def _lists(flat: pa.Array, offsets: npt.NDArray[np.int64], live: npt.NDArray[np.bool_]) -> pa.Array:
    """One list for each row; null for those that are not live.  offsets: where each row's values begin, and the end."""
    ends = pa.array(offsets, pa.int32())
    return pa.ListArray.from_arrays(ends, flat, type=_list(flat.type), mask=pa.array(~live))


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind))
