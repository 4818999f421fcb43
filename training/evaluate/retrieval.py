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
        "false: each row is an image, as in CLIP_benchmark, and of images that are equal to the model torch's `topk` "
        "chooses, as there",
    )
    text_kinds: tuple[str, ...] | None = Field(
        None, description="kinds of text used (alt, short, long, …); null: all there are"
    )


class Retrieval(DatasetKind):
    """Texts describe their image: retrieval both ways, one record a dataset."""

    Config = RetrievalConfig
    task = "zeroshot_retrieval"
    gives = ("image_ND", "same_N", "text_UD", "image_P", "text_P", "language_P", "kind_P")
    config: RetrievalConfig

    def __call__(self, encoder: Encoder) -> Iterator[Embedded]:
        """One, of all texts that were chosen."""
        import torch

        rows = encoder.rows(
            read_rows(self.dataset),
            lambda row: (
                chosen_texts(row.texts, self.languages, self.config.text_kinds) or ([] if row.textless else None)
            ),
            reason="no_text",
            max_images=self.evaluate.max_images,
            merged=self.config.merge_images,
        )
        described = rows._replace(chosen=[texts for texts in rows.chosen if texts])
        self.refuse_empty(
            described, "give it texts of these languages and kinds, or change `languages` or `text_kinds`"
        )
        occurrences = [(image, text) for image, texts in zip(rows.image_R, rows.chosen, strict=True) for text in texts]
        text_UD, text_P = encoder.distinct_texts([text.text for _, text in occurrences])
        languages = [text.language for _, text in occurrences]
        features = {
            "image_ND": rows.image_ND,
            "same_N": rows.same_N,
            "text_UD": text_UD,
            "image_P": torch.tensor([image for image, _ in occurrences]).to(encoder.device),
            "text_P": torch.tensor(text_P, device=encoder.device),
            "language_P": languages,
            "kind_P": [text.kind for _, text in occurrences],
        }
        yield Embedded(",".join(sorted(set(languages))), len(rows.image_ND), len(occurrences), features, rows.skipped)
