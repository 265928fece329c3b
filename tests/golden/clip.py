"""A small CLIPModel of transformers with random weights, and what it gives: tests/golden/clip/.

Run: python tests/golden/clip.py
"""
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

torch.manual_seed(0)
out = Path(__file__).parent / "clip"
text = dict(vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=8, bos_token_id=2, eos_token_id=3, pad_token_id=0)
vision = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3, image_size=16,
              patch_size=8)
config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
model = CLIPModel(config).eval().float()
for p in model.parameters():  # its own start is too even to find a mistake
    if p.dim() > 0:
        p.data.add_(torch.randn_like(p) * 0.2)
model.save_pretrained(out)
ids = torch.tensor([[2, 5, 9, 3, 0, 0, 0, 0], [2, 19, 4, 4, 7, 8, 3, 0]])
pictures = torch.rand(2, 3, 16, 16) * 2 - 1
with torch.no_grad():
    result = model(input_ids=ids, pixel_values=pictures, return_loss=True)
save_file({"ids": ids.float(), "pictures": pictures, "texts": result.text_embeds.contiguous(),
           "images": result.image_embeds.contiguous(), "loss": result.loss.reshape(1)}, out / "golden.safetensors")
