"""Checkpoints in other people's dialects, both ways: what cdbench writes is opened by the library that owns
the format, what that library writes is opened by cdbench, and both draw the same. See README.md."""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, logging
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

STEPS, GUIDANCE = 8, 4.0
PROMPT = "photo of a <new1> dog in the snow"
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Desk:
    """The backbone, the program, and a folder to work in."""

    def __init__(self, backbone, program, folder):
        self.backbone, self.program, self.folder = backbone, program, folder
        self.random = torch.Generator().manual_seed(7)
        self.noise = None
        self.worst, self.count = 0.0, 0

    def pipe(self):
        pipe = StableDiffusionPipeline.from_pretrained(
            self.backbone, torch_dtype=torch.float32, safety_checker=None, variant=self.variant()
        )
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        if self.noise is None:
            side = pipe.unet.config.sample_size
            shape = (1, pipe.unet.config.in_channels, side, side)
            self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            save_file({"latents": self.noise}, self.folder / "noise.safetensors")
        return pipe

    def variant(self):
        return "fp16" if any(self.backbone.glob("unet/*.fp16.*")) else None

    def moved(self, tensor, by=0.3):
        """The tensor with a random change of that size beside its own."""
        noise = torch.randn(tensor.shape, generator=self.random)
        return (tensor.detach().float() + by * tensor.float().std() * noise).contiguous()

    def run(self, *args):
        subprocess.run([self.program, *map(str, args)], check=True, capture_output=True, text=True)

    def convert(self, of, to, name, *more):
        out = self.folder / name
        self.run("convert", of, out, "--to", to, *more)
        return out

    def theirs(self, pipe, prompt):
        return pipe(
            prompt, latents=self.noise.clone(), num_inference_steps=STEPS, guidance_scale=GUIDANCE
        ).images[0]

    def ours(self, checkpoint, prompt):
        out = self.folder / "ours.png"
        args = ["--latents", self.folder / "noise.safetensors", "--scheduler", "ddim", "--steps", STEPS]
        args += ["--guidance", GUIDANCE, "--device", "cpu", "-o", out, "--force"]
        args += ["--checkpoint", checkpoint] if checkpoint else []
        self.run("sample", "--backbone", self.backbone, "--prompt", prompt, *args)
        return Image.open(out).convert("RGB")

    def compare(self, what, pipe, checkpoint, prompt=PROMPT):
        """Draws with both and prints how far apart they are, and how far from the bare backbone."""
        array = lambda image: np.asarray(image, dtype=np.float64)
        a, b = array(self.theirs(pipe, prompt)), array(self.ours(checkpoint, prompt))
        bare = array(self.ours(None, prompt))
        off, moved = np.abs(a - b).mean(), np.abs(a - bare).mean()
        self.worst, self.count = max(self.worst, off), self.count + 1
        print(f"{off:7.4f} of 255 (largest {np.abs(a - b).max():3.0f}; from the backbone {moved:5.1f})  {what}")
        assert moved > 5 * off, f"{what}: the checkpoint does nothing"


def add_tokens(pipe, tokens):
    """The authors' own way: new rows of the table."""
    for token, row in tokens.items():
        pipe.tokenizer.add_tokens(token)
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
        index = pipe.tokenizer.convert_tokens_to_ids(token)
        pipe.text_encoder.get_input_embeddings().weight.data[index] = row


def load_authors(pipe, state, compressed=False):
    """`load_model` of the authors' code on diffusers."""
    add_tokens(pipe, state.get("modifier_token", {}))
    for name, weight in pipe.unet.named_parameters():
        if "attn2" not in name:
            continue
        if compressed and ("to_k" in name or "to_v" in name):
            weight.data += state["unet"][name]["u"] @ state["unet"][name]["v"]
        elif name in state["unet"]:
            weight.data.copy_(state["unet"][name])


def to_diffusers(name):
    """A cross-attention key of CompVis's code, as the authors' convert.py counts blocks."""
    parts = name.removeprefix("model.diffusion_model.").split(".")
    kind, entry = parts[0], int(parts[1])
    if kind == "middle_block":
        start = "mid_block.attentions.0"
    elif kind == "input_blocks":
        start = f"down_blocks.{(entry - 1) // 3}.attentions.{(entry - 1) % 3}"
    else:
        start = f"up_blocks.{entry // 3}.attentions.{entry % 3}"
    return ".".join([start, *parts[(2 if kind == "middle_block" else 3):]])


