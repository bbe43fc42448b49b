"""Makes the golden log-probabilities of tests/golden/logprobs/*.json from the published Phi3ForCausalLM.

Needs torch, transformers 4.57 and numpy:   python3 tests/golden/make_checkpoints.py
golden_test.cc builds the same checkpoints from the rule below and holds our log-probabilities against these.

Weights are not stored: element i of a tensor is a pure function of the tensor's name and i (`uniform`), scaled by `scale` and
rounded to the checkpoint's type. One JSON for each variant:
  name, config        config.json of the checkpoint
  weights             "stored", or the weight type whose dequantised values the reference ran on
  cases[]             prompt (token ids follow from `first`, `stride`, `length`: see `prompt`), and for each position asked for:
    rows[].length     the reference saw the first `length` tokens, afresh: with LongRoPE, what `generate` does after a crossing
    rows[].ids        token ids; the next token of the prompt first, then those with the largest log-probability
    rows[].logprobs   their log-probabilities, computed in double precision (norms, softmax and rope in f32, as published)
    rows[].logit_rms  root mean square of the row's centred logits: the scale that tolerances refer to
"""

import json
import pathlib

import numpy as np
import torch
from transformers import Phi3Config, Phi3ForCausalLM

OUT = pathlib.Path(__file__).parent / "logprobs"
TOP = 8


