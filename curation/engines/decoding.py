"""Batched autoregressive decoding with the log-probability of every token that was chosen.

Shapes: B requests, L tokens generated so far, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from pairmill.errors import IntegrityError


class Sampling(NamedTuple):
    """How the next token is chosen."""

    temperature: float
    """0 is greedy."""
    top_p: float
    seeds: tuple[int, ...]
    """One per request."""


class Decoded(NamedTuple):
    """What `decode` returns for B requests."""

    tokens: list[list[int]]
    """Generated tokens of each request, end-of-text not included."""
    scores: list[float]
    """Mean log-probability (nats) of each request's tokens, end-of-text included."""
    cut: list[bool]
    """Whether the token limit came before end-of-text."""


class TokenScores(LogitsProcessor):  # type: ignore[misc]
    """Remembers the log-probability of each chosen token, and chooses by Gumbel noise when sampling.

    `generate(output_scores=True)` would keep all B x L x V scores, gigabytes for a vocabulary of 150,000; here one
    step's log-probabilities are kept until the next call shows which token was taken.

    Sampling is arg max(log p / temperature + Gumbel noise), the same distribution as drawing from the softmax (Maddison
    et al. 2014), with noise from one CPU generator per request: a request gets the same text on any device and
    with any neighbours.  Scores are of the model's distribution, before temperature and top-p.
    """

    def __init__(self, sampling: Sampling | None) -> None:
        self.steps = 0
        self._logp_BV: Tensor | None = None
        self._chosen: list[Tensor] = []
        self._sampling = sampling
        self._generators = (
            [torch.Generator().manual_seed(seed) for seed in sampling.seeds] if sampling is not None else []
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._logp_BV is not None:
            self._take(input_ids[:, -1])
        self._logp_BV = torch.log_softmax(scores.float(), dim=-1)
        self.steps += 1
        if self._sampling is None:
            return scores
        logits_BV = _nucleus(self._logp_BV / self._sampling.temperature, self._sampling.top_p)
        noise_BV = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self._generators])
        gumbel_BV: Tensor = logits_BV - noise_BV.to(logits_BV.device).log()
        return gumbel_BV

    def finish(self, last_B: Tensor) -> Tensor:
        """Log-probability of every chosen token, [B, L], given the token chosen last."""
        self._take(last_B)
        return torch.stack(self._chosen, dim=1)

    def _take(self, token_B: Tensor) -> None:
        if self._logp_BV is None:
            raise IntegrityError("generate must pass every step through the logits processors it was given")
        self._chosen.append(self._logp_BV.gather(1, token_B[:, None])[:, 0])


def _nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    """Mask all but the smallest set of tokens that holds `top_p` of the probability (Holtzman et al. 2020)."""
    if top_p >= 1:
        return logits_BV
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
    before_BV = sorted_BV.softmax(dim=-1).cumsum(dim=-1) - sorted_BV.softmax(dim=-1)
    dropped_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, before_BV >= top_p)
    return logits_BV.masked_fill(dropped_BV, -torch.inf)


def prepare(model: Any) -> Any:
    """Make a model ready for `decode`: evaluation mode, and none of its checkpoint's search settings.

    `generate` takes what a call leaves open from these settings, so they must be unset here.
    """
    model.generation_config.update(
        do_sample=False,
        temperature=None,
        top_k=None,
        top_p=None,
        typical_p=None,
        num_beams=1,
        length_penalty=1.0,
        max_length=None,
        max_new_tokens=None,
        # OPUS-MT's forces an end at the token limit, and no text would count as cut.
        forced_eos_token_id=None,
    )
    return model.eval()


def decode(
    model: Any,
    inputs: Mapping[str, Tensor],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    num_beams: int = 1,
    forced_bos_token_id: int | None = None,
) -> Decoded:
    """Generate for a batch; greedy unless `sampling`, or `num_beams` > 1.

    model:  any transformers model with `generate`, prepared by `prepare`.
    inputs: what its processor made, on its device; decoder-only prompts are padded on the left.

    The checkpoint's own generation settings (start and end tokens, forbidden words, …) apply, except those for
    search and length.
    Raises ValueError for sampling with several beams.
    """
    if sampling is not None and num_beams > 1:
        raise ValueError("decode must get sampling or several beams, not both")
    settings: GenerationConfig = copy.deepcopy(model.generation_config)
    settings.update(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        early_stopping=num_beams > 1,
        return_dict_in_generate=True,
        # Beam scores are only returned on request; greedy ones come from `TokenScores`.
        output_scores=num_beams > 1,
    )
    if forced_bos_token_id is not None:
        settings.forced_bos_token_id = forced_bos_token_id
    watcher = TokenScores(sampling)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            generation_config=settings,
            logits_processor=LogitsProcessorList([watcher] if num_beams == 1 else []),
        )
    ends = _end_tokens(settings)
    # A forced first token (the language, in many-language translators) was not the model's choice.
    first = 0 if settings.forced_bos_token_id is None else 1
    if num_beams > 1:
        # With length_penalty 1 this is the mean log-probability of the tokens after the decoder's start, in which a
        # forced one counts as certain.
        sequences = output.sequences[:, 1:].tolist()
        means = output.sequences_scores.double().tolist()
        ended = [_until_end(row, ends, max_new_tokens) for row in sequences]
        return Decoded(
            tokens=[tokens for tokens, _, _ in ended],
            scores=[mean * used / max(1, used - first) for mean, (_, used, _) in zip(means, ended, strict=True)],
            cut=[cut for _, _, cut in ended],
        )
    new_BL = output.sequences[:, -watcher.steps :]
    logp_BL = watcher.finish(new_BL[:, -1]).cpu()
    decoded = Decoded(tokens=[], scores=[], cut=[])
    for row, logp_L in zip(new_BL.tolist(), logp_BL, strict=True):
        tokens, used, cut = _until_end(row, ends, max_new_tokens)
        decoded.tokens.append(tokens)
        decoded.scores.append(float(logp_L[min(first, used - 1) : used].double().mean()))
        decoded.cut.append(cut)
    return decoded


def _end_tokens(settings: GenerationConfig) -> frozenset[int]:
    ends = settings.eos_token_id
    return frozenset(ends if isinstance(ends, Sequence) else () if ends is None else (ends,))


def _until_end(row: list[int], ends: frozenset[int], limit: int) -> tuple[list[int], int, bool]:
    """Tokens before end-of-text, how many were generated with it, and whether the limit came first."""
    for at, token in enumerate(row):
        if token in ends:
            return row[:at], at + 1, False
    return row, len(row), len(row) >= limit
