"""Textual Inversion on diffusers' and transformers' classes, as a method of others: see docs/external-methods.md.

experiments/extra/peers.toml runs it; `train` learns an embedding for each concept, `sample` draws what it is asked for.
"""

import argparse
import json
import pathlib
import random

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
FILE = "learned_embeds.safetensors"


def open_pipeline(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    for model in [pipe.unet, pipe.vae, pipe.text_encoder]:
        model.requires_grad_(False).eval()
    return pipe


def add_token(pipe, token, row=None):
    """Adds a token, with an embedding of its own or none yet, and gives its id."""
    if pipe.tokenizer.add_tokens(token) != 1:
        raise SystemExit(f"the tokenizer has {token} already")
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    at = pipe.tokenizer.convert_tokens_to_ids(token)
    if row is not None:
        pipe.text_encoder.get_input_embeddings().weight.data[at] = row.reshape(-1)
    return at


def ids(pipe, text):
    return pipe.tokenizer(
        text, padding="max_length", truncation=True, max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def learn(pipe, concept, size, args):
    """The embedding of one concept, which starts at that of its category's last word."""
    at = add_token(pipe, concept["token"])
    table = pipe.text_encoder.get_input_embeddings().weight
    word = pipe.tokenizer(concept["category"], add_special_tokens=False).input_ids[-1]
    table.data[at] = table.data[word]
    before = table.data.clone()
    table.requires_grad_(True)
    noising = DDPMScheduler.from_config(pipe.scheduler.config)
    pictures = [Image.open(file).convert("RGB").resize(size) for file in sorted(pathlib.Path(concept["images"]).iterdir())]
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1 for p in pictures])
    pixels = torch.cat([pixels, pixels.flip(3)])
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
    text = ids(pipe, concept["caption"]).expand(args.batch, -1)
    optimizer = torch.optim.AdamW([table], lr=args.lr, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    others = torch.arange(len(table)) != at
    for step in range(args.steps):
        which = torch.randint(len(pixels), (args.batch,))
        latents = (posterior.mean + posterior.std * torch.randn_like(posterior.mean))[which] * pipe.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        times = torch.randint(noising.config.num_train_timesteps, (args.batch,))
        noisy = noising.add_noise(latents, noise, times)
        velocity = noising.config.prediction_type == "v_prediction"
        wanted = noising.get_velocity(latents, noise, times) if velocity else noise
        found = pipe.unet(noisy, times, pipe.text_encoder(text)[0]).sample
        loss = torch.nn.functional.mse_loss(found, wanted)
        loss.backward()
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        # AdamW moves no row without a gradient here, but padding and the caption's other words have one
        table.data[others] = before[others]
        if step % 25 == 0:
            print(f"{concept['name']}: step {step}, loss {loss.item():.4f}", flush=True)
    table.requires_grad_(False)
    return table.data[at].clone()


def train(args):
    told = json.loads(args.concepts.read_text())
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    pipe = open_pipeline(args.backbone)
    rows = {c["token"]: learn(pipe, c, told["size"], args)[None] for c in told["concepts"]}
    save_file({token: row.contiguous() for token, row in rows.items()}, args.out / FILE)


@torch.no_grad()
def sample(args):
    told = json.loads(args.prompts.read_text())
    pipe = open_pipeline(args.backbone)
    for token, row in load_file(args.checkpoint / FILE).items():
        add_token(pipe, token, row)
    pipe.scheduler = SCHEDULERS[told["scheduler"]].from_config(pipe.scheduler.config)
    width, height = told["size"]
    for start in range(0, len(told["images"]), args.batch):
        images = told["images"][start : start + args.batch]
        found = pipe(
            [image["prompt"] for image in images],
            generator=[torch.Generator().manual_seed(image["seed"]) for image in images],
            width=width, height=height, num_inference_steps=told["steps"], guidance_scale=told["guidance"],
        ).images
        for image, picture in zip(images, found):
            picture.save(args.out / image["file"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "sample"])
    for name in ["backbone", "concepts", "prompts", "checkpoint", "out"]:
        parser.add_argument(f"--{name}", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=3e-2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args) if args.what == "train" else sample(args)


if __name__ == "__main__":
    main()
