"""Two CLIP folders of transformers with random weights, photographs, and what CLIPModel and CLIPImageProcessor (PIL) give.

Run: python tests/golden/clip_towers.py PHOTOS
where PHOTOS has the DreamBooth dataset's folders `duck_toy` and `wolf_plushie`.
"""
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

HERE = Path(__file__).parent
OUT = HERE / "clip_towers"
TEXTS = ["a duck", "photo of a wooden pot in the snow", "", "two dogs, one cat & a teddybear on the beach " * 12]
# Wide and high, larger and smaller than the towers' pictures; nothing divides evenly.
CROPS = {"wide": ("duck_toy/00.jpg", (20, 100, 640, 500), (331, 214)),
         "high": ("wolf_plushie/00.jpg", (120, 0, 520, 640), (157, 251)),
         "small": ("duck_toy/02.jpg", (0, 50, 640, 600), (97, 83))}


def model(seed, dtype, text, vision, **rest):
    torch.manual_seed(seed)
    made = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, **rest)).eval().float()
    for name, p in made.named_parameters():  # its own start is too even to find a mistake
        if p.dim() == 1:
            p.data.add_(torch.randn_like(p) * 0.2)
        elif p.dim() > 1:
            p.data.copy_(torch.randn_like(p) * (0.5 if "embedding.weight" in name and p.dim() == 2
                                                else p[0].numel() ** -0.5))
    return made.to(dtype)


def main(photos):
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    pictures = {}
    for name, (file, box, size) in CROPS.items():
        pictures[name] = Image.open(photos / file).convert("RGB").crop(box).resize(size, Image.Resampling.LANCZOS)
        pictures[name].save(OUT / f"{name}.png", optimize=True)

    text = dict(vocab_size=912, hidden_size=32, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4,
                bos_token_id=910, pad_token_id=911)
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3)
    towers = {
        # as ViT-B/32, with the end token of OpenAI's files: 2, which means the highest id
        "patch32": model(1, torch.float16, text | dict(eos_token_id=2), vision | dict(image_size=224, patch_size=32),
                         projection_dim=24),
        "patch8": model(2, torch.float32, text | dict(eos_token_id=911, hidden_act="gelu"),
                        vision | dict(image_size=64, patch_size=8, hidden_act="gelu", layer_norm_eps=1e-6),
                        projection_dim=20),
    }
    for name, made in towers.items():
        folder = OUT / name
        made.save_pretrained(folder)
        made.float()
        side = made.config.vision_config.image_size
        if name == "patch32":
            processor = CLIPImageProcessor()
        else:
            processor = CLIPImageProcessor(size={"shortest_edge": 70}, crop_size={"height": 64, "width": 64},
                                           image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
        processor.save_pretrained(folder)
        for file in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"]:
            shutil.copy(HERE / "sd1/tokenizer" / file, folder)
        tokenizer = CLIPTokenizerFast.from_pretrained(folder)
        golden = {}
        with torch.no_grad():
            for key, picture in pictures.items():
                pixels = processor(picture, return_tensors="pt")["pixel_values"]
                assert pixels.shape == (1, 3, side, side)
                golden[f"pixels.{key}"] = pixels[0, :, ::5, ::3]
                golden[f"image.{key}"] = made.get_image_features(pixel_values=pixels)[0]
            for i, text_ in enumerate(TEXTS):
                ids = tokenizer([text_], padding="max_length", truncation=True, return_tensors="pt")
                golden[f"ids.{i}"] = ids.input_ids[0].int()
                golden[f"text.{i}"] = made.get_text_features(input_ids=ids.input_ids)[0]
        save_file({k: v.clone().contiguous() for k, v in golden.items()}, OUT / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
