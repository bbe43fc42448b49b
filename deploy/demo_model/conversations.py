"""Makes the demo model's training conversations: a small web shop's customers and the assistant that answers them.

Used by train.py (to train) and check_phrasings.py (to show that no hand-written phrasing repeats the training text).
Conversation `i` of a seed is the same on every machine. The phrases stand in order_questions.py, shop_topics.py and
out_of_scope.py; what may be said about an order stands in records.py.

    python3 deploy/demo_model/conversations.py 5      # prints five conversations
"""

import json
import random
import re
import sys
from dataclasses import dataclass

import order_questions as orders
import out_of_scope
from grammar import expand, roughen
from keywords import ENDINGS, ITEM_KEYWORDS, KEYWORDS, OPENINGS, STATUS_KEYWORDS
from records import (NUMBER_WANTED_ANSWER, Record, items_answer, not_visible_answer, other_number, random_number,
                     random_record, status_answer)
from shop_topics import TOPICS

Message = dict[str, str]

_PERSONAS = (
    "You are [the|our|a|the friendly|a helpful] [shop|web shop|online shop|store|company]'s [assistant|digital assistant|support assistant|helper].",
    "You are [a|the] [customer support|support|customer service|helpful|shop|friendly] [assistant|agent|bot] [of|for|at] [a|our|the|this] [small |online |web |]shop.",
    "You [help|assist|answer|support] [the |our |]customers of [a|our|the] [small |online |web |]shop.", "Answer the customer[ politely| briefly| in one or two sentences| kindly|].",
    "You are a helpful assistant.", "You work for [an online shop|a web shop|our shop|a small shop]. [Be polite.|Be brief.|Be friendly.|Help the customer.|]", "[Customer support|Support chat|Shop assistant|Customer service].",
    "You are [Tilly|Max|Nora|Sam|Ada|Robin], the [assistant|helper|voice] of [Tuppence Shop|our shop|a web shop|Garden & Home|Blue Door Store].",
)
_GREETINGS = (
    "hi", "hello", "hey", "hi there", "good morning", "good afternoon", "good evening", "hello there", "hi team", "dear team", "dear support", "excuse me", "sorry", "sorry to bother you", "hello again", "hi folks", "quick question", "one question", "please help", "listen", "so", "ok", "well", "morning", "greetings", "hiya", "good day", "hey guys", "just asking", "um",
)
_FAREWELLS = (
    "thanks", "thank you", "thanks in advance", "please", "cheers", "thanks a lot", "thank you very much", "many thanks", "asap", "please help", "please hurry", "kind regards", "best, Anna", "regards, Tom", "pls", "I need to know", "it is urgent", "I am waiting", "thx", "as soon as possible", "please answer", "I would be grateful", "have a nice day", "greetings, Maria", "yours, J. Miller", "best wishes", "any help is welcome", "let me know", "sorry for asking",
)
_ASIDES = (
    "I am [a bit|very|quite|getting|really] [worried|impatient|nervous|unhappy|annoyed|confused].", "It is a [gift|present|surprise] for my [mother|wife|son|friend|sister|boss|niece|grandfather|neighbour].", "I need it [for a wedding|for Saturday|urgently|before my holiday|for a party|next week|for work|by the weekend|for my trip].", "I [paid|have paid] [by card|with PayPal|already|last week|for express|in full|extra for fast delivery].", "I have been [a customer|shopping with you|buying here] for [years|ten years|a long time].",
    "I [ordered|bought] [a|some] {p}[ and a {p}|].", "I [checked|looked at] [my e-mail|the app|the website|my account|the mailbox|the tracking page] [and found nothing|but it says nothing|twice|and see no change|today].", "My [wife|husband|boss|daughter|neighbour|kids] [keeps asking|wants to know|asked me|is waiting|needs it|keep asking].", "I [was|am] [not at home|at work|on holiday|away|home all day] [yesterday|today|this week|until Friday|tomorrow].", "Nobody answers my [calls|e-mails|messages].", "This is my [first|second|third|last] [order|message|try|question|time].", "I got [an e-mail|a text|a letter|no e-mail|a strange message][ yesterday| from you| about it|].",
    "I [live|am] in [the countryside|a small town|the city|another country|a flat on the third floor].", "The [doorbell|tracking|app|website] [does not work|is broken|is slow|confuses me].", "My name is [Anna|Tom|Maria Lopez|J. Smith|Peter|Fatima|Li Wei|Olga|Sven|Mrs. Brown].", "I am [old|new here|not good with computers|in a hurry|a little lost|Tom|on the train].", "Sorry [to bother you|for my English|to ask again|for the typos|if this is a stupid question].", "We [need|wait for|are waiting for|are looking forward to] it.", "It was [two weeks|three days|a month|ages] ago.", "The {p} [is|are] for my [son|garden|kitchen|holiday|mother|office|dog].", "I hope you can [help|help me|tell me|check].", "[Monday|Tuesday|Friday|Last week|Yesterday] I [was at home|ordered it|called you|waited all day|wrote to you].", "I [love|like] your shop.", "[It|This] was [expensive|cheap|on sale|not cheap].", "The courier [came|rang|called|left a note|drove by][ yesterday| and left|].", "Christmas is [near|coming|next week].", "I have [a newborn|guests|a meeting|little time|a busy week].",
)
_LINKS = ("and", "also", "ok, and", "one more thing:", "another question:", "by the way,", "thanks.", "alright,", "next:", "then", "great,", "hmm,", "oh,", "ok.", "good.", "fine, but", "and then,", "sorry,", "besides,", "actually,", "now,", "I see.", "right,")
_FILLERS = "actually really just maybe honestly please again simply currently today kindly still perhaps even already somehow really so then now well like finally basically though".split()


