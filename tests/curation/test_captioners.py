from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from curation.engines import CaptionRequest, Failure, Generated
from curation.engines.decoding import Sampling, TokenScores, _nucleus, decode
from curation.engines.model_files import PROJECT_ROOT, Checkpoint, resolve
from curation.engines.transformers_caption import TransformersCaptioner
from pairmill.errors import UserError


def request(prompt: str = "what", *, at: int = 0, max_new_tokens: int = 6) -> CaptionRequest:
    image = Image.new("RGB", (20 + at, 12), (40 * at % 256, 200, 9))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return CaptionRequest(encoded=file.getvalue(), image=image, prompt=prompt, max_new_tokens=max_new_tokens, seed=at)


def found(folder: Path) -> Checkpoint:
    return resolve(str(folder), None)


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


@pytest.mark.slow
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
