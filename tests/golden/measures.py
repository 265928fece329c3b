"""CMMD, diversity and the nearest target on the features of metrics.safetensors, from their definitions in f64.

Run: python tests/golden/measures.py
"""
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
SIGMA = 10


def unit(x):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def mmd(x, y):
    """As the published code has it (google-research/cmmd, distance.py), without its factor of 1000."""
    gamma = 1 / (2 * SIGMA**2)
    x2, y2 = np.diag(x @ x.T), np.diag(y @ y.T)
    k_xx = np.mean(np.exp(-gamma * (-2 * x @ x.T + x2[:, None] + x2[None])))
    k_xy = np.mean(np.exp(-gamma * (-2 * x @ y.T + x2[:, None] + y2[None])))
    k_yy = np.mean(np.exp(-gamma * (-2 * y @ y.T + y2[:, None] + y2[None])))
    return k_xx + k_yy - 2 * k_xy


golden = load_file(HERE / "metrics.safetensors")
generated, real = unit(golden["generated"]), unit(golden["real"])
pairs = [1 - generated[i] @ generated[j] for g in range(8) for i in range(5 * g, 5 * g + 5) for j in range(5 * g, i)]
jackknife = np.array([mmd(np.delete(generated, i, axis=0), real) for i in range(len(generated))])
n = len(generated)
save_file({
    "cmmd": np.array([mmd(generated, real), np.sqrt((n - 1) / n * np.sum((jackknife - jackknife.mean()) ** 2))]),
    "diversity": np.array([np.mean(pairs)]),  # eight prompts of five images
    "nearest": np.max(generated @ real.T, axis=1),
}, HERE / "measures.safetensors")
