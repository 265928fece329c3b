"""Vision transformers of transformers with random weights, an ONNX file, and what they give for the pictures of
clip_towers.py.

Run: python tests/golden/vit_towers.py
"""
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file
from transformers import (BitImageProcessor, Dinov2Config, Dinov2Model, ViTConfig, ViTImageProcessor, ViTModel)

HERE = Path(__file__).parent
OUT = HERE / "vit_towers"
PICTURES = ["wide", "high", "small"]
SIDE = 16  # of the ONNX file's pictures


def filled(model, seed):
    torch.manual_seed(seed)
    for name, p in model.named_parameters():  # its own start is too even to find a mistake
        scale = p[0].numel() ** -0.5 if p.dim() > 1 and "embeddings" not in name.split(".")[0] else 0.2
        p.data.add_(torch.randn_like(p) * 0.2) if p.dim() == 1 else p.data.copy_(torch.randn_like(p) * scale)
    return model.eval().float()


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    pictures = {name: Image.open(HERE / f"clip_towers/{name}.png").convert("RGB") for name in PICTURES}
    shape = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3)
    towers = {
        # as DINO's: a pooler that nobody uses, the whole picture squeezed into a square
        "vit": (filled(ViTModel(ViTConfig(**shape, intermediate_size=72, image_size=64, patch_size=8)), 1),
                ViTImageProcessor(size={"height": 64, "width": 64}, resample=3, image_mean=[0.485, 0.456, 0.406],
                                  image_std=[0.229, 0.224, 0.225])),
        # without bias, and without a file for its pictures: 8/7 of 56, then the middle
        "dino": (filled(ViTModel(ViTConfig(**shape, intermediate_size=96, image_size=56, patch_size=8, qkv_bias=False,
                                           layer_norm_eps=1e-6), add_pooling_layer=False), 2),
                 BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56},
                                   image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])),
        # as DINOv2's: smaller pictures than it was trained on, so that positions are interpolated
        "dinov2": (filled(Dinov2Model(Dinov2Config(**shape, mlp_ratio=2, image_size=98, patch_size=14)), 3),
                   BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56},
                                     image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])),
    }
    for name, (model, processor) in towers.items():
        model.save_pretrained(OUT / name)
        if name != "dino":
            processor.save_pretrained(OUT / name)
        golden = {}
        with torch.no_grad():
            for key, picture in pictures.items():
                pixels = processor(picture, return_tensors="pt")["pixel_values"]
                golden[f"pixels.{key}"] = pixels[0, :, ::5, ::3]
                golden[f"features.{key}"] = model(pixel_values=pixels).last_hidden_state[0, 0]
        save_file({k: v.clone().contiguous() for k, v in golden.items()}, OUT / f"{name}.safetensors")

    network()
    golden = {}
    for key, picture in pictures.items():
        planes = np.array(picture, dtype=np.float32)
        # clean-fid: each colour in Pillow's mode F, antialiased, nothing rounded
        resized = [np.asarray(Image.fromarray(planes[..., c], mode="F").resize((SIDE, SIDE), Image.BICUBIC)) for c in range(3)]
        golden[f"pillow.{key}"] = torch.from_numpy(np.stack(resized).reshape(-1))
        # torch's own, which does not antialias
        for mode in ["bilinear", "bicubic"]:
            x = torch.from_numpy(planes).permute(2, 0, 1)[None]
            x = torch.nn.functional.interpolate(x, size=(SIDE, SIDE), mode=mode, align_corners=False)
            golden[f"torch.{mode}.{key}"] = x.reshape(-1)
    save_file({k: v.clone().contiguous() for k, v in golden.items()}, OUT / "resized.safetensors")


def network():
    """A network that gives its picture back: as it is, as one row, and as the mean of each colour in a map of one pixel."""
    image = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    outputs = [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", 3, SIDE, SIDE]),
               helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 3 * SIDE * SIDE]),
               helper.make_tensor_value_info("pool", TensorProto.FLOAT, ["n", 3, 1, 1])]
    nodes = [helper.make_node("Relu", ["picture"], ["map"]), helper.make_node("Flatten", ["picture"], ["row"], axis=1),
             helper.make_node("GlobalAveragePool", ["picture"], ["pool"])]
    graph = helper.make_graph(nodes, "given back", [image], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, OUT / "given_back.onnx")


if __name__ == "__main__":
    main()
