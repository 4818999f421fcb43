"""Image-text retrieval: an image's own texts among all texts, and a text's own images among all images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from pairmill.registry import NamedConfig
from training.evaluate.dataset_kinds import DatasetKind, Embedded
from training.evaluate.evaluated_rows import chosen_texts, read_rows

if TYPE_CHECKING:
    from training.evaluate.encoder import Encoder


class RetrievalConfig(NamedConfig):
    """Which texts take part."""

    merge_images: bool = Field(
        True,
        description="whether rows of equal pictures or of one group_id are one image with the texts of all of them; "
        "false: each row is an image, as in CLIP_benchmark",
    )
    text_kinds: tuple[str, ...] | None = Field(
        None, description="kinds of text used (alt, short, long, …); null: all there are"
    )


class Retrieval(DatasetKind):
    """Texts describe their image: retrieval both ways, one record a dataset."""

    Config = RetrievalConfig
    task = "zeroshot_retrieval"
    gives = ("image_ND", "text_UD", "image_P", "text_P", "language_P", "kind_P")
    config: RetrievalConfig

    def __call__(self, encoder: Encoder) -> Iterator[Embedded]:
        """One, of all texts that were chosen."""
        import torch

        rows = encoder.rows(
            read_rows(self.dataset),
            lambda row: chosen_texts(row.texts, self.languages, self.config.text_kinds) or None,
            reason="no_text",
            max_images=self.evaluate.max_images,
            merged=self.config.merge_images,
        )
        self.refuse_empty(rows, "give it texts of these languages and kinds, or change `languages` or `text_kinds`")
        occurrences = [(image, text) for image, texts in zip(rows.image_R, rows.chosen, strict=True) for text in texts]
        row_of: dict[tuple[str, str], int] = {}
        text_P = torch.tensor([row_of.setdefault((t.text, t.language), len(row_of)) for _, t in occurrences])
        languages = [text.language for _, text in occurrences]
        features = {
            "image_ND": rows.image_ND,
            "text_UD": encoder.texts([text for text, _ in row_of]),
            "image_P": torch.tensor([image for image, _ in occurrences]).to(encoder.device),
            "text_P": text_P.to(encoder.device),
            "language_P": languages,
            "kind_P": [text.kind for _, text in occurrences],
        }
        yield Embedded(",".join(sorted(set(languages))), len(rows.image_ND), len(occurrences), features, rows.skipped)
