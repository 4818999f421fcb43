"""Zero-shot classification: an image has the class whose averaged prompt embedding is nearest (Radford et al. 2021).

    class names × templates → prompts → unit embeddings → mean → unit classifier row a class
    image embeddings × classifier → metrics, of each language

Shapes: N images, C classes, T templates, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.evaluate.dataset_kinds import DatasetKind, Embedded
from training.evaluate.evaluated_rows import open_dataset, read_rows
from training.evaluate.prompts import class_names_of, fill, templates_of

if TYPE_CHECKING:
    from torch import Tensor

    from training.evaluate.encoder import Encoder


class ZeroShotConfig(NamedConfig):
    """Names of the classes, and the prompts made of them."""

    class_names: str = Field(
        description="file of class names (JSON list, JSON {language: list}, or one a line), or `imagenet`"
    )
    templates: str | None = Field(
        None,
        description="file of prompt templates, in the same forms, `{c}` or `{}` for the class name; "
        "null: OpenAI's 80 for en, ours for zh, the bare name otherwise",
    )
    label: Literal["auto", "name", "index"] = Field(
        "auto",
        description="how a row gives its class; name: a text is a class name; index: a `.cls` member, an integer "
        "column (`label`, `cls` or `text_column`) or a text is a 0-based number; auto: index where there is such a "
        "member or column, else name",
    )


class ZeroShot(DatasetKind):
    """A text of a row names its class: zero-shot classification, one record a language of the class names.

    An image's features are compared with a classifier made of prompts (Radford et al. 2021).
    """

    Config = ZeroShotConfig
    task = "zeroshot_classification"
    gives = ("image_ND", "class_CD", "label_N", "name_C")
    config: ZeroShotConfig

    def check(self) -> None:
        """Raises RecipeError if the files of names and templates are wrong, or names are no labels."""
        self._labels(self._prompts()[0])

    def __call__(self, encoder: Encoder) -> Iterator[Embedded]:
        """One for each language."""
        import torch

        class_names, templates = self._prompts()
        labels = self._labels(class_names)
        rows = encoder.rows(
            read_rows(self.dataset),
            lambda row: labels([text.text for text in row.texts], row.label),
            reason="no_label",
            max_images=self.evaluate.max_images,
        )
        self.refuse_empty(rows, "check `class_names` and `label` against the texts of its rows")
        label_N = torch.tensor(rows.chosen, device=encoder.device)
        for language, names in class_names.items():
            # Classes of one name have one embedding: what comes out for them is a tie, to the last bit.
            numbers = encoder.prompt_sets([fill(template, name) for template in templates[language]] for name in names)
            distinct = dict(zip(numbers, names, strict=True))
            weights = classifier_weights(
                encoder.texts, list(distinct.values()), templates[language], encoder.batch_size
            )
            name_C = torch.tensor(numbers, device=encoder.device)
            features = {
                "image_ND": rows.image_ND,
                "class_CD": weights[name_C],
                "label_N": label_N,
                "name_C": name_C,
            }
            prompts = len(names) * len(templates[language])
            yield Embedded(language, len(rows.chosen), prompts, features, rows.skipped)

    def _labels(self, class_names: dict[str, list[str]]) -> Labels:
        by = self.config.label
        if by == "auto":
            by = "index" if open_dataset(self.dataset).labelled else "name"
        return Labels(class_names, by)

    def _prompts(self) -> tuple[dict[str, list[str]], dict[str, tuple[str, ...]]]:
        """Names of the classes, and templates, by language."""
        class_names = class_names_of(self.config.class_names, self.languages)
        return class_names, {language: templates_of(language, self.config.templates) for language in class_names}


def classifier_weights(
    embed: Callable[[list[str]], Tensor], class_names: Sequence[str], templates: Sequence[str], batch_size: int = 256
) -> Tensor:
    """Classifier float32 [C, D]: every prompt's unit embedding, averaged over the templates, made unit again.

    embed: texts to unit embeddings float32 [n, D].  About `batch_size` prompts are embedded at a time, whole classes
    together, so memory does not grow with C·T.  The recipe of OpenAI's CLIP notebook, in open_clip as well.
    """
    import torch
    from torch.nn.functional import normalize

    classes = max(1, batch_size // len(templates))
    weights = []
    for first in range(0, len(class_names), classes):
        names = class_names[first : first + classes]
        prompts_D = embed([fill(template, name) for name in names for template in templates])
        weights.append(normalize(prompts_D.view(len(names), len(templates), -1).mean(1), dim=-1))
    return torch.cat(weights)


class Labels:
    """The class of a row, from its texts."""

    def __init__(self, class_names: dict[str, list[str]], by: str) -> None:
        """by: `name` (a text equals a class name in any language, case and outer space apart) or `index` (0-based).

        Raises RecipeError if two classes share a name, since then a name is no label.
        """
        self._classes = len(next(iter(class_names.values())))
        self._of: dict[str, int] | None = None
        if by == "index":
            return
        self._of = {}
        for names in class_names.values():
            for label, name in enumerate(names):
                if not name:
                    continue
                other = self._of.setdefault(_folded(name), label)
                if other != label:
                    raise RecipeError(
                        "class names must differ from each other where a row's class is given by name",
                        value=f"{name!r} is class {other} and class {label}",
                        fix="rename one, or give classes by number with `label: index`",
                    )

    def __call__(self, texts: Sequence[str], number: int | None = None) -> int | None:
        """The class of the first text that names one, or by index of `number`; None if none does."""
        if self._of is not None:
            return next((label for text in texts if (label := self._of.get(_folded(text))) is not None), None)
        numbers = [number] if number is not None else [int(text) for text in texts if text.strip().isdecimal()]
        return next((label for label in numbers if 0 <= label < self._classes), None)


def _folded(name: str) -> str:
    return name.strip().casefold()
