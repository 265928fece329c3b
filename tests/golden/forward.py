"""Outputs of text encoder, VAE and UNet, and whole guided sampling runs."""

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

import tokens
from backbones import normal

TEXT_PROMPTS = ["", "a photo of a dog on the beach", "photo of a <new1> dog", "<new2>,<new1> cat " * 30]
SAMPLE_PROMPTS = ["photo of a <new1> dog in the snow", "a watercolor painting of a wooden pot"]
STEPS = 8
GUIDANCE = 6.0


@torch.no_grad()
def add_modifiers(name, pipeline, slow, fast):
    """Adds the modifier tokens; their rows are given, not derived. Returns the rows."""
    slow.add_tokens(tokens.MODIFIERS)
    fast.add_tokens(tokens.MODIFIERS)
    encoder = pipeline.text_encoder
    encoder.resize_token_embeddings(len(fast), mean_resizing=False)
    rows = 0.3 * normal((len(tokens.MODIFIERS), encoder.config.hidden_size), name, "modifier rows")
    table = encoder.get_input_embeddings().weight
    table[-len(tokens.MODIFIERS) :] = rows.to(table)
    return rows


@torch.no_grad()
def layers(name, pipeline, fast, dtype):
    """Golden tensors of the single models."""
    text, unet, vae = pipeline.text_encoder, pipeline.unet, pipeline.vae
    ids = torch.tensor(tokens.encode(fast, TEXT_PROMPTS))
    states = text(ids)[0]
    out = {"text.ids": ids, "text.states": states}

    channels = unet.config.in_channels
    latents = normal((2, channels, 16, 16), name, "unet latents", dtype=dtype)
    timesteps = torch.tensor([37, 801])
    out |= {
        "unet.latents": latents,
        "unet.timesteps": timesteps,
        "unet.text": states[1:3].clone(),
        "unet.out": unet(latents, timesteps, states[1:3]).sample,
    }
    # 96x80 images: a side that does not halve evenly at the coarsest level.
    odd = normal((1, channels, 12, 10), name, "unet odd latents", dtype=dtype)
    out |= {
        "unet.odd_latents": odd,
        "unet.odd_timesteps": timesteps[1:],
        "unet.odd_out": unet(odd, timesteps[1:], states[2:3]).sample,
    }

    size = vae.config.sample_size
    images = torch.tanh(normal((2, 3, size, size), name, "images", dtype=dtype))
    posterior = vae.encode(images).latent_dist
    # logvar as diffusers gives it: clamped to [-30, 20].
    out |= {"vae.images": images, "vae.mean": posterior.mean, "vae.logvar": posterior.logvar}
    z = normal((2, channels, 16, 16), name, "vae z", dtype=dtype)
    out |= {"vae.z": z, "vae.decoded": vae.decode(z).sample}
    return out


@torch.no_grad()
def sampling(name, pipeline, fast, dtype):
    """Guided runs through the pipeline itself, latents after every step."""
    published = pipeline.scheduler
    pipeline.tokenizer = fast
    channels = pipeline.unet.config.in_channels
    latents = normal((2, channels, 16, 16), name, "sampling latents", dtype=dtype)
    out = {"sample.latents": latents}
    for key, scheduler in [("ddim", DDIMScheduler), ("dpmpp", DPMSolverMultistepScheduler)]:
        # `timestep_spacing` is pinned: from_config would drop it and take the new class's own default.
        pipeline.scheduler = scheduler.from_config(published.config, timestep_spacing="leading")
        trail = []

        def keep(_pipeline, _step, _timestep, kwargs):
            trail.append(kwargs["latents"].clone())
            return kwargs

        final = pipeline(
            SAMPLE_PROMPTS, negative_prompt=[""] * 2, latents=latents.clone(), num_inference_steps=STEPS,
            guidance_scale=GUIDANCE, output_type="latent", callback_on_step_end=keep,
        ).images  # fmt: skip
        assert len(trail) == STEPS and torch.equal(final, trail[-1])
        out[f"sample.{key}.timesteps"] = pipeline.scheduler.timesteps.to(torch.int64)
        out[f"sample.{key}.steps"] = torch.stack(trail)
        # As decoded: in about [-1, 1], not clamped.
        out[f"sample.{key}.image"] = pipeline.vae.decode(final / pipeline.vae.config.scaling_factor).sample
    pipeline.scheduler = published
    return out
