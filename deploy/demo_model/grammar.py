"""A tiny phrase grammar and the noise of hurried typing, for the demo model's training conversations.

Used by the phrase files (as their notation) and by conversations.py (to expand and roughen them). Holds no phrase itself.
All randomness comes in as a random.Random, so that a seed names one conversation for ever.

Notation: `[a|b|]` chooses one of the alternatives (the last one here is empty), may be nested, and `{name}` is replaced
by the value of a slot.
"""

import random
import re
from typing import Callable, Mapping

Slots = Mapping[str, Callable[[random.Random], str]]

_INNERMOST_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


def expand(template: str, slots: Slots, rng: random.Random) -> str:
    """Returns one sentence of the template: slots filled, choices made, spaces tidied."""
    text = template
    while True:
        match = _INNERMOST_CHOICE.search(text)
        if match is None:
            break
        text = text[: match.start()] + rng.choice(match.group(1).split("|")) + text[match.end():]
    # A slot's value may itself be a template with choices and slots.
    while True:
        match = _SLOT.search(text)
        if match is None:
            break
        value = expand(slots[match.group(1)](rng), slots, rng)
        text = text[: match.start()] + value + text[match.end():]
    text = re.sub(r" +", " ", text).strip()
    return re.sub(r" ([,.?!;:])", r"\1", text)


_NEIGHBOUR_KEYS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et", "s": "ad", "t": "ry",
    "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}


# What people type with their thumbs.
_SHORT_FORMS = {"you": "u", "are": "r", "your": "ur", "please": "pls", "thanks": "thx", "tomorrow": "tmrw",
                "because": "bc", "about": "abt", "order": "ordr", "when": "wen", "what": "wat", "see": "c"}
_SHORT_FORM = re.compile(r"\b(" + "|".join(_SHORT_FORMS) + r")\b", re.IGNORECASE)


def _misspell(word: str, rng: random.Random) -> str:
    """Returns the word with one slip: a letter swapped, dropped, doubled or hit next to its key."""
    at = rng.randrange(1, len(word) - 1)
    slip = rng.randrange(4)
    if slip == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2:]
    if slip == 1:
        return word[:at] + word[at + 1:]
    if slip == 2:
        return word[:at] + word[at] + word[at:]
    key = rng.choice(_NEIGHBOUR_KEYS.get(word[at].lower(), word[at]))
    return word[:at] + key + word[at + 1:]


def roughen(text: str, rng: random.Random) -> str:
    """Returns the text as a customer in a hurry might type it. Digits are never touched: an answer must copy them."""
    if rng.random() < 0.22:
        words = text.split(" ")
        long_words = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
        for i in rng.sample(long_words, min(len(long_words), rng.choice([1, 1, 1, 2, 3]))):
            words[i] = _misspell(words[i], rng)
        text = " ".join(words)
    if rng.random() < 0.08:
        text = _SHORT_FORM.sub(lambda match: _SHORT_FORMS[match.group(0).lower()], text)
    style = rng.random()
    if style < 0.22:
        text = text.lower()
    elif style < 0.25:
        text = text.upper()
    elif style < 0.85:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.12:
        text = text.replace("'", rng.choice(["", "’"]))
    end = rng.random()
    if end < 0.20:
        text = text.rstrip("?.!")
    elif end < 0.26:
        text = text.rstrip("?.!") + rng.choice(["??", "!!", "?!", "...", " ?", "???", " :)", " :(", "!"])
    if rng.random() < 0.03:
        text = text.replace(",", "")
    return text