def to_compvis(names):
    """The inverse, by trying all entries."""
    found = {}
    for kind, entries in [("middle_block", [1]), ("input_blocks", range(1, 12)), ("output_blocks", range(12))]:
        for entry in entries:
            at = f"{kind}.{entry}" if kind == "middle_block" else f"{kind}.{entry}.1"
            found[to_diffusers(f"model.diffusion_model.{at}.x")] = f"model.diffusion_model.{at}"
    out = {}
    for name in names:
        block, rest = name.split(".transformer_blocks.")
        out[name] = f"{found[block + '.x']}.transformer_blocks.{rest}"
    return out


def ours_there(desk, authors):
    """What cdbench writes, opened by the others."""
    state = torch.load(authors, weights_only=True)
    pipe = desk.pipe()
    load_authors(pipe, state)
    desk.compare("the authors' delta.bin, by hand", pipe, authors)

    folder = desk.convert(authors, "diffusers", "diffusers")
    pipe = desk.pipe()
    pipe.unet.load_attn_procs(
        folder, weight_name="pytorch_custom_diffusion_weights.safetensors", _pipeline=pipe
    )
    pipe.load_textual_inversion(folder, weight_name="<new1>.safetensors")
    desk.compare("--to diffusers: load_attn_procs, load_textual_inversion", pipe, folder)

    again = desk.convert(folder, "authors", "again.bin")
    pipe = desk.pipe()
    load_authors(pipe, torch.load(again, weights_only=True))
    desk.compare("--to authors: torch.load(weights_only=True)", pipe, again)

    more = ["--backbone", desk.backbone, "--rank", "6"]
    small = desk.convert(authors, "authors-compressed", "small.bin", *more)
    pipe = desk.pipe()
    load_authors(pipe, torch.load(small, weights_only=True), compressed=True)
    desk.compare("--to authors-compressed", pipe, small)

    for to in ["lora", "kohya"]:
        folder = desk.convert(authors, to, to, *more)
        pipe = desk.pipe()
        name = {"lora": "pytorch_lora_weights.safetensors", "kohya": "lora.safetensors"}[to]
        pipe.load_lora_weights(folder, weight_name=name)
        pipe.load_textual_inversion(folder, weight_name="<new1>.safetensors")
        desk.compare(f"--to {to}: load_lora_weights, load_textual_inversion", pipe, folder)

    if deep(desk):
        ckpt = desk.convert(authors, "compvis", "delta.ckpt")
        state = torch.load(ckpt, weights_only=True)["state_dict"]
        pipe = desk.pipe()
        add_tokens(pipe, {f"<new{i + 1}>": row for i, row in enumerate(state.pop("embed"))})
        own = dict(pipe.unet.named_parameters())
        for name, weight in state.items():
            own[to_diffusers(name)].data.copy_(weight)
        desk.compare("--to compvis: torch.load(weights_only=True)", pipe, ckpt)

    rows = torch.load(authors, weights_only=True)["modifier_token"]["<new1>"]
    several = desk.folder / "several.safetensors"
    save_file({"<new1>": torch.stack([desk.moved(rows, 1.0) for _ in range(3)])}, several)
    for to, name in [("textual-inversion", "<new1>.safetensors"), ("a1111", "<new1>.pt")]:
        folder = desk.convert(several, to, to)
        pipe = desk.pipe()
        pipe.load_textual_inversion(folder, weight_name=name)
        desk.compare(f"--to {to}, three vectors: load_textual_inversion", pipe, folder)


def deep(desk):
    """Whether blocks have the two layers that CompVis's names count."""
    return desk.pipe().unet.config.layers_per_block == 2


