"""The table of a comparison."""
import json
import pathlib

from measures import median

# Phi-3-mini: what a token multiplies, and what a decoded token has to read, without keys and values.
LAYER_WEIGHTS = 32 * (3 * 3072 * 3072 + 3072 * 3072 + 3 * 3072 * 8192)
HEAD_WEIGHTS = 32064 * 3072
# Bytes of a weight with its share of a scale, in Tuppence's own formats: groups of 128 in int8, of 32 in int4, an int8 head.
LAYER_BYTES = {8: 1 + 2 / 128, 4: 0.5 + 2 / 32}
HEAD_BYTES = 1 + 2 / 128


def weight_bytes(bits: int) -> float:
    return LAYER_WEIGHTS * LAYER_BYTES[bits] + HEAD_WEIGHTS * HEAD_BYTES


class Prices:
    """What the machine costs, and what an API asks for the same mix of 512 tokens in and 128 out."""

    def __init__(self, root: pathlib.Path, machine: str, reference: str):
        machines = json.loads((root / "deploy/machine_prices.json").read_text())["machines"]
        references = json.loads((root / "deploy/reference_prices.json").read_text())["reference_prices"]
        self.machine = next(row for row in machines if row["machine"] == machine)
        self.reference = next(row for row in references if row["name"] == reference)

    def usd_per_million(self, output_tokens_per_second: float, load: float) -> float:
        return float(self.machine["usd_per_hour"]) / 3600 / (output_tokens_per_second * load) * 1e6

    def reference_usd_per_million(self) -> float:
        asked = {key: float(value) for key, value in self.reference["usd_per_million_tokens"].items()}
        return asked["output"] + asked["input"] * 512 / 128


def limits(result: dict) -> dict:
    """The best that this machine can do for the measures that one limit bounds."""
    decode = result["limits"]["read_bytes_per_second"] / weight_bytes(result["bits"])
    prefill = result["limits"]["int8_operations_per_second"] / (2 * LAYER_WEIGHTS)
    return {"decode": decode, "prefill_512": prefill, "prefill_2048": prefill}


def rows(callers: list[int]):
    """(title, measure, figure, format, whether more is better)"""
    yield "decode, one caller, tok/s", "decode", "tokens_per_second", "{:.2f}", True
    for length in ("512", "2048"):
        yield f"prefill of {length}, tok/s", f"prefill_{length}", "tokens_per_second", "{:.1f}", True
    yield "decode, 16 sequences together, tok/s", "decode_16", "tokens_per_second", "{:.1f}", True
    for count in callers:
        name = f"served_{count}"
        yield f"{count} callers, 512 in / 128 out, output tok/s", name, "tokens_per_second", "{:.2f}", True
        for figure in ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99"):
            yield f"{count}: {figure.replace('_', ' ').upper()}, s", name, figure, "{:.2f}", False
    yield "TTFT of one more while 15 decode, s", "late_arrival", "ttft_seconds", "{:.2f}", False
    yield "the same against alone", "late_arrival", "ratio", "{:.2f}", False
    yield "load, s", "load", "seconds", "{:.1f}", False
    yield "peak memory, MB", "memory", "peak_bytes", "{:.0f}", False


def cell(rounds: list[dict], measure: str, figure: str, form: str) -> str:
    """The median and, of several rounds, the range."""
    scale = 1e-6 if figure == "peak_bytes" else 1
    values = sorted(value * scale for made in rounds if (value := made.get(measure, {}).get(figure)) is not None)
    if not values:
        return "-"
    middle = form.format(median([{"": value} for value in values], ""))
    return middle if len(values) == 1 else f"{middle} ({form.format(values[0])} to {form.format(values[-1])})"


def ratio(result: dict, measure: str, figure: str, more_is_better: bool) -> str:
    """Tuppence against the best of the others; above 1 is better."""
    found = {name: median([made.get(measure, {}) for made in rounds], figure) for name, rounds in result["rounds"].items()}
    ours = found.pop("Tuppence", None)
    others = [value for value in found.values() if value]
    if not ours or not others:
        return "-"
    best = max(others) if more_is_better else min(others)
    return f"{ours / best if more_is_better else best / ours:.2f}"


def line(cells) -> str:
    return "| " + " | ".join(cells) + " |\n"


def measured(result: dict, callers: list[int]) -> str:
    names = list(result["rounds"])
    bounds = limits(result)
    text = line(["measure", *names, "ratio to the best peer", "limit", "share of it"])
    text += line(["---"] + ["---:"] * (len(names) + 3))
    for title, measure, figure, form, more in rows(callers):
        ours = median([made.get(measure, {}) for made in result["rounds"].get("Tuppence", [])], figure)
        bound = bounds.get(measure)
        share = f"{ours / bound:.0%}" if ours and bound else ""
        text += line([title, *(cell(result["rounds"][name], measure, figure, form) for name in names),
                      ratio(result, measure, figure, more), form.format(bound) if bound else "", share])
    return text


def priced(result: dict, callers: list[int], prices: Prices) -> str:
    names = list(result["rounds"])
    text = line(["USD per million output tokens, their prompts included", *names])
    text += line(["---"] + ["---:"] * len(names))
    for count in callers:
        for load in (1.0, 0.3):
            rates = [median([made.get(f"served_{count}", {}) for made in result["rounds"][name]], "tokens_per_second")
                     for name in names]
            text += line([f"{count} callers, {load:.0%} load",
                          *(f"{prices.usd_per_million(rate, load):.2f}" if rate else "-" for rate in rates)])
    return text + (f"\nAt {prices.machine['usd_per_hour']} USD an hour ({prices.machine['machine']}, list, "
                   f"{prices.machine['date']}). {prices.reference['model']} asks {prices.reference_usd_per_million():.2f} for "
                   f"the same mix of 512 tokens in and 128 out ({prices.reference['date']}, by its own tokens: unadjusted).\n")


def table(result: dict, callers: list[int], prices: Prices) -> str:
    machine, found = result["machine"], result["limits"]
    text = f"# Tuppence and its peers: Phi-3-mini-4k's shape, {result['bits']}-bit weights, random values\n\n"
    text += (f"- Machine: {machine['cores']} cores of {machine['cpu']} (family/model {machine['family_model']}; "
             f"{', '.join(machine['instructions'])}), {machine['memory_bytes'] / 1e9:.0f} GB, Linux {machine['kernel']}; reads "
             f"{found['read_bytes_per_second'] / 1e9:.1f} GB/s, {found['int8_operations_per_second'] / 1e12:.2f} TOPS in int8.\n")
    text += f"- Date, commit: {result['date']}, {machine['commit']}. {result['threads']} threads each.\n"
    text += f"- Command: `{result['command']}`\n"
    for name, told in result["engines"].items():
        text += f"- {name} {told['version']}: {told['weights']}; `{told['settings']}`\n"
    for name, reason in result["missing"].items():
        text += f"- {name} is {'incomplete' if name in result['rounds'] else 'missing'}: {reason}\n"
    rounds = max((len(made) for made in result["rounds"].values()), default=0)
    text += (f"\nMedian of {rounds} rounds, the range in brackets; a ratio above 1 is better. The limit of decode is the bytes of "
             "Tuppence's weights over the measured read bandwidth, that of prefill its multiplications over the measured int8 "
             "peak.\n\n")
    return text + measured(result, callers) + "\n" + priced(result, callers, prices)
