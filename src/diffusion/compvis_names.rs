//! What the attentions of a UNet are called in CompVis's code, which the files of the first Stable
//! Diffusions and of many tools go by.
//!
//! There a block is a run of numbered entries, one for each layer and one for the resampling behind them:
//! `input_blocks.4.1` is the first attention (`.1`; a resnet is `.0`) of the second block down. Inside an
//! attention the names are the same. Numbers count layers, so they say which block is meant only together
//! with how many layers a block has: two in all Stable Diffusion 1.x and 2.x ([`LAYERS`]).

/// Layers of a block down, in all Stable Diffusion 1.x and 2.x.
pub const LAYERS: usize = 2;

/// CompVis's name of an attention's weight that diffusers calls `name`; none for a weight of no attention.
pub fn attention_to_compvis(name: &str, layers: usize) -> Option<String> {
    if let Some(rest) = name.strip_prefix("mid_block.attentions.0.") {
        return Some(format!("middle_block.1.{rest}"));
    }
    let (side, rest) = name.split_once("_blocks.")?;
    let (block, rest) = number(rest)?;
    let (layer, rest) = number(rest.strip_prefix("attentions.")?)?;
    let entry = |first: usize| Some(first + (layers + 1).checked_mul(block)? + layer);
    match side {
        // the first entry is the first convolution; the last of a block resamples
        "down" if layer < layers => Some(format!("input_blocks.{}.1.{rest}", entry(1)?)),
        "up" if layer <= layers => Some(format!("output_blocks.{}.1.{rest}", entry(0)?)),
        _ => None,
    }
}

/// The inverse of [`attention_to_compvis`]: none for a name of anything but an attention's weight.
pub fn attention_from_compvis(name: &str, layers: usize) -> Option<String> {
    if let Some(rest) = name.strip_prefix("middle_block.1.") {
        return Some(format!("mid_block.attentions.0.{rest}"));
    }
    let (side, rest) = name.split_once("_blocks.")?;
    let (entry, rest) = number(rest)?;
    let rest = rest.strip_prefix("1.")?;
    let (side, entry) = match side {
        "input" => ("down", entry.checked_sub(1)?),
        "output" => ("up", entry),
        _ => return None,
    };
    let (block, layer) = (entry / (layers + 1), entry % (layers + 1));
    // an upsampler without attention before it is called `.1`, too, and a downsampler is `.0`
    let attention = side == "up" || layer < layers;
    (attention && !rest.starts_with("conv."))
        .then(|| format!("{side}_blocks.{block}.attentions.{layer}.{rest}"))
}

/// The number that a name starts with, and what follows its dot.
fn number(name: &str) -> Option<(usize, &str)> {
    let (digits, rest) = name.split_once('.')?;
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_numbered_as_in_stable_diffusion() {
        let rest = "transformer_blocks.0.attn2.to_k.weight";
        for (diffusers, compvis) in [
            ("down_blocks.0.attentions.0", "input_blocks.1.1"),
            ("down_blocks.0.attentions.1", "input_blocks.2.1"),
            ("down_blocks.2.attentions.1", "input_blocks.8.1"),
            ("mid_block.attentions.0", "middle_block.1"),
            ("up_blocks.1.attentions.0", "output_blocks.3.1"),
            ("up_blocks.3.attentions.2", "output_blocks.11.1"),
        ] {
            let (diffusers, compvis) = (format!("{diffusers}.{rest}"), format!("{compvis}.{rest}"));
            assert_eq!(attention_to_compvis(&diffusers, LAYERS).as_ref(), Some(&compvis));
            assert_eq!(attention_from_compvis(&compvis, LAYERS), Some(diffusers));
        }
        assert_eq!(
            attention_to_compvis("up_blocks.1.attentions.1.norm.bias", 1).unwrap(),
            "output_blocks.3.1.norm.bias"
        );
    }

    #[test]
    fn what_is_no_attention_has_no_name() {
        for name in [
            "conv_in.weight",
            "down_blocks.0.resnets.0.conv1.weight",
            "down_blocks.0.attentions.2.norm.weight",
            "down_blocks.x.attentions.0.norm.weight",
            "down_blocks.18446744073709551615.attentions.0.norm.weight",
        ] {
            assert_eq!(attention_to_compvis(name, LAYERS), None, "{name}");
        }
        for name in [
            "input_blocks.0.0.weight",
            "input_blocks.0.1.weight",
            "input_blocks.3.0.op.weight",
            "input_blocks.3.1.norm.weight",
            "output_blocks.2.1.conv.weight",
            "middle_block.0.in_layers.0.weight",
            "out.0.weight",
        ] {
            assert_eq!(attention_from_compvis(name, LAYERS), None, "{name}");
        }
    }
}
