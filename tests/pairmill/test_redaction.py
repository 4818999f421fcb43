import base64
import json
import shlex
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairmill.redaction import MASK, holds_secret, redact, redact_data, secret_places

#: Spellings of a secret; § stands for it.
SPELLINGS = r"""
password=§
password: §
PASSWORD = §
db_password = "§"
dbPassword: '§'
spring.datasource.password=§
export PGPASSWORD=§
MYSQL_PWD=§
pwd=§
passwd: §
passphrase: §
pass=§
smtpPass: §
{"apiKey": "§"}
{"api_key":"§","a":1}
{"APIKey": "§"}
{\"token\": \"§\"}
{&quot;token&quot;: &quot;§&quot;}
{'x-api-key': b'§'}
Config(api_key='§', n=3)
{Password:§ User:x}
AWS_SECRET_ACCESS_KEY=§
secretAccessKey: §
aws_session_token = §
account_key: §
AZURE_STORAGE_CONNECTION_STRING=§
client_secret=§
refreshToken=§
id_token=§
private_key: §
signing_secret=§
$env:API_TOKEN = '§'
password => "§"
password := "§"
"password": "a\"§"
password: |{newline}  §
password:{newline}  §
password: two words §
'db.password=two §'
api_keys: [x, §]
api_keys: ["x", "§"]
https://h/c?sv=2020&sig=§&se=1
https://h/c?X-Amz-Signature=§
https://h/c?x=1&amp;access_token=§
https://h/c?X-Amz-Credential=§%2F20260101
https://h/c?key=§
https://h/c#access_token=§
https://h/f?code=§
https://h/f?session=§
https://h/;jsessionid=§
password%3D§%26x%3D1
password%253D§
%22token%22%3A%22§%22
password\u003d§
Authorization: Bearer §
authorization: §
"Authorization": "Token §"
-H 'Authorization: §'
('authorization', 'Bearer §')
Proxy-Authorization: Digest username="u", response="§"
X-Auth-Token: §
Ocp-Apim-Subscription-Key: §
Cookie: session=§; a=b
Set-Cookie: sid=§; Path=/
--password §
--password 'a §'
--passwd §
['--passwd', '§']
redis-server --requirepass §
ENV WANDB_API_KEY §
setenv MY_TOKEN '§'
--api-key=§
['--api-key', '§']
-p §
curl -b 'sid=§' https://h
wandb login §4a5b6c7d8e9f
curl -L -b sid=§ https://h
http:\/\/user:§@host\/a
mysql -u root -p§ db
curl -u user:§ https://h
http://user:§@h:8265/api
http://user:p@§@h/
postgres://user:a/§@h/db
redis://:§@h:6379/0
https://§@h/x
s3://AKIA123:§@bucket/run
http%3A%2F%2Fuser%3A§%40host
proxy user:§@proxy.example:3128
//user:§@h/x
jdbc:oracle:thin:scott/§@h:1521
Server=tcp:x;User Id=sa;Password=§;Encrypt=true
DefaultEndpointsProtocol=https;AccountName=x;AccountKey=§;EndpointSuffix=core
Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey=§
//registry.npmjs.org/:_authToken=§
machine h login u password §
ALTER USER x IDENTIFIED BY '§'
<password>§</password>
<add key="Password" value="§"/>
https://hooks.slack.com/services/§/x
""".strip().splitlines()

