"""Equation 4 of the paper solved by its KKT system, in f64.

minimise |(W - W0) R'|^2  subject to  W C' = V', row by row of W:
    [ R'R  C' ] [ w ]   [ R'R w0 ]
    [ C    0  ] [ l ] = [ v      ]
"""

import numpy as np
import torch


def case(rng, out, name, samples, features, targets, repeat=False):
    # correlated and off centre, as text features are
    mix = rng.normal(size=(features, features)) / np.sqrt(features)
    draw = lambda n: (rng.normal(size=(n, features)) @ mix + rng.normal(size=features) * 0.3).astype(np.float32)
    r, c = draw(samples), draw(targets)
    if repeat:
        c = np.concatenate([c, c[:2]])
    out[f"{name}.regularization"], out[f"{name}.targets"] = r, c
    r, c = r.astype(np.float64), c.astype(np.float64)
    gram = r.T @ r
    for layer, width in (("k", 16), ("v", 12)):
        w0 = rng.normal(size=(width, features)).astype(np.float32)
        v = c @ (w0 + 0.2 * rng.normal(size=w0.shape)).T
        v = v.astype(np.float32)
        if repeat:
            v[-2:] = v[:2]
        n = len(c)
        kkt = np.block([[gram, c.T], [c, np.zeros((n, n))]])
        right = np.concatenate([gram @ w0.T.astype(np.float64), v.astype(np.float64)])
        # the solution of least norm, seen from W0, where there are several
        start = np.concatenate([w0.T.astype(np.float64), np.zeros((n, width))])
        solution = start + np.linalg.lstsq(kkt, right - kkt @ start, rcond=1e-13)[0]
        w = solution[:features].T
        assert np.abs(w @ c.T - v.T).max() < 1e-5
        out[f"{name}.{layer}.pretrained"], out[f"{name}.{layer}.values"] = w0, v
        out[f"{name}.{layer}.merged"] = np.ascontiguousarray(w.astype(np.float32))


def golden():
    rng, out = np.random.default_rng(0), {}
    case(rng, out, "plain", 200, 32, 6)
    case(rng, out, "repeated", 200, 32, 6, repeat=True)
    case(rng, out, "few", 20, 32, 4)  # fewer captions than features: singular
    return {key: torch.from_numpy(value) for key, value in out.items()}
