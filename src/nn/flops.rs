//! Counts the work that is really done: a frozen parameter's gradient that is never formed does not
//! count.

use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Floating-point operations so far, in this process, of matrix products, attention and convolutions,
/// the latter as if in their direct form.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Counts `products` multiplications, each with an addition.
pub(super) fn add(products: usize) {
    COUNT.fetch_add(2 * products as u64, Ordering::Relaxed);
}
