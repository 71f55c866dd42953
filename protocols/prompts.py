"""The words and the small grammar of all prompts: articles, plurals, lists, people, colours, backgrounds, classes.

Each fact has one phrase, in plain lower-case words, so that a small model can learn them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# ---------------------------------------------------------------- words

# "t-shirt" and "woman's" are one word each.
_WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")


def words_of(text: str) -> list[str]:
    """The words of a prompt in order, lower case, without punctuation."""
    return _WORD.findall(text.lower())


def article(phrase: str) -> str:
    """The indefinite article of a phrase: "a" or "an"."""
    # The sound decides, not the letter: "a unicorn", "an unintended edit", "an hour".
    word = phrase.split(maxsplit=1)[0].lower()
    if word.startswith(("uni", "use", "eu", "one", "ukulele", "u-")) and not word.startswith("unin"):
        return "a"
    if word.startswith(("hour", "honest", "heir")):
        return "an"
    return "an" if word[0] in "aeiou" else "a"


def with_article(phrase: str) -> str:
    return f"{article(phrase)} {phrase}"


# Plurals that the rules of ``plural`` miss. Those that equal the singular are mass nouns or come in pairs.
_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "broccoli": "broccoli",
    "aircraft": "aircraft",
}


def plural(noun: str) -> str:
    """The plural of a noun. In a compound the last word changes: "wine glass" -> "wine glasses"."""
    *before, last = noun.split()
    if last in _IRREGULAR:
        many = _IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")) or last in ("potato", "tomato"):
        many = last + "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        many = last[:-1] + "ies"
    else:
        many = last + "s"
    return " ".join([*before, many])


def join(phrases: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c". Raises ValueError for no phrases."""
    # A comma before "and" would be one more token to learn.
    if not phrases:
        raise ValueError("nothing to join")
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


# ---------------------------------------------------------------- backgrounds and colours


@dataclass(frozen=True)
class Background:
    """One background and its words."""

    name: str
    # Follows a noun: "a red car on a beach".
    phrase: str
    # The prompt of the region alone: "a beach".
    noun: str


# Each name is a word of its own phrase and noun, so that it can be the edit word of the case.
BACKGROUNDS: Mapping[str, Background] = {
    b.name: b
    for b in (
        Background("meadow", "in a meadow", "a meadow"),
        Background("beach", "on a beach", "a beach"),
        Background("snow", "in the snow", "snow"),
        Background("desert", "in a desert", "a desert"),
        Background("night", "at night", "a night sky"),
        Background("room", "in a room", "a room"),
    )
}


def check_backgrounds(names: Sequence[str]) -> None:
    """Raises ValueError for an unknown name, and for none at all."""
    unknown = [name for name in names if name not in BACKGROUNDS]
    if unknown or not names:
        raise ValueError(f"backgrounds are {list(names)}; choose from {', '.join(BACKGROUNDS)}")


MINI_COLORS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
# An object of the rendered world has a hue, so that it differs from tyres, windows and shadows. Photographs need the
# colours without hue too.
COLORS: tuple[str, ...] = (*MINI_COLORS, "white", "black", "gray", "brown")

# Material -> its adjective.
MATERIALS: Mapping[str, str] = {
    "wood": "wooden",
    "glass": "glass",
    "metal": "metal",
    "stone": "stone",
}

# ---------------------------------------------------------------- faces

# Hair colour -> CelebA's attribute.
HAIR_COLORS: Mapping[str, str] = {
    "black": "Black_Hair",
    "blond": "Blond_Hair",
    "brown": "Brown_Hair",
    "gray": "Gray_Hair",
}
# Three states from CelebA's two attributes, Smiling and Mouth_Slightly_Open.
MOUTHS: tuple[str, ...] = ("neutral", "smile", "open")
# Kind of edit -> (CelebA's attribute, the phrase), in the order in which a prompt names them.
WEARABLES: Mapping[str, tuple[str, str]] = {
    "eyeglasses": ("Eyeglasses", "eyeglasses"),
    "hat": ("Wearing_Hat", "a hat"),
    "earrings": ("Wearing_Earrings", "earrings"),
    "lipstick": ("Wearing_Lipstick", "lipstick"),
}

