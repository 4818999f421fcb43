"""Prompts as data: what each stage that asks a model for texts has of them in the recipe, and in a file.

# prompts.yaml                                   recaption.prompts_file: prompts.yaml
short: {version: 2, text: "Describe this image in one sentence."}
tags: {version: 1, text: "List what this image shows, with commas."}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

from pydantic import Field, model_validator

from curation.engines.settings import EngineConfig
from curation.templates import Template
from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.yaml_text import read_mapping

#: Those of `layout.PROMPT_KINDS`.
Kind = Literal["short", "long", "rewritten", "tags", "question"]


class Prompt(Config):
    """One prompt, given for every row."""

    text: str = Field(
        description="the prompt; {NAME} stands for a column that the row has by then, such as {caption}, the alt text, "
        "and {input.NAME} for one of the list (curation/templates.py)"
    )
    kind: Kind | None = Field(
        default=None,
        description="kind of its texts; tags and question are not trained on unless named; null: the prompt's name "
        "where that is a kind, else long for captions and rewritten for rewritten texts",
    )
    version: Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = Field(
        default=None, description="version of the prompt, stored with each text: prompt_id is NAME@VERSION; null: none"
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="token limit of this prompt's texts; null: that of the section"
    )
    language: str | None = Field(
        default="en", description="language of its texts (ISO 639-1); null: that of the row's alt text"
    )


class PromptsConfig(EngineConfig):
    """Base of the sections of stages that ask a model for texts by prompts."""

    #: The kind of a prompt's texts where neither it nor its name says one.
    kind_otherwise: ClassVar[Kind] = "long"

    prompts_file: Path | None = Field(
        default=None,
        description="YAML file of prompts, each with a version, that are asked beside `prompts`; the run's recipe "
        "holds them as they were",
    )
    prompts: Mapping[str, str | Prompt] = Field(
        default={}, min_length=1, description="prompt_id -> prompt; one text is written for each"
    )
    max_new_tokens: int = Field(
        default=256,
        ge=1,
        description="token limit of a text; long captions have about 136 tokens (LoTLIP, Wu et al. 2024)",
    )
    temperature: float = Field(
        default=0.0, ge=0, description="temperature of sampling; 0: always the most probable token"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="total probability of the smallest set of tokens to sample from"
    )
    seed: int = Field(default=0, ge=0, description="seed of sampling; with what a text is made from, it decides a text")

    @model_validator(mode="before")
    @classmethod
    def _with_prompts_of_the_file(cls, given: Any) -> Any:
        """The prompts of the file become the recipe's: a run keeps them, and workers need no file."""
        own = given.get("prompts") or {} if isinstance(given, Mapping) else None
        if not isinstance(own, Mapping):
            return given
        found: Mapping[str, Any] = {}
        if (file := given.get("prompts_file")) is not None:
            found = read_prompts(Path(str(file)))
        if twice := sorted(found.keys() & own.keys()):
            raise RecipeError(
                "prompts and prompts_file must name each prompt once",
                value=f"{twice[0]}, in both",
                fix=f"rename or remove it in the recipe, or in {file}",
            )
        for name, prompt in {**found, **own}.items():
            if isinstance(prompt, Mapping):
                # Of a value that may be a text too, pydantic would say that it is none.
                Prompt.checked(prompt, at=f"prompts.{name}")
        return {**given, "prompts_file": None, "prompts": {**found, **own}} if found else given

    @model_validator(mode="after")
    def _prompt_ids_are_words(self) -> PromptsConfig:
        for prompt_id in self.prompts:
            if not prompt_id.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"prompts: a name must consist of letters, digits, _ and -, got {prompt_id!r}")
        return self

    def resolved_prompts(self) -> dict[str, Prompt]:
        """Every prompt with its kind and token limit filled in."""
        resolved = {}
        for name, given in self.prompts.items():
            prompt = Prompt(text=given) if isinstance(given, str) else given
            kind = prompt.kind or (cast(Kind, name) if name in get_args(Kind) else self.kind_otherwise)
            limit = prompt.max_new_tokens or self.max_new_tokens
            resolved[name] = prompt.model_copy(update={"kind": kind, "max_new_tokens": limit})
        return resolved

    def identity(self) -> dict[str, Any]:
        """What decides the texts; sampling is left out if the most probable token is taken."""
        unused = {"prompts_file"} | ({"top_p", "seed"} if self.temperature == 0 else set())
        kept = {name: value for name, value in super().identity().items() if name not in unused}
        prompts = {name: prompt.identity() for name, prompt in self.resolved_prompts().items()}
        return {**kept, "prompts": prompts}

    def sampling(self) -> dict[str, float]:
        """What decides how tokens are chosen, beside the seed."""
        return {"temperature": self.temperature} | ({"top_p": self.top_p} if self.temperature > 0 else {})

    def described_sampling(self, prompt: Prompt) -> str:
        """How the tokens of a text were chosen, as stored: `greedy,max_new_tokens=64`."""
        how = "greedy"
        if self.temperature > 0:
            how = f"temperature={self.temperature:g},top_p={self.top_p:g},seed={self.seed}"
        return f"{how},max_new_tokens={prompt.max_new_tokens}"


def read_prompts(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> the keys of a prompt.  Raises RecipeError for an unreadable file, or a prompt without a version."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a character that no path has
        why = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(
            "prompts_file must name a readable file", value=f"{str(file)!r}: {why}", fix="correct the path"
        ) from error
    found = read_mapping(text, str(file))
    for name, prompt in found.items():
        if not isinstance(prompt, Mapping) or prompt.get("version") is None:
            raise RecipeError(
                "each prompt of prompts_file must be a mapping with a text and a version",
                value=f"{name} of {file}: {prompt!r}"[:200],
                fix=f"write {name}: {{version: 1, text: …}}",
            )
    return found


def prompt_id(name: str, prompt: Prompt) -> str:
    """What is stored with each text of a prompt."""
    return name if prompt.version is None else f"{name}@{prompt.version}"


def templates_of(config: PromptsConfig) -> dict[str, Template]:
    """The template of each prompt."""
    return {name: Template(prompt.text) for name, prompt in config.resolved_prompts().items()}


def text_seed(seed: int, source: str, prompt: str) -> int:
    """The 31-bit seed (servers take no more) of one text, the same in any batch, shard and run.

    source: the digest of the picture or text that it is made from.  prompt: as the engine gets it.
    """
    content = f"{seed}\0{source}\0{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=4).digest(), "big") >> 1
