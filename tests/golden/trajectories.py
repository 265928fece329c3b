"""Schedulers alone, driven by a fixed function in place of a model."""

import diffusers.schedulers.scheduling_ddpm as ddpm_module
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from backbones import SCHEDULER, normal

SHAPE = (1, 4, 2, 2)
STEPS = [5, 7, 10, 50]  # 7 does not divide 1000
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "v_prediction"]
KINDS = {
    "ddpm": (DDPMScheduler, None),
    "ddim": (DDIMScheduler, 0.0),
    "ddim_eta05": (DDIMScheduler, 0.5),
    "dpmpp": (DPMSolverMultistepScheduler, None),
}


def model(x, t):
    """0.5 x - 0.1 x^2 / (1 + x^2) + 0.2 t / 1000"""
    return 0.5 * x - 0.1 * x * x / (1 + x * x) + 0.2 * t / 1000


def run(kind, prediction, spacing, steps):
    cls, eta = KINDS[kind]
    scheduler = cls.from_config(SCHEDULER, prediction_type=prediction, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    x = normal(SHAPE, "trajectory")
    samples, noises = [x], []
    for i, t in enumerate(scheduler.timesteps):
        out, extra = model(x, int(t)), {}
        noise = normal(SHAPE, "trajectory noise", i)
        if eta:
            extra = dict(eta=eta, variance_noise=noise)
        elif kind == "ddpm":
            ddpm_module.randn_tensor = lambda shape, noise=noise, **_: noise
        x = scheduler.step(out, t, x, **extra).prev_sample
        samples.append(x)
        noises.append(noise)
    return {"timesteps": scheduler.timesteps.to(torch.int64), "samples": torch.stack(samples)}, noises


def golden():
    out = {}
    for kind in KINDS:
        for prediction in PREDICTIONS:
            for spacing in SPACINGS:
                for steps in STEPS:
                    tensors, noises = run(kind, prediction, spacing, steps)
                    out |= {f"{kind}.{prediction}.{spacing}.{steps}.{k}": v for k, v in tensors.items()}
    # The same noise at step i of every stochastic run.
    out["noise"] = torch.stack(noises)
    return out