A = "aB3dE6gH9jK2mN5pQ8sT1vW4"
#: Tokens that are known by their shape, wherever they stand.
SHAPES = [
    *(
        f"ghp_{A}{A}",
        f"github_pat_{A}_{A}",
        f"glpat-{A}",
        f"sk-proj-{A}",
        f"sk-ant-api03-{A}-{A}",
        f"sk-{A}{A}",
        f"hf_{A}",
    ),
    *(f"xoxb-1234567890-{A}", "AKIAIOSFODNN7EXAMPLE", f"AIza{A}{A}", f"ya29.{A}", f"npm_{A}", f"pypi-{A}", f"gsk_{A}"),
    *(f"sk_live_{A}", f"SG.{A}.{A}", f"hvs.{A}", f"nvapi-{A}", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmVk"),
    *("Bearer 0123456789abcdef", f"bearer {A}", "Basic " + base64.b64encode(b"user:hunter2").decode()),
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\\nMIIEowIBAAKCAQEA\\n",
]

ORDINARY = r"""
model.tokenizer=samples/models/translator
recaption.max_new_tokens=48
eos_token: </s>
pad_token_id: 0
tokens: 1,234
unexpected token: ']'
recaption.engine.api_key_env=OPENAI_API_KEY
api_key=${OPENAI_API_KEY}
api_key: ${OPENAI_API_KEY}
secret: ${oc.env:SECRET}
token: ${{ secrets.TOKEN }}
password_file=/run/secrets/x
password: null
run_dir=s3://bucket/run@2 input.path=/shared/urls.parquet
gs://anonymous@bucket/list.parquet
abfss://container@account.dfs.core.windows.net/x
git@host:project.git
ssh://git@host/project.git
https://host:8080/x@2x.png
https://host/a.jpg?width=300&height=200&v=3
mailto:bob@example.com
data.texts=[[{language: en}], [{language: zh}]]
a red dress with a token of love, a secret garden
a standard bearer carrying the flag of Rome
basic authentication is required
the password is wrong
cookie: chocolate chip
authors: Me; keyboard: qwerty; monkey=banana; compass=north; passport: red; key: value
sha256=abc123def456
PWD=/home/me
docker run -p 8080:80 image; ssh -p 2222 host; mkdir -p /tmp/x
token: 123 tokens per second
secret: always smile
pass: 1 of 3
signature: Vincent van Gogh 1889
dsn: deep space network 1963
git push -u origin:main; rsync -u bob:path here
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(kubectl get secret x)
mkdir -p outputs; cp -p notes1.txt copy2.txt; tar -p sessions; curl -b cookies.txt https://h
primary_key=uid2024x, sort_key: width10x; group_key=a1b2c3d4
first_pass: 10, passed: 3
set WANDB_API_KEY before the run, or HF_TOKEN instead
set WANDB_API_KEY=$WANDB_API_KEY; unset HF_TOKEN
password protected; a password manager; passwd /etc/shadow2
MAX_NEW_TOKENS 4096; HF_TOKEN_FILE /run/secrets/x1
signature: v4
2026-01-01 10:00:00 pairmill INFO 3 of 10 shards, 12.5 images/s
""".strip().splitlines()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_is_masked_in_every_spelling(spelling: str) -> None:
    text = spelling.replace("{newline}", "\n")
    for secret in ("hunter22x", "correcthorse", "Zm9v+YmFy/12=="):
        written = quote(secret, safe="") if "//" in text or "%3" in text or "@" in text else secret
        shown = redact(f"before\n{text.replace('§', written)}\nafter", {})
        assert written not in shown
        assert MASK in shown
        assert shown.startswith("before\n") and shown.endswith("\nafter")


def test_a_secret_is_masked_in_a_sentence() -> None:
    assert (
        redact("the password is hunter22x, the token was 'a1b2c3'", {})
        == f"the password is {MASK}, the token was '{MASK}'"
    )


@pytest.mark.parametrize("before", ["WANDB_API_KEY ", 'HF_TOKEN "', "passwd ", "login with password ", "-pw "])
def test_a_secret_is_masked_behind_its_name_and_a_space(before: str) -> None:
    for secret in ("hunter22x", "0123456789abcdef0123456789abcdef01234567"):
        assert redact(f"run {before}{secret}", {}) == f"run {before}{MASK}"


@pytest.mark.parametrize("token", SHAPES)
def test_a_token_is_known_by_its_shape(token: str) -> None:
    shown = redact(f"sent {token}, got 401", {})
    assert token.split()[-1] not in shown and MASK in shown
    assert shown.startswith("sent ")
    assert not any(len(part) > 12 and part in shown for part in token.replace("\\n", "\n").split("\n")[1:2])


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text, {}) == text
    assert not holds_secret(text)


# What may stand in a secret, and in none of the texts around it.
secrets = st.text("abcxyzABCXYZ0123456789_", min_size=12, max_size=40).map(lambda text: f"q7{text}")
names = st.sampled_from(
    ["token", "api_key", "apiKey", "API-KEY", "clientSecret", "db.password", "AWS_SECRET_ACCESS_KEY"]
)
plain = st.dictionaries(
    st.sampled_from(["width", "rows", "url", "text_column"]), st.text("abc de", max_size=9), max_size=3
)


@given(names, secrets, plain)
def test_no_secret_survives_in_json(name: str, secret: str, more: dict[str, str]) -> None:
    data = {**more, "inner": [{name: secret}]}
    shown = json.loads(redact(json.dumps(data), {}))
    assert shown == {**more, "inner": [{name: MASK}]} == redact_data(data, {})
    assert redact(json.dumps(shown), {}) == json.dumps(shown)
    assert list(secret_places(data)) == [f"inner[0].{name}"]


