//! Measures of images, and the statistics around them.
//!
//! Everything here is computed in f64 from raw features (a row each, not normalised), depends on
//! nothing but its arguments, and is the same for the same seed.

mod attention_overlap;
pub mod claims;
mod cmmd;
mod copying;
mod diversity;
mod drift;
mod image_alignment;
mod kid;
mod language_drift;
mod measure;
mod nested;
pub mod paper;
mod preferences;
mod protocols;
mod registry;
mod stats;
mod text_alignment;
pub mod verdict;
mod weight_change;

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

pub use attention_overlap::attention_overlap;
pub use image_alignment::image_alignment;
pub use kid::{KID_SUBSET, KID_SUBSETS, Kid, Subset, kid, kid_over};
pub use measure::{
    Better, Files, Given, Gives, Measure, Need, Outcome, Sees, SetValue, Shown, WeightChange,
};
pub use nested::{Nested, Spread, paired, unpaired};
pub use preferences::{PaperPreference, PaperStudy, paper_study};
pub use protocols::{Column, Layout, Over, Protocol, With};
pub use registry::{Chosen, Metric, Registry, measure_of};
pub use stats::{Estimate, Stratum, estimate, paired_difference, pooled, student, wilson, z95};
pub use text_alignment::text_alignment;

/// Every measure of the program, in the order in which they are listed.
fn measures() -> Vec<Arc<dyn Measure>> {
    vec![
        Arc::new(text_alignment::TextAlignment),
        Arc::new(image_alignment::ImageAlignment),
        Arc::new(kid::KernelDistance { general: false }),
        Arc::new(cmmd::Cmmd { general: false }),
        Arc::new(diversity::Diversity),
        Arc::new(copying::Copying),
        Arc::new(language_drift::LanguageDrift),
        Arc::new(drift::Drift),
        Arc::new(kid::KernelDistance { general: true }),
        Arc::new(cmmd::Cmmd { general: true }),
        Arc::new(weight_change::MeanChange::Cross),
        Arc::new(weight_change::MeanChange::SelfAttention),
        Arc::new(weight_change::MeanChange::Other),
        Arc::new(attention_overlap::AttentionOverlap),
    ]
}

/// Rows of length 1. A row of zeros stays: its cosine with anything is 0.
fn unit(x: ArrayView2<f32>) -> Array2<f64> {
    let mut x = x.mapv(f64::from);
    for mut row in x.outer_iter_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    x
}