# State of the mouth -> the prompt of its region, and the words of the target prompt that name it.
MOUTH_REGIONS = {"neutral": "a closed mouth", "smile": "a smiling mouth", "open": "an open mouth"}
MOUTH_WORDS = {"neutral": ("mouth", "closed"), "smile": ("smiling",), "open": ("mouth", "open")}


@dataclass(frozen=True)
class Pronouns:
    """The words for one person."""

    noun: str
    object: str
    possessive: str


MAN = Pronouns("man", "him", "his")
WOMAN = Pronouns("woman", "her", "her")


def pronouns(attributes: Mapping[str, bool]) -> Pronouns:
    # CelebA annotates no more than this one attribute.
    return MAN if attributes.get("Male", False) else WOMAN


def hair_color(attributes: Mapping[str, bool]) -> str | None:
    """The annotated hair colour. None for the bald, and where no colour or more than one is annotated."""
    if attributes.get("Bald", False):
        return None
    colors = [color for color, name in HAIR_COLORS.items() if attributes.get(name, False)]
    return colors[0] if len(colors) == 1 else None


def mouth(attributes: Mapping[str, bool]) -> str:
    """One of ``MOUTHS``. A smile with an open mouth is a smile."""
    if attributes.get("Smiling", False):
        return "smile"
    return "open" if attributes.get("Mouth_Slightly_Open", False) else "neutral"


def face_prompt(attributes: Mapping[str, bool], background: str | None = None) -> str:
    """The prompt of a portrait, with the facts always in the same order.

    ``attributes``: CelebA's names. An absent name counts as False, but ``No_Beard`` and ``Young`` count as True.
    Example: "a photo of a woman with black hair on a beach, wearing eyeglasses and a hat, smiling".
    """
    # Person.
    person = pronouns(attributes)
    noun = f"bald {person.noun}" if attributes.get("Bald", False) else person.noun
    if not attributes.get("Young", True):
        noun = f"older {noun}"
    text = f"a photo of {with_article(noun)}"
    color = hair_color(attributes)
    features = [f"{color} hair"] if color else []
    if not attributes.get("No_Beard", True):
        features.append("a beard")
    if features:
        text += f" with {join(features)}"

    # Background. CelebA does not annotate it, so the prompt of a source names none.
    if background is not None:
        text += f" {BACKGROUNDS[background].phrase}"

    # Things to wear and the mouth.
    things = [phrase for name, phrase in WEARABLES.values() if attributes.get(name, False)]
    if things:
        text += f", wearing {join(things)}"
    state = mouth(attributes)
    if state == "smile":
        return f"{text}, smiling"
    return f"{text}, {person.possessive} mouth {'open' if state == 'open' else 'closed'}"


def mouth_instruction(target: str, person: Pronouns) -> str:
    """For example "make her smile" or "close his mouth"."""
    if target == "smile":
        return f"make {person.object} smile"
    return f"{'open' if target == 'open' else 'close'} {person.possessive} mouth"


def background_instruction(target: str, person: Pronouns | None = None) -> str:
    """For example "put her on a beach" for a person, and "change the background to a beach" for a scene."""
    # Night is no place: nobody is put at night.
    if target == "night":
        return "make it night"
    if person is not None:
        return f"put {person.object} {BACKGROUNDS[target].phrase}"
    return f"change the background to {BACKGROUNDS[target].noun}"


# ---------------------------------------------------------------- scenes

