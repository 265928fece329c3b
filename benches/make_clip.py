"""A CLIP of B/32's size with random weights and the small tokenizer of `tests/golden`."""

from pathlib import Path

TOKENIZER = Path(__file__).resolve().parent.parent / "tests/golden/clip_towers/patch32"


def save(folder):
    """Writes the model, its processor and its tokenizer, as transformers does."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

    torch.manual_seed(0)
    tokenizer = CLIPTokenizerFast.from_pretrained(TOKENIZER)
    tokenizer.model_max_length = 77
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision |= {"patch_size": 32, "image_size": 224}
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    text |= {"eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 77}
    config = CLIPConfig(projection_dim=512, vision_config=vision, text_config=text)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