@dataclass
class _State:
    """What has been said so far in one conversation."""

    record: Record | None
    number: str | None = None  # the order under discussion
    number_wanted: bool = False  # the assistant has just asked for it


_STATUS_KEYWORDS = tuple(STATUS_KEYWORDS.split("|"))
_ITEM_KEYWORDS = tuple(ITEM_KEYWORDS.split("|"))
# Split outside [...] only: a keyword may hold a choice of its own.
_TOPIC_KEYWORDS = {topic: tuple(re.split(r"\|(?![^\[]*\])", words)) for topic, words in KEYWORDS.items()}


def _loose(keyword: str, rng: random.Random) -> str:
    """Returns the keyword in a loose frame: the sense is in the keyword, the rest may be anything."""
    return f"{rng.choice(OPENINGS)} {keyword} {rng.choice(ENDINGS)}{rng.choice(['?', '?', '.', ''])}"


def _system_message(record: Record | None, rng: random.Random) -> str | None:
    persona = expand(" ".join(rng.sample(_PERSONAS, rng.choice([1, 1, 1, 2]))), {}, rng)
    if record is None:
        return persona if rng.random() < 0.5 else None
    form = rng.random()
    if form < 0.5:
        return record.line()
    return f"{persona}\n{record.line()}" if form < 0.9 else f"{record.line()}\n{persona}"


def _slots(number: str | None, rng: random.Random) -> dict:
    product = rng.choice(orders.PRODUCTS)
    reference = rng.choice(orders.BARE_REFERENCES if number is None else orders.NUMBERED_REFERENCES)
    slots = {
        "n": lambda r: number or "",
        "p": lambda r: product if r.random() < 0.5 else r.choice(orders.PRODUCTS),
        "x": lambda r: reference,
        "y": lambda r: reference if number or r.random() < 0.6 else r.choice(["it", "this order", "an order", "the order", "this", "one"]),
    }
    for name, values in out_of_scope.SLOTS.items():
        slots[name] = lambda r, values=values: r.choice(values)
    return slots


