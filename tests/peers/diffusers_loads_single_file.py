"""Single files here and in diffusers, and folders that `cdbench export` makes of them. See README.md."""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import single_file  # noqa: E402

PROMPT = "photo of a dog in the snow"


def drawn(pipe, noise, steps):
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    image = pipe(PROMPT, latents=noise.clone(), num_inference_steps=steps, guidance_scale=4.0).images[0]
    return np.asarray(image, dtype=np.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cdbench", default="target/release/cdbench")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    worst = 0.0
    for name in ["sd1", "sd2"]:
        folder = GOLDEN / name
        variant = "fp16" if name == "sd2" else None
        with tempfile.TemporaryDirectory() as temporary:
            temporary = pathlib.Path(temporary)
            tensors, _ = single_file.convert(folder)
            tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
            save_file(tensors, temporary / f"{name}.safetensors")
            torch.save({"state_dict": tensors, "global_step": 7}, temporary / f"{name}.ckpt")
            whole = StableDiffusionPipeline.from_pretrained(
                folder, variant=variant, torch_dtype=torch.float32, safety_checker=None
            )
            unet = whole.unet.config
            shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            save_file({"latents": noise}, temporary / "noise.safetensors")
            wanted = drawn(whole, noise, args.steps)

            def compare(what, image):
                nonlocal worst
                difference = np.abs(wanted - image).mean()
                worst = max(worst, difference)
                print(f"{difference:7.4f} of 255  {name}, {what}")

            theirs = StableDiffusionPipeline.from_single_file(
                str(temporary / f"{name}.safetensors"), config=str(folder), local_files_only=True,
                torch_dtype=torch.float32, safety_checker=None,
            )  # fmt: skip
            compare("the single file in diffusers", drawn(theirs, noise, args.steps))

            def ours(what, backbone):
                out = temporary / "out.png"
                command = [args.cdbench, "sample", "--force", "--prompt", PROMPT, "--device", "cpu"]
                command += ["--latents", temporary / "noise.safetensors", "--scheduler", "ddim"]
                command += ["--steps", str(args.steps), "--guidance", "4", "-o", out, *backbone]
                subprocess.run(command, check=True, capture_output=True)
                compare(what, np.asarray(Image.open(out).convert("RGB"), dtype=np.float64))

            for kind in ["safetensors", "ckpt"]:
                file = temporary / f"{name}.{kind}"
                ours(f"{kind} here", ["--backbone", file, "--backbone-config", folder])
            exported = temporary / "exported"
            command = [args.cdbench, "export", temporary / f"{name}.ckpt", exported]
            subprocess.run([*command, "--backbone-config", folder], check=True, capture_output=True)
            for part in ["unet", "vae", "text_encoder"]:
                (found,) = (exported / part).glob("*.safetensors")
                (source,) = (folder / part).glob("*.safetensors")
                found, source = load_file(found), load_file(source)
                for key, tensor in source.items():
                    assert torch.equal(found[key], tensor.float()), key
            exported = StableDiffusionPipeline.from_pretrained(exported, safety_checker=None)
            compare("exported here, in diffusers", drawn(exported, noise, args.steps))
    print(f"worst {worst:.4f}, tolerated {args.tolerance}")
    return int(not worst <= args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
