"""Translate with a Marian, NLLB, M2M100 or mBART-50 checkpoint that transformers loads, in this process.

Shapes: B texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from curation.engines import Generated
from curation.engines.checkpoint_translator import CheckpointTranslator, CheckpointTranslatorConfig
from curation.engines.guard import describe
from curation.engines.model_files import (
    Checkpoint,
    DType,
    free_memory,
    load_arguments,
    pick_device,
    pick_dtype,
    resolve,
)
from curation.engines.settings import EngineConfig, InProcessConfig
from pairmill.errors import UserError

if TYPE_CHECKING:
    from curation.translate import TranslateConfig


class TransformersTranslatorConfig(CheckpointTranslatorConfig, InProcessConfig):
    """How the checkpoint runs, and what it does not state itself."""


class TransformersTranslator(CheckpointTranslator):
    """A Marian, NLLB, M2M100 or mBART-50 checkpoint that transformers loads, in the stage's own actor.

    The checkpoint gives the directions: the languages in its vocabulary (NLLB, M2M100, mBART-50), its `>>…<<` tokens
    (Marian with several targets), or the one pair that its tokenizer or name states (Marian); `pair` is for a
    checkpoint that states none.

    A score depends in its last bits on the texts of its batch, which a shard always cuts alike; a text seldom does (of
    137 labels with the sample translator none, in float32 and in bfloat16).

    Raises UserError if the checkpoint cannot be loaded or its directions are unknown.
    """

    Config = TransformersTranslatorConfig
    libraries = ("sentencepiece", "tokenizers", "torch", "transformers")

    @classmethod
    def check(cls, config: TransformersTranslatorConfig, section: EngineConfig) -> Checkpoint:
        """The files that the section names."""
        return resolve(section.named_model, section.revision)

    @classmethod
    def load(
        cls, config: TransformersTranslatorConfig, section: TranslateConfig, checkpoint: Checkpoint
    ) -> TransformersTranslator:
        """The model on its device."""
        return cls(
            checkpoint,
            batch_size=config.batch_size,
            max_new_tokens=section.max_new_tokens,
            dtype=config.dtype,
            device=config.device,
            num_beams=config.num_beams,
            pair=config.pair,
        )

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int,
        max_new_tokens: int,
        dtype: DType = "auto",
        device: str = "auto",
        num_beams: int = 1,
        pair: tuple[str, str] | None = None,
    ) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        from curation.engines.decoding import prepare

        self.sampling = "greedy" if num_beams == 1 else f"beams={num_beams}"
        self._num_beams = num_beams
        self._device = pick_device(device)
        where = load_arguments(checkpoint)
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **where)
            model = AutoModelForSeq2SeqLM.from_pretrained(
                checkpoint.source, dtype=pick_dtype(dtype, self._device), **where
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                "translate.model must load with transformers as a sequence-to-sequence model",
                value=f"{checkpoint.source}: {describe(error)}",
                fix="check the files of the checkpoint, or install the package that the message names",
            ) from error
        self._model = prepare(model.to(self._device))
        super().__init__(
            tokenizer,
            source=checkpoint.source,
            pair=pair,
            batch_size=batch_size,
            max_input_tokens=getattr(model.config, "max_position_embeddings", None),
            max_new_tokens=max_new_tokens,
        )

    def _generate(self, token_ids: Sequence[Sequence[int]], forced: str | None) -> list[Generated]:
        import torch

        from curation.engines.decoding import decode

        longest = max(len(ids) for ids in token_ids)
        padding = self._tokenizer.pad_token_id
        inputs_BL = torch.tensor([[*ids, *[padding] * (longest - len(ids))] for ids in token_ids])
        mask_BL = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in token_ids])
        decoded = decode(
            self._model,
            {"input_ids": inputs_BL.to(self._device), "attention_mask": mask_BL.to(self._device)},
            max_new_tokens=self._max_new_tokens,
            num_beams=self._num_beams,
            forced_bos_token_id=None if forced is None else self._tokenizer.convert_tokens_to_ids(forced),
        )
        texts = self._texts(decoded.tokens, forced)
        return [
            Generated(text=text, score=score, cut=cut, tokens=count)
            for text, score, cut, count in zip(texts, decoded.scores, decoded.cut, decoded.counts, strict=True)
        ]

    def _free_memory(self) -> None:
        free_memory(self._device)
