"""Translate with a Marian, NLLB, M2M100 or mBART-50 checkpoint that transformers loads, in this process.

Shapes: B texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from curation.engines import Answered, Failure, Generated, batches_of, unheard
from curation.engines.directions import MANY, language_tokens, marian_targets, pair_of_name
from curation.engines.guard import answer_batch, describe
from curation.engines.model_files import Checkpoint, DType, load_arguments, pick_device, pick_dtype, resolve
from curation.engines.settings import EngineConfig, InProcessConfig
from pairmill.errors import IntegrityError, UserError
from pairmill.languages import canonical

if TYPE_CHECKING:
    from curation.translate import TranslateConfig


class TransformersTranslatorConfig(InProcessConfig):
    """How the checkpoint runs, and what it does not state itself."""

    num_beams: int = Field(default=1, ge=1, description="beams of the search; 1: greedy, three times as fast as 4")
    pair: tuple[str, str] | None = Field(
        default=None,
        description="source and target language of a Marian checkpoint that does not state them; null: as stated",
    )

    @field_validator("pair")
    @classmethod
    def _canonical_pair(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        return None if value is None else (canonical(value[0]), canonical(value[1]))


class TransformersTranslator:
    """A Marian, NLLB, M2M100 or mBART-50 checkpoint that transformers loads, in the stage's own actor.

    The checkpoint gives the directions: the languages in its vocabulary (NLLB, M2M100, mBART-50), its `>>…<<` tokens
    (Marian with several targets), or the one pair that its tokenizer or name states (Marian); `pair` is for a
    checkpoint that states none.

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
        self._batch_size = batch_size
        self._num_beams = num_beams
        self._device = pick_device(device)
        where = load_arguments(checkpoint)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint.source, **where)
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
        # M2M100's tokenizer keeps its languages beside its vocabulary.
        vocabulary = {*self._tokenizer.get_vocab(), *getattr(self._tokenizer, "lang_token_to_id", ())}
        self._tokens = language_tokens(vocabulary)
        self._targets = marian_targets(vocabulary)
        self._pair = pair or self._stated_pair(checkpoint.source)
        if not self._tokens and self._pair is None:
            raise UserError(
                "translate.model must state which languages it translates: in its vocabulary (NLLB, M2M100, mBART-50), "
                "as source_lang and target_lang in tokenizer_config.json, or in its name (opus-mt-en-zh)",
                value=checkpoint.source,
                fix="set translate.engine.pair, for example [en, zh]",
            )
        # The checkpoint's number of positions: longer texts are refused, not cut silently.
        limits = (self._tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
        self._max_input_tokens = min(int(limit) for limit in limits if limit is not None)
        self._max_new_tokens = min(max_new_tokens, self._max_input_tokens - 1)

    def supports(self, source: str, target: str) -> bool:
        """Whether the model translates in this direction."""
        if source == target:
            return False
        if self._tokens:
            return source in self._tokens and target in self._tokens
        if self._pair is None:
            return False
        from_here = self._pair[0] in (source, MANY)
        return from_here and (target in self._targets if self._targets else target == self._pair[1])

    def translate(
        self, texts: Sequence[str], *, source: str, target: str, answered: Answered = unheard
    ) -> list[Generated | Failure]:
        """One answer per text, in order; batches are cut after sorting by length in tokens, so that they pad little.

        answered: gets each batch.
        Raises IntegrityError for a direction that the model does not have.
        """
        encoded, forced_bos = self._encoded(texts, source, target)
        answers: dict[int, Generated | Failure] = {}
        for batch in self._cut(encoded):
            made: Sequence[Generated | Failure] = [self._too_long(encoded[at]) for at in batch]
            if len(encoded[batch[0]]) <= self._max_input_tokens:
                made = answer_batch(
                    [encoded[at] for at in batch],
                    lambda inputs: self._generate(inputs, forced_bos),
                    fault="engine.translate",
                    recover=self._free_memory,
                )
            answered(batch, made)
            answers.update(zip(batch, made, strict=True))
        return [answers[at] for at in range(len(texts))]

    def batches(self, texts: Sequence[str], *, source: str, target: str) -> list[list[int]]:
        """The texts that are computed together."""
        return self._cut(self._encoded(texts, source, target)[0])

    def _cut(self, encoded: Sequence[Sequence[int]]) -> list[list[int]]:
        """Batches of like length in tokens; texts that are too long are apart."""
        by_length = sorted(range(len(encoded)), key=lambda at: (len(encoded[at]), at))
        too_long = [len(encoded[at]) > self._max_input_tokens for at in by_length]
        return [[by_length[place] for place in batch] for batch in batches_of(too_long, self._batch_size)]

    def _too_long(self, ids: Sequence[int]) -> Failure:
        return Failure(f"text of {len(ids)} tokens, the model takes {self._max_input_tokens}")

    def _encoded(self, texts: Sequence[str], source: str, target: str) -> tuple[list[list[int]], int | None]:
        """The tokens of each text, and the one that the model must begin with."""
        if not self.supports(source, target):
            raise IntegrityError(f"a translator must get directions that it supports, not {source} to {target}")
        prefix = ""
        forced_bos = None
        if self._tokens:
            # M2M100's own name of a language is its token without the underscores.
            self._tokenizer.src_lang = self._tokens[source].strip("_")
            forced_bos = self._tokenizer.convert_tokens_to_ids(self._tokens[target])
        elif self._targets:
            prefix = f"{self._targets[target]} "
        return [self._tokenizer(prefix + text)["input_ids"] for text in texts], forced_bos

    def _generate(self, token_ids: Sequence[Sequence[int]], forced_bos: int | None) -> list[Generated]:
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
            forced_bos_token_id=forced_bos,
        )
        # Some tokenizers do not treat their language tokens as special, and would spell out the forced one.
        tokens = [made[1:] if made and made[0] == forced_bos else made for made in decoded.tokens]
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            Generated(text=text.strip(), score=score, cut=cut)
            for text, score, cut in zip(texts, decoded.scores, decoded.cut, strict=True)
        ]

    def _stated_pair(self, name: str) -> tuple[str, str] | None:
        settings = self._tokenizer.init_kwargs
        source, target = settings.get("source_lang"), settings.get("target_lang")
        if source and target:
            return canonical(source), canonical(target)
        return pair_of_name(name)

    def _free_memory(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.empty_cache()
