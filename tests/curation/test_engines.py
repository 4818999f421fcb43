from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curation import faults
from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.checkpoint import (
    PROJECT_ROOT,
    Checkpoint,
    folder_digest,
    load_arguments,
    local_folder,
    pick_dtype,
    resolve,
)
from curation.engines.decoding import Sampling, TokenScores, _nucleus, decode
from curation.engines.guard import MANY, answer_batch, stop_if_dead, stop_if_useless
from curation.engines.languages import FLORES, base, canonical, language_tokens, marian_targets, pair_of_name
from curation.engines.transformers_caption import TransformersCaptioner
from curation.engines.transformers_translate import TransformersTranslator
from curation.engines.vllm_caption import VllmCaptioner, engine_kwargs, messages, sampling_parameters
from curation.engines.vllm_processor import answer_row, chat_row, processor_config, read_answer, request_rows
from curation.errors import JobError, UserError


def request(prompt: str = "what", *, at: int = 0, max_new_tokens: int = 6) -> CaptionRequest:
    image = Image.new("RGB", (20 + at, 12), (40 * at % 256, 200, 9))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return CaptionRequest(encoded=file.getvalue(), image=image, prompt=prompt, max_new_tokens=max_new_tokens, seed=at)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tiny checkpoints, one of each family."""
    root = tmp_path_factory.mktemp("models")
    tiny_models.save_llava(root / "llava")
    tiny_models.save_llava(root / "llava-plain", chat=False)
    tiny_models.save_blip(root / "blip")
    tiny_models.save_vision_encoder_decoder(root / "vit-gpt2")
    tiny_models.save_marian(root / "marian", source_lang="eng", target_lang="zho")
    tiny_models.save_marian(root / "opus-mt-en-mul", ">>cmn_Hans<<", ">>cmn<<", ">>fra<<")
    tiny_models.save_marian(root / "unnamed")
    tiny_models.save_nllb(root / "nllb")
    return root


def found(folder: Path) -> Checkpoint:
    return resolve(str(folder), None)


# --- guard ------------------------------------------------------------------------------------------------------------


def fails_on(*bad: int, most: int = 1000) -> Callable[[Sequence[int]], list[int]]:
    """An engine that cannot take some requests, nor more than `most` at once."""

    def generate(requests: Sequence[int]) -> list[int]:
        if len(requests) > most or set(bad) & set(requests):
            raise RuntimeError("out of memory" if len(requests) > most else "bad\n  request")
        return [10 * number for number in requests]

    return generate


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_a_failing_request_costs_no_other_its_answer(count: int, bad: set[int], most: int) -> None:
    answers = answer_batch(range(count), fails_on(*bad, most=most), fault="engine.recaption")
    expected = [Failure("RuntimeError: bad request") if n in bad else 10 * n for n in range(count)]
    assert answers == expected


def test_a_failure_that_passes_leaves_the_batch_whole() -> None:
    sizes = []

    def once(requests: Sequence[int]) -> list[int]:
        sizes.append(len(requests))
        if len(sizes) == 1:
            raise OSError("once")
        return list(requests)

    recovered: list[None] = []
    assert answer_batch(range(8), once, fault="engine.recaption", recover=lambda: recovered.append(None)) == [*range(8)]
    assert sizes == [8, 8]
    assert len(recovered) == 1


def test_an_injected_fault_is_an_engine_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faults, "_armed", faults._parse("engine.recaption:raise@1", str(tmp_path)))
    assert answer_batch([1, 2], fails_on(), fault="engine.recaption") == [10, 20]
    assert (tmp_path / "engine.recaption.passes").read_bytes() == b".."


def test_a_user_error_is_not_an_engine_failure() -> None:
    def wrong(requests: Sequence[int]) -> list[int]:
        raise UserError("rule", value=1, fix="fix")

    with pytest.raises(UserError):
        answer_batch([1], wrong, fault="engine.recaption")


def test_only_an_engine_that_answers_no_probe_is_dead() -> None:
    failed = [Failure("CUDA error"), Failure("CUDA error")]
    with pytest.raises(JobError, match="CUDA error"):
        stop_if_dead(failed, stage="recaption", probe=lambda: [Failure("CUDA error")])
    stop_if_dead(failed, stage="recaption", probe=lambda: [Generated("a", -1.0)])
    stop_if_dead([], stage="recaption", probe=lambda: [Failure("x")])
    stop_if_dead([*failed, Generated("a", -1.0)], stage="recaption", probe=lambda: [Failure("x")])


def test_a_table_that_fails_alike_throughout_stops_the_job() -> None:
    with pytest.raises(JobError, match="too long"):
        stop_if_useless([Failure("too long")] * MANY, stage="recaption")
    stop_if_useless([Failure("too long")] * (MANY - 1), stage="recaption")
    stop_if_useless([Failure("too long")] * MANY + [Failure("other")], stage="recaption")
    stop_if_useless([Failure("too long")] * MANY + [Generated("a", -1.0)], stage="recaption")
    stop_if_useless([], stage="recaption")


# --- checkpoint -------------------------------------------------------------------------------------------------------


def test_a_relative_folder_is_looked_up_here_and_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_folder("curation/engines") == PROJECT_ROOT / "curation" / "engines"
    (tmp_path / "curation" / "engines").mkdir(parents=True)
    assert local_folder("curation/engines") == (tmp_path / "curation" / "engines").resolve()
    assert local_folder("Salesforce/blip-image-captioning-base") is None
    assert local_folder("gpt2") is None


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "samples/models/nothing", "../no/such/folder"])
def test_what_can_only_be_a_path_must_exist(path: str) -> None:
    with pytest.raises(UserError, match="folder"):
        local_folder(path)


def test_a_folder_digest_sees_weights_and_settings_but_not_the_model_card(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("new words")
    (tmp_path / "metrics.json").write_text("{}")
    assert folder_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    changed = folder_digest(tmp_path)
    (tmp_path / "generation_config.json").write_text("{}")
    assert len({before, changed, folder_digest(tmp_path)}) == 3


def test_large_files_are_hashed_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.engines.checkpoint._WHOLE_FILE_BYTES", 8)
    monkeypatch.setattr("curation.engines.checkpoint._EDGE_BYTES", 2)
    digests = set()
    for content in (b"ab------yz", b"Ab------yz", b"ab------yZ", b"ab-------yz"):
        (tmp_path / "model.safetensors").write_bytes(content)
        digests.add(folder_digest(tmp_path))
    assert len(digests) == 4


def test_a_pinned_folder_must_have_the_same_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    revision = found(tmp_path).revision
    assert resolve(str(tmp_path), revision).revision == revision
    (tmp_path / "config.json").write_text("{ }")
    with pytest.raises(UserError, match="digest"):
        resolve(str(tmp_path), revision)


def test_a_hub_model_is_pinned_to_the_commit_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    checkpoint = resolve("owner/name", None)
    assert checkpoint == Checkpoint(source="owner/name", commit=commit, revision=commit)
    assert load_arguments(checkpoint) == {"revision": commit, "trust_remote_code": False}
    with pytest.raises(UserError, match="owner/unknown"):
        resolve("owner/unknown", None)


def test_a_full_commit_needs_no_hub() -> None:
    assert resolve("owner/name", "a" * 40).commit == "a" * 40


def test_half_precision_files_are_computed_in_float32_on_a_cpu() -> None:
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    assert pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) is torch.float16


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_scores_are_the_mean_token_log_probabilities(models: Path) -> None:
    captioner = TransformersCaptioner(found(models / "llava"), batch_size=4)
    requests = [request("what", at=1), request("what is it", at=2)]
    inputs = captioner._inputs(requests)
    decoded = decode(captioner._model, inputs, max_new_tokens=5)
    reference = captioner._model.generate(
        **inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    steps = captioner._model.compute_transition_scores(reference.sequences, reference.scores, normalize_logits=True)
    assert decoded.tokens == reference.sequences[:, -5:].tolist()
    assert decoded.scores == pytest.approx(steps.mean(dim=1).tolist(), abs=1e-5)
    assert decoded.cut == [True, True]


def test_text_and_score_end_at_end_of_text(models: Path) -> None:
    captioner = TransformersCaptioner(found(models / "llava"), batch_size=4)
    inputs = captioner._inputs([request(at=1), request(at=3)])
    free = decode(captioner._model, inputs, max_new_tokens=4)
    # Whatever the first row says second is now end-of-text.
    captioner._model.generation_config.eos_token_id = [free.tokens[0][1]]
    ended = decode(captioner._model, inputs, max_new_tokens=4)
    assert ended.tokens[0] == free.tokens[0][:1]
    assert ended.cut[0] is False
    first_two = decode(captioner._model, inputs, max_new_tokens=2)
    assert ended.scores[0] == pytest.approx(first_two.scores[0], abs=1e-6)


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    counts = torch.zeros(4)
    for seed in range(2000):
        watcher = TokenScores(Sampling(temperature=1.0, top_p=1.0, seeds=(seed,)))
        counts[watcher(torch.zeros(1, 1, dtype=torch.long), logits).argmax()] += 1
    # Four standard deviations of a share of 2,000 draws.
    assert torch.allclose(counts / 2000, logits[0].softmax(0), atol=4 * math.sqrt(0.25 / 2000))


def test_nucleus_keeps_the_smallest_set_of_the_wanted_probability() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()
    assert _nucleus(logits, 0.5).isfinite().tolist() == [[False, True, False, False]]
    assert _nucleus(logits, 0.6).isfinite().tolist() == [[False, True, True, False]]
    assert _nucleus(logits, 1.0).isfinite().all()


# --- captioners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava", "llava-plain", "blip", "vit-gpt2"])
def test_every_family_captions_a_batch_as_it_captions_one(models: Path, family: str) -> None:
    captioner = TransformersCaptioner(found(models / family), batch_size=3)
    prompts = ["", "", "", ""] if not captioner.takes_prompts else ["what", "what", "what is it", "a cat"]
    requests = [request(prompt, at=at) for at, prompt in enumerate(prompts)]
    together = captioner.caption(requests)
    alone = [captioner.caption([one])[0] for one in requests]
    for ours, theirs in zip(together, alone, strict=True):
        assert isinstance(ours, Generated) and isinstance(theirs, Generated)
        assert ours.text == theirs.text
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)
        assert ours.cut
    assert captioner.caption([]) == []


@pytest.mark.parametrize("family", ["llava", "blip", "vit-gpt2"])
def test_a_sampled_text_depends_on_its_seed_alone(models: Path, family: str) -> None:
    captioner = TransformersCaptioner(found(models / family), batch_size=8, temperature=1.0, top_p=0.95)
    prompt = "what" if captioner.takes_prompts else ""
    requests = [request(prompt, at=at) for at in range(4)]
    texts = [answer.text for answer in captioner.caption(requests) if isinstance(answer, Generated)]
    assert len(set(texts)) == 4
    backwards = [answer.text for answer in captioner.caption(requests[::-1]) if isinstance(answer, Generated)]
    assert backwards == texts[::-1]


def test_token_limits_are_each_request_s_own(models: Path) -> None:
    captioner = TransformersCaptioner(found(models / "llava"), batch_size=8)
    short, long, again = captioner.caption([request(max_new_tokens=n) for n in (2, 6, 2)])
    assert isinstance(short, Generated) and isinstance(long, Generated)
    assert short == again
    assert (len(short.text), len(long.text)) == (2, 6)


def test_a_request_the_model_cannot_take_fails_alone(models: Path) -> None:
    captioner = TransformersCaptioner(found(models / "llava"), batch_size=4)
    answers = captioner.caption([request(at=1), request("what <image>"), request(at=2)])
    assert [type(answer) for answer in answers] == [Generated, Failure, Generated]


def test_a_model_that_is_no_captioner_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="marian"):
        TransformersCaptioner(found(models / "marian"), batch_size=1)
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(UserError, match="must load"):
        TransformersCaptioner(found(tmp_path), batch_size=1)


def test_the_sample_captioner_loads_and_answers() -> None:
    captioner = TransformersCaptioner(resolve("samples/models/captioner", None), batch_size=2)
    image = sorted((PROJECT_ROOT / "samples" / "emoji" / "images").glob("*.webp"))[0].read_bytes()
    decoded = Image.open(io.BytesIO(image)).convert("RGB")
    requests = [CaptionRequest(image, decoded, prompt, 48, 0) for prompt in ("short", "long")]
    for answer in captioner.caption(requests):
        assert isinstance(answer, Generated)
        assert answer.text
        assert answer.score is not None and answer.score <= 0
        assert not answer.cut


# --- translators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "yes", "no"),
    [
        ("marian", [("en", "zh")], [("zh", "en"), ("en", "fr"), ("en", "en")]),
        ("opus-mt-en-mul", [("en", "zh"), ("en", "fr")], [("fr", "zh"), ("en", "de"), ("en", "en")]),
        ("nllb", [("en", "zh"), ("zh", "en"), ("fr", "zh")], [("en", "de"), ("de", "en"), ("zh", "zh")]),
    ],
)
def test_directions_come_from_the_checkpoint(
    models: Path, family: str, yes: list[tuple[str, str]], no: list[tuple[str, str]]
) -> None:
    translator = TransformersTranslator(found(models / family), batch_size=2, max_new_tokens=8)
    assert [pair for pair in yes + no if translator.supports(*pair)] == yes


@pytest.mark.parametrize(("family", "beams"), [("marian", 1), ("marian", 3), ("opus-mt-en-mul", 1), ("nllb", 1)])
def test_batches_sorted_by_length_give_each_text_its_own_answer(models: Path, family: str, beams: int) -> None:
    translator = TransformersTranslator(found(models / family), batch_size=2, max_new_tokens=8, num_beams=beams)
    texts = ["a red flower on the beach", "cat", "a dog", "one cat", ""]
    together = translator.translate(texts, source="en", target="zh")
    for text, ours in zip(texts, together, strict=True):
        (alone,) = translator.translate([text], source="en", target="zh")
        assert isinstance(ours, Generated) and isinstance(alone, Generated)
        assert ours.text == alone.text
        assert ours.score == pytest.approx(alone.score, abs=1e-4)


def test_the_target_decides_the_first_token(models: Path) -> None:
    translator = TransformersTranslator(found(models / "nllb"), batch_size=2, max_new_tokens=8)
    answers = [translator.translate(["a dog"], source="en", target=target)[0] for target in ("zh", "fr")]
    assert answers[0] != answers[1]
    several = TransformersTranslator(found(models / "opus-mt-en-mul"), batch_size=2, max_new_tokens=8)
    answers = [several.translate(["a dog"], source="en", target=target)[0] for target in ("zh", "fr")]
    assert answers[0] != answers[1]


def test_a_text_longer_than_the_model_takes_fails_alone(models: Path) -> None:
    translator = TransformersTranslator(found(models / "marian"), batch_size=2, max_new_tokens=500)
    long, short = translator.translate(["a" * 64, "a" * 63], source="en", target="zh")
    assert long == Failure("text of 65 tokens, the model takes 64")
    assert isinstance(short, Generated)


def test_a_pair_nobody_states_must_be_given(models: Path) -> None:
    with pytest.raises(UserError, match=r"translate\.pair"):
        TransformersTranslator(found(models / "unnamed"), batch_size=2, max_new_tokens=8)
    translator = TransformersTranslator(found(models / "unnamed"), batch_size=2, max_new_tokens=8, pair=("en", "zh"))
    assert translator.supports("en", "zh")
    with pytest.raises(UserError, match="must load"):
        TransformersTranslator(found(models / "llava"), batch_size=2, max_new_tokens=8)


def test_the_sample_translator_loads_and_answers() -> None:
    checkpoint = resolve("samples/models/translator", None)
    translator = TransformersTranslator(checkpoint, batch_size=2, max_new_tokens=32, pair=("en", "zh"))
    answers = translator.translate(["red apple", "dog"], source="en", target="zh")
    assert all(isinstance(answer, Generated) and answer.text for answer in answers)


# --- languages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("EN", "en"),
        ("eng_Latn", "en"),
        ("zh-CN", "zh"),
        ("zh_TW", "zh-hant"),
        ("zh-Hant", "zh-hant"),
        ("zho_Hant", "zh-hant"),
        ("cmn_Hans", "zh"),
        ("yue", "yue"),
        ("und", "und"),
    ],
)
def test_canonical(code: str, expected: str) -> None:
    assert canonical(code) == expected
    assert canonical(expected) == expected


def test_every_flores_code_leads_back_to_its_language() -> None:
    for iso, flores in FLORES.items():
        assert FLORES[canonical(flores)] == flores
        assert base(iso) == iso.removesuffix("-hant")


def test_language_tokens_of_each_family() -> None:
    assert language_tokens({"eng_Latn", "zho_Hant", "zho_Hans", "dog"}) == {
        "en": "eng_Latn",
        "zh": "zho_Hans",
        "zh-hant": "zho_Hant",
    }
    assert language_tokens({"__en__", "__zh__", "__init__x"}) == {"en": "__en__", "zh": "__zh__"}
    assert language_tokens({"en_XX", "zh_CN", "fr_XX"}) == {"en": "en_XX", "zh": "zh_CN", "fr": "fr_XX"}
    assert language_tokens({"dog", ">>zh<<"}) == {}


def test_marian_prefers_the_plainest_token_of_a_language() -> None:
    vocabulary = {">>cmn_Hans<<", ">>cmn<<", ">>zh<<", ">>cmn_Hant<<", ">>fra<<", "<<", ">>"}
    assert marian_targets(vocabulary) == {"zh": ">>zh<<", "zh-hant": ">>cmn_Hant<<", "fr": ">>fra<<"}


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("Helsinki-NLP/opus-mt-en-zh", ("en", "zh")),
        ("/models/opus-mt-zho-eng/", ("zh", "en")),
        ("Helsinki-NLP/opus-mt-tc-big-en-fr", ("en", "fr")),
        ("facebook/nllb-200-distilled-600M", None),
        ("my-translator-en-zh", None),
    ],
)
def test_pair_of_name(name: str, pair: tuple[str, str] | None) -> None:
    assert pair_of_name(name) == pair


# --- vLLM -------------------------------------------------------------------------------------------------------------


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
        batch_size=4,
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
        VllmCaptioner(Checkpoint("owner/name", None, ""), batch_size=1, engine_arguments={})


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
