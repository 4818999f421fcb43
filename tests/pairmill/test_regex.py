import re

import pytest

from pairmill.regex import compile_later


def test_it_answers_as_the_compiled_expression() -> None:
    later, now = compile_later(r"(\w)\d", re.IGNORECASE), re.compile(r"(\w)\d", re.IGNORECASE)
    text = "a1 B2 c"
    assert later.findall(text) == now.findall(text) == ["a", "B"]
    assert later.subn("-", text) == now.subn("-", text)
    assert (later.pattern, later.flags) == (now.pattern, now.flags)


def test_nothing_is_compiled_before_it_is_used() -> None:
    broken = compile_later("(")
    with pytest.raises(re.error):
        broken.match("")
