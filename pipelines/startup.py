"""What the command sets for its process before anything else."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from types import TracebackType

from pairmill.stopping import is_command
from pipelines.output import keep_stdout


def prepare_process() -> None:
    """Keep stdout for results, log to stderr, end on SIGTERM as on Ctrl-C, and start faster."""
    # Imports make many objects that stay; at the default threshold of 700, a short command spends a twentieth of its
    # time looking through them for garbage.
    gc.set_threshold(20_000)
    keep_stdout()
    is_command()
    # Pydantic would read the metadata of every installed package in search of plugins, at every start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(_Redacted("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[shown])
    sys.excepthook = _show_traceback
    for noisy in ("ray", "aiohttp", "asyncio", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Redacted(logging.Formatter):
    """Log lines, with their tracebacks, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        from pairmill.redaction import redact

        return redact(super().format(record))


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from pairmill.redaction import redact

    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
