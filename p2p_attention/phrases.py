"""Phrases: which words of a prompt name a thing, and where the words about it end.

Prompts are not grammar. This knows punctuation, the small words and some verbs of the languages that prompts are most
often written in, and the endings of English verbs. Where it knows nothing, a phrase goes on, and its head is the last
word, or the first in a language whose adjectives follow their nouns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .letters import is_kana, is_unspaced, says_nothing
from .prompt import Word

Role = Literal["mark", "link", "article", "verb", "name"]
Lead = Literal["start", "mark", "link", "verb"]

# A phrase's head stands before the first of these ("dog | with a hat"), its adjectives before the head ("big dog").
CONNECTIVES = frozenset("and at behind beside by for from in into near next of on over to under wearing with".split())
ENGLISH_LINKS = CONNECTIVES | frozenset(
    "about above across after against along alongside amid amidst among amongst around as atop before below beneath "
    "besides between beyond but during except inside like off onto opposite or out outside per since that through "
    "throughout till toward towards underneath until unlike up upon via versus vs when where whereas while which who "
    "whom whose within without plus because if so than down away".split()
)
ENGLISH_ARTICLES = frozenset(
    "a an the this these those my your his her its our their some any each every another no both one".split()
)
# What things do, where a description says it after the noun; participles are known by their endings, too.
ENGLISH_VERBS = frozenset(
    "is are was were be has have had do does can will sits sit sat stands stand stood runs run ran jumps jump jumped "
    "lies lie lay sleeps sleep slept holds hold held wears wear wore plays play played looks look looked eats eat ate "
    "rides ride rode walks walk walked flies fly flew swims swim swam reads drinks drink sings sing dances "
    "smiles laughs cries cry sells buys carries carry drives drive rests waits hides climbs chases "
    "watches stares gazes faces leans hangs floats glows shines burns made seen shot drawn worn built "
    "dressed covered surrounded painted decorated filled lit inspired rendered styled".split()
)
# Endings that are no participles.
NOUNS_IN_ING = frozenset(
    "king ring string wing morning evening painting building ceiling thing spring clothing wedding lightning sibling "
    "duckling earring drawing engraving pudding dumpling railing swing sling viking gosling nothing something "
    "everything anything lighting setting being stocking inking sting bling pudding etching awning".split()
)
NOUNS_IN_ED = frozenset(
    "bed red seed weed shed sled breed speed hundred sacred naked wicked reed feed steed need deed bleed creed "
    "greed biped quadruped thoroughbred".split()
)
# Participles that are followed by what they are done to, so that they never stand before their noun.
TRANSITIVE = frozenset(
    "wearing holding riding eating playing reading carrying drinking chasing watching using driving having making "
    "showing featuring facing catching throwing pulling pushing wielding hugging kissing biting licking chewing "
    "smelling sniffing feeding petting touching including containing".split()
)
COLOURS = frozenset(
    "red blue green yellow black white brown grey gray orange pink purple violet golden silver gold turquoise cyan "
    "magenta beige crimson scarlet blonde blond brunette ginger teal navy maroon ivory lavender "
    "rouge bleu bleue vert verte jaune noir noire blanc blanche gris grise rose marron "
    "rojo roja azul verde amarillo amarilla negro negra blanco blanca rosa "
    "rosso rossa blu giallo gialla nero nera bianco bianca vermelho vermelha preto preta branco branca amarelo amarela "
    "rot rote roter rotes roten blau blaue blauer blaues blauen grün grüne grüner grünes gelb gelbe gelber gelbes "
    "schwarz schwarze schwarzer schwarzes weiß weiße weißer weißes braun braune brauner braunes".split()
)
MODIFIERS = COLOURS | frozenset(
    "big small large little tiny huge giant old young new cute fluffy furry fat thin tall short long happy sad angry "
    "beautiful ugly pretty lovely dark bright light wild dirty clean wet dry cold hot warm rich poor soft hard fast "
    "slow very really extremely wooden woolen frozen broken silken modern ancient shiny rusty dusty hairy snowy rainy "
    "sunny foggy cloudy stormy real fake smart brave lazy sleepy hungry scary spooky funny silly elegant majestic "
    "striped spotted quite rather too more most".split()
)
MODIFIER_ENDINGS = ("ful", "ous", "ish", "less", "able", "ible", "ly", "esque")
# In languages whose adjectives follow, some do not.
BEFORE_THE_NOUN = frozenset(
    "grand grande gros grosse petit petite beau belle vieux vieille jeune joli jolie nouveau nouvelle bon bonne "
    "gran viejo vieja joven pequeño pequeña buen buena bel bella bello vecchio vecchia giovane piccolo piccola nuovo "
    "nuova velho velha pequeno pequena novo nova".split()
)
# What a picture is, or how well it is made, said behind what is in it.
STYLES = frozenset(
    "art artwork artstation painting watercolor watercolour sketch drawing illustration render rendering photo "
    "photograph photography picture portrait anime manga cartoon comic style oil acrylic digital pixel cinematic "
    "masterpiece quality best detailed hd uhd lighting bokeh background 3d".split()
)

# Small words of other languages: (words that begin a phrase, articles, verbs, whether adjectives follow their nouns).
LANGUAGES: dict[str, tuple[str, str, str, bool]] = {
    "fr": (
        "avec sans dans sur sous de du des d en à au aux chez par pour contre entre vers devant derrière près comme "
        "qui que dont où et ou pendant après avant autour",
        "un une le la les l ce cet cette son sa ses leur leurs mon ma mes",
        "est sont porte portant tient tenant regarde regardant mange mangeant joue jouant dort dormant marche marchant "
        "court courant saute sautant assis assise debout couché couchée vêtu vêtue entouré entourée",
        True,
    ),
    "es": (
        "con sin en sobre bajo de del por para contra entre hacia desde hasta junto cerca como que y o durante detrás "
        "delante encima debajo dentro al ante tras",
        "un una unos unas el la los las su sus este esta mi mis",
        "es son está están lleva sostiene tiene come juega duerme corre salta mira sentado sentada parado parada "
        "vestido vestida rodeado rodeada acostado acostada llevando sosteniendo comiendo jugando durmiendo corriendo "
        "saltando mirando",
        True,
    ),
    "it": (
        "con senza in su sul sulla sullo sui nel nella nello nei di del della dello dei degli delle da dal dalla per "
        "tra fra verso sotto sopra come che e o ed durante accanto vicino davanti dietro dentro al alla",
        "un uno una il lo la i gli le un' l questo questa suo sua",
        "è sono indossa tiene mangia gioca dorme corre salta guarda seduto seduta vestito vestita circondato sdraiato "
        "indossando tenendo mangiando giocando dormendo correndo",
        True,
    ),
    "pt": (
        "com sem em no na nos nas sobre sob de do da dos das por pelo pela para contra entre como que e ou durante "
        "atrás dentro ao à junto perto",
        "um uma uns umas o a os as este esta seu sua",
        "é são está usa usando veste vestindo segura segurando come comendo joga dorme dormindo corre correndo "
        "sentado sentada deitado",
        True,
    ),
    "de": (
        "mit ohne in im ins auf an am unter über neben vor hinter bei von vom zu zum zur für aus gegen zwischen "
        "während wie und oder als durch um nach seit",
        "ein eine einen einem einer eines der die das den dem des sein seine ihr ihre kein keine",
        "ist sind trägt hält sitzt steht liegt schläft isst läuft springt spielt sieht schaut fliegt reitet tragend "
        "haltend sitzend stehend liegend schlafend laufend gemalt gemacht umgeben",
        False,
    ),
    "nl": (
        "met zonder in op aan onder boven naast voor achter bij van uit naar door tegen tussen als die dat en of "
        "tijdens",
        "een de het zijn haar",
        "is zijn draagt houdt zit staat ligt slaapt eet loopt springt speelt zittend",
        False,
    ),
    "sv": (
        "med utan i på under över bredvid vid av från till och som eller framför bakom mot",
        "en ett den det de",
        "är bär håller sitter står ligger sover äter springer",
        False,
    ),
    "da": (
        "med uden uten i på under over ved af av fra til og som eller foran bag mot",
        "en et den det de ei",
        "er bærer holder sidder sitter står ligger sover spiser løber",
        False,
    ),
    "pl": (
        "z ze w we na pod nad obok przy od do dla bez i oraz lub który która które za przed między przez jak",
        "ten ta to",
        "jest siedzi stoi leży śpi je biegnie trzyma nosi ubrany siedzący",
        False,
    ),
    "cs": ("s se bez v ve na pod nad u vedle od do pro a nebo který která za před mezi", "ten ta to", "je sedí", False),
    "ru": (
        "с со без в во на под над у около рядом из от для и или который которая которое за перед при по к между как о",
        "",
        "сидит стоит лежит спит ест бежит держит носит сидящий сидящая держащий играет",
        False,
    ),
    "uk": (
        "з із зі без в у на під над біля від для та і й або який яка за перед при по до",
        "",
        "сидить стоїть",
        False,
    ),
    "el": ("με σε στο στη στην στον χωρίς και ή που από κάτω πάνω δίπλα", "ένας μια ένα ο η το", "κάθεται", False),
    "tr": ("ve veya", "bir", "", False),
    "id": (
        "dengan di pada dari untuk yang dan atau tanpa ke dalam seperti oleh",
        "seekor sebuah seorang",
        "memakai mengenakan memegang duduk berdiri tidur makan berlari sedang",
        True,
    ),
    "vi": ("với trong trên dưới của và ở bên cạnh không", "một con cái", "đang mặc đội cầm ngồi đứng ngủ", True),
    "ar": ("في على مع من تحت فوق و بدون بلا إلى بجانب الذي التي أو", "", "يجلس يرتدي يحمل تجلس ترتدي", True),
    "he": ("עם על תחת מתחת של בלי ליד או ואת מעל בתוך", "", "יושב יושבת לובש מחזיק", True),
    "hi": ("के की का में पर और साथ से या", "एक", "", False),
    "ko": ("와 과 그리고", "", "", False),
}
# In scripts without spaces: what begins another phrase, wherever it stands behind a character.
LINKS_WITHIN = (
    *"在和与及或戴着穿拿坐站抱骑吃喝看躺跑跳飞睡被从以",
    *"戴著穿著拿著坐著",
    *("กับ", "ใน", "บน", "ใต้", "ที่", "และ", "สวม", "ใส่", "ถือ", "นั่ง", "ยืน", "กำลัง", "ของ", "หรือ", "มี"),
    *("ກັບ", "ໃນ", "ເທິງ", "ແລະ", "នៅ", "ជាមួយ", "និង"),
)
# Words that name things of one kind: a weak likeness, for want of a better one.
KINDS_OF_THINGS = tuple(
    frozenset(group.split())
    for group in (
        "cat dog horse bird lion tiger bear fox wolf rabbit bunny mouse rat hamster squirrel cow pig sheep goat deer "
        "elephant giraffe zebra monkey gorilla panda koala kangaroo fish shark whale dolphin turtle frog snake lizard "
        "crocodile dinosaur dragon unicorn duck goose chicken hen rooster owl eagle parrot penguin kitten puppy pony "
        "donkey camel raccoon hedgehog otter seal octopus spider bee butterfly dragonfly leopard cheetah corgi "
        "chat chien cheval oiseau lapin ours renard loup gato gata perro perra caballo pájaro conejo oso zorro lobo "
        "gatto cane cavallo uccello coniglio orso volpe lupo cachorro cão cavalo pássaro coelho urso raposa "
        "katze hund pferd vogel hase kaninchen bär fuchs löwe maus kat hond paard кот кошка собака пёс лошадь птица "
        "медведь лиса волк kot pies koń ptak niedźwiedź lis wilk kedi köpek kucing anjing mèo chó",
        "man woman boy girl child kid baby person lady guy gentleman king queen prince princess wizard witch knight "
        "soldier pirate robot astronaut doctor nurse chef farmer teacher student cowboy ninja samurai warrior elf "
        "fairy "
        "homme femme garçon fille enfant hombre mujer niño niña uomo donna ragazzo ragazza homem mulher menino menina "
        "mann frau junge mädchen kind мужчина женщина мальчик девочка kobieta mężczyzna",
        "car truck bus bicycle bike motorcycle train boat ship airplane plane helicopter tractor van taxi rocket",
        "house castle church tower cottage cabin hut barn temple palace skyscraper lighthouse bridge",
        "chair sofa table bed couch bench stool desk armchair",
        "winter summer spring autumn fall",
        "morning evening night noon dawn dusk sunset sunrise midnight",
        "wood stone metal glass gold silver marble plastic paper clay ice bronze wool",
        " ".join(COLOURS),
    )
)
GERUNDS = ("ando", "iendo", "endo", "indo")  # of Spanish, Italian and Portuguese: llevando, indossando, vestindo


@dataclass(frozen=True)
class Language:
    """What is known of a language: its small words, and whether its adjectives follow their nouns."""

    name: str
    links: frozenset[str]
    articles: frozenset[str]
    verbs: frozenset[str]
    adjectives_follow: bool = False

    def role(self, text: str) -> Role:
        """What a word does, as far as its letters tell."""
        if says_nothing(text):
            return "mark"
        small = text.lower()
        if small in self.articles:
            return "article"
        if small in self.links:
            return "link"
        if small in self.verbs or (self.name in ("es", "it", "pt") and len(small) > 5 and small.endswith(GERUNDS)):
            return "verb"
        return "name"


ENGLISH = Language("en", ENGLISH_LINKS, ENGLISH_ARTICLES, ENGLISH_VERBS)
OTHERS = tuple(
    Language(name, frozenset(links.split()), frozenset(articles.split()), frozenset(verbs.split()), follow)
    for name, (links, articles, verbs, follow) in LANGUAGES.items()
)


def language_of(words: Sequence[Word]) -> Language:
    """The language whose small words are most in a text; English where there are none, or as many."""
    texts = [word.text.lower() for word in words]

    def votes(language: Language) -> int:
        return sum(text in language.articles or text in language.links or text in language.verbs for text in texts)

    return max((ENGLISH, *OTHERS), key=votes)  # of equal ones the first


@dataclass(frozen=True)
class Phrase:
    """Consecutive words: what begins it (nothing, punctuation, a connective, a verb), and what it is about.

    Args:
        lead: the kind of ``opening``.
        opening: indices of the words that begin it.
        units: indices of the words of each of its further members; characters without spaces are one member.
    """

    lead: Lead
    opening: tuple[int, ...]
    units: tuple[tuple[int, ...], ...]


def same_kind(a: str, b: str) -> bool:
    """Whether two words name things of one kind, or are forms of one word."""
    a, b = a.lower(), b.lower()
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if common >= 4 and common >= 0.6 * max(len(a), len(b)):
        return True
    forms = [{text, text.removesuffix("s"), text.removesuffix("es")} for text in (a, b)]
    return any(forms[0] & kind and forms[1] & kind for kind in KINDS_OF_THINGS)


def phrases(words: Sequence[Word], language: Language = ENGLISH, before: Word | None = None) -> list[Phrase]:
    """Cut consecutive words into phrases.

    Args:
        before: the word in front of them.
    """
    roles = [language.role(word.text) for word in words]
    members = _units(words, roles)
    cut: list[Phrase] = []
    opening: list[int] = []
    units: list[tuple[int, ...]] = []
    lead: Lead = "start"

    def close() -> None:
        if opening or units:
            cut.append(Phrase(lead, tuple(opening), tuple(units)))
        opening.clear()
        units.clear()

    for number, unit in enumerate(members):
        kind = _opens(words, roles, members, number, units, language, before)
        if kind is None:
            units.append(unit)
        elif not units and opening and lead in ("mark", kind):
            opening += unit  # ", with" and "next to" begin one phrase
        else:
            close()
            lead = kind
            opening += unit
    close()
    return cut


def _units(words: Sequence[Word], roles: Sequence[Role]) -> list[tuple[int, ...]]:
    """Each word, and each run of characters without spaces up to where another phrase begins in it."""
    units: list[tuple[int, ...]] = []
    at = 0
    while at < len(words):
        last = at + 1
        if roles[at] != "mark" and is_unspaced(words[at].text[0]):
            while last < len(words) and roles[last] != "mark" and _adjoins(words[last - 1], words[last]):
                last += 1
            units += _cut_run(words, at, last)
        else:
            units.append((at,))
        at = last
    return units


def _adjoins(before: Word, word: Word) -> bool:
    return is_unspaced(word.text[0]) and (before.end is None or word.start is None or before.end == word.start)


def _cut_run(words: Sequence[Word], first: int, last: int) -> list[tuple[int, ...]]:
    texts = [words[i].text for i in range(first, last)]
    borders = {0, len(texts)}
    if any(is_kana(text[0]) for text in texts):
        borders |= _japanese_borders(texts)
    else:
        for i in range(1, len(texts)):
            if "".join(texts[i:]).startswith(LINKS_WITHIN):
                borders.add(i)
                break  # what follows belongs to it
    cuts = sorted(borders)
    return [tuple(range(first + a, first + b)) for a, b in zip(cuts, cuts[1:], strict=False)]


def _japanese_borders(texts: Sequence[str]) -> set[int]:
    """A noun stands before its particle, and behind everything that is said about it."""
    soft = ["\u3041" <= text[0] <= "\u309f" for text in texts]
    if all(soft) or not any(soft):
        return set()
    if soft[-1]:
        return {soft.index(True)} - {0}  # 犬|が座っている
    return {len(soft) - soft[::-1].index(True)}  # 帽子をかぶった|犬


def _opens(
    words: Sequence[Word],
    roles: Sequence[Role],
    members: Sequence[tuple[int, ...]],
    number: int,
    units: Sequence[tuple[int, ...]],
    language: Language,
    before: Word | None,
) -> Lead | None:
    """How a member begins another phrase, None where it goes on with the one there is."""
    unit = members[number]
    first = unit[0]
    text = "".join(words[i].text for i in unit)
    small = text.lower()
    if roles[first] == "mark":
        return "mark"
    if roles[first] == "link":
        return "link"
    if is_unspaced(text[0]):
        if number and text.startswith(LINKS_WITHIN) and _adjoins(words[first - 1], words[first]):
            return "verb"
        return "verb" if number and is_kana(text[0]) and units else None
    named = [i for (i, *_) in units if roles[i] != "article"]
    if not named:
        return "verb" if roles[first] == "verb" and not units else None
    if roles[first] in ("verb", "article"):
        return "verb" if roles[first] == "verb" else "link"
    if text[0].isnumeric() and not words[named[-1]].text[0].isnumeric():
        return "link"  # dog 4k
    if words[named[-1]].text[0].isnumeric():
        return None
    following = members[number + 1][0] if number + 1 < len(members) else None
    ends = following is None or roles[following] != "name"
    modified = _modifies(words[named[-1]].text)
    if small in TRANSITIVE:
        return "verb"
    if language is ENGLISH and small.isascii() and not modified:
        if _is_participle(small, "ing", NOUNS_IN_ING) or (ends and _is_participle(small, "ed", NOUNS_IN_ED)):
            return "verb"
        if small.endswith("ly") and following is not None and _is_participle(words[following].text.lower(), "ed", ()):
            return "verb"  # dog highly detailed
        article = words[units[0][0]].text if roles[units[0][0]] == "article" else before.text if before else ""
        if ends and article.lower() in ("a", "an", "one", "1") and _is_third_person(small):
            return "verb"
        if small in STYLES and not any(words[i].text.lower() in STYLES for i in named):
            return "verb"  # a dog oil painting
    return None


def _modifies(text: str) -> bool:
    small = text.lower()
    return small in MODIFIERS or (len(small) > 5 and small.endswith(MODIFIER_ENDINGS))


def _is_participle(text: str, ending: str, nouns: Sequence[str] | frozenset[str]) -> bool:
    return len(text) > len(ending) + 1 and text.endswith(ending) and text not in nouns


def _is_third_person(text: str) -> bool:
    """``sits``: behind ``a`` there is no plural."""
    return len(text) > 3 and text.endswith("s") and not text.endswith(("ss", "us", "is", "as", "os", "ics"))
