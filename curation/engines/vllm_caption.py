"""Caption with vLLM in the stage's own actor, so that a shard stays one block; `vllm_processor` is the other way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.checkpoint import Checkpoint
from curation.engines.guard import answer_batch, describe
from curation.engines.openai_caption import data_uri
from pairmill.errors import UserError

#: Not the user's to change: no code from a checkpoint, one image a request.
_SAFE_ENGINE_ARGUMENTS: Mapping[str, Any] = {
    "trust_remote_code": False,
    "limit_mm_per_prompt": {"image": 1},
}


class VllmCaptioner:
    """`vllm.LLM` in this process, on the GPUs of this actor; it batches by itself.

    Raises UserError if vLLM is not installed, or the model cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int,
        dtype: str = "auto",
        temperature: float = 0.0,
        top_p: float = 1.0,
        engine_arguments: Mapping[str, Any],
    ) -> None:
        try:
            import vllm  # type: ignore[import-not-found]  # only with the gpu extra
        except ImportError as error:
            raise UserError(
                "recaption.engine: vllm needs the vLLM package",
                value=describe(error),
                fix='pip install "pairmill[gpu]" on a machine with a GPU, or set recaption.engine: transformers',
            ) from error
        self.rows_per_call = max(256, batch_size)
        self._parameters: Callable[..., Any] = vllm.SamplingParams
        self._temperature = temperature
        self._top_p = top_p
        try:
            self._engine = vllm.LLM(
                model=checkpoint.source, **engine_kwargs(checkpoint, dtype=dtype, more=engine_arguments)
            )
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                "recaption.model must load with vLLM",
                value=f"{checkpoint.source}: {describe(error)}",
                fix="check recaption.vllm (vLLM's engine arguments) and that the model fits the GPU",
            ) from error

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        """One answer a request, in order."""
        return answer_batch(requests, self._generate, fault="engine.recaption")

    def _generate(self, requests: Sequence[CaptionRequest]) -> list[Generated]:
        parameters = [
            self._parameters(
                **sampling_parameters(
                    max_new_tokens=request.max_new_tokens,
                    temperature=self._temperature,
                    top_p=self._top_p,
                    seed=request.seed,
                )
            )
            for request in requests
        ]
        conversations = [messages(request.encoded, request.prompt) for request in requests]
        outputs = self._engine.chat(conversations, sampling_params=parameters, use_tqdm=False)
        return [_read_output(output.outputs[0]) for output in outputs]


def engine_kwargs(checkpoint: Checkpoint, *, dtype: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's engine arguments: the user's own, then what is not theirs to change."""
    pinned = {} if checkpoint.commit is None else {"revision": checkpoint.commit}
    return {"dtype": dtype, **more, **pinned, **_SAFE_ENGINE_ARGUMENTS}


def sampling_parameters(*, max_new_tokens: int, temperature: float, top_p: float, seed: int) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams` for one request."""
    common = {"max_tokens": max_new_tokens, "temperature": temperature, "logprobs": 1}
    return common if temperature == 0 else {**common, "top_p": top_p, "seed": seed}


def messages(encoded: bytes, prompt: str) -> list[dict[str, Any]]:
    """One image and one prompt in OpenAI's chat form."""
    image = {"type": "image_url", "image_url": {"url": data_uri(encoded)}}
    return [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}]


def _read_output(output: Any) -> Generated:
    """The text of a `vllm.CompletionOutput`."""
    score = None
    if output.cumulative_logprob is not None and output.token_ids:
        score = output.cumulative_logprob / len(output.token_ids)
    return Generated(text=output.text.strip(), score=score, cut=output.finish_reason == "length")
