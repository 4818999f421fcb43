"""Caption with vLLM in the stage's own actor, so that a shard stays one block; `vllm_processor` is the alternative."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.guard import answer_batch, describe
from curation.engines.model_files import Checkpoint, DType, resolve
from curation.engines.openai_caption import data_uri
from curation.engines.settings import EngineConfig
from pairmill.config import EXECUTION
from pairmill.errors import UserError
from pairmill.registry import NamedConfig

if TYPE_CHECKING:
    from curation.recaption import RecaptionConfig

#: Users must not change these: no code from a checkpoint, one image per request.
_SAFE_ENGINE_ARGUMENTS: Mapping[str, Any] = {
    "trust_remote_code": False,
    "limit_mm_per_prompt": {"image": 1},
}


class VllmConfig(NamedConfig):
    """How vLLM is started."""

    dtype: DType = Field(default="auto", description="computing precision; auto: vLLM's choice for the checkpoint")
    arguments: Mapping[str, Any] = Field(
        default_factory=dict,
        description="vLLM's own engine arguments, such as max_model_len, tensor_parallel_size, quantization",
    )
    rows_per_call: int = Field(
        default=256,
        ge=1,
        description="images given to vLLM at a time; a kill loses the texts of as many",
        json_schema_extra=EXECUTION,
    )


class VllmCaptioner:
    """`vllm.LLM` in this process, on the GPUs of this actor; it batches by itself.  Needs `pairmill[gpu]`.

    Texts may depend on what is computed beside them.  vLLM has a mode in which they do not (the environment variable
    VLLM_BATCH_INVARIANT), which was not made for models that read images; that is asked of it (vllm 27059).

    Raises UserError if vLLM is not installed, or the model cannot be loaded.
    """

    Config = VllmConfig
    libraries = ("tokenizers", "torch", "transformers", "vllm")

    @classmethod
    def check(cls, config: VllmConfig, section: EngineConfig) -> Checkpoint:
        """The files that the section names."""
        return resolve(section.named_model, section.revision)

    @classmethod
    def load(cls, config: VllmConfig, section: RecaptionConfig, checkpoint: Checkpoint) -> VllmCaptioner:
        """The model on this actor's GPUs."""
        return cls(
            checkpoint,
            rows_per_call=config.rows_per_call,
            dtype=config.dtype,
            temperature=section.temperature,
            top_p=section.top_p,
            engine_arguments=config.arguments,
        )

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        rows_per_call: int = 256,
        dtype: str = "auto",
        temperature: float = 0.0,
        top_p: float = 1.0,
        engine_arguments: Mapping[str, Any],
    ) -> None:
        try:
            import vllm  # type: ignore[import-not-found]  # only with the gpu extra
        except ImportError as error:
            raise UserError(
                "recaption.engine vllm must have the vLLM package installed",
                value=describe(error),
                fix='run pip install "pairmill[gpu]" on a machine with a GPU, or set recaption.engine: transformers',
            ) from error
        self.rows_per_call = rows_per_call
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
                fix="check recaption.engine.arguments (vLLM's own) and that the model fits the GPU",
            ) from error

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Generated | Failure]:
        """One answer per request, in order."""
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
    """vLLM's engine arguments: the user's own, then those that must not change."""
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
