"""Tokens by their shape, against names that only begin alike.  All tokens are made up."""

import random
import string

import pytest

from pairmill.redaction import holds_secret, redact, secret_places

#: Prefix, letters behind it and their number, as the services document or issue them.
_ALNUM, _URLSAFE, _HEX = (
    string.ascii_letters + string.digits,
    string.ascii_letters + string.digits + "-_",
    "0123456789abcdef",
)
TOKENS = [
    *((f"gl{kind}-", _URLSAFE, 20) for kind in ("pat", "dt", "rt", "cbt", "ptt", "ft", "soat", "oas", "imt", "agent")),
    *(("sk-", _ALNUM, 48), ("sk-", _HEX, 32), ("sk-proj-", _URLSAFE, 156), ("sk-ant-api03-", _URLSAFE, 95)),
    *(("sk-or-v1-", _HEX, 64), ("sk-svcacct-", _URLSAFE, 150), ("ghp_", _ALNUM, 36), ("gho_", _ALNUM, 36)),
    *(("hf_", string.ascii_letters, 34), ("npm_", _ALNUM, 36), ("gsk_", _ALNUM, 52), ("r8_", _ALNUM, 37)),
    *(
        ("pypi-AgEIcHlwaS5vcmc", _URLSAFE, 150),
        ("nvapi-", _URLSAFE, 64),
        ("sk_live_51H", _ALNUM, 94),
        ("sk_live_", _ALNUM, 24),
    ),
    *(("xai-", _ALNUM, 80), ("pplx-", _ALNUM, 48), ("lin_api_", _ALNUM, 40), ("ntn_", _ALNUM, 46)),
    *(
        ("dop_v1_", _HEX, 64),
        ("secret_", _ALNUM, 43),
        ("dckr_pat_", _URLSAFE, 27),
        ("hvs.", _URLSAFE, 95),
        ("GOCSPX-", _URLSAFE, 28),
    ),
    *(("AIza", _URLSAFE, 35), ("AKIA", string.ascii_uppercase + "234567", 16), ("xoxp-1234567890-", _ALNUM, 24)),
    *(("xapp-1-A0123456789-1234567890-", _HEX, 64), ("shpat_", _HEX, 32), ("dapi", _HEX, 32), ("ya29.", _URLSAFE, 120)),
    *(("LTAI5t", _ALNUM, 18), ("AKID", _ALNUM, 32), ("ATATT3xFfGF0", _URLSAFE, 180), ("sntryu_", _HEX, 64)),
]


@pytest.mark.parametrize(("prefix", "letters", "length"), TOKENS)
def test_tokens_are_masked(prefix: str, letters: str, length: int) -> None:
    drawn = random.Random(f"{prefix}{length}")
    missed = 0
    for _ in range(200):
        token = prefix + "".join(drawn.choices(letters, k=length))
        missed += any(token[len(prefix) :] in redact(text, {}) for text in (token, f"got 401 for {token}, once"))
    assert missed <= 0.03 * 200  # some of 20 characters look like words by chance


def test_a_telegram_bot_is_masked_in_its_url() -> None:
    token = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1"
    for text in (f"https://api.telegram.org/bot{token}/getFile", f"bot token {token}"):
        assert token not in redact(text, {}) and holds_secret(text)


def test_tokens_between_names_are_masked() -> None:
    body = "aB3dE6gH9jK2mN5pQ8sT1vW4"
    for text in (f"runs/sk-learn/glpat-{body}", f"sk-learn-glpat-{body}", f"https://h/xai-methods?x=hf_{body}"):
        assert holds_secret(text) and body not in redact(text, {})
    assert list(secret_places({"note": f"use glpat-{body} here"})) == ["note"]


ORDINARY = """
runs/global-average-pooling-vit-b-16
data/glass-and-ceramics-2024.parquet
local-dir:models/glove-embeddings-of-web-text
https://shop.example/img/glass-bottle-with-wooden-cap.jpg
runs/sk-learn-comparison-2024-03-17-seed-1
glamour-photos-of-the-1950s.tar
gleam-dataset-v2-filtered-00012.tar
glitch-art-collection-2023-part-07.parquet
https://cdn.example/glossy-red-lipstick-no-12-1080x1080.webp
glrt-detector-comparison-2024
glft-baseline-run-b16-lr1e-4
glpat-rotation-runbook-2024
gldt-Global-Land-Data-2020-v3
glrt-v2-ResNet50-vs-ViTB16-results
glagent-deployment-notes-2025-01
models/glue-benchmark-finetuned-bert-base-uncased
sk-hynix-memory-module-ddr5-32gb.jpg
sk-ii-facial-treatment-essence-230ml.png
https://h/sk-bratislava-old-town-2019-08-04.jpg
runs/sk-ResNet50VersusViT2024
cc100-sk-2024-filtered-dedup-part-00017.jsonl
wiki-sk-20240101T000000Z-pages.json
sk-550e8400-e29b-41d4-a716-446655440000.jpg
sk-proj-for-the-new-web-site-2024
sk-ant-colony-optimisation-1997
a task-oriented-dialogue-dataset-2024
desk-lamp-with-a-wooden-base-2.jpg
npm_package_download_counts_2024
hf_vitbasepatch16224in21k
hf_transformers_training_logs_2024_01
hf_internationalization
github_pat_rotation_instructions_2024
ghs_built_up_area_2018_version_3
gsk_annual_report_2023_english.pdf
r8_audi_spyder_2019_blue.jpg
pypi-download-statistics-2024-06
nvapi-samples-for-windows-2022
xai-interpretability-methods-2024
xai-interpretability
pplx-benchmark_results_on_web_text
ntn_bearing_catalogue_2020_edition
lin_api_reference_documentation
wandb_v1_migration_notes_and_tips_2024
sk_test_results_2024_for_the_vendor
pk_test_database_columns_2024
rk_live_concert_in_vienna_1999
whsec_rotation_guide_for_admins
xapp-deployment-guide-2024-final
xoxo-hugs-and-kisses-2024
xoxo-valentines-day-card-14-02
ya29.thumbnail-picture-small
SG.annual-report-and-accounts.financial-statements-2024
hvs.building-site-photos-2021
hvb.munich-headquarters-2018.jpg
tskey-naming-in-time-series-2020
GOCSPX-client-secret-guide
dckr_pat_rotation_notes_2024
dop_v1_dataset_of_paintings_2020
ASIAPACIFICECONOMICCOOPERATION
ASIA2024 and ACCADEMIADIBELLEARTI
dapi-database-api-reference-2020
shpat_product_images_2024
sq0abc-photographs-of-squares-2020
""".strip().splitlines()


@pytest.mark.parametrize("text", ORDINARY)
def test_names_that_begin_like_tokens_are_left_alone(text: str) -> None:
    for around in (text, f"a photo of {text} in a shop", f"input.path=s3://bucket/{text}/x.parquet"):
        assert redact(around, {}) == around
    assert not list(secret_places({"run_dir": text, "where": f"url like '%{text}%'"}))
