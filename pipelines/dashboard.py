"""Where the cluster's dashboard is, and whether it lets in people without a token.

Anyone who reaches an open dashboard can submit a job, that is, run any code on the cluster.
"""

from __future__ import annotations

import ipaddress
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pairmill.errors import UserError
from pairmill.redaction import redact
from pipelines.jobs import check_address, use_token

_TIMEOUT_S = 10.0
_REFUSED = (401, 403)


def check_dashboard(address: str | None) -> dict[str, Any]:
    """The dashboard's `url` (no credentials), and whether it is `protected`: shows its jobs only to holders of a token.

    address: its URL; None: that of RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the cluster on this machine.
    Raises UserError if no dashboard answers, and if an open one can be reached from other machines.
    """
    url = without_credentials(find_dashboard(address))
    protected = _asks_for_token(url)
    if not protected and not is_loopback(url):
        raise UserError(
            "a dashboard that other machines can reach must require a token, or they can run code on the cluster",
            value=f"{url}/api/jobs/ answers without one",
            fix="set RAY_AUTH_MODE=token where `ray start` runs, on every node, and start the cluster again",
        )
    return {"url": url, "protected": protected}


def find_dashboard(address: str | None) -> str:
    """The dashboard's URL.  Raises UserError where none is given and no cluster runs."""
    if address is not None:
        check_address(address)
        return address.rstrip("/")
    use_token()
    from ray.dashboard.utils import get_address_for_submission_client

    try:
        return str(get_address_for_submission_client(None)).rstrip("/")
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            "--address must be given where no Ray cluster runs on this machine",
            value=redact(str(error) or repr(error)).splitlines()[0],
            fix="give --address http://HOST:8265, or start one: RAY_AUTH_MODE=token ray start --head",
        ) from error


def without_credentials(url: str) -> str:
    """`url` without user:password@."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine and reachable from nowhere else."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _asks_for_token(url: str) -> bool:
    """Ask for the list of jobs as a stranger would."""
    try:
        with urllib.request.urlopen(f"{url}/api/jobs/", timeout=_TIMEOUT_S) as answer:
            if isinstance(json.load(answer), list):
                return False
        found = "no list of jobs"
    except urllib.error.HTTPError as error:
        if error.code in _REFUSED:
            return True
        found = f"HTTP {error.code}"
    except ValueError:
        found = "no list of jobs"
    except OSError as error:
        found = str(error)
    raise UserError(
        "--address must be that of Ray's dashboard", value=f"{url}/api/jobs/: {found}", fix="check host and port"
    )
