//! Whether numbers are numbers.

use candle_core::{DType, Device, Result, Tensor};

use super::kernels::buffer::slice;

/// Whether no value of `x` is infinite or not a number.
///
/// # Errors
/// Only candle's.
pub fn all_finite(x: &Tensor) -> Result<bool> {
    let x = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    // a maximum of integers has no branch, so this is as fast as memory
    let magnitude = |value: &f32| value.to_bits() & !(1 << 31);
    let largest = slice(&x)?.iter().map(magnitude).fold(0, u32::max);
    Ok(largest < f32::INFINITY.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_is_enough() {
        let of = |x: f32| {
            let tensor = Tensor::new(&[[f32::MAX, -1e-45], [0.0, x]], &Device::Cpu).unwrap();
            all_finite(&tensor.t().unwrap()).unwrap()
        };
        assert!(of(f32::MIN));
        assert!([f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY].iter().all(|x| !of(*x)));
    }
}
