"""The keys of `embed.NAME`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from curation.engines.model_files import DType
from pairmill.config import EXECUTION, Placement


class EmbedConfig(Placement):
    """Which dual encoder embeds the pictures and their texts, and how it runs."""

    model: str = Field(
        min_length=1,
        description="name that open_clip knows (ViT-B-32), its JSON file, or `hf-hub:OWNER/NAME`; the folder of an "
        "export or of a checkpoint of `pairmill train`; or a CLIP or SigLIP of transformers, as folder or hub id",
    )
    pretrained: str | None = Field(
        None,
        description="weights of an open_clip architecture: a tag of it, a file or a folder; null for models that bring "
        "their own",
    )
    preprocess: str | None = Field(
        None,
        description="open_clip tag of the architecture whose mean, std and crop images are prepared with; null: those "
        "of the weights",
    )
    revision: str | None = Field(
        None,
        description="hub branch, tag or commit of a model of transformers; for its folder, the digest of the content "
        "that it must have; null: main, or any content",
    )
    texts: Literal["all", "caption"] = Field(
        "all",
        description="which texts are embedded and scored; all: the caption and, once they are written, captions and "
        "translations of models, in a table of their own; caption: the caption alone",
    )
    long_texts: Literal["truncate", "windows"] = Field(
        "truncate",
        description="texts longer than the model's context; truncate: the rest is cut off, as the published thresholds "
        "assume; windows: cut at words into windows that fit, whose unit vectors are averaged",
    )
    mask_text: str | None = Field(
        None,
        description="entry of `score` whose boxes (an `ocr`'s lines of text) are painted over with the colour around "
        "them before the picture is embedded, as T-MARS scores; null: none",
    )
    dtype: DType = Field("auto", description="computing precision; auto: bfloat16 on a GPU, float32 on a CPU")
    batch_size: int = Field(
        256,
        ge=1,
        description="pictures or texts embedded at once; halved when memory runs out",
        json_schema_extra=EXECUTION,
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps|xpu)$",
        description="torch device; auto: the GPU that Ray gave the actor, or else the CPU",
        json_schema_extra=EXECUTION,
    )

    def identity(self) -> dict[str, Any]:
        """Without `texts`, which says whether there is a second table and nothing about what either holds.

        Vectors of whole pictures are not made again because text could be painted over.
        """
        found = {name: value for name, value in super().identity().items() if name != "texts"}
        return {name: value for name, value in found.items() if name != "mask_text" or value is not None}
