"""A captioner and translator whose every score depends on all texts that were computed beside it, as a real one's last
bits do; it counts what it writes, over all processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curation.engines import Answered, CaptionRequest, Failure, Generated, batches_of, unheard
from pairmill.config import bytes_digest

SIZE = 3


class Neighbourly:
    """Computes three requests together, those of one token limit."""

    rows_per_call, sampling = 4, "greedy"

    def __init__(self, log: Path, failing: Sequence[str] = ()) -> None:
        """log: gets a line for each text that is paid for.  failing: words of what it cannot do."""
        self.log, self.failing = log, failing

    def caption(self, requests: Sequence[CaptionRequest], answered: Answered = unheard) -> list[Generated | Failure]:
        return self._written([self._line(one) for one in requests], self.batches(requests), answered)

    def batches(self, requests: Sequence[Any], **how: str) -> list[list[int]]:
        return batches_of([getattr(one, "max_new_tokens", 0) for one in requests], SIZE)

    def supports(self, source: str, target: str) -> bool:
        return True

    def translate(
        self, texts: Sequence[str], *, source: str, target: str, answered: Answered = unheard
    ) -> list[Generated | Failure]:
        return self._written([f"{source} {text} {target}" for text in texts], self.batches(texts), answered)

    def paid(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def _line(self, request: CaptionRequest) -> str:
        return f"{request.prompt} {request.image.width}"

    def _written(self, lines: list[str], batches: list[list[int]], answered: Answered) -> list[Generated | Failure]:
        made: dict[int, Generated | Failure] = {}
        for batch in batches:
            beside = "\n".join(lines[at] for at in batch)
            score = -int(bytes_digest(beside.encode())[:6], 16) / 7
            answers = [self._one(lines[at], score) for at in batch]
            file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, f"{beside}\n".encode())
            os.close(file)
            answered(batch, answers)
            made |= zip(batch, answers, strict=True)
        return [made[at] for at in range(len(lines))]

    def _one(self, line: str, score: float) -> Generated | Failure:
        return Failure("cannot") if any(word in line for word in self.failing) else Generated(f"It says {line}.", score)