def theirs_here(desk, authors):
    """What the others write, opened by cdbench."""
    pipe = desk.pipe()
    names = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "time_emb_proj"]
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=names, init_lora_weights=False))
    text = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"]
    pipe.text_encoder.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=text, init_lora_weights=False)
    )
    for model in [pipe.unet, pipe.text_encoder]:
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data *= 0.5
    layers = {
        f"{part}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
        for part, model in [("unet", pipe.unet), ("text_encoder", pipe.text_encoder)]
    }
    metadata = _collate_lora_metadata({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    folder = desk.folder / "peft"
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **metadata)
    desk.compare("save_lora_weights: UNet, text encoder, convolutions, alpha", pipe, folder, "photo of a dog")

    kohya = {}
    for part, rank, alpha in [("unet", 4, 6.0), ("text_encoder", 2, 2.0)]:
        for name, weight in get_peft_model_state_dict(getattr(pipe, part)).items():
            module, half = name.rsplit(".lora_", 1)
            start = "lora_unet_" if part == "unet" else "lora_te_"
            module = start + module.removeprefix("base_model.model.").replace(".", "_")
            half = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[half]
            kohya[f"{module}.{half}"] = weight.detach().contiguous()
            kohya[f"{module}.alpha"] = torch.tensor(alpha)
    save_file(kohya, desk.folder / "kohya.safetensors")
    desk.compare("the same in kohya's names", pipe, desk.folder / "kohya.safetensors", "photo of a dog")

    for outer in [False, True]:
        pipe = desk.pipe()
        own, processors = pipe.unet.state_dict(), {}
        for name in pipe.unet.attn_processors:
            layer = name.removesuffix(".processor")
            cross = layer.endswith("attn2")
            key = own[f"{layer}.to_k.weight"]
            processor = CustomDiffusionAttnProcessor(
                train_kv=cross,
                train_q_out=cross and outer,
                hidden_size=key.shape[0] if cross else None,
                cross_attention_dim=key.shape[1] if cross else None,
            )
            if cross:
                weights = {"to_k": "to_k", "to_v": "to_v"}
                weights |= {"to_q": "to_q", "to_out": "to_out"} if outer else {}
                state = {}
                for theirs in processor.state_dict():
                    of = theirs.replace("_custom_diffusion", "")
                    state[theirs] = desk.moved(own[f"{layer}.{of}"])
                processor.load_state_dict(state)
            processors[name] = processor
        pipe.unet.set_attn_processor(processors)
        folder = desk.folder / f"procs{outer}"
        pipe.unet.save_attn_procs(folder, safe_serialization=False)
        kind = "crossattn" if outer else "crossattn_kv"
        desk.compare(f"save_attn_procs, {kind}: .bin", pipe, folder, "photo of a dog")

    row = torch.load(authors, weights_only=True)["modifier_token"]["<new1>"]
    rows = torch.stack([desk.moved(row, 1.0) for _ in range(2)])
    star = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "<new1>", "step": 4}
    for name, save in [
        ("learned_embeds.bin", lambda path: torch.save({"<new1>": rows}, path)),
        ("<new1>.pt", lambda path: torch.save(star, path)),
    ]:
        path = desk.folder / name
        save(path)
        pipe = desk.pipe()
        pipe.load_textual_inversion(path)
        desk.compare(f"{name} of two vectors, by torch.save", pipe, path)
    kohya = desk.folder / "inversion"
    kohya.mkdir()
    save_file({"emb_params": rows}, kohya / "<new1>.safetensors")
    desk.compare("kohya's emb_params", pipe, kohya)

    if deep(desk):
        state = torch.load(authors, weights_only=True)
        names = to_compvis(state["unet"])
        ckpt = {names[name]: weight for name, weight in state["unet"].items()}
        ckpt["embed"] = state["modifier_token"]["<new1>"][None]
        path = desk.folder / "delta_epoch=000004.ckpt"
        torch.save({"state_dict": ckpt}, path)
        pipe = desk.pipe()
        load_authors(pipe, state)
        desk.compare("the authors' delta.ckpt, by hand", pipe, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone", nargs="?", type=pathlib.Path, default=ROOT / "tests/golden/sd2")
    parser.add_argument("--cdbench", default=ROOT / "target/release/cdbench")
    parser.add_argument("--tolerance", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        desk = Desk(args.backbone, args.cdbench, pathlib.Path(folder))
        pipe = desk.pipe()
        unet = {
            name: desk.moved(weight)
            for name, weight in pipe.unet.state_dict().items()
            if "attn2.to_k" in name or "attn2.to_v" in name
        }
        # a row of a table, as the authors save it: the file has all of the table's numbers
        table = pipe.text_encoder.get_input_embeddings().weight
        tokens = {"<new1>": desk.moved(table)[300]}
        authors = desk.folder / "delta.bin"
        torch.save({"unet": unet, "modifier_token": tokens}, authors)
        ours_there(desk, authors)
        theirs_here(desk, authors)
    print(f"{desk.count} cases, worst {desk.worst:.4f}, tolerated {args.tolerance}")
    return int(not desk.worst <= args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
