"""What Ray Train calls on every worker.

Separate from the work itself because Ray Train's controller unpickles it too: importing torch and open_clip there would
delay the start of the workers by 10 s, and the workers import them again.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any


def launch(config: Mapping[str, Any]) -> None:
    """Run `training.worker.work` on the pickled payload.

    path: where the driver looks for modules: a user's own objective is found on workers that see the same folders.
    """
    from pairmill.registry import look_in
    from training.worker import work

    look_in(config["path"])
    work(pickle.loads(config["payload"]))
