"""What of a captioner's answer is reasoning, in the forms in which models and their servers leave it in the text.

<think>…</think>, [THINK]…[/THINK], ◁think▷…           tags; <seed:think>, <|START_THINKING|>, <|channel>…
<|channel|>analysis<|message|>…<|channel|>final<|…     Harmony (gpt-oss), and its words without the special tokens
Thinking: …, a blank line, the caption                  a label
Okay, the user wants …                                  it speaks of the task, not of the picture
"""

from __future__ import annotations

import re

_TAG = r"(?:\w{1,16}:)?(?:think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad)"
_OPENING = re.compile(
    rf"<\|?(?:begin_of_|start_)?{_TAG}\|?>|\[{_TAG}\]|◁think▷|<\|channel>|\A\s*Thinking\.\.\.\n", re.IGNORECASE
)
_CLOSING = re.compile(
    rf"<\|?(?:/|end_of_|end_){_TAG}\|?>|\[/{_TAG}\]|◁/think▷|<channel\|>|\.\.\.done thinking\.", re.IGNORECASE
)
_FINAL = re.compile(
    r"</?(?:answer|response)>|<\|?(?:begin_of_|end_of_|start_|end_)(?:solution|response)\|?>", re.IGNORECASE
)

#: Harmony's special tokens; a message is its channel, `<|message|>` and its text, up to the next token but these two.
_TOKEN = re.compile(r"<\|(start|channel|constrain|message|end|return|call)\|>")
#: Where tokens are left out, their words stay.
_BARE_FINAL = "assistantfinal"
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z“\"])")

_LABEL = re.compile(
    r"[\W_]*(?:(?:my|here(?:\ is|['’]s)\ my)\ )?"
    r"(?:thinking|thoughts?|thought\ process|reasoning|analysis|chain[\ -]of[\ -]thought"
    r"|思考(?:过程|過程)?|推理(?:过程|過程)?|分析)"
    r"[*_\ ]*(?:[:：]|\n)",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"(?:^|\n)[*_#\ ]*(?:(?:the\ )?(?:final\ )?(?:answer|caption|description|response|output)"
    r"|here(?:\ is|['’]s)\ my\ response|最终答案|答案|回答|描述|标题)[*_\ ]*[:：][*_\ ]*",
    re.IGNORECASE,
)
_PARAGRAPH = re.compile(r"\n\s*\n")
#: How a paragraph behind a label begins that is reasoning and no text seen in a picture.
_LOOKS = re.compile(
    r"[\W_]*(?:I|I['’](?:ll|m|d)|we|first|this\ is|the\ (?:image|picture|photo|scene)"
    r"|图片|这张|这是|首先)(?!\w)",
    re.IGNORECASE,
)

#: Reasoning without tags or labels.
_THINKS_ALOUD = re.compile(
    r"\W*(?:(?:okay|ok|alright|hmm+|well|so|right|let['’]s\ see|wait)[,.]?\ )*"
    r"(?:let\ me\ (?:think(?=[.,:;…]|\ about\ (?:this|the|how|what)\b)|see\ what\b|analy[sz]e\b|look\ at\b|start\ by\b)"
    r"|let['’]s\ (?:think|analy[sz]e|break\ (?:this|it)\ down)"
    r"|the\ user\ (?:wants|asks|asked|is\ asking|has\ asked|needs|provided|gave)\b|we\ are\ asked\ to\b"
    r"|(?:I|we)\ (?:need|have|should|must)\ (?:to\ )?"
    r"(?:describe|write|caption|analy[sz]e|come\ up|figure\ out|provide|generate)\b"
    r"|用户(?:要求|想|希望|让|需要)|(?:好的|嗯)[,，]\s*(?:用户|让我|我需要|我来))",
    re.IGNORECASE,
)


def without_reasoning(text: str) -> str:
    """What of an answer stands outside of reasoning that is marked as such; empty if nothing does."""
    return _without_label(_without_tags(_final_messages(text)))


def thinks_aloud(text: str) -> bool:
    """Whether a text without marks speaks of the task."""
    return _THINKS_ALOUD.match(text) is not None


def _final_messages(text: str) -> str:
    """The messages in Harmony's channel `final`; a text without such marks as it is."""
    tokens = list(_TOKEN.finditer(text))
    if not any(token[1] in ("channel", "message") for token in tokens):
        text = _TOKEN.sub(" ", text)
        if _BARE_FINAL in text:
            return text.rpartition(_BARE_FINAL)[2]
        return "" if _BARE_ANALYSIS.match(text) else text
    final, kept = False, []
    for token, behind in zip(tokens, [*tokens[1:], None], strict=True):
        part = text[token.end() : behind.start() if behind else len(text)]
        if token[1] == "channel":
            final = part.split()[:1] == ["final"]
        elif token[1] == "message" and final:
            kept.append(part.strip())
    return " ".join(kept)


def _without_tags(text: str) -> str:
    """Without blocks of reasoning, what stands before the end of one, what follows the begin of one, and final tags.

    The begin of a block may be part of the prompt.  Each tag is looked for once: a caption may be made of nothing else.
    """
    kept, at = [], 0
    while opening := _OPENING.search(text, at):
        closing = _CLOSING.search(text, opening.end())
        if closing is None:
            break
        kept.append(text[at : opening.start()])
        at = closing.end()
    text = " ".join([*kept, text[at:]])
    ends = [closing.end() for closing in _CLOSING.finditer(text)]
    text = text[ends[-1] :] if ends else text
    text = " ".join(map(str.strip, _FINAL.split(text))).strip()
    opening = _OPENING.search(text)
    return text[: opening.start()].strip() if opening else text


def _without_label(text: str) -> str:
    """Without a first paragraph labelled as reasoning.

    What follows is the caption if it has a label too or is one paragraph; of several, none surely is.
    """
    label = _LABEL.match(text)
    if label is None:
        return text
    answers = list(_ANSWER.finditer(text, label.end()))
    if answers:
        return text[answers[-1].end() :].strip()
    paragraphs = _PARAGRAPH.split(text[label.end() :].strip())
    if len(paragraphs) > 1:
        return paragraphs[1].strip() if len(paragraphs) == 2 else ""
    reasons = _LOOKS.match(paragraphs[0]) or thinks_aloud(paragraphs[0])
    return "" if reasons else text
