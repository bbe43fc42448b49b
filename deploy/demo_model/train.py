"""Trains the demo model from nothing and writes it as a Phi-3 checkpoint directory.

    python3 deploy/demo_model/train.py                  # from nothing; see README.md for how the checkpoint here was made
    python3 deploy/demo_model/train.py --steps 300      # a look at whether it learns

Requires: torch >= 2.4, transformers 4.57, sentencepiece, safetensors, numpy (see README.md). Reads nothing but this
folder's phrases. Seeds are fixed; the weights still differ in the last bits from one CPU or thread count to another.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Iterator

import torch
from transformers import AutoTokenizer, GenerationConfig, Phi3Config, Phi3ForCausalLM

from conversations import conversation, is_drill
from records import random_record
from tokenizer_files import (ASSISTANT_ID, END_ID, ENDOFTEXT_ID, PIECE_COUNT, SPECIAL_TOKENS, USER_ID, assert_slow_and_fast_agree,
                             train_pieces, write_tokenizer_files)

SEED = 20260314
CONTEXT_TOKENS = 2048
BATCH_TOKENS = 4096
TOKENIZER_CONVERSATIONS = 20_000
CONVERSATIONS_PER_POOL = 4096  # sorted by length together
REPLACED_SHARE = 0.03
DRILL_ANSWER_TOKENS = 10
COPYING_TOKENS = 3072
COPIED_TOKENS = 24
COPYING_STEPS_SHARE = 0.05  # in this first part of the training every third step is a copying batch
IGNORED = -100


# Pieces that are words or parts of words. Digits, bytes and the bare space are never replaced.
REPLACEMENT_IDS: list[int] = []
KEPT_IDS: set[int] = set()


def _sort_pieces(tokenizer) -> None:
    for token_id in range(PIECE_COUNT):
        piece = tokenizer.convert_ids_to_tokens(token_id)
        if token_id < 259 or any(c.isdigit() for c in piece) or piece in ("▁", "#", "."):
            KEPT_IDS.add(token_id)
        else:
            REPLACEMENT_IDS.append(token_id)


def model_config() -> Phi3Config:
    """Returns the shape: head_dim 96 as in Phi-3-mini, three heads, no window, every weight its own tensor."""
    return Phi3Config(
        vocab_size=-(-(PIECE_COUNT + len(SPECIAL_TOKENS)) // 64) * 64, hidden_size=288, intermediate_size=768,
        num_hidden_layers=5, num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=CONTEXT_TOKENS,
        original_max_position_embeddings=CONTEXT_TOKENS, rope_theta=10000.0, rope_scaling=None, sliding_window=None,
        rms_norm_eps=1e-5, tie_word_embeddings=False, attention_dropout=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        bos_token_id=1, eos_token_id=ENDOFTEXT_ID, pad_token_id=ENDOFTEXT_ID, torch_dtype="bfloat16",
        attn_implementation="eager")  # for these short rows 1.25 times the speed of the CPU's fused attention


def _example(tokenizer, index: int) -> tuple[list[int], list[int]]:
    """Returns the ids of conversation `index` and its labels: what the assistant says and the <|end|> after it."""
    messages = conversation(SEED, index)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer._tokenizer.encode(text.removesuffix("<|endoftext|>"), add_special_tokens=False).ids
    labels = [IGNORED] * len(ids)
    at = 0
    while ASSISTANT_ID in ids[at:]:
        start = ids.index(ASSISTANT_ID, at) + 3  # <|assistant|>, then the newline's two tokens, which the prompt holds
        end = ids.index(END_ID, start) + 1
        labels[start:end] = ids[start:end]
        at = end
    if is_drill(index) and not messages[-1]["content"].startswith("Order"):
        # A fixed answer is known by its first words; the rest would be three quarters of the tokens and teach nothing.
        last = len(ids) - 1 - ids[::-1].index(ASSISTANT_ID)
        ids, labels = ids[:last + 3 + DRILL_ANSWER_TOKENS], labels[:last + 3 + DRILL_ANSWER_TOKENS]
    if index % 2:
        ids = _replace_some_words(ids, random.Random(index))
    return ids[:CONTEXT_TOKENS], labels[:CONTEXT_TOKENS]


def _replace_some_words(ids: list[int], rng: random.Random) -> list[int]:
    """Returns the ids with a few pieces of the user's messages replaced by any others (no digits, no bytes).

    Real customers use words that the phrases here lack; so no single word may be trusted alone.
    """
    changed, in_user = list(ids), False
    for at, token_id in enumerate(ids):
        if token_id >= PIECE_COUNT:
            in_user = token_id == USER_ID
        elif in_user and token_id not in KEPT_IDS and rng.random() < REPLACED_SHARE:
            changed[at] = rng.choice(REPLACEMENT_IDS)
    return changed


def _copying_batch(tokenizer, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows in which a passage stands twice; the labels are the second passage.

    A passage is the pieces of order records in random order: nothing but looking back can predict it. Conversations
    alone teach copying too, but slowly, for only a few of their pieces are copied.
    """
    rows, labels = [], []
    while sum(map(len, rows)) < COPYING_TOKENS:
        lines = "; ".join(random_record(rng).line() for _ in range(3))
        pieces = tokenizer._tokenizer.encode(lines, add_special_tokens=False).ids
        rng.shuffle(pieces)
        head, passage = pieces[:60], pieces[60:60 + COPIED_TOKENS]
        gap = rng.choices(pieces, k=10)
        rows.append(head[:10] + passage + gap + passage)
        labels.append([IGNORED] * (10 + len(passage) + len(gap) + 1) + passage[1:])
    return torch.tensor(rows), torch.tensor(labels)


