"""transformers opens the exported judge and tells categories apart. See README.md beside this file."""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

# the rows of `cdbench world preview --concepts`, and what else there is
ROWS = ["dog", "cat", "teddybear", "chair", "flower", "car", "cup", "robot", "mushroom", "boat"]
OTHERS = ["fish", "umbrella"]
# a cell of the sheet: a picture shown three times as large, a gap, one line of text
COLUMNS, SIDE, ZOOM, GAP, LINE = 8, 64, 3, 8, 15


def targets(program):
    """Pictures and the number of their category."""
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary) / "concepts.png"
        command = [program, "world", "preview", "--concepts", "-o", out]
        subprocess.run(command, check=True, capture_output=True)
        sheet = np.asarray(Image.open(out).convert("RGB"))
    width, height = SIDE * ZOOM + GAP, SIDE * ZOOM + GAP + LINE
    assert sheet.shape[:2] == (len(ROWS) * height, COLUMNS * width), sheet.shape
    for row in range(len(ROWS)):
        for column in range(COLUMNS):
            top, left = row * height, column * width
            cell = sheet[top : top + SIDE * ZOOM : ZOOM, left : left + SIDE * ZOOM : ZOOM]
            yield Image.fromarray(cell), row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--cdbench", default="target/release/cdbench")
    parser.add_argument("--least", type=float, default=0.9)
    args = parser.parse_args()

    model = CLIPModel.from_pretrained(args.folder, torch_dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(args.folder)
    images, truth = zip(*targets(args.cdbench))
    texts = [f"photo of a {category}" for category in ROWS + OTHERS]
    inputs = processor(text=texts, images=list(images), return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = model(**inputs)
    assert torch.isfinite(outputs.logits_per_image).all()
    guesses = outputs.logits_per_image.argmax(1).tolist()
    for row, category in enumerate(ROWS):
        right = sum(g == t for g, t in zip(guesses, truth) if t == row)
        print(f"{category:10} {right} of {COLUMNS}")
    share = float(np.mean([g == t for g, t in zip(guesses, truth)]))
    print(f"right: {share:.3f} of {len(truth)} pictures, least {args.least}")
    return int(share < args.least)


if __name__ == "__main__":
    sys.exit(main())