def uniform(name: str, count: int) -> np.ndarray:
    """Returns `count` numbers in [-1, 1): the top 24 bits of SplitMix64(FNV-1a(name) + i)."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & (2**64 - 1)
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def values(name: str, shape: tuple[int, ...], tied: bool, dtype: torch.dtype) -> torch.Tensor:
    """Returns the tensor as the checkpoint stores it. Scales keep activations near 1 and logits far from flat."""
    u = uniform(name, int(np.prod(shape))).reshape(shape)
    if name.endswith("norm.weight"):
        v = 1 + 0.1 * u
    elif name == "model.embed_tokens.weight":
        v = u * (0.3 if tied else 1.0)
    else:
        gain = 3.0 if name == "lm_head.weight" else 1.0
        v = u * (gain * np.sqrt(3.0 / shape[1]))
    return torch.from_numpy(v.astype(np.float32)).to(dtype)


def dequantised(matrix: np.ndarray, levels: int, group: int) -> np.ndarray:
    """Returns what model/quantize keeps of a matrix: f16 scales for each group along K, codes to nearest even."""
    out = np.empty_like(matrix, dtype=np.float32)
    for start in range(0, matrix.shape[1], group):
        part = matrix[:, start:start + group].astype(np.float32)
        amax = np.abs(part).max(axis=1, keepdims=True)
        scale = (amax / np.float32(levels)).astype(np.float16).astype(np.float32)
        codes = np.clip(np.rint(part / np.where(scale == 0, np.float32(1), scale)), -levels, levels)
        out[:, start:start + group] = codes * scale
    return out


def model_of(config: dict, weights: str) -> Phi3ForCausalLM:
    # In f32, which holds what each type stores and what is dequantised: the config's own type would round the latter.
    model = Phi3ForCausalLM._from_config(Phi3Config(**config), attn_implementation="eager", dtype=torch.float32)
    tied = config["tie_word_embeddings"]
    dtype = getattr(torch, config["torch_dtype"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            v = values(name, tuple(parameter.shape), tied, dtype).to(torch.float32)
            if weights != "stored" and v.ndim == 2 and name != "model.embed_tokens.weight":
                levels, group = (7, 32) if weights == "int4" and name != "lm_head.weight" else (127, 128)
                v = torch.from_numpy(dequantised(v.numpy(), levels, group))
            parameter.copy_(v)
        if tied and weights != "stored":  # the head is int8 then, and the embedding stays as stored
            head = dequantised(model.model.embed_tokens.weight.numpy(), 127, 128)
            model.lm_head.weight = torch.nn.Parameter(torch.from_numpy(head))
    return model.double().eval()


def prompt(case: dict, vocab: int) -> list[int]:
    return [(case["first"] + i * case["stride"]) % vocab for i in range(case["length"])]


def row_of(logits: torch.Tensor, length: int, next_id: int) -> dict:
    logprobs = torch.log_softmax(logits, -1)
    ids = [next_id] + torch.topk(logprobs, TOP).indices.tolist()
    return {"length": length, "ids": ids, "logprobs": [round(float(logprobs[i]), 7) for i in ids],
            "logit_rms": round(float((logits - logits.mean()).square().mean().sqrt()), 4)}


def make(name: str, config: dict, cases: list[dict], weights: str = "stored") -> None:
    model = model_of(config, weights)
    vocab = config["vocab_size"]
    original = config["original_max_position_embeddings"] if config["rope_scaling"] else 1 << 30
    for case in cases:
        ids = prompt(case, vocab)
        lengths = case.pop("lengths", None) or list(range(1, len(ids) + 1))
        case["rows"] = []
        with torch.no_grad():
            # One pass serves all lengths of one regime; a pass over more tokens than `original` uses the long factors.
            # Lengths above it are each seen by a pass of their own regime.
            short = [n for n in lengths if n <= original]
            long = [n for n in lengths if n > original]
            for group in ([short] if short else []) + ([long] if long else []):
                logits = model(torch.tensor([ids[:max(group)]]), use_cache=False,
                               logits_to_keep=torch.tensor([n - 1 for n in group])).logits[0]
                for n, row in zip(group, logits):
                    case["rows"].append(row_of(row, n, ids[n % len(ids)]))
    OUT.mkdir(exist_ok=True)
    document = {"name": name, "config": config, "weights": weights, "cases": cases}
    (OUT / f"{name}.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    print(name, sum(len(c["rows"]) for c in cases), "rows")


def config_of(heads: int, kv_heads: int, head_dim: int, intermediate: int, vocab: int, **changes) -> dict:
    config = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "num_hidden_layers": 2,
              "hidden_size": heads * head_dim, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
              "intermediate_size": intermediate, "vocab_size": vocab, "max_position_embeddings": 4096,
              "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
              "sliding_window": None, "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "bfloat16",
              "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config.update(changes)
    return config


def longrope(half: int) -> dict:
    """Factor lists of the published kind: near 1 for the fast dimensions, growing for the slow ones."""
    steps = [i / (half - 1) for i in range(half)]
    return {"type": "longrope", "short_factor": [round(1 + 1.8 * s * s, 6) for s in steps],
            "long_factor": [round(1.05 + 60 * s**3, 6) for s in steps]}


def main() -> None:
    text = lambda length, **more: {"first": 3, "stride": 37, "length": length, **more}
    mini = config_of(2, 2, 96, 136, 200, sliding_window=31)
    medium = config_of(4, 1, 128, 360, 208)
    make("mini_4k_window_31", mini, [text(100)])
    make("mini_4k_window_31_int8", mini, [text(100)], "int8")
    make("mini_4k_window_31_int4", mini, [text(100)], "int4")
    make("mini_4k_window_2047", config_of(1, 1, 96, 96, 128, sliding_window=2047),
         [text(2052, lengths=[2045, 2046, 2047, 2048, 2049, 2050, 2052])])
    make("mini_128k_longrope_64", config_of(2, 2, 96, 136, 200, max_position_embeddings=2048,
                                            original_max_position_embeddings=64, rope_scaling=longrope(48)),
         [text(100)])
    make("mini_128k_longrope_4096", config_of(1, 1, 96, 96, 128, max_position_embeddings=131072,
                                              rope_scaling=longrope(48), sliding_window=262144),
         [text(4100, lengths=[4095, 4096, 4097, 4098])])
    make("medium_4k", medium, [text(100)])
    make("medium_4k_int8", medium, [text(100)], "int8")
    make("medium_4k_int4", medium, [text(100)], "int4")
    make("medium_4k_window_31", config_of(4, 1, 128, 360, 208, sliding_window=31), [text(100)])
    make("medium_128k_longrope_64", config_of(4, 1, 128, 360, 208, max_position_embeddings=2048,
                                              original_max_position_embeddings=64, rope_scaling=longrope(64),
                                              sliding_window=2047), [text(100)])
    # As mini-128k, but with factors of its own, from 1 on, and a window that no sequence here reaches.
    make("phi_3_5_mini", config_of(2, 2, 96, 136, 200, max_position_embeddings=2048, original_max_position_embeddings=64,
                                   rope_scaling={"type": "longrope",
                                                 "short_factor": [round(1 + 1.84 * (i / 47) ** 4, 6) for i in range(48)],
                                                 "long_factor": [round(1.08 + 63.76 * (i / 47) ** 2, 6) for i in range(48)]},
                                   sliding_window=262144), [text(100)])
    make("phi_4", config_of(4, 1, 128, 360, 208, rope_theta=250000.0, torch_dtype="float32"), [text(60)])
    phi_4_mini = config_of(3, 1, 128, 200, 256, partial_rotary_factor=0.75, tie_word_embeddings=True,
                           max_position_embeddings=2048, original_max_position_embeddings=64, rope_scaling=longrope(48))
    make("phi_4_mini", phi_4_mini, [text(100)])
    make("phi_4_mini_int4", phi_4_mini, [text(100)], "int4")
    make("head_dim_64", config_of(3, 3, 64, 104, 152, torch_dtype="float16"), [text(60)])
    make("head_dim_80", config_of(2, 1, 80, 88, 136), [text(60)])


if __name__ == "__main__":
    main()
