"""What is measured, and how a figure comes from the moments at which tokens came back."""
import random
import statistics

from engine import Answer, Engine, Request

VOCAB = 32000


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    """Different token ids for each, the same for every engine; none is special."""
    draw = random.Random(seed)
    return [[draw.randrange(300, VOCAB) for _ in range(length)] for _ in range(count)]


def first_token_seconds(answer: Answer) -> float:
    return answer.tokens[0] - answer.submitted


def ask(engine: Engine, requests: list[Request]) -> list[Answer]:
    """Raises where an engine answered with more or fewer tokens than it was asked for: its figures would not compare."""
    answers = engine.run(requests)
    for request, answer in zip(requests, answers):
        if len(answer.tokens) != request.output:
            raise RuntimeError(f"{engine.name} answered with {len(answer.tokens)} tokens where {request.output} were asked for")
    return answers


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def decode_alone(engine: Engine, seed: int) -> dict:
    """Tokens a second after the first, one caller: 32 tokens in, 64 out."""
    [answer] = ask(engine, [Request(prompts(1, 32, seed)[0], 64)])
    return {"tokens_per_second": (len(answer.tokens) - 1) / (answer.tokens[-1] - answer.tokens[0])}


def prefill(engine: Engine, length: int, seed: int) -> dict:
    """Prompt tokens a second until the first token, one caller."""
    [answer] = ask(engine, [Request(prompts(1, length, seed)[0], 1)])
    seconds = first_token_seconds(answer)
    return {"tokens_per_second": length / seconds, "ttft_seconds": seconds}


def served(engine: Engine, callers: int, seed: int) -> dict:
    """Output tokens a second from the first request to the last token: all at once, 512 tokens in and 128 out."""
    answers = ask(engine, [Request(prompt, 128) for prompt in prompts(callers, 512, seed)])
    begin = min(answer.submitted for answer in answers)
    end = max(answer.tokens[-1] for answer in answers)
    waits = [first_token_seconds(answer) for answer in answers]
    gaps = [later - sooner for answer in answers for sooner, later in zip(answer.tokens, answer.tokens[1:])]
    return {"tokens_per_second": sum(len(answer.tokens) for answer in answers) / (end - begin),
            "ttft_p50": percentile(waits, 0.5), "ttft_p99": percentile(waits, 0.99),
            "itl_p50": percentile(gaps, 0.5), "itl_p99": percentile(gaps, 0.99)}


def decode_together(engine: Engine, seed: int) -> dict:
    """Tokens a second while 16 sequences decode and none is in its prompt: from the last first token to the first last
    one, of 64 tokens in and 256 out. Prompts are short so that an engine that decodes some while it reads others still
    has all of them decoding for most of the time."""
    answers = ask(engine, [Request(prompt, 256) for prompt in prompts(16, 64, seed)])
    first, last = max(answer.tokens[0] for answer in answers), min(answer.tokens[-1] for answer in answers)
    if first >= last:
        return {}  # the first ended before the last began
    among = sum(first < moment <= last for answer in answers for moment in answer.tokens)
    return {"tokens_per_second": among / (last - first), "phase_seconds": last - first}


def late_arrival(engine: Engine, seed: int) -> dict:
    """One request of 512 tokens, while 15 others decode, against the same alone."""
    late, *others = prompts(16, 512, seed)
    [alone] = ask(engine, [Request(late, 2)])
    # Each of the others has a short prompt and decodes for a minute or more; the late one comes in between.
    requests = [Request(other[:32], 256) for other in others] + [Request(late, 2, at=25.0)]
    answers = ask(engine, requests)
    arrived = answers[-1].submitted
    decoding = sum(answer.tokens[0] < arrived < answer.tokens[-1] for answer in answers[:-1])
    if decoding < len(others):
        return {"others_decoding": decoding}  # not what was to be measured
    seconds = first_token_seconds(answers[-1])
    return {"ttft_seconds": seconds, "ttft_alone_seconds": first_token_seconds(alone),
            "ratio": seconds / first_token_seconds(alone), "others_decoding": decoding}


def all_measures(callers: list[int]) -> dict:
    """Each measure's name and how it is taken."""
    measures = {"decode": decode_alone,
                "prefill_512": lambda engine, seed: prefill(engine, 512, seed),
                "prefill_2048": lambda engine, seed: prefill(engine, 2048, seed)}
    measures["decode_16"] = decode_together
    for count in callers:
        measures[f"served_{count}"] = lambda engine, seed, count=count: served(engine, count, seed)
    measures["late_arrival"] = late_arrival
    return measures


def median(rounds: list[dict], key: str) -> float | None:
    """Over the rounds that have the figure."""
    values = [figures[key] for figures in rounds if figures.get(key) is not None]
    return statistics.median(values) if values else None
