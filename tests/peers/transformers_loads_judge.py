"""transformers opens the exported judge and tells categories apart. See README.md beside this file."""

import argparse
import sys

import numpy as np
import torch
from transformers import CLIPModel, CLIPProcessor

from targets import CATEGORIES, COLUMNS, targets

# what else there is
OTHERS = ["fish", "umbrella"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--cdbench", default="target/release/cdbench")
    parser.add_argument("--least", type=float, default=0.9)
    args = parser.parse_args()

    model = CLIPModel.from_pretrained(args.folder, torch_dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(args.folder)
    images, truth = zip(*targets(args.cdbench))
    texts = [f"photo of a {category}" for category in CATEGORIES + OTHERS]
    inputs = processor(text=texts, images=list(images), return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = model(**inputs)
    assert torch.isfinite(outputs.logits_per_image).all()
    guesses = outputs.logits_per_image.argmax(1).tolist()
    for row, category in enumerate(CATEGORIES):
        right = sum(g == t for g, t in zip(guesses, truth) if t == row)
        print(f"{category:10} {right} of {COLUMNS}")
    share = float(np.mean([g == t for g, t in zip(guesses, truth)]))
    print(f"right: {share:.3f} of {len(truth)} pictures, least {args.least}")
    return int(share < args.least)


if __name__ == "__main__":
    sys.exit(main())
