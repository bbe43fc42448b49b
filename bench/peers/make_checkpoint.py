#!/usr/bin/env python3
"""Writes a checkpoint of Phi-3-mini-4k's shape with random weights, in the published directory format, for peers that
take nothing else.

    python3 bench/peers/make_checkpoint.py FOLDER --tokenizer FOLDER_OF_A_PHI3_TOKENIZER

bf16, 7.6 GB in files of about 1 GB, the same bytes each time. Needs numpy.
"""
import argparse
import json
import pathlib
import shutil

import numpy

HIDDEN, LAYERS, HEADS, INNER, VOCAB = 3072, 32, 32, 8192, 32064
SHARD_BYTES = 1 << 30
TOKENIZER_FILES = ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
CONFIG = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCAB,
}


def tensors():
    """Every tensor's name and shape; vectors are norms."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.qkv_proj.weight", (3 * HIDDEN, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.gate_up_proj.weight", (2 * INNER, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, INNER)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def count(shape):
    return int(numpy.prod(shape))


def values(random, shape):
    """As bf16, rounded to even: norms 1, weights as a trained model's begin."""
    if len(shape) == 1:
        wide = numpy.ones(shape, numpy.float32)
    else:
        wide = random.standard_normal(shape, numpy.float32) * numpy.float32(0.02)
    bits = wide.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def shards():
    """Lists of (name, shape), each below SHARD_BYTES."""
    shard, size = [], 0
    for name, shape in tensors():
        if shard and size + 2 * count(shape) > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append((name, shape))
        size += 2 * count(shape)
    yield shard


def write_shard(path, shard, random):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard:
        begin, end = end, end + 2 * count(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in shard:
            file.write(values(random, shape).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="holds " + ", ".join(TOKENIZER_FILES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(arguments.tokenizer / name, arguments.folder / name)
    (arguments.folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    (arguments.folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": [32000, 32001, 32007], "pad_token_id": 32000}))

    random = numpy.random.default_rng(3)
    parts = list(shards())
    index = {}
    for number, shard in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_shard(arguments.folder / name, shard, random)
        index |= {tensor: name for tensor, _ in shard}
        print(f"{name}: {len(shard)} tensors", flush=True)
    total = sum(2 * count(shape) for _, shape in tensors())
    (arguments.folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}))


if __name__ == "__main__":
    main()