def _batches(tokenizer, first: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yields for ever, from conversation `first`: conversations used so far, ids [rows, tokens] and labels [rows, tokens].

    Rows of one batch have nearly the same length. Unlike rows packed to a fixed length, no conversation then sees
    another's order record, and padding stays under a few per cent.
    """
    rng = random.Random(SEED)
    while True:
        pool = sorted((_example(tokenizer, first + i) for i in range(CONVERSATIONS_PER_POOL)), key=lambda example: len(example[0]))
        first += CONVERSATIONS_PER_POOL
        groups: list[list] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example[0]) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            yield (first, torch.tensor([ids + [ENDOFTEXT_ID] * (width - len(ids)) for ids, _ in group]),
                   torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in group]))


def _new_model() -> Phi3ForCausalLM:
    """Returns the untrained model, begun so that copying is easy to find.

    The residual stream starts as the token itself (nothing is added to it yet), and lm_head is the embedding while
    training: a head that attends to a token then already predicts it. The file holds both tensors, as Phi-3's do.
    """
    model = Phi3ForCausalLM(model_config()).float().train()
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.03)
    model.lm_head.weight = model.model.embed_tokens.weight
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def _loss(model: Phi3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross entropy over the labelled positions; logits are made for these alone."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]).float(), targets[wanted])


def save_checkpoint(model: Phi3ForCausalLM, directory: Path) -> None:
    """Writes config.json, generation_config.json and model.safetensors (bf16); the trained model itself stays f32."""
    stored = Phi3ForCausalLM(model.config).to(torch.bfloat16)
    stored.load_state_dict(model.state_dict())
    stored.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=[ENDOFTEXT_ID, ASSISTANT_ID, END_ID], pad_token_id=ENDOFTEXT_ID, do_sample=False)
    stored.save_pretrained(directory, safe_serialization=True)


def _optimizer(model: Phi3ForCausalLM, rate: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
                             lr=rate, betas=(0.9, 0.97), eps=1e-9, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoint", help="directory to write")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--start-from", type=Path, help="checkpoint to go on from, with its tokenizer in --out (--keep-tokenizer)")
    parser.add_argument("--state", type=Path, help="file that keeps weights and optimizer, so that a stopped training can go on")
    parser.add_argument("--no-compile", action="store_true", help="run the model without torch.compile (needs no g++)")
    parser.add_argument("--keep-tokenizer", action="store_true", help="use the tokenizer.model that is already in --out")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)

    if not arguments.keep_tokenizer:
        # Seen once each, so that the pieces follow the words and not the few answers that every conversation repeats.
        texts = dict.fromkeys(m["content"] for i in range(TOKENIZER_CONVERSATIONS) for m in conversation(SEED, i) if "\n" not in m["content"])
        train_pieces(iter(texts), arguments.out)
    write_tokenizer_files(arguments.out, CONTEXT_TOKENS)
    tokenizer = AutoTokenizer.from_pretrained(arguments.out)
    checked = assert_slow_and_fast_agree(
        arguments.out, (tokenizer.apply_chat_template(conversation(SEED, i), tokenize=False) for i in range(3000)))
    _sort_pieces(tokenizer)
    print(f"tokenizer: {len(tokenizer)} tokens; SentencePiece and tokenizer.json agree on {checked} chats", flush=True)

    model = Phi3ForCausalLM.from_pretrained(arguments.start_from, dtype=torch.float32).train() if arguments.start_from else _new_model()
    model.set_attn_implementation("eager")
    print(f"model: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters", flush=True)
    if not arguments.no_compile:
        model.model.forward = torch.compile(model.model.forward, dynamic=True)  # 1.45 times the speed on a 2-core AMX machine
    optimizer = _optimizer(model, arguments.rate)
    warmup_steps = min(100, arguments.steps // 10 + 1)
    started, tokens_seen, mean_loss = time.monotonic(), 0, 0.0
    copying_rng, copying_loss = random.Random(SEED), 0.0
    first_step = conversations_used = 0
    if arguments.state and arguments.state.exists():
        state = torch.load(arguments.state)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_step, conversations_used = state["step"], state["conversations"]
    batches = _batches(tokenizer, conversations_used)
    for step in range(first_step, arguments.steps):
        is_copying = step % 3 == 2 and step < COPYING_STEPS_SHARE * arguments.steps
        if is_copying:
            ids, labels = _copying_batch(tokenizer, copying_rng)
        else:
            conversations_used, ids, labels = next(batches)
        progress = max(0.0, step - warmup_steps) / max(1, arguments.steps - warmup_steps)
        rate = arguments.rate * min((step + 1) / warmup_steps, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _loss(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens_seen += ids.numel()
        if is_copying:
            copying_loss = loss.item()
        else:
            mean_loss = loss.item() if step == first_step else 0.95 * mean_loss + 0.05 * loss.item()
        if step % 20 == 0:
            seconds = time.monotonic() - started
            print(f"step {step} loss {mean_loss:.4f} copying {copying_loss:.3f} rate {rate:.2e} tokens/s {tokens_seen / seconds:.0f} "
                  f"conversations {conversations_used} {seconds:.0f} s", flush=True)
        if step and step % arguments.save_every == 0:
            save_checkpoint(model, arguments.out)
            if arguments.state:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                            "conversations": conversations_used}, arguments.state)
    save_checkpoint(model, arguments.out)
    summary = {"seed": SEED, "steps": arguments.steps, "conversations": conversations_used, "tokens": tokens_seen,
               "loss": round(mean_loss, 5), "seconds": round(time.monotonic() - started)}
    (arguments.out / "training.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
    print(summary)


if __name__ == "__main__":
    main()
