"""diffusers opens an exported mini and draws what cdbench draws. See README.md beside this file."""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

PROMPTS = [
    "photo of a dog in the snow",
    "photo of a red car on the beach",
    "a cat in the room",
    "watercolor painting of a flower in the forest",
    "pixel art of a robot in the desert",
    "pencil sketch of a chair",
    "a cup next to a mushroom in the city",
    "a striped fish underwater",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--cdbench", default="target/release/cdbench")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--tolerance", type=float, default=0.5)
    parser.add_argument("--sheet", type=pathlib.Path)
    args = parser.parse_args()

    pipe = StableDiffusionPipeline.from_pretrained(
        args.folder, torch_dtype=torch.float32, safety_checker=None
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    side = pipe.unet.config.sample_size
    noise = torch.randn(
        (len(PROMPTS), pipe.unet.config.in_channels, side, side),
        generator=torch.Generator().manual_seed(0),
    )
    theirs = pipe(
        PROMPTS,
        latents=noise.clone(),
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
    ).images

    ours = []
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        for i, prompt in enumerate(PROMPTS):
            latents, out = temporary / "noise.safetensors", temporary / f"{i}.png"
            save_file({"latents": noise[i : i + 1].contiguous()}, latents)
            command = [args.cdbench, "sample", "--backbone", args.folder, "--prompt", prompt]
            command += ["--latents", latents, "--scheduler", "ddim", "--steps", str(args.steps)]
            command += ["--guidance", str(args.guidance), "--device", "cpu", "-o", out]
            subprocess.run(command, check=True, capture_output=True)
            ours.append(Image.open(out).convert("RGB"))

    if args.sheet:
        width, height = theirs[0].size
        sheet = Image.new("RGB", (width * len(PROMPTS), 2 * height))
        for row, images in enumerate([theirs, ours]):
            for i, image in enumerate(images):
                sheet.paste(image, (i * width, row * height))
        sheet.resize((3 * sheet.width, 3 * sheet.height), Image.NEAREST).save(args.sheet)

    worst = 0.0
    for prompt, a, b in zip(PROMPTS, theirs, ours):
        a, b = (np.asarray(image, dtype=np.float64) for image in (a, b))
        difference = np.abs(a - b).mean()
        worst = max(worst, difference)
        spread = a.std()
        print(f"{difference:7.4f} of 255 (largest {np.abs(a - b).max():3.0f}, spread {spread:5.1f})  {prompt}")
    print(f"worst {worst:.4f}, tolerated {args.tolerance}")
    return int(not worst <= args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