# COCO's category -> its names in captions. The first one is its name in prompts. A name that mostly means something
# else is missing: "glass" is a material or a tumbler, seldom a wine glass.
NOUNS: Mapping[str, tuple[str, ...]] = {
    "person": ("person", "man", "woman", "boy", "girl", "child", "kid", "guy", "lady"),
    "bicycle": ("bicycle", "bike"),
    "car": ("car", "automobile", "sedan", "suv", "minivan", "taxi"),
    "motorcycle": ("motorcycle", "motorbike", "moped"),
    "airplane": ("airplane", "plane", "aeroplane", "jet", "aircraft", "airliner", "jetliner"),
    "bus": ("bus",),
    "train": ("train", "locomotive"),
    "truck": ("truck", "pickup"),
    "boat": ("boat", "ship", "sailboat", "canoe", "kayak", "ferry"),
    "traffic light": ("traffic light", "stoplight", "traffic signal"),
    "fire hydrant": ("fire hydrant", "hydrant"),
    "stop sign": ("stop sign",),
    "parking meter": ("parking meter",),
    "bench": ("bench",),
    "bird": ("bird", "seagull", "duck", "parrot", "owl", "pigeon", "swan", "goose"),
    "cat": ("cat", "kitten"),
    "dog": ("dog", "puppy"),
    "horse": ("horse", "pony"),
    "sheep": ("sheep", "lamb", "ram"),
    "cow": ("cow", "bull", "calf", "ox"),
    "elephant": ("elephant",),
    "bear": ("bear",),
    "zebra": ("zebra",),
    "giraffe": ("giraffe",),
    "backpack": ("backpack",),
    "umbrella": ("umbrella", "parasol"),
    "handbag": ("handbag", "purse"),
    "tie": ("tie", "necktie", "bowtie"),
    "suitcase": ("suitcase", "luggage"),
    "frisbee": ("frisbee",),
    "skis": ("skis",),
    "snowboard": ("snowboard",),
    "sports ball": (
        "ball",
        "sports ball",
        "soccer ball",
        "tennis ball",
        "baseball",
        "football",
        "basketball",
    ),
    "kite": ("kite",),
    "baseball bat": ("baseball bat", "bat"),
    "baseball glove": ("baseball glove", "glove", "mitt"),
    "skateboard": ("skateboard",),
    "surfboard": ("surfboard", "surf board"),
    "tennis racket": ("tennis racket", "racket", "tennis racquet", "racquet"),
    "bottle": ("bottle",),
    "wine glass": ("wine glass",),
    "cup": ("cup", "mug"),
    "fork": ("fork",),
    "knife": ("knife",),
    "spoon": ("spoon",),
    "bowl": ("bowl",),
    "banana": ("banana",),
    "apple": ("apple",),
    "sandwich": ("sandwich",),
    "orange": ("orange",),
    "broccoli": ("broccoli",),
    "carrot": ("carrot",),
    "hot dog": ("hot dog", "hotdog"),
    "pizza": ("pizza",),
    "donut": ("donut", "doughnut"),
    "cake": ("cake",),
    "chair": ("chair", "armchair"),
    "couch": ("couch", "sofa", "loveseat"),
    "potted plant": ("potted plant", "houseplant", "plant"),
    "bed": ("bed",),
    "dining table": ("table", "dining table", "dining room table"),
    "toilet": ("toilet",),
    "tv": ("tv", "television"),
    "laptop": ("laptop", "laptop computer"),
    "mouse": ("mouse", "computer mouse"),
    "remote": ("remote", "remote control"),
    "keyboard": ("keyboard",),
    "cell phone": ("cell phone", "cellphone", "phone", "smartphone", "mobile phone"),
    "microwave": ("microwave", "microwave oven"),
    "oven": ("oven", "stove"),
    "toaster": ("toaster",),
    "sink": ("sink",),
    "refrigerator": ("refrigerator", "fridge"),
    "book": ("book",),
    "clock": ("clock",),
    "vase": ("vase",),
    "scissors": ("scissors",),
    "teddy bear": ("teddy bear",),
    "hair drier": ("hair drier", "hair dryer", "blow dryer"),
    "toothbrush": ("toothbrush",),
}

