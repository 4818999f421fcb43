"""What the stages of a dual encoder share: how the model is found, named in errors, and loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from curation.embedding.config import EmbedConfig
from curation.embedding.model_source import source_of
from curation.embedding.vectors import vector_type
from curation.stage import NamedStage, Runtime
from pairmill.errors import IntegrityError, RecipeError, UserError, reworded

if TYPE_CHECKING:
    from curation.embedding.encoders import DualEncoder

T = TypeVar("T")


class EncoderStage(NamedStage):
    """Base of the stages that an entry of `embed` makes, each with its own table."""

    section, pool = "embed", "model"
    libraries = (
        *("ftfy", "open_clip_torch", "pillow", "regex", "safetensors", "sentencepiece", "simplejpeg", "timm"),
        *("tokenizers", "torch", "torchvision", "transformers"),
    )
    Config = EmbedConfig
    meaning = "dual encoders that embed pictures and texts, by name: NAME adds image_embedding_NAME and score_NAME"

    def __init__(self, config: EmbedConfig, given: str, *, encoder: DualEncoder | None = None) -> None:
        """encoder: to be used instead of the configured one."""
        super().__init__(config, given)
        self._encoder = encoder
        #: Why the model cannot be found here: a run is read without it too.
        self._missing: UserError | None = None
        dimensions = None
        try:
            dimensions = self._named(lambda: source_of(config)).dimensions
        except RecipeError:
            raise
        except UserError as error:
            self._missing = error
        #: The type of a vector of the model.
        self.vector: pa.DataType = vector_type(dimensions)

    def revision(self) -> str:
        """The content of the model.  Raises UserError if it cannot be found."""
        from curation.embedding.encoders import revision_of

        return self.there(lambda: revision_of(self.config))

    def setup(self, runtime: Runtime) -> None:
        """Load the model.  Raises UserError if that is not possible here."""
        from curation.embedding.encoders import load_encoder

        if runtime.threads is not None:
            # Ray leaves one thread to an actor that reserves less than two cores.
            import torch

            torch.set_num_threads(runtime.threads)
        if self._encoder is None:
            self._encoder = self.there(lambda: load_encoder(self.config))

    @property
    def encoder(self) -> DualEncoder:
        """The model.  Raises IntegrityError before `setup`."""
        if self._encoder is None:
            raise IntegrityError(f"stage {self.name} must be set up before it is called")
        return self._encoder

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        size: int = self.vector.list_size
        return size

    def there(self, work: Callable[[], T]) -> T:
        """`work`, unless the model was not found; its errors name the key of this stage.  Raises UserError."""
        if self._missing is not None:
            raise self._missing
        return self._named(work)

    def _named(self, work: Callable[[], T]) -> T:
        with reworded({"embed.NAME": f"embed.{self.given}"}):
            return work()
