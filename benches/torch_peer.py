"""The PyTorch + diffusers side of the side-by-side benchmark: f32, CPU, the mini model.

    pip install -r tests/golden/requirements.txt
    python benches/torch_peer.py --make DIR      # a diffusers folder with random weights, and DIR/bench.safetensors
    python benches/torch_peer.py --model DIR     # one JSON object on stdout

JSON keys, the same as the Rust side's:

    threads, repeats
    ms      median milliseconds by name:
              matmul_1024, matmul_2048                  square f32 matrix product
              conv3x3_fwd, conv3x3_fwdbwd               128 -> 128, batch 16, 16x16, bias; all three gradients
              group_norm_silu_fwd, group_norm_silu_fwdbwd   32 groups, the same tensor; all gradients
              attention2_fwd, attention2_fwdbwd         batch 8, 2 heads, 256 tokens, head dim 32; q, k and v gradients
              attention4_fwd, attention4_fwdbwd         the same with 4 heads
              kv_step           UNet alone, batch 8: forward, backward to every attn2.to_k/to_v, AdamW
              full_step         UNet alone, batch 8: every parameter, AdamW
              denoise_step      8 guided images: UNet on batch 16, guidance 6, one DDIM step
              custom_step       a whole step of diffusers' train_custom_diffusion.py, batch 8 = 4 instance + 4 class:
                                VAE encode of 64x64 images, text encoder forward and backward to the token table (all
                                rows but the modifier's zeroed), UNet, masked loss with prior preservation, clipping
                                to norm 1, AdamW
    gflop   operations of one call, from the same names (multiply and add count as two): kv_step, full_step,
            denoise_step, and unet_forward for one sample
    gflops  matmul_1024, matmul_2048: the machine's matrix-product rate in GFLOP/s
    check   what was computed, so that both sides can be seen to do the same work: kv_loss, full_loss and custom_loss
            (first step, from DIR's weights), denoise_norm (L2 norm of the latents after the step)

DIR/bench.safetensors holds the inputs: latents, noise [8, 4, 16, 16], timesteps [8], text [8, 20, 128], uncond_text
[8, 20, 128], images [8, 3, 64, 64], vae_noise [8, 4, 16, 16], mask [8, 1, 16, 16], ids [8, 20], and row [128], the
embedding of <new1>, whose id is the first behind the saved vocabulary.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "golden"))
import tokens  # noqa: E402

BATCH, GUIDANCE = 8, 6.0
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def make(folder: Path):
    torch.manual_seed(0)
    slow, _ = tokens.tokenizers(folder / "tokenizer", 20, "<|endoftext|>")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(slow), hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=20, projection_dim=128, bos_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 192), layers_per_block=1,
        down_block_types=(CROSS, CROSS, PLAIN), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        # diffusers' name for the number of heads: 32 channels each.
        attention_head_dim=[2, 4, 6], cross_attention_dim=128, use_linear_projection=True,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 48, 64), layers_per_block=1, norm_num_groups=16, sample_size=64, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae, text, slow, unet, scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    for name, model in dict(unet=unet, vae=vae, text_encoder=text).items():
        print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", file=sys.stderr)

    slow.add_tokens("<new1>")
    prompts = ["photo of a <new1> dog"] * 4 + ["a dog running in the park"] * 4
    mask = torch.ones(BATCH, 1, 16, 16)
    mask[0, :, :4] = 0
    mask[1, :, :, 12:] = 0
    latents = (BATCH, 4, 16, 16)
    inputs = {
        "latents": torch.randn(latents), "noise": torch.randn(latents), "vae_noise": torch.randn(latents),
        "timesteps": torch.randint(0, 1000, (BATCH,)), "mask": mask, "row": 0.02 * torch.randn(128),
        "text": torch.randn(BATCH, 20, 128), "uncond_text": torch.randn(1, 20, 128).repeat(BATCH, 1, 1),
        "images": torch.rand(BATCH, 3, 64, 64) * 2 - 1, "ids": torch.tensor(tokens.encode(slow, prompts)),
    }  # fmt: skip
    save_file(inputs, folder / "bench.safetensors")


class Peer:
    """Every benchmark is a method that returns the function to time; `check` and `gflop` fill on the way."""

    def __init__(self, folder: Path, channels_last: bool):
        self.folder, self.check, self.gflop = folder, {}, {}
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.inputs = load_file(folder / "bench.safetensors")
        config = DDIMScheduler.load_config(folder, subfolder="scheduler")
        self.ddim, self.ddpm = DDIMScheduler.from_config(config), DDPMScheduler.from_config(config)

    def unet(self):
        return UNet2DConditionModel.from_pretrained(self.folder, subfolder="unet").to(memory_format=self.format)

    def image(self, *shape):
        return torch.randn(shape).to(memory_format=self.format)

    def count(self, name, call):
        with FlopCounterMode(display=False) as counter:
            out = call()
        self.gflop[name] = counter.get_total_flops() / 1e9
        return out

    def matmul(self, n):
        a, b = torch.randn(n, n), torch.randn(n, n)
        return lambda: a @ b

    def operator(self, function, *tensors, backward):
        """Forward without a graph, or forward and all gradients."""
        if not backward:

            def forward():
                with torch.no_grad():
                    function(*tensors)

            return forward
        tensors = [t.requires_grad_() for t in tensors]
        gradient = torch.randn_like(function(*tensors))
        return lambda: torch.autograd.grad(function(*tensors), tensors, gradient)

    def conv3x3(self, backward):
        tensors = self.image(16, 128, 16, 16), self.image(128, 128, 3, 3), torch.randn(128)
        return self.operator(lambda x, w, b: F.conv2d(x, w, b, padding=1), *tensors, backward=backward)

    def group_norm_silu(self, backward):
        tensors = self.image(16, 128, 16, 16), torch.randn(128), torch.randn(128)
        return self.operator(lambda x, w, b: F.silu(F.group_norm(x, 32, w, b)), *tensors, backward=backward)

    def attention(self, heads, backward):
        tensors = [torch.randn(BATCH, heads, 256, 32) for _ in range(3)]
        return self.operator(F.scaled_dot_product_attention, *tensors, backward=backward)

    def unet_step(self, name, trained):
        """One training step of the UNet alone on the given inputs."""
        unet, data = self.unet(), self.inputs
        for key, p in unet.named_parameters():
            p.requires_grad_(trained(key))
        optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-5)
        noisy = self.ddpm.add_noise(data["latents"], data["noise"], data["timesteps"]).to(memory_format=self.format)

        def step():
            loss = F.mse_loss(unet(noisy, data["timesteps"], data["text"]).sample, data["noise"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        loss = self.count(f"{name}_step", step)
        self.check[f"{name}_loss"] = loss.item()
        return step

    def kv_step(self):
        return self.unet_step("kv", lambda key: "attn2.to_k" in key or "attn2.to_v" in key)

    def full_step(self):
        return self.unet_step("full", lambda key: True)

    def denoise_step(self):
        unet, data = self.unet().eval(), self.inputs
        text = torch.cat([data["uncond_text"], data["text"]])
        latents = data["latents"].to(memory_format=self.format)
        self.ddim.set_timesteps(50)
        t = self.ddim.timesteps[10]

        @torch.inference_mode()
        def step():
            uncond, cond = unet(torch.cat([latents] * 2), t, text).sample.chunk(2)
            return self.ddim.step(uncond + GUIDANCE * (cond - uncond), t, latents).prev_sample

        with torch.inference_mode():
            self.count("unet_forward", lambda: unet(latents[:1], t, text[:1]))
        self.check["denoise_norm"] = self.count("denoise_step", step).norm().item()
        return step

    def custom_step(self):
        data, unet = self.inputs, self.unet()
        vae = AutoencoderKL.from_pretrained(self.folder, subfolder="vae").to(memory_format=self.format)
        text = CLIPTextModel.from_pretrained(self.folder, subfolder="text_encoder")
        new = text.config.vocab_size
        text.resize_token_embeddings(new + 1, mean_resizing=False)
        embeddings = text.get_input_embeddings().weight
        embeddings.data[new] = data["row"]
        others = torch.arange(new + 1) != new
        for model in (vae, unet, text):
            model.requires_grad_(False)
        embeddings.requires_grad_(True)

        processors, layers = {}, torch.nn.ModuleList()
        for key in unet.attn_processors:
            prefix, cross = key.removesuffix(".processor"), "attn2" in key
            attention = unet.get_submodule(prefix)
            width, inner = attention.to_k.weight.shape
            processor = CustomDiffusionAttnProcessor2_0(
                train_kv=cross, train_q_out=False, hidden_size=width, cross_attention_dim=inner if cross else None
            )
            if cross:
                processor.to_k_custom_diffusion.weight.data.copy_(attention.to_k.weight)
                processor.to_v_custom_diffusion.weight.data.copy_(attention.to_v.weight)
                layers.append(processor)
            processors[key] = processor
        unet.set_attn_processor(processors)
        trained = list(itertools.chain([embeddings], layers.parameters()))
        optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=1e-2)
        images = data["images"].to(memory_format=self.format)

        def step():
            # The script draws noise anew; given noise costs the same but for the drawing.
            posterior = vae.encode(images).latent_dist
            latents = (posterior.mean + posterior.std * data["vae_noise"]) * vae.config.scaling_factor
            noisy = self.ddpm.add_noise(latents, data["noise"], data["timesteps"])
            states = text(data["ids"])[0]
            predicted, prior = unet(noisy, data["timesteps"], states).sample.chunk(2)
            target, target_prior = data["noise"].chunk(2)
            mask = data["mask"].chunk(2)[0]
            squared = F.mse_loss(predicted, target, reduction="none")
            loss = ((squared * mask).sum([1, 2, 3]) / mask.sum([1, 2, 3])).mean() + F.mse_loss(prior, target_prior)
            loss.backward()
            embeddings.grad[others] = 0
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss

        self.check["custom_loss"] = step().item()
        return step


def measure(call, repeats, budget=20.0):
    """Median milliseconds; stops early once `budget` seconds are spent, after at least three calls."""
    for _ in range(3):
        call()
    times, start = [], time.perf_counter()
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() - start < budget):
        before = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - before))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="DIR", help="write the mini model with random weights and stop")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the folder that --make wrote")
    parser.add_argument("--only", metavar="NAME", help="measure names that contain NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--channels-last", action="store_true", help="PyTorch's other memory format for images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.make:
        return make(options.make)
    if not options.model:
        parser.error("--model DIR is missing (--make DIR writes one)")

    torch.manual_seed(0)
    peer = Peer(options.model, options.channels_last)
    plans = {f"matmul_{n}": lambda n=n: peer.matmul(n) for n in (1024, 2048)}
    for suffix, back in [("fwd", False), ("fwdbwd", True)]:
        plans[f"conv3x3_{suffix}"] = lambda back=back: peer.conv3x3(back)
        plans[f"group_norm_silu_{suffix}"] = lambda back=back: peer.group_norm_silu(back)
        for heads in (2, 4):
            plans[f"attention{heads}_{suffix}"] = lambda heads=heads, back=back: peer.attention(heads, back)
    for name in ("kv_step", "full_step", "denoise_step", "custom_step"):
        plans[name] = getattr(peer, name)

    ms = {name: measure(plan(), options.repeats) for name, plan in plans.items() if (options.only or "") in name}
    rates = {f"matmul_{n}": 2 * n**3 / ms[f"matmul_{n}"] / 1e6 for n in (1024, 2048) if f"matmul_{n}" in ms}
    report = dict(threads=options.threads, repeats=options.repeats, ms=ms, gflop=peer.gflop, gflops=rates)
    print(json.dumps(report | {"check": peer.check}, indent=2))


if __name__ == "__main__":
    main()