# Instances whose colour is not edited. Of some, COCO's class fixes the colour (a stop sign is red) or light makes it
# (a television), others are so thin that a colour edit is hardly seen.
NO_COLOR = frozenset(
    {"traffic light", "stop sign", "tv", "scissors", "skis", "potted plant", "fork", "knife", "spoon"}
)
# Supercategories whose colour is not edited: "a blue person" may mean the clothes, and no photograph has a blue dog.
NO_COLOR_GROUPS = frozenset({"person", "animal", "food"})

# Classes that nothing is turned into. Their names are plurals or mass nouns: nobody says "a scissors".
NO_TARGET = frozenset({"scissors", "skis", "broccoli"})

# COCO's category -> the materials that an edit may ask for. A material that such things usually have is left out:
# "make the car out of metal" asks for nothing.
MATERIALS_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck"), ("wood", "glass", "stone")
    ),
    "boat": ("metal", "glass"),
    "bench": ("stone", "metal", "glass"),
    **dict.fromkeys(("chair", "couch", "bed", "dining table"), ("metal", "stone", "glass")),
    **dict.fromkeys(("cup", "bowl"), ("wood", "metal", "stone")),
    "bottle": ("wood", "metal", "stone"),
    "vase": ("wood", "metal", "stone"),
    "clock": ("wood", "stone", "glass"),
    **dict.fromkeys(("suitcase", "backpack", "handbag"), ("wood", "metal")),
    **dict.fromkeys(("skateboard", "surfboard", "snowboard"), ("metal", "stone")),
    **dict.fromkeys(("laptop", "keyboard", "refrigerator", "toilet", "sink"), ("wood", "stone")),
}

# The classes of the rendered world: COCO's category -> its supercategory.
MINI_CATEGORIES: Mapping[str, str] = {
    "car": "vehicle",
    "bus": "vehicle",
    "boat": "vehicle",
    "cup": "kitchen",
    "bottle": "kitchen",
    "sports ball": "sports",
    "kite": "sports",
    "surfboard": "sports",
    "umbrella": "accessory",
    "suitcase": "accessory",
}


def nouns(category: str) -> tuple[str, ...]:
    """The names of a category in captions. A category that COCO lacks has its own name alone."""
    return NOUNS.get(category, (category.lower(),))


def noun(category: str) -> str:
    """The name of a category in prompts: "sports ball" -> "ball"."""
    return nouns(category)[0]


# ---------------------------------------------------------------- all words

RELATION_WORDS: tuple[str, ...] = (
    *("left", "right", "above", "below", "middle", "same", "color", "colors"),
    *("as", "swap", "both", "two", "trim"),
    *(plural(noun(category)) for category in MINI_CATEGORIES),
)
"""The words that level 3 of the rendered world adds to :func:`vocabulary`. New ones go to the end: a tokenizer numbers
words in their order, and no number may move."""


def vocabulary(
    categories: Iterable[str] = tuple(MINI_CATEGORIES),
    colors: Iterable[str] = MINI_COLORS,
    materials: Iterable[str] = (),
) -> list[str]:
    """Every word that a prompt or instruction of faces or of scenes of these categories can hold, sorted."""
    texts = ["a an and", "a photo of with", "wearing smiling make smile give", "open close closed mouth hair"]
    texts += ["bald older man woman him her his", "a beard"]
    texts += [f"{color} hair" for color in HAIR_COLORS]
    texts += [phrase for _, phrase in WEARABLES.values()]
    texts += MOUTH_REGIONS.values()
    for name, background in BACKGROUNDS.items():
        texts += [background.phrase, background.noun, background_instruction(name)]
        texts += [background_instruction(name, who) for who in (MAN, WOMAN)]
    texts += ["make the turn into", *colors, *(MATERIALS[material] for material in materials)]
    texts += [noun(category) for category in categories]
    return sorted({word for text in texts for word in words_of(text)})
