"""What stands for what, as a person who reads the prompts would say it: (source, target, {target's word: its place}).

A word's place is the source's word or words that it stands for, None where it is new. Words that are not named are
shared, each with itself. The second half of most cases is the first the other way round: what was added is taken away.
"""

from __future__ import annotations

NEW = None
A_CAT, A_DOG = "a photo of a cat", "a photo of a dog"

# What people add behind what they swap.
TAILS = (
    ", oil painting",
    " holding a balloon",
    " wearing a red hat",
    " sitting on a chair",
    " with a hat",
    " in the snow",
    ", smiling, at night",
    " that looks at the moon",
    " covered in snow",
    " made of glass",
    " under an umbrella",
    " without a collar",
    " jumping over a fence",
    " and a balloon",
    ". watercolor",
    " (watercolor)",
    " on a red sofa, highly detailed",
    " against a white wall",
    " who plays the piano",
    " during a storm",
    " inside a glass box",
    " like a lion",
    " playing the guitar",
    " surrounded by flowers",
    " painted by a child",
    " smiling",
    " as an astronaut",
    " while it rains",
    " between two trees",
    " through the fog",
    " eating pizza",
    " sits on a chair",
    " oil painting",
    " highly detailed",
    " - pixel art",
    "; soft light",
    ": a portrait",
    " | 4k",
    " 4k",
    " near the lake wearing glasses",
)

# Swap and tail where the languages' small words and the place of adjectives differ.
SWAPS_AND_TAILS = (
    ("masterpiece, 1girl", "masterpiece, 1boy, smile", "boy", "girl"),
    ("1girl", "1boy, red hair, smile", "boy", "girl"),
    ("cat", "dog, oil painting", "dog", "cat"),
    ("a cat", "a big dog with a hat", "dog", "cat"),
    ("a cat", "a big smiling dog", "dog", "cat"),
    ("the king", "the queen holding a sword", "queen", "king"),
    ("a castle on a hill", "a lighthouse on a hill, at night", "lighthouse", "castle"),
    ("a man reading a book", "a woman reading a book, sunset behind her", "woman", "man"),
    ("un chat", "un chien avec un chapeau", "chien", "chat"),
    ("un chat", "un chien noir avec un chapeau", "chien", "chat"),
    ("un chat dort", "un chien dort sur un lit", "chien", "chat"),
    ("une photo d'un chat", "une photo d'un chien, peinture", "chien", "chat"),
    ("un gato", "un perro con un sombrero rojo", "perro", "gato"),
    ("un gato", "un perro llevando un sombrero", "perro", "gato"),
    ("un gatto", "un cane con un cappello", "cane", "gatto"),
    ("um gato", "um cachorro com um chapéu", "cachorro", "gato"),
    ("eine Katze", "eine Ente mit einem Hut", "ente", "katze"),
    ("ein Pferd", "ein weißer Hund mit einem Hut", "hund", "pferd"),
    ("een kat", "een hond met een hoed", "hond", "kat"),
    ("en katt", "en hund med en hatt", "hund", "katt"),
    ("kot", "pies w kapeluszu", "pies", "kot"),
    ("кот", "собака в шляпе", "собака", "кот"),
    ("фото кота", "фото собаки с мячом", "собаки", "кота"),
    ("bir kedi", "bir köpek, yağlı boya", "köpek", "kedi"),
    ("고양이 사진", "강아지 사진, 유화", "강아지", "고양이"),
    ("seekor kucing", "seekor anjing dengan topi", "anjing", "kucing"),
    ("قطة", "كلب مع قبعة", "كلب", "قطة"),
)

# (source, target, {target's word: source's}) where the rest is shared or new.
OTHERS = (
    # punctuation is nobody's partner
    ("a cat", "a cat, dog", {",": NEW, "dog": NEW}),
    ("a cat; night", "a cat, night", {",": ";"}),
    ("a cat!", "a cat at night", {"at": NEW, "night": NEW}),
    ("cat", "!", {"!": NEW}),
    # tags in another order, as a whole, with one changed, and with their number changed
    ("1girl, red hair, blue eyes, smile", "1girl, blue eyes, red hair, smile", {}),
    ("1girl, red hair, blue eyes, smile", "smile, blue eyes, red hair, 1girl", {}),
    ("masterpiece, cat, night", "night, masterpiece, cat", {}),
    ("1girl, red hair, blue eyes, smile", "1girl, blue eyes, green hair, smile", {"green": "red"}),
    ("1girl, red hair, blue eyes", "blue eyes, 1girl, red hair, smile", {"smile": NEW}),
    ("1girl, red hair, smile", "smile, red hair, 1boy", {"boy": "girl"}),
    ("a cat and a dog", "a dog and a cat", {}),
    ("a red car and a blue house", "a blue house and a red car", {}),
    ("a cat, oil painting", "oil painting of a cat", {"of": NEW}),
    # changed in place
    ("1girl, red hair, smile", "1girl, long coat, smile", {"long": "red", "coat": "hair"}),
    ("a red car", "a blue sports car", {"blue": "red", "sports": NEW}),
    ("a cat on grass", "a dog under the trees", {"dog": "cat", "under": "on", "the": NEW, "trees": "grass"}),
    ("a cat sitting on grass", "a dog lying in snow", {"dog": "cat", "lying": "sitting", "in": "on", "snow": "grass"}),
    # colours that change places are no move of their things
    ("a black cat, white sofa", "a white cat, black sofa", {"white": NEW, "black": NEW}),
)

# Scripts without spaces, character by character.
UNSPACED = (
    ("一只猫坐在红色的椅子上", "一只狗坐在红色的椅子上", {"狗": "猫"}),
    ("一只猫坐在红色的椅子上", "一只猫坐在蓝色的椅子上", {"蓝": "红"}),
    ("一只猫坐在椅子上", "一只猫坐在红色的椅子上", {"红": NEW, "色": NEW, "的": NEW}),
    ("一只猫", "一只狗，油画", {"狗": "猫", "，": NEW, "油": NEW, "画": NEW}),
    ("一只猫", "一只狗戴着帽子", {"狗": "猫", "戴": NEW, "着": NEW, "帽": NEW, "子": NEW}),
    ("椅子に座っている猫", "椅子に座っている犬", {"犬": "猫"}),
    ("猫の写真", "犬の写真", {"犬": "猫"}),
    ("猫", "帽子をかぶった犬", {"犬": "猫", **dict.fromkeys("帽子をかぶ", NEW)}),
    ("猫", "犬が座っている", {"犬": "猫", **dict.fromkeys("が座いる", NEW)}),
    ("ねこがすわる", "いぬがすわる", {"い": "ね", "ぬ": "こ"}),
)


def cases():
    """(source, target, {target's word: source's words, or None}) of all of them, both ways for the tails."""
    for tail in TAILS:
        words = dict.fromkeys(_words(tail), NEW)
        yield A_CAT, A_DOG + tail, {**words, "dog": "cat"}
        yield A_CAT + tail, A_DOG, {"dog": "cat"}
    for source, target, word, place in SWAPS_AND_TAILS:
        yield source, target, {word: place}
        yield target, source, {place: word}
    yield from OTHERS
    yield from UNSPACED


def _words(text):
    from re import findall

    return findall(r"\d+(?=[^\W\d])|\w+|[^\w\s]", text)
