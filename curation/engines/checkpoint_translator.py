"""What all engines share that translate by a Marian, NLLB, M2M100 or mBART-50 checkpoint in this process.

Its directions, its tokenizer, batches of texts of about one length, and what becomes of the tokens that it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from curation.engines import Answered, Failure, Generated, batches_of, unheard
from curation.engines.directions import MANY, language_tokens, marian_targets, pair_of_name
from curation.engines.guard import answer_batch, answer_in_batches
from pairmill.errors import IntegrityError, UserError
from pairmill.languages import canonical
from pairmill.registry import NamedConfig


class CheckpointTranslatorConfig(NamedConfig):
    """How the checkpoint writes, and what it does not state itself."""

    num_beams: int = Field(default=1, ge=1, description="beams of the search; 1: greedy, three times as fast as 4")
    pair: tuple[str, str] | None = Field(
        default=None,
        description="source and target language of a Marian checkpoint that does not state them; null: as stated",
    )

    @field_validator("pair")
    @classmethod
    def _canonical_pair(cls, value: tuple[str, str] | None) -> tuple[str, str] | None:
        return None if value is None else (canonical(value[0]), canonical(value[1]))


class CheckpointTranslator:
    """Base of the engines; one implements `_generate`.

    The checkpoint gives the directions: the languages in its vocabulary (NLLB, M2M100, mBART-50), its `>>…<<` tokens
    (Marian with several targets), or the one pair that its tokenizer or name states (Marian); `pair` is for a
    checkpoint that states none.
    """

    sampling: str
    #: OPUS-MT, NLLB, M2M100 and mBART-50 were trained on pairs of single sentences.
    sentence_model = True

    def __init__(
        self,
        tokenizer: Any,
        *,
        source: str,
        pair: tuple[str, str] | None,
        batch_size: int,
        max_input_tokens: int | None,
        max_new_tokens: int,
    ) -> None:
        """tokenizer: of transformers.  source: the model's name.  max_input_tokens: the model's positions, if known.

        Raises UserError if nothing states the directions.
        """
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        # M2M100's tokenizer keeps its languages beside its vocabulary.
        vocabulary = {*tokenizer.get_vocab(), *getattr(tokenizer, "lang_token_to_id", ())}
        self._tokens = language_tokens(vocabulary)
        self._targets = marian_targets(vocabulary)
        self._pair = pair or self._stated_pair(source)
        if not self._tokens and self._pair is None:
            raise UserError(
                "translate.model must state which languages it translates: in its vocabulary (NLLB, M2M100, mBART-50), "
                "as source_lang and target_lang in tokenizer_config.json, or in its name (opus-mt-en-zh)",
                value=source,
                fix="set translate.engine.pair, for example [en, zh]",
            )
        # Longer texts are refused, not cut silently.
        limits = (tokenizer.model_max_length, max_input_tokens)
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
        encoded, forced = self._encoded(texts, source, target)

        def answer(batch: Sequence[int]) -> Sequence[Generated | Failure]:
            inputs = [encoded[at] for at in batch]
            if len(inputs[0]) > self._max_input_tokens:
                return [self._too_long(ids) for ids in inputs]
            return answer_batch(
                inputs,
                lambda some: self._generate(some, forced),
                fault="engine.translate",
                recover=self._free_memory,
            )

        return answer_in_batches(self._cut(encoded), answer, answered)

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

    def _encoded(self, texts: Sequence[str], source: str, target: str) -> tuple[list[list[int]], str | None]:
        """The tokens of each text, and the one that the model must begin with."""
        if not self.supports(source, target):
            raise IntegrityError(f"a translator must get directions that it supports, not {source} to {target}")
        prefix, forced = "", None
        if self._tokens:
            # M2M100's own name of a language is its token without the underscores.
            self._tokenizer.src_lang = self._tokens[source].strip("_")
            forced = self._tokens[target]
        elif self._targets:
            prefix = f"{self._targets[target]} "
        return [self._tokenizer(prefix + text)["input_ids"] for text in texts], forced

    def _generate(self, token_ids: Sequence[Sequence[int]], forced: str | None) -> list[Generated]:
        """One answer per text.  forced: the token of the target language, with which the model must begin."""
        raise NotImplementedError

    def _free_memory(self) -> None:
        """Free what a failed call left behind."""

    def _texts(self, tokens: Sequence[Sequence[int]], forced: str | None) -> list[str]:
        """The texts of the tokens that the model wrote."""
        # Some tokenizers do not treat their language tokens as special, and would spell out the forced one.
        first = None if forced is None else self._tokenizer.convert_tokens_to_ids(forced)
        bare = [ids[1:] if ids and ids[0] == first else ids for ids in tokens]
        return [text.strip() for text in self._tokenizer.batch_decode(bare, skip_special_tokens=True)]

    def _stated_pair(self, name: str) -> tuple[str, str] | None:
        settings = self._tokenizer.init_kwargs
        source, target = settings.get("source_lang"), settings.get("target_lang")
        if source and target:
            return canonical(source), canonical(target)
        return pair_of_name(name)
