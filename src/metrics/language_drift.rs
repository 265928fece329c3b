//! Language drift: what the bare word of the category has become (DreamBooth, Ruiz et al. 2023, section
//! 4.4 and its PRES; Fig. 5 of Custom Diffusion).

use super::{Better, Given, Gives, Measure, Need, Outcome, image_alignment};
use crate::Result;

/// How near images of the bare category are to the targets. Where nothing drifted it is the pretrained
/// model's, which stands beside it.
pub(super) struct LanguageDrift;

impl Measure for LanguageDrift {
    fn name(&self) -> &'static str {
        "language-drift"
    }

    fn title(&self) -> &'static str {
        "language drift"
    }

    fn definition(&self) -> &'static str {
        "mean cosine over all pairs of target images and images of the evaluation prompts with the bare \
         category in the concept's place"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn tolerance(&self) -> f64 {
        0.005
    }

    fn need(&self) -> Need {
        Need::ClassWords
    }

    fn gives(&self) -> Gives {
        Gives::Images
    }

    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        Ok(Some(Outcome::Images(image_alignment(given.images, given.against))))
    }
}
