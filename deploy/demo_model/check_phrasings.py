"""Shows that no phrasing of phrasings.jsonl shares five words in a row with the training text.

    python3 deploy/demo_model/check_phrasings.py

Compares with every training conversation that made the checkpoint (training.json names how many). Words are lower case
without punctuation, and every number counts as the same word: "where is my order 48213" and "where is my order 77" are
the same five words. Record lines and assistant text are compared too, as part of what the training has seen.
"""

import json
import re
import sys
from pathlib import Path

from conversations import conversation

FOLDER = Path(__file__).parent
RUN_WORDS = 5


def word_runs(text: str) -> set[tuple[str, ...]]:
    """Returns every run of five words in the text."""
    words = [re.sub(r"\d+", "0", word) for word in re.findall(r"[\w']+", text.lower().replace("’", "'"))]
    return {tuple(words[i: i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)}


def main() -> int:
    phrasings = [json.loads(line) for line in (FOLDER / "phrasings.jsonl").read_text(encoding="utf-8").splitlines()]
    wanted: dict[tuple[str, ...], str] = {}
    for phrasing in phrasings:
        for message in phrasing["messages"]:
            wanted.update((run, message) for run in word_runs(message))
    training = json.loads((FOLDER / "checkpoint" / "training.json").read_text(encoding="utf-8"))
    shared: dict[str, str] = {}
    for index in range(training["conversations"]):
        for message in conversation(training["seed"], index):
            for run in word_runs(message["content"]) & wanted.keys():
                shared[wanted[run]] = " ".join(run)
    for message, run in sorted(shared.items()):
        print(f"shared: {run!r} in {message!r}")
    print(f"{len(phrasings)} phrasings, {training['conversations']} training conversations, {len(shared)} phrasings share {RUN_WORDS} words in a row")
    return 1 if shared else 0


if __name__ == "__main__":
    sys.exit(main())
