"""For each key of the recipe another value, and the tables that it makes stale: for `test_staleness`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
from tiny_encoders import VIT

from curation.engines.model_files import resolve
from curation.gates.gate import GATES
from curation.stage import Column, Stage
from pairmill.registry import NamedConfig
from pipelines.doctor import project_root

MODELS = project_root() / "samples" / "models"

#: A file with a text a line.
PHRASES = project_root() / "curation" / "data" / "boilerplate.txt"

BASE: dict[str, Any] = {
    "run_dir": "run",
    "input": {"path": "urls.parquet"},
    "recaption": {"model": str(MODELS / "captioner"), "prompts": {"short": "say"}},
    "translate": {"model": str(MODELS / "translator"), "engine": {"name": "transformers", "pair": ["en", "zh"]}},
}


class Darkness(Stage):
    """A user's own stage."""

    name, segment = "darkness", "score"
    reads = ("entropy",)
    adds = (Column("dark", pa.float32()),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows


class Prude:
    """A user's own image head."""

    Config, input, columns = NamedConfig, "pixels", pa.schema([("nsfw", pa.float32())])

    @classmethod
    def revision(cls, config: NamedConfig) -> str:
        return "1"

    @classmethod
    def load(cls, config: NamedConfig) -> Any:
        raise NotImplementedError  # staleness needs no scores


class Change(NamedTuple):
    """Another value of a key, and the tables that it makes stale.  given: other keys, before and after."""

    value: Any
    stale: frozenset[str] = frozenset()
    given: Mapping[str, Any] = {}


def makes(table: str, *more: str) -> Any:
    def change(value: Any, **given: Any) -> Change:
        return Change(value, frozenset({table, *more}), {key.replace("__", "."): v for key, v in given.items()})

    return change


nothing = Change
policy = makes("columns/policy")
pictures = makes("images")
filtered = makes("columns/filter")
selected = makes("selections/default")
embeddings = makes("columns/embed-NAME", "columns/embed_texts-NAME")
captions = makes("columns/recaption")
translations = makes("columns/translate")
gated = makes("columns/gate")
product = makes("pairs")


def one_selection(value: Any, **given: Any) -> Change:
    """A change of a key of the selection NAME, which has these keys before and after."""
    before = {f"selections.NAME.{key}": one for key, one in {"from": "all", **given}.items()}
    return Change(value, frozenset({"selections/NAME"}), before)


#: A selection that is compared with another run.
AGAINST = {"selections.NAME.dedup": ["exact"], "selections.NAME.against": {"NAME": {"run": "one/run"}}}

#: Where the work is done and with how much; of every stage with workers of its own.
PLACEMENT = {
    "actors": 3,
    "actors_min": 1,
    "num_cpus": 2.0,
    "num_gpus": 1.0,
    "memory_gb": 4.0,
    "accelerator_type": "A100",
}

#: The section of a dual encoder; its weights are not read.
EMBED = {"embed": {"NAME": {"model": str(VIT), "pretrained": str(VIT)}}}

#: An evaluation set of one picture, and another.
PICTURES = sorted((project_root() / "samples" / "emoji" / "images").glob("*.webp"))[:2]
SETS = {"NAME": {"path": str(PICTURES[0])}}

#: The keys that heads must have; their files are not read.
HEAD: dict[str, dict[str, Any]] = {
    **{name: {"embedding": "NAME", "weights": str(VIT)} for name in ("mlp", "nevlp", "capro", "clusters")},
    "hard_groups": {"embedding": "NAME"},
    "faces": {"model": str(VIT)},
    "ocr": {"detector": str(VIT), "reader": str(VIT)},
    "onnx": {"model": str(VIT), "size": 32},
}

#: `recaption.prompts` that keys of one prompt are changed in.
PROMPT = {"NAME": {"text": "say"}}

FACES = {"size": 256, "threshold": 0.5, "overlap": 0.5}
MLP = {"features": "pair", "activation": "relu", "output": "sigmoid", "index": 1}
ONNX = {
    **{"size": 16, "resize": "longest", "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    **{"scale": 255.0, "colours": "BGR", "layout": "NHWC", "output": "y", "index": 1, "activation": "sigmoid"},
}


def head(name: str, *, stale: bool = True) -> Any:
    """The change of a key of a head of `score`."""
    two = {"NAME": EMBED["embed"]["NAME"], "other": EMBED["embed"]["NAME"]}
    given = {"embed": two, "score": {"NAME": {"name": name, **HEAD[name]}}}
    tables = frozenset({"columns/score-NAME"} if stale else ())
    return lambda value: Change(value, tables, given)


def of_set(value: Any, **given: Any) -> Change:
    """A change of a key of the evaluation set NAME.  given: sections of the recipe, before and after."""
    return Change(
        value, frozenset({"columns/decontaminate-NAME"}), {"decontaminate.NAME.path": str(PICTURES[0]), **given}
    )


def decontaminating(value: Any, rule: Any = None) -> Change:
    """A change of the rule `decontaminate` of the selection NAME, or of one of its keys."""
    before = {"selections.NAME.from": "all"} | ({"selections.NAME.decontaminate": rule} if rule else {})
    return Change(value, frozenset({"selections/NAME"}), {"decontaminate": {**SETS, "b": SETS["NAME"]}, **before})


#: What an entry must be given to be chosen at all.
NEEDED: dict[str, dict[str, Any]] = {
    "semantic_duplicate": {"embedding": "of_the_list"},
    "embedding": {"embedding": "NAME"},
    "image_text_score": {"encoder": "NAME", "margin": 0.0},
    "rendered_text": {"ocr": "words"},
    "log_probability": {"least": -1.0},
}

#: Two encoders and two readers, for gates to choose from.
TWICE = {
    "embed": {"NAME": EMBED["embed"]["NAME"], "other": EMBED["embed"]["NAME"]},
    "score": {name: {"name": "ocr", **HEAD["ocr"]} for name in ("words", "more")},
}

CHANGES: dict[str, Change] = {
    # Heads that score, each into its own table
    "score": makes("columns/score-NAME", "pairs")({"NAME": f"{__name__}:Prude"}),
    "score.NAME{faces}.model": head("faces")("{model}"),
    **{f"score.NAME{{faces}}.{key}": head("faces")(value) for key, value in FACES.items()},
    **{f"score.NAME{{faces}}.{key}": head("faces", stale=False)(value) for key, value in PLACEMENT.items()},
    "score.NAME{mlp}.embedding": head("mlp")("other"),
    "score.NAME{mlp}.weights": head("mlp")("{model}"),
    **{f"score.NAME{{mlp}}.{key}": head("mlp")(value) for key, value in MLP.items()},
    **{f"score.NAME{{{name}}}.embedding": head(name)("other") for name in ("nevlp", "capro", "clusters")},
    **{f"score.NAME{{{name}}}.weights": head(name)("{model}") for name in ("nevlp", "capro", "clusters")},
    "score.NAME{hard_groups}.embedding": head("hard_groups")("other"),
    "score.NAME{hard_groups}.size": head("hard_groups")(8),
    "score.NAME{hard_groups}.pool": head("hard_groups")(2),
    "score.NAME{capro}.temperature": head("capro")(0.2),
    "score.NAME{capro}.relabel": head("capro")(0.7),
    **{f"score.NAME{{ocr}}.{key}": head("ocr")("{model}") for key in ("detector", "reader")},
    "score.NAME{ocr}.size": head("ocr")(320),
    "score.NAME{ocr}.min_score": head("ocr")(0.25),
    **{f"score.NAME{{ocr}}.{key}": head("ocr", stale=False)(value) for key, value in PLACEMENT.items()},
    "score.NAME{onnx}.model": head("onnx")("{model}"),
    **{f"score.NAME{{onnx}}.{key}": head("onnx")(value) for key, value in ONNX.items()},
    "score.NAME{onnx}.batch_size": head("onnx", stale=False)(2),
    **{f"score.NAME{{onnx}}.{key}": head("onnx", stale=False)(value) for key, value in PLACEMENT.items()},
    # Evaluation sets, each with its own table
    "decontaminate": makes("columns/decontaminate-NAME")(SETS),
    "decontaminate.NAME.path": of_set(str(PICTURES[1])),
    **{f"decontaminate.NAME.{key}": of_set("other") for key in ("image_column", "text_column")},
    "decontaminate.NAME.kinds": of_set(["near_image"]),
    **{
        f"decontaminate.NAME.kinds[]{{near_image}}.{key}": of_set(3)
        for key in ("max_distance", "min_bits", "max_colour")
    },
    "decontaminate.NAME.kinds[]{near_image}.crop": of_set(0.1),
    "decontaminate.NAME.kinds[]{near_image}.max_difference": of_set(30.0),
    **{f"decontaminate.NAME.kinds[]{{caption}}.{key}": of_set(7) for key in ("words", "characters", "least")},
    "decontaminate.NAME.kinds[]{embedding}.cosine": of_set(0.9, **EMBED),
    "decontaminate.NAME.kinds[]{embedding}.embedding": of_set(
        "other", embed={"NAME": EMBED["embed"]["NAME"], "other": EMBED["embed"]["NAME"]}
    ),
    # Which models embed, each into its own table
    "embed": makes("columns/embed-NAME", "columns/embed_texts-NAME", "pairs")(EMBED["embed"]),
    "embed.NAME.model": embeddings("ViT-B-16", **EMBED),
    "embed.NAME.pretrained": embeddings("{model}", **EMBED),
    "embed.NAME.preprocess": embeddings("openai", embed={"NAME": {"model": "ViT-B-32", "pretrained": str(VIT)}}),
    "embed.NAME.revision": embeddings("{clip_content}", embed__NAME__model="{clip}"),
    "embed.NAME.texts": makes("columns/embed_texts-NAME", "pairs")("caption", **EMBED),
    "embed.NAME.long_texts": embeddings("windows", **EMBED),
    # The head comes before the encoder then, and so do its columns in the product.
    "embed.NAME.mask_text": makes("columns/embed-NAME", "columns/embed_texts-NAME", "pairs")(
        "words", **EMBED, score={"words": {"name": "ocr", **HEAD["ocr"]}}
    ),
    "embed.NAME.dtype": embeddings("bfloat16", **EMBED),
    "embed.NAME.batch_size": nothing(7, given=EMBED),
    "embed.NAME.device": nothing("cpu", given=EMBED),
    **{f"embed.NAME.{key}": nothing(value, given=EMBED) for key, value in PLACEMENT.items()},
    # Another list, or another way to cut it, is another run: planning refuses the directory.
    **{"run_dir": nothing("other"), "input.path": nothing("other.parquet"), "input.format": nothing("csv")},
    **{"input.url_column": nothing("u"), "input.text_column": nothing("t")},
    **{"input.quoting": nothing("none"), "input.bad_files": nothing("skip")},
    **{"shards.rows_per_shard": nothing(7), "shards.seed": nothing(1)},
    # How pictures are fetched
    "download.enabled": nothing(False),
    "download.engine": nothing("img2dataset"),
    "download.user_agent": nothing("pairmill/9 (+mailto:somebody@example.com)"),
    **{f"download.{key}": nothing(5.5) for key in ("timeout_s", "connect_timeout_s", "backoff_s", "robots_timeout_s")},
    **{f"download.{key}": nothing(5.5) for key in ("min_bytes_per_s", "min_rate_window_s", "per_host_rate")},
    **{f"download.{key}": nothing(5.5) for key in ("max_host_wait_s", "circuit_open_s")},
    **{f"download.{key}": nothing(7) for key in ("retries", "max_in_flight", "per_host_concurrency")},
    **{"download.per_address_concurrency": nothing(7), "download.content_networks": nothing(["10.0.0.0/8"])},
    "download.max_crawl_delay_s": nothing(5.5),
    **{"download.circuit_failures": nothing(7), "download.alarm_error_rate": nothing(0.9)},
    # What may be fetched and kept
    **{"download.max_bytes": policy(4096), "download.max_redirects": policy(1)},
    **{"download.respect_robots": policy(False), "download.respect_opt_out": policy(False)},
    **{"download.allow_networks": policy(["10.0.0.0/8"]), "download.allow_ports": policy([443])},
    "download.hash_blocklist": policy("{blocklist}"),
    **{"image.max_pixels": policy(1000), "image.max_frames": policy(1)},
    # What is stored of a picture
    **{"image.size": pictures(64), "image.resize": pictures("border"), "image.resize_only_if_bigger": pictures(True)},
    "image.format": makes("images", "pairs")("png"),
    **{"image.quality": pictures(80), "image.chroma": pictures("444"), "image.min_factor": pictures(3.0)},
    "image.decode_timeout_s": nothing(5.0),
    # Rules for texts and pictures
    **{f"filter.{key}": filtered(50) for key in ("min_side", "min_bytes", "min_characters", "max_characters")},
    **{f"filter.{key}": filtered(2) for key in ("min_words", "max_words", "max_images_per_text")},
    **{f"filter.{key}": filtered(0.25) for key in ("max_repeat_share", "max_digit_share", "min_language_score")},
    **{f"filter.{key}": filtered(1.5) for key in ("max_aspect", "min_sharpness", "min_entropy")},
    **{f"filter.{key}": filtered(False) for key in ("drop_url_captions", "drop_file_names", "drop_boilerplate")},
    **{"filter.boilerplate_file": filtered("{words}"), "filter.listed_words": filtered(["casino"])},
    **{"filter.languages": filtered(["en"]), "filter.nsfw_max": filtered(0.5), "filter.where": filtered("width > 3")},
    "filter.language_detector": filtered("lid.176"),
    "filter.nsfw_head": filtered({"name": "staleness_changes:Prude"}, filter__nsfw_max=0.5),
    **{
        "filter.quality_model": filtered("{model}"),
        "filter.min_quality": filtered(0.1, filter__quality_model="{model}"),
    },
    **{"filter.callables": filtered(["staleness_changes:keep_all"]), "filter.score_only": filtered(["nsfw"])},
    "filter.callables_on_error": filtered("drop"),
    "filter.callables_timeout_s": nothing(5.5),
    "filter.enabled": filtered(False),
    # Duplicates
    "deduplicate.enabled": selected(False),
    "deduplicate.kinds": selected([{"name": "near_duplicate_image", "max_distance": 2}]),
    **{
        f"deduplicate.kinds[]{{near_duplicate_image}}.{key}": selected(3)
        for key in ("max_distance", "min_bits", "max_colour")
    },
    **{
        f"deduplicate.kinds[]{{near_duplicate_text}}.{key}": selected(3)
        for key in ("ngram", "dense_ngram", "bands", "rows", "seed")
    },
    **{f"deduplicate.kinds[]{{near_duplicate_text}}.{key}": selected(0.9) for key in ("threshold", "recall")},
    **{f"deduplicate.kinds[]{{semantic_duplicate}}.{key}": selected(3) for key in ("clusters", "iterations", "probes")},
    "deduplicate.kinds[]{semantic_duplicate}.embedding": selected("other"),
    "deduplicate.kinds[]{semantic_duplicate}.epsilon": selected(0.02),
    "deduplicate.kinds[]{semantic_duplicate}.keep": selected("hard"),
    "deduplicate.kinds[]{semantic_duplicate}.seed": selected(3),
    "deduplicate.score": selected("entropy"),
    "deduplicate.keep": makes("selections/default", "pairs")("all"),
    # A selection of another name is another table, and what is made from it is made from that.
    "deduplicate.name": makes("selections/default", "columns/recaption", "columns/translate", "columns/gate")("other"),
    # Captions.  A key of one engine is `engine{name}.key`.
    **{f"recaption.{key}": nothing(value) for key, value in PLACEMENT.items()},
    "recaption.engine_timeout_s": nothing(5.5),
    "recaption.cache": nothing("texts"),
    "recaption.enabled": makes("columns/recaption", "columns/translate", "columns/gate")(False),
    "recaption.model": captions(str(MODELS / "translator")),
    "recaption.revision": captions("r2", recaption__engine="openai"),
    "recaption.engine": captions("openai"),
    "recaption.prompts": captions({"short": "say it"}),
    "recaption.prompts.NAME.text": captions("say it", recaption__prompts=PROMPT),
    "recaption.prompts.NAME.kind": captions("short", recaption__prompts=PROMPT),
    "recaption.prompts.NAME.max_new_tokens": captions(9, recaption__prompts=PROMPT),
    "recaption.prompts.NAME.language": captions("de", recaption__prompts=PROMPT),
    **{"recaption.max_new_tokens": captions(9), "recaption.temperature": captions(0.5)},
    "recaption.top_p": captions(0.5, recaption__temperature=1.0),
    "recaption.seed": captions(5, recaption__temperature=1.0),
    "recaption.engine{transformers}.dtype": captions("bfloat16"),
    **{
        "recaption.engine{transformers}.batch_size": nothing(3),
        "recaption.engine{transformers}.device": nothing("cpu"),
    },
    **{
        "recaption.engine{openai}.base_url": nothing("http://a/v1"),
        "recaption.engine{openai}.api_key_env": nothing("K"),
    },
    **{f"recaption.engine{{openai}}.{key}": nothing(7.0) for key in ("timeout_s", "backoff_s", "max_retry_after_s")},
    **{f"recaption.engine{{openai}}.{key}": nothing(7) for key in ("concurrency", "retries")},
    "recaption.engine{openai}.logprobs": captions(False),
    "recaption.engine{openai}.extra_body": captions({"min_p": 0.1}),
    "recaption.engine{vllm}.arguments": captions({"max_model_len": 512}),
    **{"recaption.engine{vllm}.dtype": captions("float16"), "recaption.engine{vllm}.rows_per_call": nothing(3)},
    # Translations
    **{f"translate.{key}": nothing(value) for key, value in PLACEMENT.items()},
    "translate.engine_timeout_s": nothing(5.5),
    "translate.cache": nothing("texts"),
    "translate.enabled": makes("columns/translate", "columns/gate")(False),
    "translate.model": translations(str(MODELS / "captioner")),
    # A folder's revision is its content: to name it changes what is asked for, not what comes.
    "translate.revision": translations(resolve(str(MODELS / "translator"), None).revision),
    "translate.engine": nothing({"name": "transformers", "pair": ["en", "zh"], "batch_size": 2}),
    "translate.engine{transformers}.dtype": translations("bfloat16"),
    **{
        "translate.engine{transformers}.batch_size": nothing(3),
        "translate.engine{transformers}.device": nothing("cpu"),
    },
    "translate.engine{transformers}.num_beams": translations(2),
    "translate.engine{transformers}.pair": translations(["en", "de"]),
    "translate.engine{ctranslate2}.compute_type": translations("int8_float32"),
    "translate.engine{ctranslate2}.num_beams": translations(2),
    "translate.engine{ctranslate2}.pair": translations(["en", "de"]),
    "translate.engine{ctranslate2}.conversions": nothing("folder"),
    "translate.engine{ctranslate2}.device": nothing("cpu"),
    **{
        f"translate.engine{{ctranslate2}}.{key}": nothing(3) for key in ("batch_size", "inter_threads", "intra_threads")
    },
    **{
        "translate.engine{openai}.base_url": nothing(["http://a/v1", "http://b/v1"]),
        "translate.engine{openai}.api_key_env": nothing("K"),
    },
    **{f"translate.engine{{openai}}.{key}": nothing(7.0) for key in ("timeout_s", "backoff_s", "max_retry_after_s")},
    **{f"translate.engine{{openai}}.{key}": nothing(7) for key in ("concurrency", "retries")},
    "translate.engine{openai}.prompt": translations("{{text}}"),
    "translate.engine{openai}.logprobs": translations(False),
    "translate.engine{openai}.extra_body": translations({"min_p": 0.1}),
    **{"translate.targets": translations(["de"]), "translate.kinds": translations(["alt"])},
    "translate.max_new_tokens": translations(9),
    **{"translate.min_length_ratio": translations(0.1), "translate.max_length_ratio": translations(9.0)},
    **{"translate.max_repeat": translations(9), "translate.check_language": translations(False)},
    "translate.min_language_score": translations(0.9),
    # What of it is used.  Every gate has the key `kinds`.
    "gate.enabled": gated(False),
    "gate.gates": gated(["opener"]),
    **{f"gate.gates[]{{{name}}}.kinds": gated(["long"], **TWICE) for name in GATES.names},
    "gate.gates[]{language}.min_share": gated(0.5),
    **{f"gate.gates[]{{length}}.{key}": gated({"short": [1, 9]}) for key in ("words", "characters")},
    "gate.gates[]{log_probability}.least": gated(-2.0),
    "gate.gates[]{log_probability}.quantile": gated(0.02),
    "gate.gates[]{log_probability}.min_texts": gated(9),
    "gate.gates[]{image_text_score}.encoder": gated("other", **TWICE),
    "gate.gates[]{image_text_score}.least": gated(0.3, **TWICE),
    "gate.gates[]{image_text_score}.margin": gated(0.1, **TWICE),
    **{f"gate.gates[]{{{name}}}.ocr": gated("more", **TWICE) for name in ("numbers", "rendered_text", "names")},
    "gate.gates[]{numbers}.most_counted": gated(9),
    "gate.gates[]{rendered_text}.max_distance": gated(0.1, **TWICE),
    "gate.gates[]{rendered_text}.min_letters": gated(9, **TWICE),
    # Selections of the recipe: each key makes that selection, and nothing else.
    "selections": makes("selections/a")({"a": {}}),
    "selections.NAME.from": one_selection("~all"),
    "selections.NAME.uids": one_selection("{uids}"),
    "selections.NAME.uid_column": one_selection("sha256", uids="{uids}"),
    "selections.NAME.where": one_selection("width > 3"),
    "selections.NAME.decontaminate": decontaminating("NAME"),
    "selections.NAME.decontaminate.against": decontaminating(["b"], {"against": ["NAME"]}),
    "selections.NAME.decontaminate.kinds": decontaminating(["caption"], {"against": ["NAME"]}),
    "selections.NAME.dedup": one_selection(["exact"]),
    "selections.NAME.against": one_selection({"first": "one/run"}, dedup=["exact"]),
    # What is compared of a run counts, and not where it is.
    "selections.NAME.against.NAME.run": nothing("moved/run", given=AGAINST),
    "selections.NAME.against.NAME.selection": Change("few", frozenset({"selections/NAME"}), AGAINST),
    "selections.NAME.keep": one_selection("all", dedup=["exact"]),
    "selections.NAME.score": one_selection("entropy", dedup=["exact"]),
    **{
        f"selections.NAME.{rule}.{key}": one_selection(value, **{rule: {"rows": 3, "per": "language"}})
        for rule in ("quota", "top")
        for key, value in {"rows": 4, "by": "width", "per": "host"}.items()
    },
    **{
        f"selections.NAME.{rule}.share": one_selection(0.25, **{rule: {"share": 0.5, "per": "language"}})
        for rule in ("quota", "top")
    },
    **{f"selections.NAME.{rule}": one_selection({"rows": 3, "per": "language"}) for rule in ("quota", "top")},
    "selections.NAME.weight": one_selection("1"),
    **{
        f"selections.NAME.weight.{key}": one_selection(value, weight={"of": "language", "rows": 9})
        for key, value in {"of": "width", "per": "host", "by": "width", "rows": 7, "strength": 0.5, "most": 3.0}.items()
    },
    "selections.NAME.weight.desired": one_selection("overall", weight={"of": "language"}),
    "selections.NAME.balance": one_selection({"metadata": str(PHRASES)}),
    "selections.NAME.balance.metadata": one_selection("{words}", balance={"metadata": str(PHRASES)}),
    **{
        f"selections.NAME.balance.{key}": one_selection(value, balance={"metadata": str(PHRASES)})
        for key, value in {"t": 7, "text": "alt", "language": "caption", "seed": 1}.items()
    },
    # The product
    "pack.selection": makes("columns/recaption", "columns/translate", "columns/gate")("a", selections={"a": {}}),
    **{f"pack.{key}": product(7) for key in ("rows_per_part", "row_group_rows")},
    "pack.blur_faces": product("crowd", score={"crowd": {"name": "faces", "model": str(VIT)}}),
    **{"pack.prefer": product(["alt"]), "pack.recap_p": product(0.8)},
    "pack.best_of": product(True, **EMBED),
    "pack.judge": product("NAME", **EMBED),
    # A stage that adds columns of its own makes its table, and nothing else.
    "stages": makes("columns/darkness")(["staleness_changes:Darkness"]),
    **{f"download.{key}": nothing(value) for key, value in PLACEMENT.items()},
    **{"cluster.address": nothing("auto"), "cluster.dashboard": nothing(True), "cluster.num_cpus": nothing(1)},
    **{"cluster.autoscaling": nothing(True), "cluster.wave_shards": nothing(1)},
}


# Kinds of duplicates have their keys in a selection as in the deduplicate section.
CHANGES |= {
    key.replace("deduplicate.kinds", "selections.NAME.dedup"): one_selection(change.value)
    for key, change in CHANGES.items()
    if key.startswith("deduplicate.kinds[]")
}


def keep_all(rows: pa.Table) -> pa.Array:
    """A user's own filter."""
    return pa.array([True] * len(rows))
