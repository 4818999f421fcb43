"""Caption with `ray.data.llm`: vLLM's engine, tokenizer and chat template as stages that Ray scales one by one.

Rows are single requests, because the processor cuts its batches across blocks: `request_rows` makes them of a shard,
and the answers carry shard, row and prompt_id, so that the caller can put each shard together again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.model_files import Checkpoint
from curation.engines.vllm_caption import engine_kwargs, messages, sampling_parameters

if TYPE_CHECKING:
    import ray.data

_KEYS = ("shard", "row", "prompt_id")


def vllm_stage(
    checkpoint: Checkpoint,
    *,
    batch_size: int,
    concurrency: int = 1,
    dtype: str = "auto",
    temperature: float = 0.0,
    top_p: float = 1.0,
    engine_arguments: Mapping[str, Any],
) -> Callable[[ray.data.Dataset], ray.data.Dataset]:
    """A function from a dataset of `request_rows` to a dataset of `answer_row`s, in no particular order.

    A request that fails stops no other: its error comes back in its row.  Building the stage starts or joins Ray.
    """
    from ray.data.llm import build_processor

    processor = build_processor(
        processor_config(
            checkpoint,
            batch_size=batch_size,
            concurrency=concurrency,
            dtype=dtype,
            engine_arguments=engine_arguments,
        ),
        preprocess=lambda row: chat_row(row, temperature=temperature, top_p=top_p),
    )
    return lambda requests: processor(requests).map(answer_row)


def processor_config(
    checkpoint: Checkpoint,
    *,
    batch_size: int,
    concurrency: int,
    dtype: str,
    engine_arguments: Mapping[str, Any],
) -> Any:
    """The `vLLMEngineProcessorConfig` of these settings."""
    from ray.data.llm import vLLMEngineProcessorConfig

    return vLLMEngineProcessorConfig(
        model_source=checkpoint.source,
        engine_kwargs=engine_kwargs(checkpoint, dtype=dtype, more=engine_arguments),
        batch_size=batch_size,
        concurrency=concurrency,
        prepare_multimodal_stage={"enabled": True},
        chat_template_stage={"enabled": True},
        tokenize_stage={"enabled": True},
        # The engine returns the text itself.
        detokenize_stage={"enabled": False},
        should_continue_on_error=True,
    )


def request_rows(shard: str, requests: Iterable[tuple[int, str, CaptionRequest]]) -> Iterator[dict[str, Any]]:
    """Input rows of `vllm_stage`.

    requests: (row in the shard, prompt_id, request).
    """
    for row, prompt_id, request in requests:
        yield {
            "shard": shard,
            "row": row,
            "prompt_id": prompt_id,
            "image": request.encoded,
            "prompt": request.prompt,
            "max_new_tokens": request.max_new_tokens,
            "seed": request.seed,
        }


def chat_row(row: Mapping[str, Any], *, temperature: float, top_p: float) -> dict[str, Any]:
    """The columns that the processor's stages read, for one of `request_rows`."""
    parameters = sampling_parameters(
        max_new_tokens=int(row["max_new_tokens"]), temperature=temperature, top_p=top_p, seed=int(row["seed"])
    )
    return {"messages": messages(row["image"], row["prompt"]), "sampling_params": parameters}


def answer_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The narrow result: keys, text, score, cut, and error (null unless there is no text)."""
    keys = {key: row[key] for key in _KEYS}
    answer = read_answer(row)
    if isinstance(answer, Failure):
        return {**keys, "text": None, "score": None, "cut": False, "error": answer.error}
    return {**keys, "text": answer.text, "score": answer.score, "cut": answer.cut, "error": None}


def read_answer(row: Mapping[str, Any]) -> Generated | Failure:
    """What the processor says about one request: rows that failed carry `__inference_error__`."""
    error = row.get("__inference_error__")
    if error:
        return Failure(" ".join(str(error).split())[:300])
    tokens = [int(token) for token in row["generated_tokens"]]
    steps = row.get("logprobs")
    score = None
    if tokens and steps is not None:
        score = sum(step[token]["logprob"] for step, token in zip(steps, tokens, strict=True)) / len(tokens)
    return Generated(text=row["generated_text"].strip(), score=score, cut=len(tokens) >= int(row["max_new_tokens"]))
