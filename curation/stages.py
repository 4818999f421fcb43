"""The stages, in the order in which a row passes them.  A stage is its declaration (`curation.stage`)."""

from __future__ import annotations

from curation.stage import NamedStage, Stage
from pairmill.registry import Registry, derived_from

#: Those of every recipe; each has its own section there.
STAGES: Registry[type[Stage]] = Registry(
    "stages",
    {
        "plan": "curation.plan:Planned",
        "download": "curation.download:Download",
        "inspect": "curation.images.stage:Inspect",
        "policy": "curation.policy:Policy",
        "filter": "curation.filters.stage:Filter",
        "deduplicate": "curation.duplicates.stage:Deduplicate",
        "recaption": "curation.recaption:Recaption",
        "translate": "curation.translate:Translate",
        "gate": "curation.gates.stage:GateStage",
        "pack": "curation.pack:Pack",
    },
)


#: Sections of any number of stages, by names that the recipe chooses; their stages come after ours of their segment,
#: and after those of them whose columns they read.  An entry of `embed` makes two stages.
SECTIONS: Registry[type[NamedStage]] = Registry(
    "stages",
    {
        "embed": "curation.embedding.stage:Embed",
        "embed_texts": "curation.embedding.generated_texts:EmbedTexts",
        "score": "curation.heads.stage:Score",
        "decontaminate": "curation.decontamination.stage:Decontaminate",
    },
)

#: Those that a recipe's list `stages` may name; a user's own needs no line here, only its import path.
CHOSEN_STAGES: Registry[type[Stage]] = Registry("stages", check=derived_from(Stage, key="stages"))