def _dress(core: str, slots: dict, is_first: bool, rng: random.Random) -> str:
    """Returns the question with what people write around it: a greeting, a story, a thank-you, slips of the keyboard."""
    text = core
    if rng.random() < 0.10:
        words = text.split(" ")
        words.insert(rng.randrange(len(words) + 1), rng.choice(_FILLERS))
        text = " ".join(words)
    if rng.random() < 0.22:
        asides = [expand(aside, slots, rng) for aside in rng.sample(_ASIDES, rng.choice([1, 1, 1, 2, 3]))]
        if text[-1].isalnum():
            text += rng.choice(".?")
        for aside in asides:
            text = f"{aside} {text[0].upper()}{text[1:]}" if rng.random() < 0.5 else f"{text} {aside}"
    if is_first and rng.random() < 0.28:
        text = f"{rng.choice(_GREETINGS)}{rng.choice([', ', ', ', '! ', '. ', ' '])}{text}"
    if not is_first and rng.random() < 0.35:
        text = f"{rng.choice(_LINKS)} {text}"
    if rng.random() < 0.22:
        text = f"{text.rstrip('.?')}{rng.choice([', ', ', ', '. ', '? ', ' ', '! '])}{rng.choice(_FAREWELLS)}"
    return roughen(text, rng)


def _order_question(templates: tuple[str, ...], number: str | None, is_first: bool, rng: random.Random) -> str:
    """Returns a question about an order; a number stands inside the question, before it or after it."""
    if number is None and templates is orders.STATUS_QUESTIONS and rng.random() < 0.3:
        templates = orders.UNNAMED_STATUS
    elif rng.random() < 0.3:
        keywords = _STATUS_KEYWORDS if templates is orders.STATUS_QUESTIONS else _ITEM_KEYWORDS
        templates = (_loose(rng.choice(keywords), rng),)
    if number is None or rng.random() < 0.68:
        slots = _slots(number, rng)
        return _dress(expand(rng.choice(templates), slots, rng), slots, is_first, rng)
    # "... my parcel ... The number is 48213.": the question itself holds no number.
    slots = _slots(None, rng)
    slots["n"] = lambda r: number
    core = expand(rng.choice(templates), slots, rng)
    if rng.random() < 0.5:
        core = core if core[-1] in ".?!" else core + rng.choice([".", "?", ",", ""])
        core = f"{core} {expand(rng.choice(orders.NUMBER_SENTENCES_AFTER), slots, rng)}"
    else:
        core = f"{expand(rng.choice(orders.NUMBER_SENTENCES_BEFORE), slots, rng)} {core}"
    return _dress(core, slots, is_first, rng)


def _answer_about(state: _State, wants_items: bool) -> str:
    """Returns the one true answer: from the record if it is of this order, else that the order is not visible."""
    record = state.record
    number = state.number or (record.number if record else None)
    state.number_wanted = number is None
    if number is None:
        return NUMBER_WANTED_ANSWER
    state.number = number
    if record is None or record.number != number:
        return not_visible_answer(number)
    return items_answer(record) if wants_items else status_answer(record)


