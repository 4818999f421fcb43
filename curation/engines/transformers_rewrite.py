"""Rewrite texts with any text-to-text or causal language model that transformers loads, in this process.

Shapes: B texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from curation.engines import Answered, Failure, Generated, RewriteRequest, batches_of, unheard
from curation.engines.guard import answer_batch, answer_in_batches, describe
from curation.engines.model_files import Checkpoint, DType, load_arguments, pick_device, pick_dtype
from curation.engines.settings import InProcessConfig
from curation.engines.writing_model import WritingModel
from pairmill.errors import UserError

if TYPE_CHECKING:
    from curation.rewrite_texts import RewriteTextsConfig


class TransformersRewriterConfig(InProcessConfig):
    """How the checkpoint runs."""


class TransformersRewriter(WritingModel):
    """Any text-to-text (T5, BART) or causal language model that transformers loads, in the stage's own actor.

    Prompts go through the tokenizer's chat template if it has one.  Texts of about one length are computed together; a
    score depends in its last bits on them, a text seldom does.

    Raises UserError if the checkpoint cannot be loaded, or is of neither family.
    """

    Config = TransformersRewriterConfig
    libraries = ("sentencepiece", "tokenizers", "torch", "transformers")

    @classmethod
    def load(
        cls, config: TransformersRewriterConfig, section: RewriteTextsConfig, checkpoint: Checkpoint
    ) -> TransformersRewriter:
        """The model on its device."""
        return cls(
            checkpoint,
            batch_size=config.batch_size,
            dtype=config.dtype,
            device=config.device,
            temperature=section.temperature,
            top_p=section.top_p,
        )

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int,
        dtype: DType = "auto",
        device: str = "auto",
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        )

        from curation.engines.decoding import prepare

        self._batch_size, self._temperature, self._top_p = batch_size, temperature, top_p
        self._device = pick_device(device)
        where = load_arguments(checkpoint)
        try:
            config = AutoConfig.from_pretrained(checkpoint.source, **where)
            self._continues = config.model_type not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
            if self._continues and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
                raise UserError(
                    "rewrite_texts.model must be a text-to-text or causal language model",
                    value=f"{checkpoint.source} is {config.model_type!r}",
                    fix="choose another model, or serve it and set rewrite_texts.engine: openai",
                )
            loader = AutoModelForCausalLM if self._continues else AutoModelForSeq2SeqLM
            model = loader.from_pretrained(checkpoint.source, dtype=pick_dtype(dtype, self._device), **where)
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **where)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                "rewrite_texts.model must load with transformers",
                value=f"{checkpoint.source}: {describe(error)}",
                fix="check the files of the checkpoint, or install the package that the message names",
            ) from error
        self._model = prepare(model.to(self._device))
        # A causal model continues the right end of each row, so padding has to be on the left.
        self._tokenizer.padding_side = "left" if self._continues else "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        limits = (self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        self._positions = min(int(limit) for limit in limits if limit is not None)

    def rewrite(self, requests: Sequence[RewriteRequest], answered: Answered = unheard) -> list[Generated | Failure]:
        """One answer per request, in order.  answered: gets each batch."""
        encoded = self._encoded(requests)

        def answer(batch: Sequence[int]) -> Sequence[Generated | Failure]:
            limit = requests[batch[0]].max_new_tokens
            if not self._fits(encoded[batch[0]], limit):
                return [self._too_long(encoded[at], limit) for at in batch]
            return answer_batch(
                [(encoded[at], requests[at]) for at in batch],
                self._generate,
                fault="engine.rewrite_texts",
                recover=self._free_memory,
            )

        return answer_in_batches(self._cut(requests, encoded), answer, answered)

    def batches(self, requests: Sequence[RewriteRequest]) -> list[list[int]]:
        """The requests that are computed together."""
        return self._cut(requests, self._encoded(requests))

    def _cut(self, requests: Sequence[RewriteRequest], encoded: Sequence[Sequence[int]]) -> list[list[int]]:
        """Batches of one token limit and like length; what is too long is apart."""
        by_length = sorted(range(len(encoded)), key=lambda at: (len(encoded[at]), at))
        limits = [requests[at].max_new_tokens for at in by_length]
        keys = [(limit, self._fits(encoded[at], limit)) for at, limit in zip(by_length, limits, strict=True)]
        return [[by_length[place] for place in batch] for batch in batches_of(keys, self._batch_size)]

    def _encoded(self, requests: Sequence[RewriteRequest]) -> list[list[int]]:
        """The tokens of each prompt."""
        if not getattr(self._tokenizer, "chat_template", None):
            return [self._tokenizer(request.prompt)["input_ids"] for request in requests]
        return [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": request.prompt}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )["input_ids"]
            for request in requests
        ]

    def _fits(self, ids: Sequence[int], limit: int) -> bool:
        """Whether the model has positions for a prompt, and what it may write behind it."""
        return len(ids) + (limit if self._continues else 0) <= self._positions

    def _too_long(self, ids: Sequence[int], limit: int) -> Failure:
        more = f" with the {limit} that it may write" if self._continues else ""
        return Failure(f"prompt of {len(ids)} tokens, the model takes {self._positions}{more}")

    def _generate(self, requests: Sequence[tuple[list[int], RewriteRequest]]) -> list[Generated]:
        padded = self._tokenizer.pad({"input_ids": [ids for ids, _ in requests]}, padding=True, return_tensors="pt")
        inputs_BL = {name: padded[name].to(self._device) for name in ("input_ids", "attention_mask")}
        return self._written(inputs_BL, [request for _, request in requests])
