"""Translations of several sentences: whole ones, joined ones, and such that lost one."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest

from curation.lost_sentences import has_lost_sentences
from curation.whole_sentences import sentences

SOURCE = "A dog runs on a beach. Two children fly a kite. A boat crosses the bay. The sky is orange. A sign stands by."
WHOLE = {
    "de": "Ein Hund läuft am Strand. Zwei Kinder lassen einen Drachen steigen. Ein Boot quert die Bucht. Der Himmel "
    "ist orange. Links steht ein Schild.",
    "zh": "一只狗在海滩上奔跑。两个孩子在放风筝。一艘船驶过海湾。天空是橙色的。左边有一块牌子。",
}


@pytest.mark.parametrize("target", WHOLE)
def test_lost_sentences_are_seen_and_joined_ones_are_not(target: str) -> None:
    whole, _ = sentences(WHOLE[target])
    gap = "" if target == "zh" else " "
    assert not has_lost_sentences(SOURCE, WHOLE[target], "en", target)
    joined = WHOLE[target].replace(". ", ", ").replace("。", "，", 4)
    assert len(sentences(joined)[0]) == 1
    assert not has_lost_sentences(SOURCE, joined, "en", target)
    for left in (1, 2):
        assert has_lost_sentences(SOURCE, gap.join(whole[:left]), "en", target)
        assert has_lost_sentences(SOURCE, gap.join(whole[-left:]), "en", target)
        assert has_lost_sentences(WHOLE[target], " ".join(sentences(SOURCE)[0][:left]), target, "en")
    assert not has_lost_sentences("a red dog", "狗", "en", "zh")


EUROPEAN = {
    "en": SOURCE,
    "de": WHOLE["de"],
    "fr": "Un chien court sur une plage. Deux enfants font voler un cerf-volant. Un bateau traverse la baie. Le ciel "
    "est orange. Un panneau se trouve à côté.",
    "es": "Un perro corre por la playa. Dos niños vuelan una cometa. Un barco cruza la bahía. El cielo es naranja. Hay "
    "un cartel al lado.",
}


@pytest.mark.parametrize("target", EUROPEAN)
@pytest.mark.parametrize("source", EUROPEAN)
def test_two_lost_sentences_of_five_are_seen_and_joined_ones_are_not(source: str, target: str) -> None:
    if source == target:
        return
    given, whole = EUROPEAN[source], sentences(EUROPEAN[target])[0]
    for joined in (1, 2, 3, 4):
        text = EUROPEAN[target].replace(". ", " ; ", joined)
        assert len(sentences(text)[0]) == 5 - joined
        assert not has_lost_sentences(given, text, source, target)
    kept = sorted(combinations(whole, 3), key=lambda some: sum(map(len, some)))
    for some in kept[:2]:  # longer ones may be seen or not
        assert has_lost_sentences(given, " ".join(some), source, target)


#: Captions of three sentences, a sentence a line, translated by hand.
_LINES = {
    "en": """
A brown dog runs across the wet sand.
Behind it two children are flying a red kite.
The sky is cloudy.
A woman in a blue coat waits at a bus stop.
She is holding a large umbrella.
It is raining heavily and the street is full of puddles.
An old steam locomotive stands in the station.
Passengers are boarding the carriages.
A conductor in uniform looks at his watch.
The kitchen has white cupboards and a wooden table.
On the table there is a bowl of lemons.
Sunlight falls through the window.
Three cyclists ride up a mountain road.
The leader wears a yellow jersey.
Spectators cheer from both sides of the road.
A cat sleeps on a sofa.
A book lies open beside it.
The lamp is on.
The poster shows a mountain lake at sunrise.
A small boat is tied to the pier.
In the corner is the name of a hotel.
A market stall sells fresh fish on ice.
The seller is weighing a salmon for a customer.
Prices are written on small black boards.
""",
    "de": """
