"""Translate with a Marian, NLLB, M2M100 or mBART-50 checkpoint that CTranslate2 runs, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from curation.engines import Generated
from curation.engines.checkpoint_translator import CheckpointTranslator, CheckpointTranslatorConfig
from curation.engines.ctranslate2_files import converted, converted_before
from curation.engines.guard import describe
from curation.engines.model_files import Checkpoint, load_arguments, resolve
from curation.engines.settings import BatchedConfig, EngineConfig
from pairmill.config import EXECUTION
from pairmill.errors import UserError

if TYPE_CHECKING:
    from curation.translate import TranslateConfig

ComputeType = Literal[
    "auto", "float32", "bfloat16", "float16", "int16", "int8_float32", "int8_float16", "int8_bfloat16"
]


class CTranslate2Config(CheckpointTranslatorConfig, BatchedConfig):
    """How the checkpoint runs, and what it does not state itself."""

    compute_type: ComputeType = Field(
        default="auto",
        description="numbers that the model is stored and computed in; auto: bfloat16 on a GPU, float32 on a CPU; of a "
        "folder that is converted already, its own",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="device of the engine; auto: the GPU that Ray gave the actor, or else the CPU",
        json_schema_extra=EXECUTION,
    )
    inter_threads: int = Field(
        default=1,
        ge=1,
        description="batches translated at the same time, by one model in memory",
        json_schema_extra=EXECUTION,
    )
    intra_threads: int = Field(
        default=0,
        ge=0,
        description="threads of each batch on a CPU; 0: as OMP_NUM_THREADS says, which Ray sets, or else up to 4",
        json_schema_extra=EXECUTION,
    )
    conversions: str | None = Field(
        default=None,
        min_length=1,
        description="folder on each node that keeps converted models; null: pairmill/ctranslate2 in the user's folder "
        "for caches ($XDG_CACHE_HOME, ~/.cache)",
        json_schema_extra=EXECUTION,
    )


class CTranslate2Translator(CheckpointTranslator):
    """A Marian, NLLB, M2M100 or mBART-50 checkpoint that CTranslate2 runs.  Needs `pairmill[ctranslate2]`.

    `translate.model` is what it is for `transformers`, and is converted once on each node; or a folder that was
    converted before, with the files of its tokenizer.  Directions are those of `transformers`, and so are the texts:
    of the 683 labels of the samples all, in float32, int16 and int8_float32; with 4 beams int8_float32 changes 4.  On a
    CPU it takes a quarter of the time, in int8_float32 a sixth.

    A score depends in its last bits on the texts of its batch, in int8_float32 by up to 0.001; a text seldom does (of
    228 labels none).

    Raises UserError if the checkpoint cannot be converted or loaded, the device does not compute in `compute_type`, or
    directions are unknown.
    """

    Config = CTranslate2Config
    libraries = ("ctranslate2", "sentencepiece", "tokenizers", "torch", "transformers")

    @classmethod
    def check(cls, config: CTranslate2Config, section: EngineConfig) -> Checkpoint:
        """The files that the section names."""
        return resolve(section.named_model, section.revision)

    @classmethod
    def load(cls, config: CTranslate2Config, section: TranslateConfig, checkpoint: Checkpoint) -> CTranslate2Translator:
        """The model on its device."""
        return cls(checkpoint, config, max_new_tokens=section.max_new_tokens)

    def __init__(self, checkpoint: Checkpoint, config: CTranslate2Config, *, max_new_tokens: int) -> None:
        ctranslate2 = _library()
        device, _, index = config.device.partition(":")
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        folder = converted_before(checkpoint)
        wanted: str = config.compute_type
        if wanted == "auto":
            wanted = "default" if folder is not None else "bfloat16" if device == "cuda" else "float32"
        known = ctranslate2.get_supported_compute_types(device)
        if wanted not in (*known, "default"):
            raise UserError(
                "translate.engine.compute_type must be one that the device computes in",
                value=f"{wanted} on {device}",
                fix=f"choose one of {', '.join(sorted(known))}",
            )
        folder = folder or converted(checkpoint, wanted, config.conversions)
        try:
            self._model = ctranslate2.Translator(
                str(folder),
                device=device,
                device_index=int(index or 0),
                compute_type=wanted,
                inter_threads=config.inter_threads,
                intra_threads=config.intra_threads,
            )
            tokenizer, settings = _of_transformers(checkpoint)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise UserError(
                "translate.model must load with ctranslate2, and its tokenizer with transformers",
                value=f"{folder}: {describe(error)}",
                fix="of a model that you converted, keep the tokenizer's files beside model.bin (--copy_files); one in "
                "translate.engine.conversions may be removed, and is then made again",
            ) from error
        how = "greedy" if config.num_beams == 1 else f"beams={config.num_beams}"
        self.sampling = f"{how},ctranslate2,{self._model.compute_type}"
        self._rows = config.batch_size
        self._options: dict[str, Any] = {
            "beam_size": config.num_beams,
            "repetition_penalty": settings.get("repetition_penalty") or 1.0,
            "no_repeat_ngram_size": settings.get("no_repeat_ngram_size") or 0,
            "suppress_sequences": [tokenizer.convert_ids_to_tokens(ids) for ids in settings.get("bad_words_ids") or ()],
        }
        super().__init__(
            tokenizer,
            source=checkpoint.source,
            pair=config.pair,
            batch_size=config.batch_size * config.inter_threads,
            max_input_tokens=settings.get("max_position_embeddings"),
            max_new_tokens=max_new_tokens,
        )
        self._end = tokenizer.eos_token

    def _generate(self, token_ids: Sequence[Sequence[int]], forced: str | None) -> list[Generated]:
        results = self._model.translate_batch(
            [self._tokenizer.convert_ids_to_tokens(ids) for ids in token_ids],
            target_prefix=None if forced is None else [[forced]] * len(token_ids),
            max_batch_size=self._rows,
            max_input_length=0,  # longer texts are refused, not cut silently
            max_decoding_length=self._max_new_tokens,
            return_end_token=True,  # so that it is one of these tokens, as it is of transformers'
            return_scores=True,
            **self._options,
        )
        written = [result.hypotheses[0] for result in results]
        texts = self._texts([self._tokenizer.convert_tokens_to_ids(tokens) for tokens in written], forced)
        return [
            Generated(
                text=text,
                score=_mean(result.scores[0], len(tokens), 0 if forced is None else 1),
                tokens=len(tokens) - (0 if forced is None else 1),
                cut=len(tokens) >= self._max_new_tokens and tokens[-1] != self._end,
            )
            for text, tokens, result in zip(texts, written, results, strict=True)
        ]


def _mean(score: float, tokens: int, forced: int) -> float | None:
    """The mean log-probability of the tokens that the model chose.

    score: ctranslate2's, with its length penalty of 1: the sum over all tokens by their number, in which a token that
    was forced counts as certain.  forced: how many were.
    """
    chosen = tokens - forced
    return score * tokens / chosen if chosen > 0 else None


def _library() -> Any:
    try:
        import ctranslate2
    except ImportError as error:
        raise UserError(
            "translate.engine ctranslate2 must have the ctranslate2 package installed",
            value=describe(error),
            fix='run pip install "pairmill[ctranslate2]" on every node, or set translate.engine: transformers',
        ) from error
    return ctranslate2


def _of_transformers(checkpoint: Checkpoint) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, and what else transformers' files say of how the model writes; nothing if there are none."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    where = load_arguments(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **where)
    settings: dict[str, Any] = {}
    for kind in (AutoConfig, GenerationConfig):
        try:
            settings |= kind.from_pretrained(checkpoint.source, **where).to_dict()
        except (OSError, ValueError):  # a model that was converted elsewhere has neither
            continue
    return tokenizer, settings
