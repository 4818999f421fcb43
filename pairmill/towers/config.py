"""The recipe section `model`: which towers, where their weights come from, which of them learn, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pairmill.config import Config
from pairmill.errors import RecipeError


class ImageLock(Config):
    """Locked-image tuning of the image tower (LiT, Zhai et al. 2022)."""

    locked: bool = Field(False, description="whether the image tower is frozen")
    unlocked_groups: int = Field(
        0, ge=0, description="layer groups, counted from the output, that still learn: projection, last block, …"
    )
    freeze_batch_norm: bool = Field(
        False, description="whether the running statistics of locked batch norms are frozen too"
    )


class TextLock(Config):
    """Locked tuning of the text tower."""

    locked: bool = Field(False, description="whether the text tower is frozen")
    unlocked_groups: int = Field(
        0, ge=0, description="layer groups, counted from the output, that still learn: projection, last block, …"
    )


class Growth(Config):
    """How the weights of a smaller model become those of this architecture (GrowCLIP, Deng et al. 2023)."""

    momentum: float = Field(
        0.9, ge=0, le=1, description="share of the smaller model in each weight; the rest is drawn (0.9 is uncertain)"
    )
    new_layers: Literal["copy", "identity"] = Field(
        "copy",
        description="what a further layer begins as: copy: the layer before it (GrowCLIP); identity: that, adding "
        "nothing yet",
    )


class VlFfnConfig(Config):
    """Feed-forward heads over both towers (VL-FFN of M2-Encoder, Guo et al. 2024): `pairmill.towers.vl_ffn`."""

    own_layers: int = Field(1, ge=0, description="layers of each modality's own, first")
    shared_layers: int = Field(3, ge=0, description="layers that images and texts share, after those (3: M2-Encoder)")
    ratio: float = Field(4.0, gt=0, description="width of a layer's hidden numbers over that of the embedding")


class ModelConfig(Config):
    """The dual encoder: any open_clip architecture, from scratch or from weights."""

    architecture: str = Field(
        "ViT-B-32",
        min_length=1,
        description="name that open_clip knows; or JSON file in open_clip's form; or `hf-hub:OWNER/NAME`, or "
        "`local-dir:FOLDER`, which bring their weights and tokenizer",
    )
    pretrained: str | None = Field(
        None,
        description="weights to start from: an open_clip tag of this architecture, a checkpoint file, or the folder of "
        "an earlier export or checkpoint; null: from scratch",
    )
    preprocess: str | None = Field(
        None,
        min_length=1,
        description="open_clip tag of this architecture whose mean, std and crop images are prepared with; null: those "
        "of the weights, else those that all its tags share",
    )
    grow: Growth | None = Field(
        None,
        description="how the weights of a smaller model grow: model.pretrained is then the folder of a checkpoint or "
        "export of fewer layers, channels or heads; null: they must fit",
    )
    image_size: int | None = Field(
        None, ge=1, description="side of the input image in pixels; null: the architecture's"
    )
    context_length: int | None = Field(
        None, ge=2, description="longest text in tokens, start and end included; null: the architecture's"
    )
    kept_positions: int = Field(
        0,
        ge=0,
        description="first positions of the text tower that keep their embeddings where context_length is not that of "
        "the weights, while the others are stretched (Long-CLIP: 20, for a context of 248 from 77); 0: all are "
        "interpolated, as by open_clip",
    )
    tokenizer: str | None = Field(
        None,
        description="folder or hub id of a Hugging Face tokenizer, or a SentencePiece .model file (unigram); null: "
        "the architecture's",
    )
    text_model: str | None = Field(
        None,
        description="folder or hub id of a Hugging Face encoder that replaces the text tower; null: it is kept",
    )
    text_model_weights: bool = Field(
        True,
        description="whether a Hugging Face text tower starts from its own weights; false: from its configuration only",
    )
    vl_ffn: VlFfnConfig | None = Field(
        None,
        description="feed-forward heads over both towers, which begin as the identity; pairmill alone loads such a "
        "model, and does not export it; null: those of a `local-dir:` architecture, else none",
    )
    corner_tokens: int = Field(
        0,
        ge=0,
        description="tokens added to each text that see all of it and that nothing sees, for an objective that learns "
        "from their features (LoTLIP: 2); they learn even if the text tower is locked; no export has them",
    )
    lock_image: ImageLock = Field(default_factory=ImageLock, description="parts of the image tower that do not learn")
    lock_text: TextLock = Field(default_factory=TextLock, description="parts of the text tower that do not learn")
    gradient_checkpointing: bool = Field(
        False,
        description="whether the backward pass recomputes each block's activations; less memory, about 30 % slower",
    )
    patch_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of image patches left out of a training step (FLIP); null: the architecture's",
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="learning rate of a block over that of the block above it; null: equal"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay per step of the average of the weights; null: no average"
    )

    def identity(self) -> dict[str, Any]:
        """As for every configuration, without the keys that were added later where they have their defaults."""
        added = ("kept_positions", "corner_tokens", "grow", "vl_ffn")
        fields = type(self).model_fields
        return {n: value for n, value in super().identity().items() if n not in added or value != fields[n].default}

    @model_validator(mode="after")
    def _grows_from_something(self) -> ModelConfig:
        if self.grow is not None and self.pretrained is None:
            raise RecipeError(
                "model.pretrained must be set with model.grow",
                value="null",
                fix="set it to the folder of a smaller model's checkpoint, or remove model.grow",
            )
        return self
