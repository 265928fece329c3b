//! Alignments, KID, and the statistics around them.
//!
//! Everything here is computed in f64 from raw features (a row each, not normalised), depends on
//! nothing but its arguments, and is the same for the same seed.

mod alignment;
mod kid;
pub mod paper;
mod stats;

pub use alignment::{image_alignment, text_alignment};
pub use kid::{KID_SUBSET, KID_SUBSETS, Kid, Subset, kid, kid_over};
pub use stats::{Estimate, Stratum, estimate, paired_difference, pooled, student, wilson, z95};
