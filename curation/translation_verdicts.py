"""What becomes of a text whose sentences were translated: one text of them, or the reason why there is none.

Each sentence is checked by itself, then the text that is put together.  In a short sentence the detector often finds a
relative of the language, so of several only the whole text must be in the target language, and each sentence no longer
in the source's: a model that does not know how to translate a sentence copies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from curation.engines import Failure, Generated
from curation.glossary import Glossary
from curation.lost_sentences import has_lost_sentences
from curation.translated_numbers import numbers_differ
from curation.translated_sentences import Block, blocks, count_sentences, ended, joined
from curation.translation_checks import TranslationStatus, has_bad_length, is_wrong_language, longest_loop
from pairmill.languages import UNKNOWN, primary

if TYPE_CHECKING:
    from curation.translate import TranslateConfig

Answers = Mapping[str, Generated | Failure]


class Job(NamedTuple):
    """A translation that is made once, however many rows need it."""

    text: str
    source: str
    target: str


class Outcome(NamedTuple):
    """The result of a job: a text with its score, or a status that gives the reason for none.

    sentences: of the translation; None where there is none.  failed_sentence: the position of the first one that is
    refused; None: the whole text is, or none.
    """

    text: str | None
    score: float | None
    status: TranslationStatus
    error: str | None = None
    sentences: int | None = None
    failed_sentence: int | None = None
    back_chrf: float | None = None


class Cut(NamedTuple):
    """A job, and the requests that it takes: its text, or each of its sentences."""

    job: Job
    parts: list[Block]

    @property
    def requests(self) -> list[str]:
        """The texts to translate, in order."""
        return [sentence for block in self.parts for sentence in block.sentences]


def cut(job: Job, *, by_sentences: bool) -> Cut:
    """A job as its requests; a text of one sentence is asked for as it is."""
    parts = blocks(job.text, job.source) if by_sentences else []
    whole = sum(len(block.sentences) for block in parts) < 2
    return Cut(job, [Block("", [job.text])] if whole else parts)


class Verdicts:
    """The checks of a configuration."""

    def __init__(self, config: TranslateConfig, glossary: Glossary | None) -> None:
        self._config, self._glossary = config, glossary

    def __call__(self, cuts: Sequence[Cut], answers: Answers) -> list[Outcome]:
        """An outcome for each job.  answers: of all requests."""
        texts = [put_together(one, answers) for one in cuts]
        made = [answer.text for answer in answers.values() if isinstance(answer, Generated)]
        detected = self._detected([*made, *(text for text in texts if text)])
        return [self._outcome(one, text, answers, detected) for one, text in zip(cuts, texts, strict=True)]

    def _detected(self, texts: Iterable[str]) -> Mapping[str, tuple[str, float]]:
        once = list(dict.fromkeys(texts))
        if not self._config.check_language or not once:
            return dict.fromkeys(once, (UNKNOWN, 0.0))
        # Imported here: it loads the language model.
        from curation.filters.language import detect

        return dict(zip(once, zip(*detect(once), strict=True), strict=True))

    def _outcome(
        self, one: Cut, text: str | None, answers: Answers, detected: Mapping[str, tuple[str, float]]
    ) -> Outcome:
        requests = one.requests
        several = len(requests) > 1
        score = None if text is None else mean_score([answers[request] for request in requests])
        sentences = _count(one, text, answers) if text else None
        for at, request in enumerate(requests):
            failed = at if several else None
            answer = answers[request]
            if isinstance(answer, Failure):
                return Outcome(None, None, TranslationStatus.ENGINE_ERROR, answer.error, failed_sentence=failed)
            language, confidence = detected[answer.text]
            if several and language != primary(one.job.source):
                confidence = 0.0
            job = one.job._replace(text=request)
            status = self._fault(job, answer.text, (language, confidence), cut=answer.cut)
            if status is not TranslationStatus.SUCCESS:
                return Outcome(None, score, status, None, sentences, failed)
        status = TranslationStatus.SUCCESS
        if several and text is not None:
            status = self._fault(one.job, text, detected[text], cut=False)
        return Outcome(text if status is TranslationStatus.SUCCESS else None, score, status, None, sentences)

    def _fault(self, job: Job, text: str, detected: tuple[str, float], *, cut: bool) -> TranslationStatus:
        """The first check that fails, the most specific first: a text in another language also has another length."""
        config = self._config
        found = TranslationStatus
        if not text:
            return found.EMPTY
        if longest_loop(text) > max(config.max_repeat, longest_loop(job.text)):
            return found.REPETITION
        if cut:
            return found.TRUNCATED
        if is_wrong_language(*detected, job.target, least_confidence=config.min_language_score):
            return found.WRONG_LANGUAGE
        if has_bad_length(job.text, text, config.bounds(job.source, job.target)):
            return found.BAD_LENGTH_RATIO
        if has_lost_sentences(job.text, text, job.source, job.target):
            return found.LOST_SENTENCES
        if config.check_numbers and numbers_differ(job.text, text):
            return found.NUMBERS_DIFFER
        if self._glossary is not None and self._glossary.lost(job.text, text, job.target) is not None:
            return found.LOST_TERM
        return found.SUCCESS


def put_together(one: Cut, answers: Answers) -> str | None:
    """The text of all translations of a job; None if one is missing."""
    made = {request: answers[request] for request in one.requests}
    texts = {request: answer.text for request, answer in made.items() if isinstance(answer, Generated)}
    if len(texts) < len(made):
        return None
    if len(one.requests) == 1:
        return texts[one.requests[0]]
    return joined([Block(gap, list(_ended(one, part, texts))) for gap, part in one.parts], one.job.target)


def translated(one: Cut, answers: Answers) -> Cut:
    """The translation of a job as a job in the other direction, with a request for each of this one's."""
    job = Job(put_together(one, answers) or "", one.job.target, one.job.source)
    if len(one.requests) == 1:
        return Cut(job, [Block("", [job.text])])
    texts = {request: answer.text for request in one.requests if isinstance(answer := answers[request], Generated)}
    return Cut(job, [Block(gap, list(_ended(one, part, texts))) for gap, part in one.parts])


def _ended(one: Cut, part: Sequence[str], texts: Mapping[str, str]) -> Iterator[str]:
    for request in part:
        yield ended(texts[request], request, one.job.target)


def _count(one: Cut, text: str, answers: Answers) -> int:
    """The sentences of a translation; of several requests each has one or more, whatever mark ends it."""
    if len(one.requests) == 1:
        return count_sentences(text, one.job.target)
    made = (answers[request] for request in one.requests)
    return sum(max(1, count_sentences(answer.text, one.job.target)) for answer in made if isinstance(answer, Generated))


def mean_score(answers: Sequence[Generated | Failure]) -> float | None:
    """The mean log-probability of all tokens of some answers; None unless each has one.

    Where an engine does not say how many tokens an answer has, its characters count.
    """
    made = [answer for answer in answers if isinstance(answer, Generated)]
    if len(made) == 1:
        return made[0].score
    scores = [answer.score for answer in made if answer.score is not None]
    if not scores or len(scores) < len(answers):
        return None
    counts = [answer.tokens for answer in made if answer.tokens is not None]
    weights = counts if len(counts) == len(made) else [len(answer.text) + 1 for answer in made]
    return sum(score * weight for score, weight in zip(scores, weights, strict=True)) / max(1, sum(weights))
