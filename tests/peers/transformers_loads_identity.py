"""transformers opens the identity extractor of an exported mini. See README.md beside this file."""

import argparse
import pathlib

import numpy as np
import torch
from PIL import Image
from transformers import ViTImageProcessor, ViTModel


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="the exported mini")
    parser.add_argument("concepts", type=pathlib.Path, help="a folder of folders of pictures")
    args = parser.parse_args()
    model = ViTModel.from_pretrained(args.folder / "dino", add_pooling_layer=False).eval()
    processor = ViTImageProcessor.from_pretrained(args.folder / "dino")

    names, features = [], []
    for folder in sorted(p for p in args.concepts.iterdir() if p.is_dir()):
        pictures = [Image.open(p).convert("RGB") for p in sorted(folder.glob("*.png"))]
        with torch.no_grad():
            out = model(**processor(pictures, return_tensors="pt")).last_hidden_state[:, 0]
        out = torch.nn.functional.normalize(out, dim=-1).numpy()
        names += [folder.name] * len(out)
        features.append(out)
    features, names = np.concatenate(features), np.array(names)
    cosines = features @ features.T
    np.fill_diagonal(cosines, -1.0)
    right = (names[cosines.argmax(axis=1)] == names).mean()
    print(f"{len(names)} pictures of {len(set(names))} concepts: nearest other is of the same {right:.1%}")


if __name__ == "__main__":
    main()
