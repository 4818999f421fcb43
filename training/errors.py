"""How an error inside a training worker reaches the person who started the run."""

from __future__ import annotations

from pairmill.errors import IntegrityError, JobError, PairmillError, RecipeError, UserError
from pairmill.store import Store

#: What ended the run: `parts`, an error's rule, value and fix or its message, and whether `ours` is the fault.
ERROR_FILE = "error.json"


class FinalError(JobError):
    """The run failed in a way that trying again cannot fix; all workers raise it alike."""

    def __init__(self, *parts: str) -> None:
        """parts: a message, or the rule, value and fix of a UserError."""
        super().__init__("\n".join(parts))
        self.parts = list(parts)


def diverged(what: str, saved: int | None) -> FinalError:
    """The error of a run whose loss or weights are no longer finite.  saved: its last checkpoint's step, if any."""
    kept = "no checkpoint was saved before" if saved is None else f"the last checkpoint, of step {saved}, is intact"
    return FinalError(
        f"{what}; {kept}\n"
        "fix: lower optim.lr, lengthen optim.warmup_steps, set optim.clip_norm: 1, or use bf16 in place of fp16"
    )


def parts_of(error: UserError) -> tuple[str, str, str]:
    """What ERROR_FILE holds of a UserError; `reported_error` makes an error of it again."""
    return error.rule, str(error.value), error.fix


def leave_error(store: Store, error: PairmillError) -> None:
    """Leave in ERROR_FILE what ends the run."""
    parts = list(parts_of(error)) if isinstance(error, UserError) else [str(error)]
    if isinstance(error, FinalError):
        parts = error.parts
    store.write_json(ERROR_FILE, {"parts": parts, "ours": isinstance(error, IntegrityError)})


def reported_error(store: Store) -> PairmillError | None:
    """The error that a worker left in ERROR_FILE; None if there is none."""
    left = store.read_json(ERROR_FILE)
    if left is None:
        return None
    parts = left["parts"]
    if left["ours"]:
        return IntegrityError(*parts)
    return RecipeError(parts[0], value=parts[1], fix=parts[2]) if len(parts) == 3 else JobError(*parts)
