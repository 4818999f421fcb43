"""Class names and prompt templates of zero-shot classification, by language, from files or built in."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from pairmill.errors import RecipeError
from pairmill.languages import canonical, primary

logger = logging.getLogger("pairmill")

#: The language of a file that does not name its own.
DEFAULT_LANGUAGE = "en"

#: Chinese counterparts of the kinds of view that OpenAI's templates name: plain, bad, close, drawn, made, many, one.
CHINESE_TEMPLATES = (
    "{c}",
    "{c}的照片。",
    "一张{c}的照片。",
    "一张模糊的{c}照片。",
    "一张清晰的{c}照片。",
    "一张{c}的特写照片。",
    "许多{c}的照片。",
    "照片里有{c}。",
    "画面中的{c}。",
    "一幅{c}的画。",
    "一张{c}的素描。",
    "{c}的卡通画。",
    "{c}的图标。",
    "{c}的雕塑。",
    "{c}的玩具。",
    "这是{c}。",
)


def templates_of(language: str, path: str | None = None) -> tuple[str, ...]:
    """Prompt templates, `{c}` the class name.

    Without a file: OpenAI's 80 ImageNet templates for en (as open_clip ships them), ours for zh, and the bare class
    name for any other language.  Raises RecipeError if the file has none for `language`, or one has no place for the
    class name.
    """
    if path is None:
        if primary(language) == "en":
            from open_clip import OPENAI_IMAGENET_TEMPLATES

            return tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES)
        return CHINESE_TEMPLATES if primary(language) == "zh" else ("{c}",)
    language, by_language = canonical(language), read_lists(path, "templates", language)
    if language not in by_language:
        raise RecipeError(
            f"the templates file must have templates for every language evaluated, here {language}",
            value=", ".join(by_language),
            fix=f"add {language} to {path}, or name the languages to evaluate in `languages`",
        )
    own = by_language[language]
    for template in filter(None, own) if any(own) else [""]:
        if "{c}" not in template and "{}" not in template:
            raise RecipeError(
                "a prompt template must hold {c} or {}, the class name", value=template, fix=f"fix {path}"
            )
    return tuple(own)


def fill(template: str, class_name: str) -> str:
    """The prompt; only the place of the class name is special, other braces are text."""
    return template.replace("{c}" if "{c}" in template else "{}", class_name)


def class_names_of(path: str, languages: Sequence[str] | None) -> dict[str, list[str]]:
    """Class names by language, each list in the same order of classes; `imagenet` is open_clip's English list.

    languages: the ones to use (None: all in the file); the first is that of a file which names none.
    Raises RecipeError if a language is missing, or the lists differ in length or are empty.
    """
    if path == "imagenet":
        from open_clip import IMAGENET_CLASSNAMES

        found = {DEFAULT_LANGUAGE: list(IMAGENET_CLASSNAMES)}
    else:
        found = read_lists(path, "class_names", languages[0] if languages else DEFAULT_LANGUAGE)
    languages = list(dict.fromkeys(map(canonical, languages))) if languages is not None else None
    missing = [language for language in languages or () if language not in found]
    if missing:
        raise RecipeError(
            "class_names must have the names in every language evaluated",
            value=f"{', '.join(missing)} is not in {path}, which has {', '.join(found)}",
            fix="add the names, or name the languages to evaluate in `languages`",
        )
    found = {language: found[language] for language in languages or found}
    sizes = {language: len(names) for language, names in found.items()}
    if len(set(sizes.values())) != 1 or not all(map(any, found.values())):
        raise RecipeError(
            "class_names must have one list per language, of the same classes in the same order",
            value=", ".join(f"{language}: {size}" for language, size in sizes.items()) or "nothing",
            fix=f"fix {path}",
        )
    return found


def read_lists(path: str, key: str, language: str) -> dict[str, list[str]]:
    """A file of strings by language: JSON {language: list}, or a JSON list or one a line, which are in `language`.

    Each line is one, an empty one too, as in CLIP_benchmark; those are named in a warning.
    key: the recipe key, for the error.  Raises RecipeError if the file cannot be read or holds anything else.
    """
    forms = 'write a JSON list, JSON {"en": [...], "zh": [...]}, or plain text with one a line'
    try:
        # With or without the mark that editors of Windows put first: no text of ours begins with it.
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"`{key}` must be a readable UTF-8 file", value=f"{path}: {error}", fix=forms) from error
    if text.lstrip()[:1] not in ("[", "{") or not path.endswith(".json"):
        return {canonical(language): _told([line.strip() for line in text.splitlines()], key, path)}
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"`{key}` must be valid JSON", value=f"{path}: {error}", fix=forms) from error
    lists = data if isinstance(data, dict) else {language: data}
    spelled = [canonical(name) for name in lists]
    if len(set(spelled)) < len(spelled):
        raise RecipeError(
            f"`{key}` must have one list per language",
            value=f"{path}: {', '.join(lists)}",
            fix="join them, or remove one",
        )
    lists = dict(zip(spelled, lists.values(), strict=True))
    for names in lists.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RecipeError(f"`{key}` must hold lists of strings", value=str(names)[:80], fix=forms)
        _told(names, key, path)
    return lists


def _told(lines: list[str], key: str, path: str) -> list[str]:
    """The lines, after a warning that names empty ones."""
    if empty := [str(number) for number, line in enumerate(lines, 1) if not line]:
        what = "a class without a name" if key == "class_names" else "a prompt without text"
        logger.warning("%s: an empty line is %s, as in CLIP_benchmark; remove line %s", path, what, ", ".join(empty))
    return lines
