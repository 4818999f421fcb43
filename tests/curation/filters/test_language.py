"""Language of short texts, on sentences and labels written for this test."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.filters import language
from curation.filters.language import LanguageConfig, detect, detect_by_lid
from curation.filters.scripts import jis_level, script_of, spelling

#: Language -> texts of two to six words as a caption would have them.
TEXTS = {
    "en": (
        "red apple",
        "grinning face",
        "a dog running on the beach",
        "old wooden bridge",
        "snow on the mountain",
        "man holding a guitar",
        "blue vintage car",
        "woman with umbrella",
        "naïve painting of a café",
        "two cups of coffee",
        "New York skyline at night",
        "birthday cake with candles",
        "fresh vegetables",
        "empty street",
        "T-shirt with green stripes",
        "kitten sleeping",
    ),
    "zh": (
        "红苹果",
        "一只狗在海滩上",
        "笑脸",
        "猫",
        "老木桥",
        "山上的雪",
        "穿T恤的男人",
        "自由女神",
        "番茄",
        "大石",
        "自由的鳥",
        "兩杯咖啡",
        "優の良品旗舰店图片",
        "城市夜景 2024",
        "苹果 iPhone 手机",
    ),
    "ja": ("赤いリンゴ", "浜辺を走る犬", "ネコ", "新宿駅", "桜の木", "東京の夜景", "図書館"),
    "ko": ("빨간 사과", "해변을 달리는 개", "고양이"),
    "de": ("ein roter Apfel", "Hund läuft am Strand", "alte Holzbrücke", "Frau mit Regenschirm", "Schnee auf dem Berg"),
    "fr": ("une pomme rouge", "chien sur la plage", "vieux pont en bois", "femme avec un parapluie"),
    "es": ("una manzana roja", "perro en la playa", "puente viejo de madera", "niña con paraguas"),
    "it": ("una mela rossa sul tavolo", "cane sulla spiaggia", "donna con ombrello"),
    "ru": ("красное яблоко", "собака на пляже", "женщина с зонтом"),
    "uk": ("червоне яблуко", "собака біжить пляжем", "жінка з парасолькою"),
    "pl": ("czerwone jabłko", "pies biegnie po plaży", "kobieta z parasolką"),
    "vi": ("quả táo đỏ", "con chó chạy trên bãi biển"),
    "tr": ("kırmızı elma", "plajda koşan köpek"),
    "th": ("แอปเปิ้ลสีแดง", "หมาบนชายหาด"),
    "ar": ("تفاحة حمراء", "كلب على الشاطئ"),
    "he": ("תפוח אדום",),
    "el": ("κόκκινο μήλο",),
    "hi": ("लाल सेब", "समुद्र तट पर कुत्ता"),
    "dv": ("ރަތް އާފަލު",),
}


@pytest.mark.parametrize("language", TEXTS)
def test_short_texts(language: str) -> None:
    found, _ = detect(TEXTS[language])
    assert dict(zip(TEXTS[language], found, strict=True)) == dict.fromkeys(TEXTS[language], language)


#: Texts of the languages whose letters have capitals, that are right in running text.
CASED = {
    language: texts
    for language, texts in TEXTS.items()
    if language not in ("zh", "ja", "ko", "th", "ar", "he", "hi", "dv")
}


@pytest.mark.parametrize("change", [str.upper, str.title, str.lower, str.capitalize])
@pytest.mark.parametrize("language", CASED)
def test_capitals_change_nothing(language: str, change: Callable[[str], str]) -> None:
    dotless = str.maketrans("iı", "İI") if language == "tr" and change is str.upper else {}
    texts = [change(text.translate(dotless)) for text in CASED[language]]
    found, _ = detect(texts)
    assert dict(zip(texts, found, strict=True)) == dict.fromkeys(texts, language)


def test_titles_leave_small_words_small() -> None:
    titles = [
        "A Dog Running on the Beach",
        "Femme avec un Parapluie",
        "Hund am Strand mit einem Ball",
        "IPHONE CASE BLACK",
    ]
    assert detect(titles)[0] == ["en", "fr", "de", "en"]


@pytest.mark.parametrize("text", ["", " ", "123", "12 × 34", "😀", "🇨🇳 ★", "!?…", "_"])
def test_no_letters_no_language(text: str) -> None:
    assert detect([text]) == (["und"], [0.0])


def test_scores_tell_certain_from_uncertain() -> None:
    texts = ["一只狗在海滩上奔跑", "a dog is running on the beach with a ball in its mouth", "Oden", "番茄", "東京"]
    languages, (chinese, english, unsure, shared, either) = detect(texts)
    assert languages == ["zh", "en", languages[2], "zh", "ja"]
    assert chinese == 1.0
    assert english > 0.98
    assert unsure < 0.6
    assert 0.5 <= shared < 0.9
    # Never so sure of Japanese that a translation into Chinese is refused for it.
    assert either < 0.5


@pytest.mark.parametrize(
    ("text", "language"),
    [
        *(("二〇二〇年", "zh"), ("二〇〇八年北京奥运会", "zh"), ("一九八〇", "zh"), ("三〇一医院", "zh"), ("〇", "zh")),
        *(("二〇二〇年の写真", "ja"), ("平成二〇年東京駅", "ja")),
    ],
)
def test_the_zero_of_years_is_of_both_languages(text: str, language: str) -> None:
    assert detect([text])[0] == [language]


@pytest.mark.parametrize(
    "text", ["東京", "新幹線", "電動車", "結婚式", "犬の写真", "カメラ", "さくら", "🇯🇵の旗", "iPhoneケース"]
)
def test_japanese_has_kana_or_characters_of_daily_use_in_japan(text: str) -> None:
    assert detect([text])[0] == ["ja"]


@pytest.mark.parametrize(
    "text", ["兩個人", "自由的鳥", "蘋果", "照片", "城市風景攝影作品展覽", "kde 的 bittorrent 程序"]
)
def test_chinese_has_characters_that_japan_hardly_uses(text: str) -> None:
    assert detect([text])[0] == ["zh"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("IŞIK", "tr"),
        ("KIRMIZI ELMA", "tr"),
        ("Islak Kedi", "tr"),
        ("İSTANBUL'DA BİR SOKAK", "tr"),
        ("BIG RED BIRD IN ITALY", "en"),
        ("IL GATTO SUL TETTO", "it"),
        ("BRIEF IM KASTEN", "de"),
    ],
)
def test_capital_i_is_dotless_in_turkish_only(text: str, language: str) -> None:
    assert detect([text])[0] == [language]


#: Sentences of languages that few pages have, whose words are mostly those of a large neighbour.
NEIGHBOURS = {
    "gl": "unha muller con paraugas vermello camiña pola rúa do pobo baixo a choiva",
    "pt": "uma mulher com guarda-chuva vermelho caminha pela rua da vila debaixo da chuva",
    "af": "'n vrou met 'n rooi sambreel stap in die reën oor die brug en sien nie die water nie",
    "nl": "een vrouw met een rode paraplu loopt in de regen over de brug en ziet het water niet",
    "ca": "una dona amb un paraigua vermell camina pel carrer del poble sota la pluja",
    "id": "seorang wanita dengan payung merah berjalan di jalan desa saat hujan turun",
    "cy": "mae dynes gydag ymbarél coch yn cerdded ar hyd stryd y pentref yn y glaw",
    "mk": "жена со црвен чадор оди по улицата на селото под дождот",
    "kk": "қызыл қолшатыр ұстаған әйел жаңбыр астында ауыл көшесімен келе жатыр",
    "da": "en kvinde med en rød paraply går gennem landsbyens gade i regnvejret",
    "sv": "en kvinna med ett rött paraply går längs byns gata i regnet",
}


@pytest.mark.parametrize("language", NEIGHBOURS)
def test_a_sentence_of_a_rare_language_is_not_its_neighbours(language: str) -> None:
    assert detect([NEIGHBOURS[language]])[0] == [language]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("pista de patinagem no gelo", "pt"),
        ("barco de pesca na praia", "pt"),
        ("hond in het gras", "nl"),
        ("coche rojo aparcado", "es"),
        ("tazza di caffè caldo", "it"),
        ("rosto de gato sorrindo", "pt"),
        ("gatto che dorme", "it"),
        ("bardzo stary zamek", "pl"),
    ],
)
def test_short_labels_of_large_languages_are_not_a_rare_neighbours(text: str, language: str) -> None:
    assert detect([text])[0] == [language]


def test_names_in_latin_letters_do_not_make_a_text_latin() -> None:
    assert detect(["Главное окно KDE Plasma", "настройка Firefox", "Microsoft Officeの画面"])[0] == ["ru", "ru", "ja"]
    assert detect(["the Russian word мир on a wall"])[0] == ["en"]


def test_the_language_with_more_to_say_wins_in_a_mixed_text() -> None:
    assert detect(["苹果 iPhone", "night view of Tokyo Tower 東京"])[0] == ["zh", "en"]


@pytest.mark.parametrize(
    ("han", "level"), [("東", 1), ("鳥", 1), ("兩", 2), ("龜", 2), ("红", None), ("腕", 1), ("弌", 2)]
)
def test_level_of_han_characters_in_the_japanese_standard(han: str, level: int | None) -> None:
    assert jis_level(han) == level


@pytest.mark.parametrize(
    ("han", "language"),
    [("红", "zh"), ("们", "zh"), ("鳥", None), ("兩", None), ("駅", "ja"), ("気", "ja"), ("〇", None)],
)
def test_spelling_of_han_characters(han: str, language: str | None) -> None:
    assert spelling(han) == language


def test_scripts_do_not_overlap() -> None:
    found = [script_of(c) for c in "aé中ア한яωعאहবथกა"]
    assert found[:6] == ["latin", "latin", "han", "kana", "hangul", "cyrillic"]
    assert script_of("1") is script_of(" ") is script_of("。") is None


def test_languages_to_keep_may_be_spelled_in_any_way() -> None:
    spelled = LanguageConfig.model_validate({"languages": ["EN", "eng", "zh-CN", "und", "pt_BR"]})
    assert spelled.languages == ("en", "zh", "und", "pt")
    # as the detectors call them
    assert LanguageConfig.model_validate({"languages": ["nb", "iw", "fil", "ger"]}).languages == (
        "no",
        "he",
        "tl",
        "de",
    )
    for unknown in ("zh-Hant", "yue", "english", "1", "jp", "cn", "xx"):
        with pytest.raises(ValueError, match="must have an ISO 639-1 code"):
            LanguageConfig.model_validate({"languages": [unknown]})


def _styled(text: str, capital: int, small: int) -> str:
    """The letters a-z from another block, by where its A and a are."""
    found = [chr(small + ord(c) - 97) if c.islower() else chr(capital + ord(c) - 65) for c in text if c.isalpha()]
    letters = iter(found)
    return "".join(next(letters) if c.isalpha() else c for c in text)


#: Name -> where the block of letters has A and a.
BLOCKS = {
    "full width": (0xFF21, 0xFF41),
    "bold": (0x1D400, 0x1D41A),
    "sans-serif bold italic": (0x1D63C, 0x1D656),
    "typewriter": (0x1D670, 0x1D68A),
    "circled": (0x24B6, 0x24D0),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("language", "text"),
    [("en", "RED DRESS"), ("en", "a dog running on the beach"), ("de", "ein Hund am Strand"), ("fr", "Pomme Rouge")],
)
def test_styled_letters_are_read_as_plain_ones(language: str, text: str, block: str) -> None:
    assert detect([_styled(text, *BLOCKS[block])]) == detect([text]) and detect([text])[0] == [language]


@pytest.mark.parametrize(
    ("text", "plain", "language"),
    [
        ("ﬁne ﬂowers in an oﬃce", "fine flowers in an office", "en"),
        ("ﾋﾟｱﾉを弾く女性", "ピアノを弾く女性", "ja"),
        (unicodedata.normalize("NFD", "빨간 사과"), "빨간 사과", "ko"),
        ("cafe\u0301 et the\u0301 sur la table", "café et thé sur la table", "fr"),
        ("\ufe91\ufef4\ufe96 \ufb90\ufe92\ufef4\ufeae", "بيت کبير", "ar"),
        ("\u2f24\u2f3c", "大心", "zh"),  # radicals
    ],
)
def test_letters_of_compatibility_are_those_they_stand_for(text: str, plain: str, language: str) -> None:
    assert detect([text]) == detect([plain]) and detect([text])[0] == [language]


@pytest.mark.parametrize("text", ["™", "ℹ️", "Ⓜ️", "㊙️", "№ 5", "5 ℃", "㏒", "½", "①②③", "🅿️"])
def test_a_sign_is_no_letter(text: str) -> None:
    assert detect([text]) == (["und"], [0.0])


def test_lid_alone_names_languages_as_iso_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alemannic:
        def predict(self, line: str, k: int) -> tuple[list[str], list[float]]:
            return ["__label__als"], [0.9]

    monkeypatch.setattr(language, "lid_model", Alemannic)
    assert detect_by_lid(["Grüezi mitenand"]) == (["gsw"], [0.9])


def test_half_an_emoji_is_no_letter() -> None:
    assert detect(["\ud83d a dog running on the beach", "\udc00"])[0] == ["en", "und"]


@given(st.lists(st.text(max_size=30), max_size=5))
@settings(deadline=None, max_examples=200)
def test_any_text_has_an_answer(texts: list[str]) -> None:
    languages, scores = detect(texts)
    assert len(languages) == len(scores) == len(texts)
    assert all(language == "und" or (len(language) == 2 and language.islower()) for language in languages)
    assert all(0 <= score <= 1 for score in scores)
