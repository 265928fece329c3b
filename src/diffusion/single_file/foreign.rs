//! What people give as a backbone that is another kind of file, told by the names of its tensors.

use std::path::Path;

use super::{TEXT, UNET, VAE};
use crate::diffusion::weights::Weights;
use crate::{Error, Result};

const VERSIONS: &str = "Stable Diffusion 1.x and 2.x are supported";
const WHOLE: &str = "a backbone is the whole model: the folder that has model_index.json, or a file with \
                     `model.diffusion_model.…`";

/// Part of a tensor's name, what has it, and what to do.
const OTHERS: [(&str, &str, &str); 11] = [
    ("conditioner.embedders.", "a Stable Diffusion XL", VERSIONS),
    ("model.diffusion_model.label_emb.", "a model with class embeddings, such as an XL", VERSIONS),
    ("model.diffusion_model.joint_blocks.", "a Stable Diffusion 3", VERSIONS),
    ("double_blocks.", "a Flux", VERSIONS),
    ("control_model.", "a ControlNet", WHOLE),
    ("lora_", "a LoRA", "give the backbone it was trained on, and the LoRA with --checkpoint"),
    (".lora.", "a LoRA", "give the backbone it was trained on, and the LoRA with --checkpoint"),
    (".lora_", "a LoRA", "give the backbone it was trained on, and the LoRA with --checkpoint"),
    ("_custom_diffusion", "a checkpoint of Custom Diffusion", "give it with --checkpoint"),
    ("down_blocks.", "one part of a model in diffusers' layout", WHOLE),
    ("text_model.encoder.layers.", "a text encoder", WHOLE),
];

/// How many input channels a UNet of latents has that takes something else as well, and what.
const MORE_INPUTS: [(usize, &str); 4] = [
    (9, "a mask and the picture around it (inpainting)"),
    (8, "a second picture (InstructPix2Pix)"),
    (7, "a small picture (an upscaler)"),
    (5, "depth"),
];

/// Refuses a file that is no backbone this program knows.
///
/// # Errors
/// [`Error::Input`] that says what it is.
pub(super) fn refuse(path: &Path, file: &Weights) -> Result<()> {
    let refused = |what: String, hint: &str| {
        Err(Error::input_hint(format!("{}: {what}", path.display()), hint))
    };
    let ours = |key: &str| key.starts_with(VAE) || key.starts_with(TEXT);
    for (needle, what, hint) in OTHERS {
        if file.keys().any(|key| !ours(key) && key.contains(needle)) {
            return refused(format!("this is {what}, and no backbone of this program"), hint);
        }
    }
    if !file.keys().any(|key| key.starts_with(UNET)) {
        let first: Vec<&str> = file.keys().take(3).collect();
        let has = match first.is_empty() {
            true => "nothing at all".to_owned(),
            false => format!("`{}`, …", first.join("`, `")),
        };
        return refused(
            format!("there is no UNet in it: nothing is called `{UNET}…`, but {has}"),
            WHOLE,
        );
    }
    Ok(())
}

/// Refuses a UNet that takes more than latents of so many `channels`.
///
/// # Errors
/// [`Error::Input`] that says what else it takes.
pub(super) fn refuse_more_inputs(path: &Path, file: &Weights, channels: usize) -> Result<()> {
    let shape = file.shape("model.diffusion_model.input_blocks.0.0.weight");
    let inputs = shape.and_then(|shape| shape.get(1).copied()).filter(|inputs| *inputs != channels);
    match MORE_INPUTS.iter().find(|(more, _)| Some(*more) == inputs) {
        Some((inputs, takes)) => Err(Error::input_hint(
            format!(
                "{}: its UNet has {inputs} input channels: besides latents it takes {takes}",
                path.display()
            ),
            "text-to-image models are supported",
        )),
        None => Ok(()),
    }
}
