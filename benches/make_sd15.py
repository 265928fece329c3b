"""Writes a full-size Stable Diffusion 1.5 folder with random weights (f16, about 2 GB), for the full-size tests.

    pip install -r tests/golden/requirements.txt
    python benches/make_sd15.py DIR [--size 64] [--judge DIR]

With `--judge` a CLIP of B/32's size is written, too, as experiments/extra/sd_smoke.toml wants it. `--size` is the side of the
pictures that the folder says it was trained on; the networks are the same at any.
The configuration is SD 1.5's; the tokenizer is the small one of `tests/golden`, padded to 49408 entries.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "golden"))
import backbones  # noqa: E402
import make_clip  # noqa: E402
import tokens  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--judge", type=Path)
    options = parser.parse_args()
    folder = options.dir
    if options.judge:
        make_clip.save(options.judge)
    torch.manual_seed(0)
    # diffusers' and transformers' defaults for UNet2DConditionModel and CLIPTextConfig are mostly SD 1.x already;
    # what matters is spelt out.
    slow, fast = tokens.tokenizers(folder / "tokenizer", 77, "<|endoftext|>", size=49408)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=768, bos_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=options.size // 8, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=8, cross_attention_dim=768, norm_num_groups=32,
    )  # fmt: skip
    vae = AutoencoderKL(
        sample_size=512, latent_channels=4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=32,
        scaling_factor=0.18215,
    )  # fmt: skip
    for model in (text, unet, vae):
        print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    pipeline = StableDiffusionPipeline(
        vae, text, slow, unet, PNDMScheduler.from_config(dict(backbones.SCHEDULER, skip_prk_steps=True)),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).to(torch.float16)  # fmt: skip
    pipeline.save_pretrained(folder)
    fast.backend_tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))


if __name__ == "__main__":
    main()
