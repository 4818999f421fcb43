"""Embed, as a stage: one dual encoder over the pictures and their captions; a recipe may have several, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.embedding.config import EmbedConfig
from curation.embedding.encoder_stage import EncoderStage
from curation.embedding.preparation import Preparation, stacked, with_pixels
from curation.embedding.text_vectors import text_vectors
from curation.embedding.vectors import vector_column
from curation.heads.boxes import BOXES, LINES
from curation.schema import set_columns
from curation.stage import Column, live_mask
from pairmill.errors import RecipeError, nearest
from pairmill.faults import fault_point
from pairmill.layout import score_column

if TYPE_CHECKING:
    from curation.embedding.encoders import DualEncoder


class Embed(EncoderStage):
    """Embed every picture and its caption with a dual encoder, and score how well they fit.

    The score is the cosine of the two unit vectors.  Vectors are stored as float16, the score is computed before.  A
    row without a picture, without a caption, or with a picture that cannot be decoded has nulls.  With `mask_text`, the
    model sees pictures whose text is painted over.
    """

    segment = "score"
    reads: tuple[str, ...] = ("image", "caption")

    def __init__(self, config: EmbedConfig, given: str, *, encoder: DualEncoder | None = None) -> None:
        """encoder: as for `EncoderStage`."""
        super().__init__(config, given, encoder=encoder)
        self._boxes = "" if config.mask_text is None else f"{config.mask_text}_boxes"
        if self._boxes:
            self.reads = (*self.reads, self._boxes)
        self.adds = (
            Column(f"image_embedding_{given}", self.vector, "unit vector of the picture"),
            Column(f"text_embedding_{given}", self.vector, "unit vector of the caption"),
            Column(
                f"text_windows_{given}",
                pa.int16(),
                "windows of the caption that were embedded: 1 the whole of it; 0 its beginning, as the context ends",
            ),
            Column(score_column(given), pa.float32(), "cosine of picture and caption", carried=True),
        )

    def see(self, columns: Collection[str]) -> None:
        """Raise RecipeError for boxes to be painted over that no stage before finds."""
        if self._boxes and self._boxes not in columns:
            raise self._no_boxes(columns)

    def check(self, columns: Mapping[str, pa.DataType]) -> None:
        """Raise RecipeError for something to be painted over that is no place in a picture."""
        if self._boxes and columns.get(self._boxes) not in (BOXES, LINES):
            raise self._no_boxes([name for name, kind in columns.items() if kind in (BOXES, LINES)])

    def _no_boxes(self, columns: Collection[str]) -> RecipeError:
        known = [name.removesuffix("_boxes") for name in columns if name.endswith("_boxes")]
        return RecipeError(
            f"embed.{self.given}.mask_text must name an entry of `score` that finds boxes, such as one of the head ocr",
            value=self.config.mask_text,
            fix=f"perhaps you mean: {nearest(str(self.config.mask_text), known)}"
            if known
            else f"add score: {{{self.config.mask_text}: ocr}}",
        )

    def probe(self) -> None:
        """Raise UserError for a model that cannot be found, and one that pictures cannot be prepared for."""
        self.preparation()

    def preparation(self) -> Preparation:
        """How its pictures are scaled.  Raises UserError if the model cannot be found."""
        from curation.embedding.encoders import preparation_of

        return self.there(lambda: preparation_of(self.config))._replace(boxes=self._boxes)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """rows: with the column of `preparation`, if another stage has made it."""
        live = np.asarray(live_mask(rows))
        images, has_image = self._images(rows, live & np.asarray(pc.is_valid(rows["image"])))
        texts, has_text, windows = self._texts(rows, live)
        both = has_image & has_text
        score = np.full(len(rows), np.nan, np.float32)
        score[both] = np.einsum("nd,nd->n", images[both[has_image]], texts[both[has_text]])
        values = (
            vector_column(images, has_image),
            vector_column(texts, has_text),
            pa.array(windows, pa.int16(), mask=~has_text),
            pa.array(score, pa.float32(), mask=~both),
        )
        made = {column.name: value for column, value in zip(self.adds, values, strict=True)}
        return set_columns(rows, made)

    def _images(self, rows: pa.Table, wanted: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float32], Any]:
        """The vectors of the pictures that can be decoded, [N, D], and the mask of their rows."""
        encoder = self.encoder
        preparation = encoder.preparation._replace(boxes=self._boxes)
        if self._boxes:
            wanted = wanted & np.asarray(pc.is_valid(rows[self._boxes]))
        if preparation.column not in rows.schema.names:
            rows = with_pixels(rows, wanted, [preparation])
        pixels, there = stacked(rows[preparation.column], preparation.size)
        return self._embedded(encoder, pixels, np.flatnonzero(wanted[there])), there & wanted

    def _texts(self, rows: pa.Table, live: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float32], Any, Any]:
        """The vectors of the captions, [N, D], the mask of their rows, and how many windows each has, 0: cut off."""
        captions = rows["caption"].to_pylist()
        mask = live & np.array([bool(text and text.strip()) for text in captions], bool)
        counts = np.zeros(len(rows), np.int16)
        texts = [captions[at] for at in np.flatnonzero(mask)]
        if not texts:
            return np.zeros((0, self.size), np.float32), mask, counts
        vectors, counts[mask] = text_vectors(self.encoder, texts, self.config.long_texts)
        return vectors, mask, counts

    def _embedded(
        self, encoder: DualEncoder, pixels: npt.NDArray[np.uint8], chosen: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """The vectors of the chosen pictures, in batches, which are halved when memory runs out."""
        import torch

        size, at = self.config.batch_size, 0
        found = [np.zeros((0, self.size), np.float32)]
        while at < len(chosen):
            fault_point(f"engine.{self.section}")
            try:
                found.append(encoder.images(pixels[chosen[at : at + size]]).numpy())
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                size = max(1, size // 2)
                continue
            at += size
        return np.concatenate(found)
