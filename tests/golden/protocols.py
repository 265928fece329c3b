"""What three benchmarks give for small folders, by their own formulas, with the towers of this folder as their
networks: CustomConcept101's evaluate.py, the DreamBooth paper's definitions (its code is not published) and
DreamBench++'s clip_score.py and dino_score.py, written anew in numpy (f64).

Run: python tests/golden/protocols.py
"""
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (BitImageProcessor, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast, Dinov2Model, ViTModel)

HERE = Path(__file__).parent
torch.set_num_threads(1)

# tests/golden_protocols.rs makes the same folders
SAMPLES = {"0": ("wide", "a dog in the snow"), "1": ("high", "dog, a watercolor"), "2": ("small", "a dog in the snow"),
           "3": ("wide", "dog, a watercolor")}
TARGETS = [["small", "high"], ["wide"]]
SUBJECTS = {  # pictures with prompts as they are without the token, and targets
    "vase": ([("wide", "a vase in the jungle"), ("high", "a red vase")], ["small", "wide"]),
    "dog2": ([("small", "a dog in the jungle"), ("wide", "a red dog")], ["high"]),
}
RUN = {"object_00_vase": [("small", "wide", "a vase on a table"), ("small", "high", "a glass vase")],
       "animal_01_dog": [("high", "small", "a dog asleep")]}

clip = CLIPModel.from_pretrained(HERE / "clip_towers/patch8").eval()
pictures = CLIPImageProcessor.from_pretrained(HERE / "clip_towers/patch8")
words = CLIPTokenizerFast.from_pretrained(HERE / "clip_towers/patch8")
dino = ViTModel.from_pretrained(HERE / "vit_towers/dino", add_pooling_layer=False).eval()
# DINO's own: 8/7 of the side, then the middle
cut = BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56},
                        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
dinov2 = Dinov2Model.from_pretrained(HERE / "vit_towers/dinov2").eval()
cut2 = BitImageProcessor.from_pretrained(HERE / "vit_towers/dinov2")


def picture(name):
    return Image.open(HERE / f"clip_towers/{name}.png").convert("RGB")


def unit(rows):
    rows = np.stack(rows).astype(np.float64)
    return rows / np.sqrt(np.sum(rows**2, axis=1, keepdims=True))


@torch.no_grad()
def clip_images(names):
    return unit([clip.get_image_features(pictures(picture(n), return_tensors="pt")["pixel_values"])[0].numpy() for n in names])


@torch.no_grad()
def clip_texts(texts):
    return unit([clip.get_text_features(**words(t, return_tensors="pt", truncation=True))[0].numpy() for t in texts])


@torch.no_grad()
def classes(model, processor, names):
    return unit([model(pixel_values=processor(picture(n), return_tensors="pt")["pixel_values"]).last_hidden_state[0, 0].numpy()
                 for n in names])


def customconcept101():
    names, texts = zip(*SAMPLES.values())
    found = {"CLIP text alignment": np.mean(2.5 * np.clip(np.sum(clip_images(names) * clip_texts(texts), axis=1), 0, None))}
    for title, features in [("CLIP", clip_images), ("DINO", lambda n: classes(dino, cut, n))]:
        each = [np.mean(features(names) @ features(targets).T) for targets in TARGETS]
        for i, value in enumerate(each):
            found[f"{title} image alignment, {i + 1}"] = value
        found[f"{title} image alignment"] = np.mean(each)
    return found


def dreambench():
    found = {"DINO": [], "CLIP-I": [], "CLIP-T": []}
    for samples, targets in SUBJECTS.values():
        names, texts = zip(*samples)
        found["DINO"].append(np.mean(classes(dino, cut, names) @ classes(dino, cut, targets).T))
        found["CLIP-I"].append(np.mean(clip_images(names) @ clip_images(targets).T))
        found["CLIP-T"].append(np.mean(np.sum(clip_images(names) * clip_texts(texts), axis=1)))
    return {title: np.mean(values) for title, values in found.items()}


def dreambench_plus_plus():
    sources, samples, texts = zip(*[entry for entries in RUN.values() for entry in entries])
    score = lambda a, b: np.mean(100 * np.sum(a * b, axis=-1))
    return {
        "DINOv1": score(classes(dino, cut, sources), classes(dino, cut, samples)),
        "DINOv2": score(classes(dinov2, cut2, sources), classes(dinov2, cut2, samples)),
        "CLIP-I": score(clip_images(sources), clip_images(samples)),
        "CLIP-T": score(clip_texts(texts), clip_images(samples)),
    }


found = {"customconcept101": customconcept101(), "dreambench": dreambench(), "dreambench++": dreambench_plus_plus()}
found = {name: {title: float(value) for title, value in values.items()} for name, values in found.items()}
(HERE / "protocols.json").write_text(json.dumps(found, indent=1) + "\n")
print(json.dumps(found, indent=1))
