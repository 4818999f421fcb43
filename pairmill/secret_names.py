"""Which names stand for secrets: of keys, variables, options, headers and parameters of a URL, in every spelling.

A name is cut into words, at changes of case and at anything that is no letter: `AWS_SECRET_ACCESS_KEY`, `apiKey` and
`x-api-key` are aws·secret·access·key, api·key and x·api·key.
"""

from __future__ import annotations

import re
from functools import lru_cache


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")

#: A name with one of these words is secret.
_ALWAYS = words(
    "password passwords passwd passwort kennwort passphrase passcode passkey pwd secret secrets credential "
    "credentials authorization apikey apikeys apitoken accesskey secretkey privatekey accountkey authkey sharedkey "
    "signingkey masterkey storagekey sshkey encryptionkey subscriptionkey licensekey connectionstring connstr token "
    "jwt"
)
#: A name is secret if its words, written together, hold one of these.
_TOGETHER = re.compile(
    r"apikey|accesskey|secretkey|privatekey|accountkey|authkey|sharedkey|sharedaccess|signingkey|masterkey|storagekey"
    r"|sshkey|encryptionkey|subscriptionkey|functions?key|consumerkey|servicekey|licensekey|connectionstring"
    r"|(?:access|api|auth|refresh|bearer|id|session|security|csrf|xsrf|app|bot|user)tokens?(?!iz)|sessionid|sessid"
    r"|clientsecret|keyphrase"
)
#: Run together with words before them: pgpassword, mypwd, dbsecret.
_ENDING = re.compile(r"(?:password|passwd|passphrase|secret|apikey|credentials|(?<!lex)token|pwd)\Z")
#: A name is secret if its last word is one of these, and the value looks like one (`pairmill.redaction`).
_LAST = words("pw signature sig sas auth cookie otp totp pin mfa pat dsn")
#: A key behind another word is secret if it looks like one (`STABILITY_KEY`), but not these.
_KEY_OF = words(
    "primary foreign sort partition group row cache job dedup object s3 public composite natural index image text join "
    "order map dict json unique surrogate bucket hot arrow"
)
#: `dbPass`, `smtp_pass`; but not `first_pass`.
_PASS_OF = words("db user smtp mysql sql pg postgres redis mongo ftp http https proxy admin root email mail my require")
#: Parameters of a URL that are secret there and nowhere else.
_QUERY = words("session key sig code auth sid hmac pass pw access ticket signature credential policy hdnts hdnea")

#: A name that ends so says something about a secret, and is none: where it is, how long, how many.
_ABOUT = words(
    "env envvar variable file files filename path paths dir folder name names count counts number len length size "
    "type types limit limits budget index indices ids mask pos position embedding embeddings dim probs logprobs "
    "logprob url uri endpoint expiry expires expiration ttl version policy provider header headers field column ref "
    "manager izer per"
)
#: Tokens of a vocabulary or of a text.
_VOCABULARY = words(
    "pad eos bos unk sep cls mask image special next start end begin decoder vocab max min num n new prompt "
    "completion input output total text stop first last sot eot unexpected invalid unknown mean per"
)

#: Words for no value, or for one that is no text.
NULLS = words("true false null none nil yes no on off nan")
#: What stands for a value that is somewhere else, or is masked.
PLACEHOLDER = re.compile(
    r"\$\{?[A-Za-z_]\w*\}?|\$\{oc\.env:\w+\}|\$?\{\{.*\}\}|<[\w /-]+>|%\(\w+\)s|\$\(.*|\*{3,}|…|\.\.\.|\\?", re.DOTALL
)


def _split(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether the value of this name is a secret, whatever it looks like."""
    parts = _split(name)
    if not parts or parts[-1] in _ABOUT:
        return False
    joined = "".join(parts)
    if "token" in parts and not _VOCABULARY.isdisjoint(parts):
        return False
    if parts[-1] == "id" and joined.endswith("tokenid"):
        return False
    if not _ALWAYS.isdisjoint(parts) or _TOGETHER.search(joined):
        return True
    if parts[-1] == "pass":
        return len(parts) == 1 or parts[-2] in _PASS_OF
    return bool(_ENDING.search(parts[-1])) or (parts[-1].endswith("pass") and parts[-1][:-4] in _PASS_OF)


@lru_cache(maxsize=4096)
def may_be_secret_name(name: str) -> bool:
    """Whether the value of this name is a secret if it looks like one: `signature: f3a9…`, not `signature: none`."""
    parts = _split(name)
    named_key = len(parts) > 1 and parts[-1] == "key" and parts[-2] not in _KEY_OF
    return named_key or (bool(parts) and parts[-1] in _LAST)


@lru_cache(maxsize=4096)
def is_secret_parameter(name: str) -> bool:
    """Whether a parameter of a URL of this name is a secret."""
    parts = _split(name)
    return is_secret_name(name) or (bool(parts) and (parts[-1] in _QUERY | _LAST or parts[-2:] == ["pair", "id"]))


def is_nothing(value: str, nothing: frozenset[str] = NULLS) -> bool:
    """Whether this stands for a value, or for none."""
    return value.lower() in nothing or bool(PLACEHOLDER.fullmatch(value))
