"""What engines share that write texts by prompts with a checkpoint in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curation.engines import CaptionRequest, Generated, RewriteRequest
from curation.engines.model_files import Checkpoint, free_memory, resolve
from curation.engines.settings import EngineConfig, InProcessConfig

if TYPE_CHECKING:
    import torch


class WritingModel:
    """Base of such engines.  A subclass loads model and tokenizer, and makes inputs of requests."""

    _model: Any
    _tokenizer: Any
    _device: torch.device
    _temperature: float
    _top_p: float

    @classmethod
    def check(cls, config: InProcessConfig, section: EngineConfig) -> Checkpoint:
        """The files that the section names."""
        return resolve(section.named_model, section.revision)

    def _written(
        self, inputs: Mapping[str, torch.Tensor], requests: Sequence[CaptionRequest] | Sequence[RewriteRequest]
    ) -> list[Generated]:
        """A text for each request; all have one token limit.  inputs: of the model, a row each."""
        from curation.engines.decoding import Sampling, decode

        sampling = None
        if self._temperature > 0:
            seeds = tuple(request.seed for request in requests)
            sampling = Sampling(temperature=self._temperature, top_p=self._top_p, seeds=seeds)
        decoded = decode(self._model, inputs, max_new_tokens=requests[0].max_new_tokens, sampling=sampling)
        texts = self._tokenizer.batch_decode(decoded.tokens, skip_special_tokens=True)
        return [
            Generated(text=text.strip(), score=score, cut=cut)
            for text, score, cut in zip(texts, decoded.scores, decoded.cut, strict=True)
        ]

    def _free_memory(self) -> None:
        free_memory(self._device)
