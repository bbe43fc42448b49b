#!/usr/bin/env python3
"""Compares our tokenizer with the Python package sentencepiece on random texts and random ids.

    tokenizer_differential.py [--count N] [--seed S] PIPE

PIPE is the test binary tokenizer_pipe. Half of the texts go through published-style models (the demo
model's, and Phi-3's own where ../shared/data/tokenizer lies beside the repository), half through
made ones with what real models rarely have: equal scores, unused and user-defined pieces, characters
that are in pieces but are none themselves. Each text is encoded, its ids are decoded, and as many
random ids are decoded. Exit code 1 and the first differences, with the seed, if any differ.
"""

import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MADE_MODELS_TEXTS = 250  # texts for each made model
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"


# --- made models: the wire format of protobuf, for the few fields that matter ---

def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, payload):
    """A length-delimited field, or, for an int, a varint one."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def piece(text, score, kind):
    message = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
    return field(1, message + field(3, kind))


def model_bytes(pieces, dummy_prefix):
    trainer = field(3, 2) + field(4, len(pieces)) + field(35, 1)  # BPE, size, byte fallback
    normalizer = field(1, b"identity") + field(3, int(dummy_prefix)) + field(4, 0) + field(5, 1)
    return b"".join(piece(*p) for p in pieces) + field(2, trainer) + field(3, normalizer)


def made_pieces(rng, unused_characters):
    alphabet = rng.choice(["ab", "abc", "ab\u00e9\u4e2d", "abcdefgh"]) + SPACE * rng.randint(0, 1)
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    texts = {SPACE}
    texts.update(c for c in alphabet if rng.random() < 0.9)
    for _ in range(rng.randint(3, 60)):
        texts.add("".join(rng.choice(alphabet) for _ in range(rng.randint(2, 6))))
    kinds = [NORMAL] * 8 + rng.choice([[], [UNUSED] * 3, [USER_DEFINED], [UNUSED] * 2 + [USER_DEFINED]])
    levels = rng.choice([1, 3, 1000])
    for text in sorted(texts):
        kind = NORMAL if text == SPACE else rng.choice(kinds)
        if kind == UNUSED and len(text) == 1 and not unused_characters:
            kind = NORMAL
        pieces.append((text, -float(rng.randrange(levels)), kind))
    return pieces, alphabet.replace(SPACE, " ")


# --- random texts ---

RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0x00, 0x20), (0xA0, 0x24F), (0x370, 0x52F), (0x600, 0x6FF),
          (0x900, 0x97F), (0x300, 0x36F), (0x2000, 0x206F), (0x2580, 0x259F), (0x3040, 0x30FF),
          (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF),
          (0x10FF00, 0x10FFFF)]
MARKS = ["<s>", "</s>", "<unk>", "<|user|>", "<|end|>", "<0x0A>", SPACE, "  ", "\n\n", "\t", "\r\n",
         "\ufeff", "\ufffd", "\u200d", "don't", "https://", "0123456789", "    return x;\n"]


def random_text(rng, pieces, alphabet):
    parts = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8])):
        kind = rng.random()
        if alphabet is not None and kind < 0.6:
            parts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 30))))
        elif kind < 0.35:
            low, high = rng.choice(RANGES)
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12))))
        elif kind < 0.7:
            parts.append("".join(rng.choice(pieces) for _ in range(rng.randint(1, 12))))
        elif kind < 0.8:
            parts.append(rng.choice(MARKS))
        elif kind < 0.9:
            low, high = rng.choice(RANGES)
            parts.append(chr(rng.randint(low, high)) * rng.randint(1, 80))
        else:
            parts.append(" " * rng.randint(1, 20))
    return "".join(parts)


# --- the comparison ---

class Pipe:
    def __init__(self, binary, folder, vocab):
        self.process = subprocess.Popen([binary, folder, str(vocab)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask_all(self, lines):
        out, _ = self.process.communicate("".join(line + "\n" for line in lines))
        if self.process.returncode != 0:
            sys.exit(f"{self.process.args} ended with {self.process.returncode}")
        return out.splitlines()


def compare(pipe, oracle, texts, rng):
    """Returns the differences as texts."""
    plain = [i for i in range(oracle.get_piece_size())
             if not oracle.is_control(i) and not oracle.is_unknown(i)]
    expected, requests, names = [], [], []
    for text in texts:
        ids = oracle.encode(text, out_type=int)
        names.append(f"encode {text!r}")
        requests.append("e " + text.encode().hex())
        expected.append(" ".join(map(str, ids)))
        random_ids = [rng.choice(plain) for _ in range(rng.randint(0, 12))]
        for some in (ids, random_ids, random_ids + rng.sample(range(3, 259), 4)):
            names.append(f"decode {some}")
            requests.append("d " + " ".join(map(str, some)))
            expected.append(oracle.decode(some).encode().hex() if some else "")
    answers = pipe.ask_all(requests)
    if len(answers) != len(expected):
        sys.exit(f"{len(expected)} requests, {len(answers)} answers")
    return [f"{name}\n  sentencepiece {want}\n  tuppence      {got}"
            for name, want, got in zip(names, expected, answers) if want != got]


def spread(total, parts):
    return [total // parts + (i < total % parts) for i in range(parts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100000, help="texts in all")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("pipe")
    arguments = parser.parse_args()
    try:
        import sentencepiece
    except ImportError:
        print("skipped: the Python package sentencepiece is not installed")
        return
    seed = arguments.seed if arguments.seed is not None else random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    differences, count = [], 0

    folders = [os.path.join(ROOT, "deploy/demo_model/checkpoint"),
               os.path.join(ROOT, "../shared/data/tokenizer")]
    folders = [f for f in folders if os.path.exists(os.path.join(f, "tokenizer.model"))]
    published = arguments.count // 2 if folders else 0
    for folder, texts in zip(folders, spread(published, max(1, len(folders)))):
        oracle = sentencepiece.SentencePieceProcessor(os.path.join(folder, "tokenizer.model"))
        size = oracle.get_piece_size()
        pieces = [oracle.id_to_piece(i).replace(SPACE, " ") for i in range(size)]
        batch = [random_text(rng, pieces, None) for _ in range(texts)]
        found = compare(Pipe(arguments.pipe, folder, size + 64), oracle, batch, rng)
        differences += found
        count += texts
        print(f"{os.path.relpath(folder, ROOT)}: {texts} texts, {len(found)} differences")

    # Before 0.2 the package gives out a single character that is marked unused; later versions, which we
    # follow, spell it in bytes. Published models have no such piece.
    version = tuple(int(number) for number in sentencepiece.__version__.split(".")[:2])
    unused_characters = version >= (0, 2)
    models, found = 0, 0
    while count < arguments.count:
        texts = min(MADE_MODELS_TEXTS, arguments.count - count)
        made, alphabet = made_pieces(rng, unused_characters)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tokenizer.model")
            with open(path, "wb") as file:
                file.write(model_bytes(made, dummy_prefix=rng.random() < 0.8))
            oracle = sentencepiece.SentencePieceProcessor(path)
            pieces = [text.replace(SPACE, " ") for text, _, _ in made[259:]]
            batch = [random_text(rng, pieces, alphabet) for _ in range(texts)]
            new = compare(Pipe(arguments.pipe, folder, len(made)), oracle, batch, rng)
        differences += new
        found += len(new)
        models += 1
        count += texts
    print(f"{models} made models: {found} differences")
    for difference in differences[:10]:
        print(difference)
    print(f"{count} texts, {len(differences)} differences")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
