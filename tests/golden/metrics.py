"""KID by torch-fidelity and the alignments by the authors' formula, on random features: tests/golden/metrics.safetensors.

    pip install -r tests/golden/requirements.txt && pip install --no-deps torch-fidelity==0.4.0 tqdm
    python tests/golden/metrics.py
"""
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch_fidelity.metric_kid import kid_features_to_metric

SUBSETS = 25
rng = np.random.default_rng(0)
# features of two kinds of images: unlike lengths, a shared direction, a shift between the two
mean = rng.normal(size=24)
generated = (rng.normal(size=(40, 24)) + mean + 0.3).astype(np.float32)
real = (1.3 * rng.normal(size=(30, 24)) + mean).astype(np.float32)
texts = (rng.normal(size=(40, 24)) + 0.4 * mean).astype(np.float32)


def kid(a, b, m, subsets):
    options = dict(kid_subsets=subsets, kid_subset_size=m, rng_seed=2020, verbose=False, kid_kernel="poly",
                   kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    # in f64: in f32 its own rounding would be what is compared
    found = kid_features_to_metric(torch.from_numpy(a).double(), torch.from_numpy(b).double(), **options)
    return torch.tensor([found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]],
                        dtype=torch.float64)


def drawn(n1, n2, m, subsets):
    """The rows that torch-fidelity takes: the same generator, asked the same way."""
    state = np.random.RandomState(2020)
    rows = [(state.choice(n1, m, replace=False), state.choice(n2, m, replace=False)) for _ in range(subsets)]
    return tuple(torch.from_numpy(np.stack(side).astype(np.int64)) for side in zip(*rows))


def unit(x):
    x = x.astype(np.float64)
    return x / np.sqrt(np.sum(x**2, axis=1, keepdims=True))


rows_generated, rows_real = drawn(40, 30, 20, SUBSETS)
# CustomConcept101's evaluation (clipeval of CLIPScore): w = 2.5
text = 2.5 * np.clip(np.sum(unit(generated) * unit(texts), axis=1), 0, None)
pairs = unit(generated) @ unit(real).T
save_file({
    "generated": torch.from_numpy(generated), "real": torch.from_numpy(real), "texts": torch.from_numpy(texts),
    "kid.all": kid(generated[:30], real, 30, 1), "kid.subsets": kid(generated, real, 20, SUBSETS),
    "kid.rows_generated": rows_generated, "kid.rows_real": rows_real,
    "text": torch.from_numpy(text), "image": torch.from_numpy(np.mean(pairs, axis=1)),
    "image.mean": torch.tensor([np.mean(pairs)], dtype=torch.float64),
}, Path(__file__).parent / "metrics.safetensors")
