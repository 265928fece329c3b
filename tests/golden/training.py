"""Gradients and optimiser steps.

The Custom Diffusion loss and the first-token detach are those of diffusers'
`train_custom_diffusion.py` with prior preservation.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

import tokens
from backbones import normal

PROMPTS = [
    "photo of a <new1> dog",
    "zoomed in photo of a <new2> cat on a table",
    "a dog running in the park",
    "a cat sleeping on an old chair",
]
LR, DECAY, MAX_NORM, STEPS = 5e-3, 1e-2, 1.0, 5
KL_WEIGHT = 1e-4


class Rows(torch.nn.Module):
    """A token table whose last rows are a parameter of their own, so that neither gradient nor decay reaches the rest."""

    def __init__(self, table, count):
        super().__init__()
        self.register_buffer("base", table[:-count].detach().clone())
        self.rows = torch.nn.Parameter(table[-count:].detach().clone())

    def forward(self, ids):
        return F.embedding(ids, torch.cat([self.base, self.rows]))


def batch(name, pipeline, fast, dtype):
    channels = pipeline.unet.config.in_channels
    # Two instance samples whose image fills part of the canvas, two class samples.
    mask = torch.zeros(4, 1, 16, 16, dtype=dtype)
    mask[0, :, 2:11, 3:12] = 1
    mask[1, :, :, 5:] = 1
    mask[2:] = 1
    return {
        "ids": torch.tensor(tokens.encode(fast, PROMPTS)),
        "latents": normal((4, channels, 16, 16), name, "train latents", dtype=dtype),
        "noise": normal((4, channels, 16, 16), name, "train noise", dtype=dtype),
        "timesteps": torch.tensor([20, 731, 402, 980]),
        "mask": mask,
    }


def loss(pipeline, data):
    """Masked instance loss + class loss, weight 1. The mask has one channel, so its sum does not count channels."""
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    noisy = scheduler.add_noise(data["latents"], data["noise"], data["timesteps"])
    states = pipeline.text_encoder(data["ids"])[0]
    predicted = pipeline.unet(noisy, data["timesteps"], states).sample
    if scheduler.config.prediction_type == "epsilon":
        target = data["noise"]
    else:
        target = scheduler.get_velocity(data["latents"], data["noise"], data["timesteps"])
    instance, prior = predicted.chunk(2)
    target, target_prior = target.chunk(2)
    mask = data["mask"].chunk(2)[0]
    squared = F.mse_loss(instance, target, reduction="none")
    masked = ((squared * mask).sum([1, 2, 3]) / mask.sum([1, 2, 3])).mean()
    return masked + F.mse_loss(prior, target_prior)


def custom_diffusion(unet):
    """Installs diffusers' own processors; returns {UNet parameter name: trainable weight}."""
    processors, weights = {}, {}
    for key in unet.attn_processors:
        prefix = key.removesuffix(".processor")
        if not prefix.endswith("attn2"):
            processors[key] = CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False)
            continue
        attention = unet.get_submodule(prefix)
        width, cross = attention.to_k.weight.shape
        processor = CustomDiffusionAttnProcessor(
            train_kv=True, train_q_out=False, hidden_size=width, cross_attention_dim=cross
        ).to(attention.to_k.weight)
        for which in ["to_k", "to_v"]:
            copy = getattr(processor, f"{which}_custom_diffusion").weight
            copy.data.copy_(getattr(attention, which).weight)
            weights[f"{prefix}.{which}.weight"] = copy
        processors[key] = processor
    unet.set_attn_processor(processors)
    return weights


def summary(gradient):
    """L2 norm, then the first eight values, zero-padded."""
    flat = gradient.flatten()
    return torch.cat([gradient.norm()[None], F.pad(flat[:8], (0, max(0, 8 - flat.numel())))])


def golden(name, pipeline, fast, dtype):
    unet, text, vae = pipeline.unet, pipeline.text_encoder, pipeline.vae
    for model in (unet, text, vae):
        model.requires_grad_(False)
    embeddings = text.text_model.embeddings
    table = embeddings.token_embedding
    rows = Rows(table.weight, len(tokens.MODIFIERS))
    embeddings.token_embedding = rows
    data = batch(name, pipeline, fast, dtype)
    out = dict(data)

    # Every UNet parameter and the rows, ordinary attention (no detach).
    unet.requires_grad_(True)
    value = loss(pipeline, data)
    value.backward()
    out["full.loss"] = value
    out["full.rows"] = rows.rows.grad.clone()
    out |= {f"full.unet.{k}": summary(p.grad) for k, p in unet.named_parameters()}
    unet.zero_grad()
    unet.requires_grad_(False)
    rows.rows.grad = None

    out |= autoencoder(name, vae, dtype)

    # Custom Diffusion: K, V and the rows, the first token's key and value detached.
    weights = custom_diffusion(unet)
    trained = [rows.rows, *weights.values()]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        value = loss(pipeline, data)
        value.backward()
        if step == 0:
            out["grad.rows"] = rows.rows.grad.clone()
            out |= {f"grad.unet.{k}": p.grad.clone() for k, p in weights.items()}
        losses.append(value.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(trained, MAX_NORM))
        optimizer.step()
    assert norms[0] > MAX_NORM, "clipping must act"
    out["train.losses"] = torch.stack(losses)
    out["train.norms"] = torch.stack(norms)
    out["train.rows"] = rows.rows
    out |= {f"train.unet.{k}": p for k, p in weights.items()}
    return out


def autoencoder(name, vae, dtype):
    """L1 of the reconstruction (mean over all) + KL_WEIGHT * KL (sum per image, mean over images)."""
    vae.requires_grad_(True)
    size = vae.config.sample_size
    images = torch.tanh(normal((2, 3, size, size), name, "images", dtype=dtype))
    eps = normal((2, vae.config.latent_channels, 16, 16), name, "vae eps", dtype=dtype)
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * eps).sample
    value = (decoded - images).abs().mean() + KL_WEIGHT * posterior.kl().mean()
    value.backward()
    out = {"vae.eps": eps, "vae.loss": value}
    out |= {f"vae.grad.{k}": summary(p.grad) for k, p in vae.named_parameters()}
    # A constant added to all keys of a softmax changes nothing: what torch gives here is rounding.
    out |= {k: torch.zeros_like(v) for k, v in out.items() if k.endswith("to_k.bias")}
    vae.requires_grad_(False)
    return out