Ein brauner Hund läuft über den nassen Sand.
Hinter ihm lassen zwei Kinder einen roten Drachen steigen.
Der Himmel ist bewölkt.
Eine Frau in einem blauen Mantel wartet an einer Bushaltestelle.
Sie hält einen großen Regenschirm.
Es regnet stark und die Straße ist voller Pfützen.
Eine alte Dampflokomotive steht im Bahnhof.
Fahrgäste steigen in die Wagen ein.
Ein Schaffner in Uniform schaut auf seine Uhr.
Die Küche hat weiße Schränke und einen Holztisch.
Auf dem Tisch steht eine Schale mit Zitronen.
Sonnenlicht fällt durch das Fenster.
Drei Radfahrer fahren eine Bergstraße hinauf.
Der Führende trägt ein gelbes Trikot.
Zuschauer jubeln auf beiden Seiten der Straße.
Eine Katze schläft auf einem Sofa.
Daneben liegt ein aufgeschlagenes Buch.
Die Lampe brennt.
Das Plakat zeigt einen Bergsee bei Sonnenaufgang.
Ein kleines Boot ist am Steg festgemacht.
In der Ecke steht der Name eines Hotels.
Ein Marktstand verkauft frischen Fisch auf Eis.
Der Verkäufer wiegt einen Lachs für eine Kundin.
Die Preise stehen auf kleinen schwarzen Tafeln.
""",
    "fr": """
Un chien brun court sur le sable mouillé.
Derrière lui, deux enfants font voler un cerf-volant rouge.
Le ciel est nuageux.
Une femme en manteau bleu attend à un arrêt de bus.
Elle tient un grand parapluie.
Il pleut à verse et la rue est pleine de flaques.
Une vieille locomotive à vapeur se trouve dans la gare.
Des voyageurs montent dans les wagons.
Un contrôleur en uniforme regarde sa montre.
La cuisine a des placards blancs et une table en bois.
Sur la table, il y a un bol de citrons.
La lumière du soleil entre par la fenêtre.
Trois cyclistes montent une route de montagne.
Le premier porte un maillot jaune.
Des spectateurs les encouragent des deux côtés de la route.
Un chat dort sur un canapé.
Un livre ouvert est posé à côté de lui.
La lampe est allumée.
L'affiche montre un lac de montagne au lever du soleil.
Une petite barque est attachée au ponton.
Dans le coin figure le nom d'un hôtel.
Un étal de marché vend du poisson frais sur de la glace.
Le vendeur pèse un saumon pour une cliente.
Les prix sont écrits sur de petites ardoises.
""",
    "zh": """
一只棕色的狗跑过湿漉漉的沙滩。
它身后有两个孩子在放红色的风筝。
天空多云。
一位穿蓝色大衣的女士在公交站等车。
她撑着一把大伞。
雨下得很大，街上到处是水坑。
一辆老式蒸汽机车停在车站里。
乘客们正在上车。
一名穿制服的列车员看着手表。
厨房里有白色的橱柜和一张木桌。
桌上放着一碗柠檬。
阳光从窗户照进来。
三名自行车手骑上山路。
领先者穿着黄色车衣。
观众在路的两旁欢呼。
一只猫睡在沙发上。
旁边有一本翻开的书。
灯亮着。
海报上是日出时的高山湖泊。
一条小船系在码头上。
角落里写着一家酒店的名字。
市场摊位上卖着冰鲜的鱼。
卖家正在为顾客称一条三文鱼。
价格写在小黑板上。
""",
    "ja": """
