"""The golden checkpoints through the whole service on the emulated GPU: `tuppence_emulated serve` scores their prompts over gRPC,
teacher-forced. Each log-probability lies within the tolerance that follows from the roundings, and each likeliest token is the
published implementation's, and the CPU backend's, wherever its margin exceeds twice the tolerance.

    python3 tests/cuda_emulated/golden_service_test.py build/cpu
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "end_to_end"))
from observed_service import Service, root  # noqa: E402

build = pathlib.Path(sys.argv[1])
program = build / "tests/cuda_emulated/tuppence_emulated"
# One rounding to a type, relative to the value, as tests/golden/golden_test.cc derives it.
UNIT = {"bf16": 2**-9 / math.sqrt(3), "f16": 2**-12 / math.sqrt(3), "int8": 4 / 127 / math.sqrt(12)}
# A sliding window and head_dim 96; grouped KV heads, head_dim 128 and int4 weights.
CASES = (("mini_4k_window_31", "emulated", "bf16", "bf16"), ("mini_4k_window_31", "emulated-sm75", "f16", "int8"),
         ("medium_4k_int4", "emulated", "int4", "int8"), ("medium_4k_int4", "emulated-sm75", "int4", "f16"))


def tolerance(golden, half, weights, kv):
    """Of a log-probability, for a row whose logits have the root mean square 1. See Tolerance and UnitsOf in golden_test.cc; these
    checkpoints have no LongRoPE, so attention factors are 1."""
    stored = {"bfloat16": "bf16", "float16": "f16"}[golden["config"]["torch_dtype"]]
    if golden["weights"] == "stored":
        weights_unit = 0 if stored == half else UNIT[half]
    else:
        weights_unit = UNIT[stored]  # the reference's own dequantised weights are rounded to it
    matmul = UNIT[half]**2 + weights_unit**2
    pages = UNIT[kv]**2 + UNIT[half]**2
    scores = 4
    layers = golden["config"]["num_hidden_layers"]
    return 5 * math.sqrt(layers * (matmul * (4 + 2 * scores) + pages * (1 + scores)) + matmul)


def score(folder, golden, backend, weights, kv):
    """What the service says of the first case's prompt: one entry for each position."""
    case = golden["cases"][0]
    ids = [(case["first"] + i * case["stride"]) % golden["config"]["vocab_size"] for i in range(case["length"])]
    service = Service(program, folder, f"{golden['name']}-{backend}", f"{folder}/{golden['name']}", "--backend", backend,
                      "--weights", weights, "--kv", kv, "--sequences-max", "4", "--step-tokens-max", "48")
    service.wait_ready()
    said = subprocess.run([program, "score", "--address", f"127.0.0.1:{service.port}", "--token-ids", ",".join(map(str, ids)),
                           "--top", "1", "--json"], check=True, text=True, stdout=subprocess.PIPE).stdout
    service.stop()
    return json.loads(said)["tokens"]


def best(token):
    return token["top"][0]["token_id"]


with tempfile.TemporaryDirectory() as folder:
    for name, backend, weights, kv in CASES:
        golden = json.loads((root / f"tests/golden/logprobs/{name}.json").read_text())
        place = pathlib.Path(folder) / name
        if not place.exists():
            place.mkdir()
            subprocess.run([build / "tests/golden/write_golden_checkpoint", name, place], check=True)
        half = "f16" if backend.endswith("sm75") else "bf16"
        unit = tolerance(golden, half, weights, kv)
        got = score(folder, golden, backend, weights, kv)
        cpu = score(folder, golden, "cpu", "f32" if golden["weights"] == "stored" else weights, "f32")
        worst, sure = 0, 0
        for row in golden["cases"][0]["rows"]:
            position = row["length"]  # of the token that the row predicts
            if position >= len(got):
                continue
            allowed = unit * row["logit_rms"] + 1e-6
            # ids[0] is the prompt's next token; the likeliest follow.
            worst = max(worst, abs(got[position]["logprob"] - row["logprobs"][0]) / allowed)
            if row["logprobs"][1] - row["logprobs"][2] > 2 * allowed:
                sure += 1
                assert best(got[position]) == row["ids"][1] == best(cpu[position]), (name, backend, position)
        assert worst < 1, f"{name} on {backend}: {worst:.2f} of what the roundings allow"
        assert sure > 0, f"{name} on {backend}: no row is sure"
        print(f"{name}, {backend}, {weights} weights, {kv} KV: within {worst:.2f} of the tolerance, {sure} sure tokens agree")
