"""A small CLIP tokenizer, and the ids it gives for awkward prompts.

The vocabulary has CLIP's own order: 256 byte symbols, the same with `</w>`, one entry per merge, then
`<|startoftext|>` and `<|endoftext|>`.
"""

import json
import re
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer, CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

MODIFIERS = ["<new1>", "<new2>"]
MERGES = 560

CORPUS = """
a photo of a dog. a photo of a cat. photo of a chair in the garden. a wooden pot on a wooden table.
a teddy bear sitting on the beach at sunset. the quick brown fox jumps over the lazy dog near the river bank.
two cats are sleeping on an old chair. a dog is running through the snow in the mountains.
a watercolor painting of a barn beside a field of yellow flowers. an oil painting of the moon above the sea.
a close up photo of a tortoise plushy. zoomed in photo of a flower with many petals. far away photo of a table.
very small photo of a dog in front of a house. a cat wearing sunglasses and a red hat. the dog swimming in a pool.
a black and white drawing of a wooden pot with a green plant. purple flowers growing in a blue vase by the window.
they're going to see what it's about, and we've said that i'm sure you'll find it isn't there.
he'd like a picture of the city at night, with bright lights and rain on the street.
an astronaut riding a horse on the moon. a digital illustration in the style of a poster, highly detailed.
the children were playing with a ball in the park while their mother was reading a book.
a person holding a flower. a person sitting on a chair. a dog and a cat sitting together on a table.
photo of a wooden table and an orange chair in a white room. the floor is made of wood.
a cup of coffee with a heart drawn on top. a pink teddy bear underwater with fish and coral.
an ancient temple in the jungle, morning fog, warm light. a castle made of sand on the beach.
""".strip()

PROMPTS = [
    "",
    " ",
    "a photo of a dog",
    "A PHOTO Of A Dog",
    "  a   photo\tof \n a\r\ndog  ",
    "café naïve Ünïcode",
    "cafe\u0301 decomposed",
    "ﬁne ½ ①② Ⅳ",
    "a 🐶 and 🐱🏽 on a 🏖️",
    "一只狗在海滩上",
    "собака, ΣΊΣΥΦΟΣ and İstanbul",
    "1234567890 3.14 2x4 64x64",
    "it's they're we've I'm you'll he'd don't IT'S",
    "rock'n'roll o'clock 'tis dogs'",
    "hello, world!!! (what?) -- ... \"quoted\" [x] {y} #tag @me 100% a/b\\c",
    "a &amp; b &lt;dog&gt; <b>bold</b>",
    "wooden_pot wooden-pot",
    "<|startoftext|>dog<|endoftext|> cat",
    "zero\u200bwidth and no\u00a0break \u3000 ideographic space",
    "\ud7a3 한국어 नमस्ते ไทย",
    "photo of a <new1> dog",
    "<new1>",
    "photo of a<new1>dog,<new2>.",
    "<new1><new2><new1>",
    "a (<new1>) 'and' <new2>'s cat",
    "a <NEW1> dog and a <new3> cat and < new1 >",
    "<new1>\n<new2>  end",
    "a dog " * 60,
    "word " * 74 + "<new1> last words",
    "<new1> wooden pot and a <new2> cat on a table in the garden, a watercolor painting of flowers",
    "supercalifragilisticexpialidocious" * 4,
]


def train_bpe(corpus: str, merges: int):
    """Byte-pair merges by count, ties by text, so the result depends on the corpus alone."""
    byte_symbols = bytes_to_unicode()
    words = Counter()
    for word in re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", corpus.lower()):
        symbols = [byte_symbols[b] for b in word.encode()]
        symbols[-1] += "</w>"
        words[tuple(symbols)] += 1
    out = []
    while len(out) < merges:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        out.append(best)
        joined = Counter()
        for word, count in words.items():
            merged, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    merged.append(word[i] + word[i + 1])
                    i += 2
                else:
                    merged.append(word[i])
                    i += 1
            joined[tuple(merged)] += count
        words = joined
    return out


def vocabulary(size: int | None = None):
    """(token -> id, merges). `size` pads with unreachable entries, the two special tokens staying last."""
    merges = train_bpe(CORPUS, MERGES)
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [s + "</w>" for s in symbols] + [a + b for a, b in merges]
    if size is not None:
        tokens += [f"<pad{i}>" for i in range(size - 2 - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == len(set(tokens)) and tokens[0] == "!"
    return {t: i for i, t in enumerate(tokens)}, merges


def write_vocabulary(folder: Path, size: int | None = None):
    vocab, merges = vocabulary(size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def tokenizers(scratch: Path, max_length: int, pad_token: str, size: int | None = None):
    """(slow, fast) CLIP tokenizers over the same vocabulary."""
    write_vocabulary(scratch, size)
    files = dict(vocab_file=str(scratch / "vocab.json"), merges_file=str(scratch / "merges.txt"))
    options = dict(model_max_length=max_length, pad_token=pad_token)
    return CLIPTokenizer(**files, **options), CLIPTokenizerFast(**files, **options)


def encode(tokenizer, prompts):
    """Token ids as the diffusers pipeline asks for them."""
    return tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True
    ).input_ids


def golden(slow, fast):
    """Ids of every prompt; both tokenizers must already have MODIFIERS. The fast one is the reference."""
    prompts = []
    for prompt, ids, other in zip(PROMPTS, encode(fast, PROMPTS), encode(slow, PROMPTS)):
        # Padding is regular: keep the file short.
        last = max(i for i, t in enumerate(ids) if t == fast.eos_token_id and (i == 0 or ids[i - 1] != t))
        entry = {"prompt": prompt, "ids": ids[: last + 1]}
        assert ids[last + 1 :] == [fast.pad_token_id] * (len(ids) - last - 1), prompt
        if other != ids:
            entry["slow_differs"] = True
        prompts.append(entry)
    return {
        "max_length": fast.model_max_length,
        "pad_id": fast.pad_token_id,
        "added": {t: fast.convert_tokens_to_ids(t) for t in MODIFIERS},
        "prompts": prompts,
    }
