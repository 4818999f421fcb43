import time

import pytest

from pipelines.redaction import MASK, redact


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("cannot reach http://user:hunter22@host:8265/api", "hunter22"),
        ("http://user:p@ss@host/", "p@ss"),
        ("s3://AKIA123:abc@bucket/run", "abc@"),
        ("recaption.openai.api_key=sk-123", "sk-123"),
        ("HF_TOKEN=hf_123 python x.py", "hf_123"),
        ('{"password": "two words", "user": "me"}', "two words"),
        ("client_secret: 'two words'", "two words"),
        ("https://host/list?width=3&token=abc123&height=4", "abc123"),
        ("https://host/list?X-Amz-Signature=f00d&x=1", "f00d"),
        ("Authorization: Bearer 0123456789abcdef", "0123456789abcdef"),
        ("sent header bearer 0123456789abcdef", "0123456789abcdef"),
        ("aws_secret_access_key = f00d", "f00d"),
        ("API-KEY: f00d", "f00d"),
    ],
)
def test_secrets_are_masked(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redact(text, {})
    assert MASK in redact(text, {})


@pytest.mark.parametrize(
    "text",
    [
        "model.tokenizer=samples/models/translator",
        "recaption.max_new_tokens=48",
        "recaption.openai.api_key_env=OPENAI_API_KEY",
        "run_dir=s3://bucket/run@2 input.path=/shared/urls.parquet",
        "git@host:project.git",
        "data.texts=[[{language: en}], [{language: zh}]]",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text, {}) == text


def test_the_rest_of_the_text_stays() -> None:
    assert redact('{"token": "abc", "run_dir": "/runs/1"}', {}) == f'{{"token": {MASK}, "run_dir": "/runs/1"}}'
    assert redact("http://h/?token=abc&height=4", {}) == f"http://h/?token={MASK}&height=4"


def test_values_of_secret_named_variables_are_masked_wherever_they_stand() -> None:
    environment = {"RAY_AUTH_TOKEN": "0123456789abcdef", "TOKENIZERS_PARALLELISM": "sometimes", "MY_TOKEN": "no"}
    assert redact("got 0123456789abcdef, sometimes, no", environment) == f"got {MASK}, sometimes, no"


def test_a_long_line_takes_no_time() -> None:
    began = time.perf_counter()
    assert redact("a.b-" * 100_000, {}) == "a.b-" * 100_000
    assert time.perf_counter() - began < 5  # some milliseconds; half an hour if each part were searched from anew
