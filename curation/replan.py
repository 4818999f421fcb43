"""Cut the lists of a run once more, to give a damaged shard of its plan back as it was.

Nothing else of a run holds its rows' URLs and texts.  Planning is deterministic, so equal lists give an equal shard; a
list that has changed, or rows that were forgotten since, do not, and then nothing is written.
"""

from __future__ import annotations

import hashlib
import logging

from curation.inputs import InputConfig
from curation.listing import PlannedList
from curation.plan import ShardsConfig, extend, plan
from curation.plan_file import Plan
from curation.table import PLAN
from pairmill.errors import UserError
from pairmill.layout import ASIDE
from pairmill.store import Store, shard_file

logger = logging.getLogger("pairmill")


def plan_again(store: Store, planned: Plan, inputs: InputConfig, shards: ShardsConfig, shard: int) -> bool:
    """Commit a shard of the plan as it was, if the lists are still there; whether that was possible.

    inputs, shards: as in the run's recipe.  What is in its place is kept aside.  The caller must hold the run's lock.
    Costs what planning costs.
    """
    logger.warning("shard %d of the plan is damaged or gone: the lists are read again", shard)
    number, listed = next((n, one) for n, one in enumerate(planned.inputs) if shard in one.shard_numbers())
    with store.scratch("replan") as folder:
        other = Store(str(folder / "run"))
        try:
            for at, one in enumerate(planned.inputs[: number + 1]):
                columns = {"url_column": one.url_column, "text_column": one.text_column, "quoting": one.quoting}
                given = inputs.model_copy(update={**columns, "path": one.given[0]})
                if at == 0:
                    plan(other, given, shards)
                else:
                    extend(other, one.given, given, shards)
        except (OSError, UserError) as error:
            logger.warning("the lists cannot be read as they were: %s", error)
            return False
        made = other.index(PLAN)
        if _fingerprint({n: entry.content for n, entry in made.items()}, listed) != listed.fingerprint:
            logger.warning("the lists are not what they were, or rows were forgotten since")
            return False
        name, rows, entry = shard_file(PLAN, shard), other.load(PLAN, shard), made[shard]
        there = store.index(PLAN).get(shard)
        if there is not None and there.content != entry.content:
            logger.warning("rows of the shard were forgotten since it was planned")
            return False
        if store.exists(name):
            store.set_aside(name, ASIDE)
        store.commit(PLAN, shard, entry.key, rows, {"list": number})
    return True


def _fingerprint(contents: dict[int, str], listed: PlannedList) -> str:
    """The fingerprint of a list whose shards have these contents."""
    fingerprint = hashlib.blake2b(digest_size=8)
    for shard in listed.shard_numbers():
        fingerprint.update(contents.get(shard, "").encode())
    return fingerprint.hexdigest()