@given(names, secrets, st.text(" abc'\"", max_size=8))
def test_no_secret_survives_in_a_command(name: str, secret: str, more: str) -> None:
    for argument in ([f"{name}={secret}{more}"], [f"--{name}", secret], [f"--{name}={secret}"]):
        assert secret not in redact(shlex.join(["pairmill", "curate", "r.yaml", *argument, "image.size=64"]), {})


@given(names, secrets, st.text("abc/?#@:", max_size=8))
def test_no_secret_survives_in_a_url(name: str, secret: str, more: str) -> None:
    for url in (
        f"https://u:{secret}@h/p",
        f"https://h/p?a=1&{name}={secret}&b=2",
        f"https://{quote(more + secret, safe='')}@h/",
    ):
        assert secret not in redact(url, {})
        assert secret not in redact(f"cannot load {url}: refused", {})
        assert secret not in redact(quote(url, safe=""), {})


def test_the_rest_of_the_text_stays() -> None:
    assert redact('{"token": "abc1", "run_dir": "/runs/1"}', {}) == f'{{"token": "{MASK}", "run_dir": "/runs/1"}}'
    assert redact("http://h/?token=abc&height=4", {}) == f"http://h/?token={MASK}&height=4"
    assert redact("-H 'Authorization: Bearer abcdef12' image.size=4", {}) == f"-H 'Authorization: {MASK}' image.size=4"


def test_values_of_secret_named_variables_are_masked_wherever_they_stand() -> None:
    environment = {
        "RAY_AUTH_TOKEN": "0123456789abcdef",
        "HUB_TOKEN": f"/{A}+/{A}==",
        "MY_PASSWORD": "/run/secrets/x",
        "TOKENIZERS_PARALLELISM": "sometimes",
        "MY_TOKEN": "no",
    }
    assert redact("got 0123456789abcdef, sometimes, no", environment) == f"got {MASK}, sometimes, no"
    assert redact(f"got /{A}+/{A}==, no /run/secrets/x", environment) == f"got {MASK}, no /run/secrets/x"


@pytest.mark.parametrize("text", ["STABILITY_KEY=§", "cohere_key: '§'", '{"fireworksKey": "§"}', "ENV DEEPL_KEY §"])
def test_a_key_of_some_service_is_masked_if_it_looks_like_one(text: str) -> None:
    assert A not in redact(text.replace("§", A), {})
    assert redact(text.replace("§", "name"), {}) == text.replace("§", "name")


@pytest.mark.parametrize("secret", ["abc{def}ghi", "$hunter22{x", "${NAME}/x", "${NAME:-hunter22}"])
def test_a_secret_with_braces_is_masked_to_its_end(secret: str) -> None:
    assert redact(f"secret: {secret}\nname: x", {}) == f"secret: {MASK}\nname: x"


def test_each_of_a_list_under_a_secret_name_is_masked() -> None:
    data = {"api_keys": ["abcdefgh", "${KEY}"], "tokens": ["a", "b"]}
    assert redact_data(data, {}) == {"api_keys": [MASK, "${KEY}"], "tokens": ["a", "b"]}
    assert list(secret_places(data)) == ["api_keys[0]"]


def test_secrets_of_a_recipe_are_found_by_their_keys() -> None:
    looped: dict[str, object] = {"where": "token = 'x' and is_null(secret)", "prompts": ["Which password: is it?"]}
    looped["self"] = looped
    assert list(secret_places(looped)) == []
    found = {
        "extra_body": {"apiKey": "k", "api_key": "${KEY}", "password": 123456, "use_token": True, "token": None},
        "args": ["--api-key", "sk1", "--port", "80", "--password=x1"],
        "where": "url = 'https://u:p@h/'",
        "file_mounts": {"/home/.ray/auth_token": "~/.ray/auth_token"},
    }
    assert list(secret_places(found)) == ["extra_body.apiKey", "extra_body.password", "args[1]", "args[4]", "where"]


@pytest.mark.parametrize(
    "part", ["a.b-", "a:", "://", "\\", '"', "password ", "?a=", "x:y@", "sk-", "glpat-", "-----BEGIN PRIVATE KEY-----"]
)
def test_a_long_line_takes_no_time(part: str) -> None:
    began = time.perf_counter()
    redact(part * (300_000 // len(part)), {})
    assert time.perf_counter() - began < 20  # about a second; hours if each part were searched from anew
