"""PyTorch's and diffusers' side of benches/gpu.sh: steps of a UNet with random weights, or a folder's, on any device.

    python benches/gpu_peer.py --model sd15 --device cuda --dtype bf16 --size 512 --batch 8 --repeats 10

One JSON object on stdout: seconds of a K/V step, a full step (UNet forward and backward, AdamW; trained weights in f32 under
autocast, as diffusers' scripts do it) and image steps a second of guided denoising of one image, each the median after a
warm-up, and the most memory that PyTorch held. `--dtype tf32` is f32 with TF32 allowed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

SD15 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
SD21 = dict(
    sample_size=64, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
)  # fmt: skip
TYPES = dict(f32=torch.float32, tf32=torch.float32, bf16=torch.bfloat16, f16=torch.float16)


class Peer:
    def __init__(self, options):
        self.options, self.device = options, torch.device(options.device)
        self.dtype = TYPES[options.dtype]
        known = dict(sd15=SD15, sd21=SD21)
        if options.model in known:
            self.unet = UNet2DConditionModel(**known[options.model])
        else:
            self.unet = UNet2DConditionModel.from_pretrained(Path(options.model), subfolder="unet")
        self.unet.to(self.device)
        if options.checkpoint:
            self.unet.enable_gradient_checkpointing()
        side = options.size // 8 if options.model in known else self.unet.config.sample_size
        width = self.unet.config.cross_attention_dim
        shape = (options.batch, self.unet.config.in_channels, side, side)
        self.latents, self.noise = self.random(*shape), self.random(*shape)
        self.text = self.random(options.batch, 77, width)
        self.times = torch.randint(0, 1000, (options.batch,), device=self.device)

    def random(self, *shape):
        return torch.randn(shape, device=self.device)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call):
        for _ in range(2):
            call()
        times = []
        for _ in range(self.options.repeats):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def step(self, trained):
        """Frozen weights in the type, trained ones in f32."""
        unet = self.unet.train()
        for name, parameter in unet.named_parameters():
            wanted = trained(name)
            parameter.requires_grad_(wanted)
            parameter.data = parameter.data.to(torch.float32 if wanted else self.dtype)
        optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-5)
        half = self.dtype != torch.float32

        def call():
            with torch.autocast(self.device.type, self.dtype, enabled=half):
                out = unet(self.latents.to(self.dtype), self.times, self.text.to(self.dtype)).sample
            F.mse_loss(out.float(), self.noise).backward()
            torch.nn.utils.clip_grad_norm_([p for p in unet.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        found = self.seconds(call)
        optimizer.zero_grad(set_to_none=True)
        return found

    def denoise(self):
        unet = self.unet.eval().requires_grad_(False).to(self.dtype)
        latents, text = self.latents[:1].to(self.dtype), self.text[:1].repeat(2, 1, 1).to(self.dtype)

        @torch.inference_mode()
        def call():
            without, with_ = unet(torch.cat([latents] * 2), self.times[0], text).sample.chunk(2)
            return without + 6.0 * (with_ - without)

        return 1 / self.seconds(call)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", help="sd15, sd21 or a folder in diffusers' layout")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="f32", choices=TYPES)
    parser.add_argument("--size", type=int, default=512, help="side of images in pixels; a folder's own")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--checkpoint", action="store_true")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.dtype == "tf32"
    torch.manual_seed(0)
    peer = Peer(options)
    found = dict(torch=torch.__version__, dtype=options.dtype, batch=options.batch)
    for name, call in [
        ("denoise_image_steps_per_s", peer.denoise),
        ("kv_step_s", lambda: peer.step(lambda name: "attn2.to_k" in name or "attn2.to_v" in name)),
        ("full_step_s", lambda: peer.step(lambda name: True)),
    ]:
        try:
            found[name] = call()
        except torch.OutOfMemoryError as error:
            found[name] = str(error).splitlines()[0]
    if peer.device.type == "cuda":
        found["peak_memory"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
