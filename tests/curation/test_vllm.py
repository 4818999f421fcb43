from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.model_files import Checkpoint
from curation.engines.vllm_caption import VllmCaptioner, engine_kwargs, messages, sampling_parameters
from curation.engines.vllm_processor import answer_row, chat_row, processor_config, read_answer, request_rows
from pairmill.errors import UserError


def request(prompt: str = "what", *, at: int = 0, max_new_tokens: int = 6) -> CaptionRequest:
    image = Image.new("RGB", (20 + at, 12), (40 * at % 256, 200, 9))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return CaptionRequest(encoded=file.getvalue(), image=image, prompt=prompt, max_new_tokens=max_new_tokens, seed=at)


class FakeVllm:
    """The part of the vllm module that `VllmCaptioner` uses, by its documented signatures."""

    class SamplingParams:
        def __init__(self, *, max_tokens: int, temperature: float, logprobs: int, **more: object) -> None:
            self.max_tokens, self.more = max_tokens, more

    class LLM:
        def __init__(self, *, model: str, **arguments: object) -> None:
            self.arguments = arguments

        def chat(
            self, conversations: list[list[dict[str, object]]], *, sampling_params: list[object], use_tqdm: bool
        ) -> list[SimpleNamespace]:
            outputs = []
            for conversation, parameters in zip(conversations, sampling_params, strict=True):
                image, text = conversation[0]["content"]  # type: ignore[misc]
                assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")  # type: ignore[index]
                if text["text"] == "bad":  # type: ignore[index]
                    raise ValueError("the prompt is too long")
                output = SimpleNamespace(
                    text=f" {text['text']} ",  # type: ignore[index]
                    cumulative_logprob=-3.0,
                    token_ids=[1, 2],
                    finish_reason="length" if parameters.max_tokens < 3 else "stop",  # type: ignore[attr-defined]
                )
                outputs.append(SimpleNamespace(outputs=[output]))
            return outputs


def test_vllm_captions_through_its_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", FakeVllm)
    captioner = VllmCaptioner(
        Checkpoint("owner/name", "c0ffee", "c0ffee"),
        engine_arguments={"max_model_len": 4096, "trust_remote_code": True},
    )
    answers = captioner.caption([request("cat"), request("bad"), request("dog", max_new_tokens=2)])
    assert answers == [
        Generated("cat", -1.5),
        Failure("ValueError: the prompt is too long"),
        Generated("dog", -1.5, cut=True),
    ]


def test_vllm_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pairmill\[gpu\]"):
        VllmCaptioner(Checkpoint("owner/name", None, ""), engine_arguments={})


def test_vllm_arguments_cannot_turn_off_what_is_safe() -> None:
    checkpoint = Checkpoint("owner/name", "c0ffee", "c0ffee")
    given_ = {"trust_remote_code": True, "revision": "other", "tensor_parallel_size": 2, "dtype": "half"}
    assert engine_kwargs(checkpoint, dtype="auto", more=given_) == {
        "dtype": "half",
        "tensor_parallel_size": 2,
        "revision": "c0ffee",
        "trust_remote_code": False,
        "limit_mm_per_prompt": {"image": 1},
    }


def test_vllm_sampling_parameters() -> None:
    greedy = sampling_parameters(max_new_tokens=9, temperature=0, top_p=0.5, seed=3)
    assert greedy == {"max_tokens": 9, "temperature": 0, "logprobs": 1}
    sampled = sampling_parameters(max_new_tokens=9, temperature=0.7, top_p=0.5, seed=3)
    assert sampled == {"max_tokens": 9, "temperature": 0.7, "logprobs": 1, "top_p": 0.5, "seed": 3}


# Ray's own models still use what pydantic 2 deprecates.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_ray_data_llm_processor_is_configured_for_images_and_bad_rows() -> None:
    config = processor_config(
        Checkpoint("owner/name", "c0ffee", "c0ffee"),
        batch_size=16,
        concurrency=2,
        dtype="auto",
        engine_arguments={"max_model_len": 4096},
    )
    assert config.should_continue_on_error
    assert config.prepare_multimodal_stage == {"enabled": True}
    assert config.engine_kwargs["max_model_len"] == 4096
    assert config.engine_kwargs["trust_remote_code"] is False


def test_ray_data_llm_rows_in() -> None:
    asked = request("cat", at=3, max_new_tokens=9)
    (row,) = request_rows("shard-1", [(7, "short", asked)])
    assert (row["shard"], row["row"], row["prompt_id"], row["image"]) == ("shard-1", 7, "short", asked.encoded)
    chat = chat_row(row, temperature=0.5, top_p=1.0)
    assert chat["messages"] == messages(asked.encoded, "cat")
    assert chat["sampling_params"]["seed"] == 3
    assert chat["sampling_params"]["max_tokens"] == 9


def test_ray_data_llm_rows_out() -> None:
    row = {
        "shard": "shard-1",
        "row": 7,
        "prompt_id": "short",
        "max_new_tokens": 9,
        "generated_text": " a cat ",
        "generated_tokens": [5, 8],
        "logprobs": [{5: {"logprob": -1.0}, 6: {"logprob": -2.0}}, {8: {"logprob": -0.5}}],
        "__inference_error__": "",
    }
    assert read_answer(row) == Generated("a cat", -0.75)
    assert read_answer({**row, "max_new_tokens": 2}) == Generated("a cat", -0.75, cut=True)
    assert read_answer({**row, "logprobs": None}) == Generated("a cat", None)
    failed = answer_row({**row, "generated_text": "", "__inference_error__": "ValueError:\n too long"})
    assert failed == {
        "shard": "shard-1",
        "row": 7,
        "prompt_id": "short",
        "text": None,
        "score": None,
        "cut": False,
        "error": "ValueError: too long",
    }
    assert json.dumps(answer_row(row)) == json.dumps({**failed, "text": "a cat", "score": -0.75, "error": None})
