"""What a captioner writes beside captions, on texts written for this test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.caption_checks import checked
from curation.whole_sentences import sentences

GOOD = [
    "grinning face",
    "a dog on the beach",
    "A dog runs on the beach. The sky is blue",
    "very very very big dog",
    "A sorry looking dog. It is sad.",
    "Sorry sign on a closed door",
    "Two dogs (one brown, one white) play in front of the U.S. flag.",
    "A poster that says 'Please provide your name'.",
    "Happy birthday to you, happy birthday to you",
    "The letters A, B, C. and D. stand in a row.",
    "一只狗在海滩上奔跑。天空是蓝色的。",
    "<b>Sale</b> sign in a window",
    *("a man with a hat on", "a living room with the lights on", "a train passing by", "a pool to swim in"),
    *("a street in LA", "vitamin A", "The letter y", "the letter a", "a toy to play with", "a cat on the way up"),
    *("a plane taking off", "a door to walk through", "blood type O", "a man named Las", "a child being looked at"),
    *("a hotel, somewhere to stay in", "ein Mann, der Licht macht an", "What is this for"),
    "No image is more famous than the Mona Lisa.",
    "I'm sorry card with flowers",
    *(
        "I am sorry written on a board",
        "Apologies card",
        "Please share the road sign",
        "As an AI artist sees it, a city",
    ),
    *("There is no image on the screen.", "I can't believe it's not butter tub", "I won't grow up poster"),
    *(
        "Okay hand sign",
        "Let me think poster",
        "Let me in sign on a door",
        "Well with a wooden roof",
        "The user interface of a phone",
    ),
    *(
        "Je ne regrette rien poster",
        "Ich kann nicht mehr, steht auf dem Schild",
        "不能停车的标志",
        "无法描述的美景",
        "Tut mir leid Karte",
        "无法无天的街头涂鸦",
    ),
    *(
        "Analysis: charts on a wall",
        "Thinking: a statue by Rodin",
        "Thinking, Fast and Slow, a book",
        "the final channel",
    ),
    *(
        "Numbers 1, 2, 3, 4, 5, 6 on a wall",
        "Room 1, Room 2, Room 3, Room 4",
        "1. FC Köln fans",
        "3.5 x 2.5 x 1.5 x 4.5 cm",
    ),
    *(
        "1. A dog 2. A cat 3. A bird 4. A fish",
        "We need a dog poster",
        "J. S. Bach, J. C. Bach, J. B. Bach, J. M. Bach",
    ),
]


@pytest.mark.parametrize("text", GOOD)
def test_a_caption_stays_as_it_is(text: str) -> None:
    assert checked(text, cut=False) == (text, None)


@pytest.mark.parametrize(
    ("text", "left", "fault"),
    [
        # loops
        ("a red bicycle" + " with a basket" * 12, "", "repetition"),
        ("dog " * 9, "", "repetition"),
        ("红色的自行车" * 5, "", "repetition"),
        ("A cat sits. " + "It is a cat. " * 6, "A cat sits. It is a cat.", "repetition"),
        ("A boat. " + "The sea, the sea, the sea, the sea, the sea", "A boat.", "repetition"),
        ("The man holds a red ball and looks at the camera in a large park. " * 3, None, "repetition"),
        # half sentences
        ("A bench stands next to a wall with a", "", "truncated"),
        ("A bench stands next to a wall. On it,", "A bench stands next to a wall.", "truncated"),
        ("Ein Hund läuft am Strand. Er spielt mit", "Ein Hund läuft am Strand.", "truncated"),
        ("狗在跑。它的旁边有、", "狗在跑。", "truncated"),
        ("A red bicycle leans against a brick wall, and next to it there is a wooden bench with a", "", "truncated"),
        ("a woman in a red dress and the", "", "truncated"),
        ("a bowl of", "", "truncated"),
        ("a dog, a cat,", "", "truncated"),
        ("A cat sits on a mat. It looks at", "A cat sits on a mat.", "truncated"),
        # refusals
        ("Ich kann dieses Bild nicht beschreiben.", "", "refusal"),
        ("无法识别图片内容", "", "refusal"),
        ("对不起，我不能描述。", "", "refusal"),
        ("Lo lamento, no puedo ver", "", "refusal"),
        ("I won't describe this", "", "refusal"),
        ("I will not identify this person.", "", "refusal"),
        ("Sorry, I cannot do that.", "", "refusal"),
        ("Je ne vois pas l'image.", "", "refusal"),
        ("No image was provided.", "", "refusal"),
        ("I'm sorry.", "", "refusal"),
        ("I'm sorry, but I can't help with that.", "", "refusal"),
        ("I cannot describe the person in this image.", "", "refusal"),
        ("I am unable to view images.", "", "refusal"),
        ("Unfortunately, I can't see the picture.", "", "refusal"),
        ("As an AI language model, I do not see images.", "", "refusal"),
        ("There is no image provided.", "", "refusal"),
        ("抱歉，我无法描述这张图片。", "", "refusal"),
        ("Es tut mir leid, das kann ich nicht.", "", "refusal"),
        ("1. A dog 2. A dog 3. A dog 4. A dog 5. A dog", "", "repetition"),
        ("1. A dog runs. 2. A dog runs. 3. A dog runs. 4. A dog runs. 5. A", "A dog runs.", "repetition"),
        ("1) A dog\n2) A dog\n3) A dog\n4) A dog\n", "", "repetition"),
        ("a) A dog. b) A dog. c) A dog. d) A dog.", "A dog.", "repetition"),
        ("A cat sits. (i) A dog (ii) A dog (iii) A dog (iv) A dog", "A cat sits.", "repetition"),
        ("1、一只狗2、一只狗3、一只狗4、一只狗5、一只狗", "", "repetition"),
        ("Step 1: a dog runs. Step 2: a dog runs. Step 3: a dog runs. Step 4: a dog runs.", None, "repetition"),
        ("frame 10 a brown dog, frame 11 a brown dog, frame 12 a brown dog, frame 13 a brown dog", "", "repetition"),
        # reasoning
        (
            "<|channel|>analysis<|message|>A cat? Yes.<|end|><|start|>assistant<|channel|>final<|message|>A cat.",
            "A cat.",
            None,
        ),
        ("<|channel|>analysis<|message|>A cat?<|channel|>final<|message|>A cat.<|return|>", "A cat.", None),
        ("A cat?<|end|><|start|>assistant<|channel|>final<|message|>A cat.<|return|>", "A cat.", None),
        ("<|channel|>final <|constrain|>text<|message|>A cat.", "A cat.", None),
        ("<|channel|>analysis<|message|>The picture shows a cat on", "", "reasoning"),
        ("<|channel|>commentary<|message|>A cat.<|end|>", "", "reasoning"),
        ("A cat.<|end|>", "A cat.", None),
        ("analysisThe image has a cat.assistantfinalA cat.", "A cat.", None),
        ("analysisThe image has a cat", "", "reasoning"),
        ("<|channel>thought\nA cat?<channel|>A cat.", "A cat.", None),
        ("<seed:think>A cat?</seed:think>A cat.", "A cat.", None),
        ("<|START_THINKING|>A cat?<|END_THINKING|><|START_RESPONSE|>A cat.<|END_RESPONSE|>", "A cat.", None),
        ("Thinking...\nA cat?\n...done thinking.\n\nA cat.", "A cat.", None),
        ("Thinking: I see an animal with four legs.\n\nA dog runs.", "A dog runs.", None),
        ("**Reasoning:** An animal.\n\nA dog runs.", "A dog runs.", None),
        ("### Thought process\nAn animal.\n\nIt barks.\n\n**Caption:** A dog runs.", "A dog runs.", None),
        ("Analysis: An animal.\nFinal answer: A dog runs.", "A dog runs.", None),
        ("Here is my thought process: An animal.\nHere is my response: A dog runs.", "A dog runs.", None),
        ("思考过程：图中有一只动物。\n\n一只狗在跑。", "一只狗在跑。", None),
        ("Thinking: An animal.\n\nIt has four legs.\n\nMaybe it is a dog", "", "reasoning"),
        ("Thinking: The image shows an animal", "", "reasoning"),
        ("Reasoning: I see a dog.", "", "reasoning"),
        ("We are asked to describe the picture. A dog.", "", "reasoning"),
        ("<think>I see a dog, brown.</think>A brown dog.", "A brown dog.", None),
        ("So it is a dog.</think>\n\nA brown dog.", "A brown dog.", None),
        ("<|begin_of_thought|>Hm.<|end_of_thought|> A dog.", "A dog.", None),
        ("[THINK]A dog?[/THINK]<answer>A dog.</answer>", "A dog.", None),
        ("Okay, let me think. The user wants a caption of a dog.", "", "reasoning"),
        ("The user is asking for a caption. It is a dog.", "", "reasoning"),
        ("So, I need to describe this picture. There is a dog.", "", "reasoning"),
        ("好的，用户要求描述图片。", "", "reasoning"),
        ("<think>First I look at the", "", "reasoning"),
        ("<think>Done.</think>", "", "reasoning"),
        ("<think>Hm.</think>I'm sorry, I can't.", "", "refusal"),
    ],
)
def test_what_is_no_caption_goes_with_its_reason(text: str, left: str | None, fault: str | None) -> None:
    found = checked(text, cut=False)
    assert found.fault == fault
    assert found.text == (text[: text.index(".") + 1] if left is None else left)


def test_of_a_text_that_was_cut_the_whole_sentences_stay() -> None:
    assert checked("A dog runs. The sky is bl", cut=True) == ("A dog runs.", "truncated")
    assert checked("A dog runs. The sky is blue.", cut=True) == ("A dog runs. The sky is blue.", None)
    assert checked("A dog runs under a very", cut=True) == ("", "truncated")


@given(st.text(st.sampled_from("ab .!?。，<>/'\n"), max_size=60), st.booleans())
@settings(deadline=None)
def test_what_stays_is_part_of_the_text_and_passes_again(text: str, cut: bool) -> None:
    found = checked(text, cut=cut)
    assert found.text in text
    if found.text and found.fault:
        assert checked(found.text, cut=cut).text == found.text


def test_sentences_end_where_readers_end_them() -> None:
    assert sentences("Dr. Who is here! Really? “Yes.” And") == (["Dr. Who is here!", "Really?", "“Yes.”"], "And")
    assert sentences("狗在跑。天空“很蓝。”海") == (["狗在跑。", "天空“很蓝。”"], "海")
    assert sentences("3.5 apples at example.com") == ([], "3.5 apples at example.com")
    assert sentences("") == ([], "")


#: How models of different languages decline.
REFUSALS = [
    "죄송하지만 이미지를 볼 수 없습니다.",
    "죄송합니다. 이미지를 설명할 수 없습니다.",
    "이미지를 볼 수 없습니다.",
    "이 이미지는 설명할 수 없습니다.",
    "I do not see any image attached.",
    "It is not possible to describe this image.",
    "Unfortunately, the image is not visible.",
    "It seems that no image was provided.",
    "I don't see an image in your message.",
    "I'm afraid I can't see the picture.",
    "The image you uploaded could not be loaded.",
    "You have not provided an image.",
    "Could you please upload the image again?",
    "It looks like the image failed to load.",
    "There doesn't seem to be an image attached.",
    "I'm not comfortable describing this person.",
    "I must decline to describe this.",
    "I'm not allowed to identify people.",
    "没有看到图片，请重新上传。",
    "图片无法显示。",
    "すみません、画像を見ることができません。",
    "この画像を説明することはできません。",
    "残念ながら、画像が表示されていません。",
    "Я не могу описать это изображение.",
    "К сожалению, изображение не загружено.",
    "Es ist nicht möglich, dieses Bild zu beschreiben.",
    "Ich sehe kein Bild.",
    "Leider wurde kein Bild hochgeladen.",
    "Malheureusement, l'image n'est pas visible.",
    "Aucune image n'a été fournie.",
    "No veo ninguna imagen.",
    "No es posible describir esta imagen.",
    "Lamentablemente, no puedo ver la imagen.",
    "Purtroppo non riesco a vedere l'immagine.",
    "Infelizmente, não consigo ver a imagem.",
    "Não vejo nenhuma imagem.",
    "Helaas kan ik deze afbeelding niet zien.",
    "Niestety nie widzę obrazu.",
    "Üzgünüm, bu resmi göremiyorum.",
    "Xin lỗi, tôi không thể xem hình ảnh này.",
    "Maaf, saya tidak dapat melihat gambar.",
    "عذراً، لا أستطيع رؤية الصورة.",
    "آسف، لا يمكنني وصف الصورة",
    "क्षमा करें, मैं यह छवि नहीं देख सकता।",
    "मैं इस छवि का वर्णन नहीं कर सकता।",
]

#: Captions with the words of refusals.
NO_REFUSALS = [
    "Sorry sign on a closed door",
    "The image is not sharp but shows a dog",
    "This image was taken at night",
    "The picture is not framed",
    "The photo is not in focus",
    "An image of a dog is shown",
    "No image is more famous than the Mona Lisa.",
    "A sign: it is impossible to describe love",
    "No dogs allowed sign",
    "죄송합니다 라고 적힌 표지판",
    "죄송합니다라고 쓰인 카드를 든 남자",
    "お詫びの看板",
    "申し訳ありませんと書かれた看板",
    "ごめんなさいと書かれたカード",
    "この写真は夜に撮影された",
    "没有看到大海的男孩",
    "没有图片的墙",
    "Je ne regrette rien poster",
    "Nie mogę się doczekać plakat",
    "Ich sehe was, was du nicht siehst Spiel",
    "No es posible aparcar aquí",
    "No veo la hora de ir",
    "No hay imagen más bella",
    "Lo siento escrito en un muro",
    "Não estacione placa",
    "Maaf lahir batin kartu lebaran",
    "Xin lỗi viết trên bảng",
    "लड़का और छवि",
    "Я не забуду плакат",
    "You did it poster",
    "Could you please close the door sign",
    "Can you see the picture in the cloud",
    "Hello kitty image on a bag",
    "The picture was not hung on the wall",
    "Your image here sign on a billboard",
    "There is no picture on the wall.",
    "It's not possible to see the person's face",
    "I do not see evil monkey",
    "I don't have a picture perfect life mug",
    "I see a picture of a dog",
    "this image is available in three sizes",
    "Unfortunately named street sign",
    "However big the dog",
    "Ik kan het niet boek omslag",
    "Maalesef yazılı duvar",
    "لا أرى شيئا لوحة",
    "사진을 볼 수 있는 전시회",
    "이미지가 없는 벽",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_no_caption_in_any_language(text: str) -> None:
    assert checked(text, cut=False) == ("", "refusal")


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_a_caption_may_have_the_words_of_a_refusal(text: str) -> None:
    for written in (text, text.rstrip(".") + ".", text[:1].upper() + text[1:]):
        assert checked(written, cut=False) == (written, None)


def test_no_label_of_an_emoji_is_a_refusal() -> None:
    lines = (Path(__file__).parents[2] / "samples/emoji/labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = [label for line in lines for key, label in json.loads(line).items() if key in ("en", "zh")]
    assert len(labels) > 1000
    assert [label for label in labels if checked(label, cut=False).fault in ("refusal", "special_token")] == []


@pytest.mark.parametrize(
    ("text", "left", "fault"),
    [
        *((f"A dog.{token}", "A dog.", None) for token in ("<|im_end|>", "<|endoftext|>", "</s></s>", "<|eot_id|>\n")),
        *(
            (f"A dog. {token}", "A dog.", None)
            for token in ("<end_of_turn>", "<eos>", "[EOS]", "<｜end▁of▁sentence｜>")
        ),
        *((f"{token} A dog.</s>", "A dog.", None) for token in ("<s>", "[/INST]", "<bos>", "<|im_start|>assistant\n")),
        ("A dog.<|im_end|>\n<|im_start|>assistant\n", "A dog.", None),
        ("A dog.<end_of_turn>\n<start_of_turn>model", "A dog.", None),
        ("<|im_end|>", "", "special_token"),
        ("<s></s>", "", "special_token"),
        ("A dog.<|im_end|>\n<|im_start|>user\nAnd a cat?", "A dog.", "special_token"),
        ("A dog.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA dog.", "A dog.", "special_token"),
        ("A dog. [INST] What is it? [/INST] A cat.", "A dog.", "special_token"),
        ("A dog. It has a<|im_end|>more", "A dog.", "truncated"),
        ("<|endoftext|>Sorry, I can't see it.", "", "refusal"),
        ("A dog says <hello> & [hi], </b> and <3", "A dog says <hello> & [hi], </b> and <3", None),
    ],
)
def test_special_tokens_are_no_text(text: str, left: str, fault: str | None) -> None:
    assert checked(text, cut=False) == (left, fault)


def test_what_the_limit_cut_is_the_last_turn() -> None:
    assert checked("A dog<|im_end|>And a", cut=True) == ("A dog", "special_token")
    assert checked("A dog<|im_end|>", cut=True) == ("", "truncated")
