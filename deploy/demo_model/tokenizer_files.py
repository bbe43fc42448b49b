"""Trains the demo model's SentencePiece tokenizer and writes it in the files that published Phi-3 checkpoints have.

Used by train.py only. The same conventions as Llama-2's tokenizer, which Phi-3 uses: <unk> 0, <s> 1, </s> 2, bytes
3..258, BPE with byte fallback, a dummy space before each text, and Phi-3's special tokens appended after the pieces.
Digits are always pieces of their own, so that copying an order number is copying single digits.
"""

import json
from pathlib import Path
from typing import Iterator

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

PIECE_COUNT = 4000
# In the order of the published ids (32000 to 32010 there, 4000 to 4010 here).
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>", "<|placeholder4|>",
    "<|system|>", "<|end|>", "<|placeholder5|>", "<|placeholder6|>", "<|user|>",
)
ENDOFTEXT_ID, ASSISTANT_ID, END_ID, USER_ID = (
    PIECE_COUNT + SPECIAL_TOKENS.index(token) for token in ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"))
# Phi-3.5-mini's published template, unchanged.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + "
    "'<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def train_pieces(texts: Iterator[str], directory: Path) -> None:
    """Trains on the texts and writes tokenizer.model."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "tokenizer.model", "wb") as model_file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts, model_writer=model_file, vocab_size=PIECE_COUNT, model_type="bpe", byte_fallback=True,
            split_digits=True, normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
            character_coverage=0.99995, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=2, minloglevel=2)


def _added_tokens() -> list[tuple[int, AddedToken]]:
    """Returns the tokens that stand outside the pieces. No token strips the text beside it: every lstrip and rstrip is false."""
    base = [(0, "<unk>"), (1, "<s>"), (2, "</s>")]
    special = [(PIECE_COUNT + i, token) for i, token in enumerate(SPECIAL_TOKENS)]
    return [(i, AddedToken(token, lstrip=False, rstrip=False, single_word=False, normalized=False, special=True)) for i, token in base + special]


def _fast_tokenizer(pieces: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    """Returns the same tokenizer in the shape of the published tokenizer.json."""
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = []
    # A piece's id order is its merge order; every way to split a piece into two pieces is a merge that makes it.
    for piece in (pieces.id_to_piece(i) for i in range(259, pieces.get_piece_size())):
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        splits = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
        merges += sorted(splits, key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
    fast = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    fast.add_special_tokens([token for _, token in _added_tokens()])
    return fast


def write_tokenizer_files(directory: Path, context_tokens: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json, added_tokens.json and special_tokens_map.json beside tokenizer.model."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    fast = _fast_tokenizer(pieces)
    for token_id, token in _added_tokens():
        assert fast.token_to_id(token.content) == token_id, (token.content, fast.token_to_id(token.content))
    fast.save(str(directory / "tokenizer.json"))

    def properties(token: AddedToken) -> dict:
        return {"content": token.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

    config = {
        "add_bos_token": False, "add_eos_token": False,
        "added_tokens_decoder": {str(i): {**properties(token), "special": True} for i, token in _added_tokens()},
        "bos_token": "<s>", "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>",
        "legacy": False, "model_max_length": context_tokens, "pad_token": "<|endoftext|>", "padding_side": "left",
        "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": False,
    }
    by_content = {token.content: properties(token) for _, token in _added_tokens()}
    special = {"bos_token": by_content["<s>"], "eos_token": by_content["<|endoftext|>"], "pad_token": by_content["<|endoftext|>"],
               "unk_token": by_content["<unk>"]}
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special),
                          ("added_tokens.json", {token: PIECE_COUNT + i for i, token in enumerate(SPECIAL_TOKENS)})):
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def assert_slow_and_fast_agree(directory: Path, rendered: Iterator[str]) -> int:
    """Checks, for rendered chats, that SentencePiece segment by segment gives the ids of tokenizer.json; returns the chats checked."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    fast = Tokenizer.from_file(str(directory / "tokenizer.json"))
    count = 0
    for text in rendered:
        ids, rest = [], text
        while rest:
            found = [(rest.find(token), i) for i, token in enumerate(SPECIAL_TOKENS) if token in rest]
            at, index = min(found) if found else (len(rest), -1)
            ids += pieces.encode(rest[:at]) if at else []
            if index < 0:
                break
            ids.append(PIECE_COUNT + index)
            rest = rest[at + len(SPECIAL_TOKENS[index]):]
        expected = fast.encode(text, add_special_tokens=False).ids
        assert ids == expected, f"SentencePiece and tokenizer.json differ on {text!r}: {ids} and {expected}"
        count += 1
    return count
