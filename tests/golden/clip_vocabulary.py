"""Ids that CLIP's own vocabulary gives for awkward prompts: `clip1_tokens.json` as SD 1.x pads them,
`clip2_tokens.json` as SD 2.x does.

    python tests/golden/clip_vocabulary.py [--check]

The merges are those of `assets/clip/`; the vocabulary is put together as OpenCLIP's `SimpleTokenizer` does.
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer, CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

import tokens

HERE = Path(__file__).resolve().parent
MORE = [
    "a photorealistic portrait of an astronaut, trending on artstation, 8k, octane render",
    "dog! dog !!",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]


def tokenizers(folder: Path, pad: str):
    merges = gzip.decompress((HERE / "../../assets/clip/merges.txt.gz").read_bytes()).decode()
    letters = list(bytes_to_unicode().values())
    pieces = letters + [letter + "</w>" for letter in letters]
    pieces += ["".join(line.split()) for line in merges.splitlines()[1:]]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    assert len(pieces) == 49408
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    known = dict(vocab_file=folder / "vocab.json", merges_file=folder / "merges.txt")
    made = [
        kind(**{k: str(v) for k, v in known.items()}, pad_token=pad, model_max_length=77)
        for kind in (CLIPTokenizer, CLIPTokenizerFast)
    ]
    for tokenizer in made:
        tokenizer.add_tokens(tokens.MODIFIERS)
    return made


def golden(pad: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        slow, fast = tokenizers(Path(folder), pad)
        made = tokens.golden(slow, fast)
    entries = ",\n".join(json.dumps(e, ensure_ascii=False) for e in made.pop("prompts"))
    return f'{json.dumps(made)[:-1]}, "prompts": [\n{entries}\n]}}\n'


if __name__ == "__main__":
    tokens.PROMPTS += MORE
    for name, pad in [("clip1", "<|endoftext|>"), ("clip2", "!")]:
        file, text = HERE / f"{name}_tokens.json", golden(pad)
        if "--check" in sys.argv:
            assert file.read_text(encoding="utf-8") == text, f"{file.name} differs"
        else:
            file.write_text(text, encoding="utf-8")
