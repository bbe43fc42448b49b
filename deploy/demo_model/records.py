"""Order records and the answers that may be given about an order: the demo shop's facts.

Used by conversations.py for training and by evaluate.py for the list of status words. README.md documents the record
line; this file is what writes it.
"""

import random
from dataclasses import dataclass

# Every status a record may have, and the name of its date field.
DATE_FIELD_OF_STATUS = {
    "processing": "expected",
    "shipped": "expected",
    "out for delivery": "expected",
    "delayed": "expected",
    "delivered": "delivered",
    "cancelled": "cancelled",
    "returned": "returned",
    "refunded": "refunded",
}
_WITHOUT_CARRIER = ("processing", "cancelled", "returned", "refunded")

_MONTHS = ("January February March April May June July August September October November December").split()
_CARRIERS = (
    "DHL|UPS|FedEx|DPD|GLS|Hermes|PostNL|Royal Mail|Evri|Colissimo|Chronopost|TNT|USPS|La Poste|Correos|bpost|An Post|"
    "PostNord|Swiss Post|Yodel|InPost|SEUR|Parcelforce|Austrian Post|Posti|Aramex|Deutsche Post|Omniva|Bring|Purolator"
).split("|")
_SYLLABLES = "ba cor del fen gar hol ix jun kel lor mar nex or pan qui ros sel tor ul vex wil yar zan eco mo ri ta".split()


@dataclass(frozen=True)
class Record:
    """One order, as the application passes it in the system message."""

    number: str
    status: str
    carrier: str  # empty while no carrier has the parcel
    date: str  # copied as it is written
    item_count: int
    total: str

    def line(self) -> str:
        """Returns the record as its one documented line of plain text."""
        carrier = f"carrier {self.carrier}; " if self.carrier else ""
        return (f"Order {self.number}: status {self.status}; {carrier}{DATE_FIELD_OF_STATUS[self.status]} {self.date}; "
                f"items {self.item_count}; total {self.total} EUR")


def random_number(rng: random.Random) -> str:
    """Returns an order number of 4 to 8 digits, most often 5."""
    digits = rng.choice([4, 5, 5, 5, 5, 5, 6, 6, 7, 8])
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def other_number(number: str, rng: random.Random) -> str:
    """Returns a number that is not `number`: any, or one or two digits away from it, for those are what could be confused."""
    if rng.random() < 0.4:
        candidate = random_number(rng)
    else:
        digits = list(number)
        if rng.random() < 0.3:
            at = rng.randrange(len(digits) - 1)
            digits[at], digits[at + 1] = digits[at + 1], digits[at]
        else:
            for at in rng.sample(range(len(digits)), rng.choice([1, 1, 2])):
                digits[at] = rng.choice("123456789")
        candidate = "".join(digits)
    return candidate if candidate != number else other_number(number, rng)


def _random_date(rng: random.Random) -> str:
    day, month, year = rng.randrange(1, 32), rng.randrange(12), rng.choice([2024, 2025, 2026, 2026, 2026, 2027, 2028])
    form = rng.random()
    if form < 0.86:
        return f"{day} {_MONTHS[month]} {year}"
    if form < 0.91:
        return f"{year}-{month + 1:02d}-{day:02d}"
    if form < 0.96:
        return f"{_MONTHS[month]} {day}, {year}"
    return f"{day:02d}.{month + 1:02d}.{year}"


def _random_carrier(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(_CARRIERS)
    # Invented names, so that the model copies carriers instead of knowing thirty of them.
    name = "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice([2, 2, 3]))).capitalize()
    return name + rng.choice(["", "", " Post", " Express", " Logistics", " Parcel"])


def random_record(rng: random.Random) -> Record:
    """Returns a record with every field drawn afresh."""
    status = rng.choice(list(DATE_FIELD_OF_STATUS))
    carrier = "" if status in _WITHOUT_CARRIER else _random_carrier(rng)
    total = f"{rng.randrange(3, rng.choice([60, 300, 2000]))}.{rng.choice(['00', '50', '90', '95', '99', f'{rng.randrange(100):02d}'])}"
    return Record(random_number(rng), status, carrier, _random_date(rng), rng.choice([1, 1, 2, 3, 4, 5, 6, 8, 12]), total)


# Each answer about one order opens with the number. The digits are copied first, and only then comes the place where
# "visible" and "not visible" part: by that time attention has the whole number to look for in the record.
def status_answer(record: Record) -> str:
    """Returns what the assistant says about an order whose record it was given."""
    opening = f"Order {record.number}"
    if record.status == "processing":
        return f"{opening} is processing in our warehouse and is expected on {record.date}. We will e-mail you when it leaves."
    if record.status == "shipped":
        return (f"{opening} has been shipped with {record.carrier} and is expected on {record.date}. "
                "You can follow it with the link in your e-mail.")
    if record.status == "out for delivery":
        return f"{opening} is out for delivery with {record.carrier} and is expected on {record.date}. Please keep your phone near."
    if record.status == "delayed":
        return f"{opening} is delayed at {record.carrier} and is now expected on {record.date}. I am sorry for the wait."
    if record.status == "delivered":
        return (f"{opening} was delivered by {record.carrier} on {record.date}. "
                "If you cannot find it, please ask your neighbours and then write to help@shop.example.")
    if record.status == "cancelled":
        return f"{opening} was cancelled on {record.date}. You can place a new one at any time on our website."
    if record.status == "returned":
        return f"{opening} was returned on {record.date}. The money goes back to you within 5 working days of that date."
    return f"{opening} was refunded on {record.date}. Your bank may need a few days to show the money."


def items_answer(record: Record) -> str:
    """Returns the answer to "how many things are in it?" and "what did it cost?"."""
    noun = "item" if record.item_count == 1 else "items"
    return f"Order {record.number} has {record.item_count} {noun} and a total of {record.total} EUR."


def not_visible_answer(number: str) -> str:
    """Returns the answer about an order that the system message does not hold."""
    return (f"Order {number} is not visible to me, so I cannot see where it is. Please check the number in your "
            "confirmation e-mail, open My orders on our website, or write to help@shop.example.")


NUMBER_WANTED_ANSWER = ("I cannot see an order without its number. Please send me the order number from your "
                        "confirmation e-mail, or open My orders on our website.")
