"""transformers opens the exported identity extractor and tells instances apart. See README.md beside this file."""

import argparse
import sys

import numpy as np
import torch
from transformers import ViTImageProcessor, ViTModel

from targets import CATEGORIES, targets


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--cdbench", default="target/release/cdbench")
    parser.add_argument("--least", type=float, default=0.9)
    args = parser.parse_args()

    model = ViTModel.from_pretrained(args.folder, add_pooling_layer=False).eval()
    processor = ViTImageProcessor.from_pretrained(args.folder)
    pictures, concepts = zip(*targets(args.cdbench))
    with torch.no_grad():
        tokens = model(**processor(list(pictures), return_tensors="pt")).last_hidden_state
    features = torch.nn.functional.normalize(tokens[:, 0], dim=-1).numpy()
    assert np.isfinite(features).all()
    cosines = features @ features.T
    np.fill_diagonal(cosines, -1.0)
    right = np.array(concepts)[cosines.argmax(axis=1)] == concepts
    share = right.mean()
    print(f"{len(right)} pictures of {len(CATEGORIES)} concepts: the nearest other is of the same for "
          f"{share:.3f}, least {args.least}")
    return int(share < args.least)


if __name__ == "__main__":
    sys.exit(main())
