"""Two small Stable Diffusion backbones with random weights: `sd1` and `sd2`."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

import tokens

NAMES = ["sd1", "sd2"]

# SD 1.5's scheduler_config.json and SD 2.1's, values as published.
SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
    steps_offset=1, set_alpha_to_one=False, clip_sample=False, trained_betas=None,
)  # fmt: skip

TEXT = {
    "sd1": dict(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="quick_gelu",
    ),
    # SD 2.x conditions on the penultimate layer of its text model by shipping one layer fewer.
    "sd2": dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=20, hidden_act="gelu",
    ),
}  # fmt: skip

UNET = {
    "sd1": dict(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(24, 32, 48), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8, cross_attention_dim=48, norm_num_groups=8,
    ),
    "sd2": dict(
        sample_size=16, in_channels=8, out_channels=8, block_out_channels=(16, 32, 48), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=[1, 2, 3], cross_attention_dim=64, norm_num_groups=4,
        use_linear_projection=True,
    ),
}  # fmt: skip

VAE = {
    "sd1": dict(
        sample_size=32, latent_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=8, scaling_factor=0.18215,
    ),
    "sd2": dict(
        sample_size=64, latent_channels=8, block_out_channels=(16, 24, 32), layers_per_block=2,
        norm_num_groups=4, scaling_factor=0.4,
    ),
}  # fmt: skip


def rng(*seed: int | str) -> np.random.Generator:
    """A generator of its own per purpose, so that adding a tensor does not move the others."""
    words = [w if isinstance(w, int) else int.from_bytes(w.encode()) for w in seed]
    return np.random.default_rng(words)


def normal(shape, *seed, dtype=torch.float32) -> torch.Tensor:
    values = rng(*seed).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(values).to(dtype)


@torch.no_grad()
def randomise(model: torch.nn.Module, name: str):
    """Weights of unit gain; norms away from one, biases away from zero, so that a slip in any of them shows."""
    for key, p in model.named_parameters():
        n = normal(tuple(p.shape), name, key)
        if key.endswith("bias"):
            value = 0.2 * n
        elif p.ndim == 1:
            value = 1 + 0.2 * n
        elif "embedding" in key and "time_embedding" not in key:
            value = n * (0.1 if "position" in key else 0.3)
        else:
            value = n / (p[0].numel() ** 0.5)
        p.copy_(value)


def full_block_types(config: dict, width: int) -> dict:
    """The VAE's block type lists follow from the number of widths."""
    return dict(
        config,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * width,
        up_block_types=("UpDecoderBlock2D",) * width,
    )


def make(name: str):
    """(pipeline in f32, slow tokenizer, fast tokenizer)."""
    with tempfile.TemporaryDirectory() as scratch:
        # SD 2.x pads with "!" (id 0), SD 1.x with the end token.
        pad = "<|endoftext|>" if name == "sd1" else "!"
        length = TEXT[name]["max_position_embeddings"]
        slow, fast = tokens.tokenizers(Path(scratch), length, pad)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            **TEXT[name],
            vocab_size=len(fast),
            projection_dim=TEXT[name]["hidden_size"],
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    unet = UNet2DConditionModel(**UNET[name])
    vae = AutoencoderKL(**full_block_types(VAE[name], len(VAE[name]["block_out_channels"])))
    if name == "sd1":
        scheduler = PNDMScheduler.from_config(dict(SCHEDULER, skip_prk_steps=True))
    else:
        scheduler = DDIMScheduler.from_config(dict(SCHEDULER, prediction_type="v_prediction"))
    for part, model in [("text_encoder", text_encoder), ("unet", unet), ("vae", vae)]:
        randomise(model, f"{name}/{part}")
        if name == "sd2":
            # Saved in half precision: the values must survive the trip.
            model.half().float()
        model.eval()
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=slow, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, slow, fast


def save(name: str, pipeline, fast, folder: Path):
    """`sd1`: f32, `tokenizer.json` beside the vocabulary. `sd2`: f16 under the `.fp16.` variant name."""
    if name == "sd1":
        pipeline.save_pretrained(folder)
        fast.backend_tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    else:
        pipeline.to(torch.float16)
        pipeline.save_pretrained(folder, variant="fp16")
        pipeline.to(torch.float32)
