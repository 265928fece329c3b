"""Makes `sdN_attention.safetensors`: the cross-attention probabilities of the UNets of this folder, by a
processor that keeps them. Reads what make.py made.

    python tests/golden/attention.py
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

HERE = Path(__file__).resolve().parent
# Of each prompt, the first: all of SD 1.x's 77 would be ten times as much.
TOKENS = 8


class Keep:
    """diffusers' `AttnProcessor` that keeps what a cross attention attends to: [batch, places, tokens]."""

    def __init__(self):
        self.seen = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = (attn.head_to_batch_dim(to(context)) for to in (attn.to_k, attn.to_v))
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        if encoder_hidden_states is not None:
            self.seen.append(probabilities.unflatten(0, (-1, attn.heads)).mean(1))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(probabilities @ value)))


@torch.no_grad()
def maps(unet, latents, timesteps, text, wanted):
    """Of each cross attention in order the maps [batch, tokens, height, width]; checks what comes out."""
    keep, sizes = Keep(), []
    unet.set_attn_processor(keep)
    hooks = [
        module.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[2:]))
        for name, module in unet.named_modules()
        if type(module).__name__ == "Transformer2DModel"
    ]
    out = unet(latents, timesteps, text).sample
    for hook in hooks:
        hook.remove()
    assert (out - wanted).norm() <= 1e-5 * wanted.norm()
    return [seen[..., :TOKENS].transpose(1, 2).unflatten(2, size) for seen, size in zip(keep.seen, sizes, strict=True)]


def mean(layers, size):
    """The mean over layers, each resized to `size`."""
    resized = [interpolate(layer, size=tuple(size), mode="bilinear", align_corners=False) for layer in layers]
    return torch.stack(resized).mean(0)


def main():
    for name, variant in [("sd1", None), ("sd2", "fp16")]:
        unet = UNet2DConditionModel.from_pretrained(HERE / name / "unet", variant=variant, torch_dtype=torch.float32)
        given = load_file(HERE / f"{name}_forward.safetensors")
        get = lambda *keys: [given[f"unet.{key}"] for key in keys]
        text = given["unet.text"]
        layers = maps(unet, *get("latents", "timesteps"), text, *get("out"))
        odd = maps(unet, *get("odd_latents", "odd_timesteps"), text[1:], *get("odd_out"))
        out = {f"attention.layer.{i}": layer for i, layer in enumerate(layers)}
        out["attention.mean"] = mean(layers, given["unet.latents"].shape[2:])
        out["attention.odd_mean"] = mean(odd, given["unet.odd_latents"].shape[2:])
        save_file({key: value.contiguous() for key, value in out.items()}, HERE / f"{name}_attention.safetensors")


if __name__ == "__main__":
    main()