def _order_turn(state: _State, is_first: bool, rng: random.Random) -> tuple[str, str]:
    wants_items = rng.random() < 0.17
    templates = orders.ITEM_QUESTIONS if wants_items else orders.STATUS_QUESTIONS
    if state.number_wanted and rng.random() < 0.8:
        state.number = _pick_number(state.record, rng)
        slots = _slots(state.number, rng)
        text = expand(rng.choice(orders.ONLY_NUMBER), slots, rng)
        text = _dress(text, slots, False, rng) if rng.random() < 0.3 else roughen(text, rng)
        return text, _answer_about(state, wants_items=False)
    if state.number is not None and rng.random() < 0.75:
        choice = rng.random()
        if choice < 0.45:
            templates, wants_items = orders.FOLLOW_UP_STATUS, False
        elif choice < 0.6:
            templates, wants_items = orders.FOLLOW_UP_ITEMS, True
        else:
            templates, wants_items = orders.FOLLOW_UP_OTHER_ORDER, False
            known = state.record is not None and state.number != state.record.number and rng.random() < 0.5
            state.number = state.record.number if known else other_number(state.number, rng)
        slots = _slots(state.number, rng)
        return _dress(expand(rng.choice(templates), slots, rng), slots, False, rng), _answer_about(state, wants_items)
    named = rng.random() < (0.72 if state.record else 0.82)
    # A bare "my order" after another number was discussed would be ambiguous: then the number is always named.
    if named or (state.record is not None and state.number is not None and state.number != state.record.number):
        state.number = _pick_number(state.record, rng)
        return _order_question(templates, state.number, is_first, rng), _answer_about(state, wants_items)
    return _order_question(templates, None, is_first, rng), _answer_about(state, wants_items)


def _pick_number(record: Record | None, rng: random.Random) -> str:
    if record is None:
        return random_number(rng)
    return record.number if rng.random() < 0.6 else other_number(record.number, rng)


def _topic_turn(state: _State, is_first: bool, rng: random.Random) -> tuple[str, str]:
    # Small talk needs few words to learn; the topics that look like order questions need many.
    names = list(TOPICS)
    weights = [0.6 if name in ("goodbye", "voucher", "account", "invoice") else
               1.4 if name in ("returns", "refund", "delivery_terms", "cancel", "problem_item", "opening_hours", "address") else 1.0 for name in names]
    name = rng.choices(names, weights)[0]
    answer, questions = TOPICS[name]
    number = None
    if rng.random() < 0.28:
        number = state.record.number if state.record and rng.random() < 0.7 else random_number(rng)
    slots = _slots(number, rng)
    core = expand(_loose(rng.choice(_TOPIC_KEYWORDS[name]), rng) if rng.random() < 0.4 else rng.choice(questions), slots, rng)
    record = state.record
    if name == "refund" and record and record.status in ("returned", "refunded") and number in (None, record.number):
        state.number = record.number
        answer = status_answer(record)
    state.number_wanted = False
    if name in ("greeting", "thanks", "goodbye"):
        return roughen(core, rng), answer
    return _dress(core, slots, is_first, rng), answer


def _decline_turn(is_first: bool, rng: random.Random) -> tuple[str, str]:
    slots = _slots(None, rng)
    return _dress(expand(rng.choice(out_of_scope.QUESTIONS), slots, rng), slots, is_first, rng), out_of_scope.ANSWER


def is_drill(index: int) -> bool:
    """Returns whether the conversation is one short question, as three of four are: they teach what is being asked."""
    return index % 4 != 0


def conversation(seed: int, index: int) -> list[Message]:
    """Returns conversation `index` of the seed, as chat messages; it always ends with the assistant."""
    rng = random.Random(f"{seed}/{index}")
    drill = is_drill(index)
    record = random_record(rng) if rng.random() < (0.42 if drill else 0.6) else None
    state = _State(record)
    messages: list[Message] = []
    system = _system_message(record, rng)
    if system is not None:
        messages.append({"role": "system", "content": system})
    turn_count = 1 if drill else rng.choices([1, 2, 3, 4, 6, 9], [34, 34, 18, 9, 4, 1])[0]
    order_share, decline_share = (0.44, 0.16) if drill else (0.50, 0.15)
    for turn in range(turn_count):
        kind = rng.random()
        if kind < order_share or (state.number_wanted and kind < 0.85):
            question, answer = _order_turn(state, turn == 0, rng)
        elif kind < 1 - decline_share:
            question, answer = _topic_turn(state, turn == 0, rng)
        else:
            question, answer = _decline_turn(turn == 0, rng)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


if __name__ == "__main__":
    for i in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        print(json.dumps(conversation(seed=1, index=i), indent=1, ensure_ascii=False))