茶色の犬が濡れた砂の上を走っている。
その後ろで二人の子供が赤い凧を揚げている。
空は曇っている。
青いコートを着た女性がバス停で待っている。
彼女は大きな傘を持っている。
雨が激しく降っていて、通りは水たまりだらけだ。
古い蒸気機関車が駅に停まっている。
乗客が客車に乗り込んでいる。
制服を着た車掌が時計を見ている。
キッチンには白い戸棚と木のテーブルがある。
テーブルの上にはレモンの入ったボウルがある。
窓から日光が差し込んでいる。
三人の自転車選手が山道を登っている。
先頭の選手は黄色いジャージを着ている。
道の両側から観客が声援を送っている。
猫がソファで眠っている。
そばに開いた本が置いてある。
ランプがついている。
ポスターには日の出の山の湖が写っている。
小さなボートが桟橋につながれている。
隅にホテルの名前がある。
市場の屋台で氷の上の新鮮な魚を売っている。
売り手は客のためにサーモンを量っている。
値段は小さな黒板に書かれている。
""",
}
CAPTIONS = {language: list(zip(*[iter(text.split("\n")[1:-1])] * 3, strict=True)) for language, text in _LINES.items()}
COMMA = {"zh": "，", "ja": "、"}


def text_of(parts: tuple[str, ...], language: str) -> str:
    return ("" if language in COMMA else " ").join(parts)


@pytest.mark.parametrize(("source", "target"), list(permutations(CAPTIONS, 2)))
def test_one_lost_sentence_of_three_is_seen_and_joined_ones_are_not(source: str, target: str) -> None:
    comma = COMMA.get(target, ", ")
    seen = 0
    for given, made in zip(CAPTIONS[source], CAPTIONS[target], strict=True):
        text = text_of(given, source)
        assert not has_lost_sentences(text, text_of(made, target), source, target)
        first, second, third = made
        for joined in ((first[:-1] + comma + second, third), (first, second[:-1] + comma + third)):
            assert not has_lost_sentences(text, text_of(joined, target), source, target)
        assert not has_lost_sentences(text, comma.join(part[:-1] for part in made) + third[-1], source, target)
        seen += sum(has_lost_sentences(text, text_of(two, target), source, target) for two in combinations(made, 2))
    # A short one that is lost beside long ones is not told from a terse translation.
    assert seen >= 0.6 * 3 * len(CAPTIONS[source])


@pytest.mark.parametrize("target", ["de", "ja", "zh", "fr"])
def test_the_loss_of_the_longest_sentence_is_seen_wherever_it_stood(target: str) -> None:
    seen = []
    for given, made in zip(CAPTIONS["en"], CAPTIONS[target], strict=True):
        longest = max(range(3), key=lambda at: len(given[at]))
        left = made[:longest] + made[longest + 1 :]
        seen.append(has_lost_sentences(text_of(given, "en"), text_of(left, target), "en", target))
    assert sum(seen) >= len(seen) - 1


def test_a_joined_translation_may_be_terse() -> None:
    given = "A dog is running on a sandy beach. The dog is brown and has a red collar. The sky behind is blue."
    for target, text in (
        ("de", "Ein brauner Hund mit rotem Halsband läuft über einen Sandstrand. Der Himmel ist blau."),
        ("zh", "一只戴红色项圈的棕色狗在沙滩上奔跑。背景中的天空是蓝色的。"),
        ("ja", "赤い首輪をつけた茶色の犬が砂浜を走っている。背景の空は青い。"),
    ):
        assert not has_lost_sentences(given, text, "en", target)


def test_a_language_of_unknown_length_is_judged_by_the_whole_text() -> None:
    given = text_of(CAPTIONS["en"][0], "en")
    assert has_lost_sentences(given, "Brązowy pies biegnie.", "en", "pl")
    assert not has_lost_sentences(
        given, "Brązowy pies biegnie po mokrym piasku, a za nim dwoje dzieci puszcza latawiec.", "en", "pl"
    )


def test_many_sentences_are_judged_soon() -> None:
    assert has_lost_sentences("A dog runs. " * 20_000, "Ein Hund läuft. " * 10_000, "en", "de")
    assert not has_lost_sentences("A dog runs. " * 20_000, "Ein Hund läuft, ein Hund läuft. " * 10_000, "en", "de")
