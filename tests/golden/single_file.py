"""What the tensors of `sd1` and `sd2` are called in a single file: `single_file_names.json`, {backbone:
{name in the file: [names in diffusers' layout, `unet.…`]}}; three names are stacked rows.

    python tests/golden/single_file.py            # writes the names
    python tests/golden/single_file.py FOLDER OUT # makes a backbone's folder into a single file

Files are made by the inverse of diffusers' own conversion, which is run on them and must give the tensors
back.
"""

import json
import re
import sys
from pathlib import Path

import torch
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def unet_name(key: str, config: dict) -> str:
    layers, blocks = config["layers_per_block"], len(config["block_out_channels"])
    for ours, name in [
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ]:
        if key.startswith(ours + "."):
            return name + key[len(ours) :]
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        kind, index, rest = found.groups()
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}." + inner(kind, rest)
    way, block, kind, index, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key).groups()
    block, index = int(block), int(index)
    if way == "down":
        n = 1 + block * (layers + 1) + (layers if kind == "downsamplers" else index)
        if kind == "downsamplers":
            return f"input_blocks.{n}.0.op" + rest[len("conv") :]
        return f"input_blocks.{n}.{int(kind == 'attentions')}." + inner(kind, rest)
    n = block * (layers + 1) + (layers if kind == "upsamplers" else index)
    if kind == "upsamplers":
        attends = config["up_block_types"][block].startswith("CrossAttn")
        return f"output_blocks.{n}.{1 + int(attends)}.{rest}"
    return f"output_blocks.{n}.{int(kind == 'attentions')}." + inner(kind, rest)


def inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    module, end = rest.rsplit(".", 1)
    return f"{RESNET[module]}.{end}"


def vae_name(key: str, config: dict) -> str:
    blocks = len(config["block_out_channels"])
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if found := re.match(r"(\w+)\.mid_block\.attentions\.0\.(.*)\.(\w+)", key):
        return f"{found[1]}.mid.attn_1.{ATTENTION[found[2]]}.{found[3]}"
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    up = lambda what: lambda m: f"up.{blocks - 1 - int(m[1])}.{what}"
    key = re.sub(r"up_blocks\.(\d)\.resnets", up("block"), key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", up("upsample"), key)


def text_tensors(tensors: dict, config: dict) -> tuple[dict, dict]:
    """Tensors and names; a GELU is OpenCLIP's."""
    out, names = {}, {}
    if config["hidden_act"] == "quick_gelu":
        for key, tensor in tensors.items():
            out["transformer." + key], names["transformer." + key] = tensor, [key]
        return out, names
    for ours, name in [
        ("embeddings.token_embedding.weight", "token_embedding.weight"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("final_layer_norm.weight", "ln_final.weight"),
        ("final_layer_norm.bias", "ln_final.bias"),
    ]:
        out["model." + name], names["model." + name] = tensors["text_model." + ours], ["text_model." + ours]
    for i in range(config["num_hidden_layers"]):
        ours, block = f"text_model.encoder.layers.{i}.", f"model.transformer.resblocks.{i}."
        for kind in ["weight", "bias"]:
            stacked = [f"{ours}self_attn.{p}_proj.{kind}" for p in "qkv"]
            out[f"{block}attn.in_proj_{kind}"] = torch.cat([tensors[key] for key in stacked])
            names[f"{block}attn.in_proj_{kind}"] = stacked
            for a, b in OPEN_CLIP.items():
                out[f"{block}{b}.{kind}"] = tensors[f"{ours}{a}.{kind}"]
                names[f"{block}{b}.{kind}"] = [f"{ours}{a}.{kind}"]
    # the block that SD 2.x leaves out, and what only pictures need
    last = f"model.transformer.resblocks.{config['num_hidden_layers']}."
    for key in [k for k in out if ".resblocks.0." in k]:
        out[key.replace("model.transformer.resblocks.0.", last)] = out[key].clone()
    width = config["hidden_size"]
    out["model.text_projection"], out["model.logit_scale"] = torch.zeros(width, width), torch.tensor(1.0)
    return out, names


def part(folder: Path, name: str) -> tuple[dict, dict]:
    (file,) = (folder / name).glob("*.safetensors")
    return load_file(file), json.loads((folder / name / "config.json").read_text())


def convert(folder: Path) -> tuple[dict, dict]:
    """A backbone's tensors as a single file has them, and their names."""
    out, names = {}, {}
    tensors, config = part(folder, "unet")
    for key, tensor in tensors.items():
        name = "model.diffusion_model." + unet_name(key, config)
        out[name], names[name] = tensor, [f"unet.{key}"]
    back = theirs.convert_ldm_unet_checkpoint(dict(out), config)
    same(back, tensors)

    vae, vae_config = part(folder, "vae")
    coder = {}
    for key, tensor in vae.items():
        name = "first_stage_model." + vae_name(key, vae_config)
        if ".attn_1." in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        coder[name], names[name] = tensor, [f"vae.{key}"]
    same(theirs.convert_ldm_vae_checkpoint(dict(coder), vae_config), vae)

    text, text_config = part(folder, "text_encoder")
    encoder, text_names = text_tensors(text, text_config)
    encoder = {"cond_stage_model." + key: tensor for key, tensor in encoder.items()}
    names |= {"cond_stage_model." + k: [f"text_encoder.{n}" for n in v] for k, v in text_names.items()}
    if text_config["hidden_act"] == "quick_gelu":
        back = theirs.convert_ldm_clip_checkpoint(dict(encoder))
    else:
        back = theirs.convert_open_clip_checkpoint(None, dict(encoder))
        unused = f"layers.{text_config['num_hidden_layers']}."
        back = {k: v for k, v in back.items() if unused not in k and k != "text_projection.weight"}
    same(back, text)

    # what else is in such files
    more = {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.diffusion_modelout2bias": torch.zeros(4),
        "first_stage_model.loss.logvar": torch.tensor(0.0),
        "betas": torch.zeros(1000),
        "alphas_cumprod": torch.zeros(1000),
    }
    return out | coder | encoder | more, names


def same(found: dict, wanted: dict):
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor), key


if __name__ == "__main__":
    if len(sys.argv) == 3:
        tensors, _ = convert(Path(sys.argv[1]))
        save_file({k: v.contiguous() for k, v in tensors.items()}, sys.argv[2])
    else:
        names = {name: convert(HERE / name)[1] for name in ["sd1", "sd2"]}
        lines = lambda of: ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in of.items())
        parts = [f'"{name}": {{\n{lines(of)}\n}}' for name, of in names.items()]
        (HERE / "single_file_names.json").write_text("{" + ",\n".join(parts) + "}\n")
