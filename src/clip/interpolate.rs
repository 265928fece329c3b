//! Interpolation of maps in floating point: what Pillow does with pictures in mode F, and what torch's
//! `interpolate` does, which does not look at more pixels where it shrinks.

use super::resample::Filter;

/// The pixels of a line that an output pixel is made of, and their weights.
pub(super) type Taps = Vec<(usize, f64)>;

/// Of every pixel of a line of `from` that is resized to `to`, without antialiasing
/// (`align_corners=False`).
pub(super) fn taps(from: usize, to: usize, filter: Filter) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let last = from as i64 - 1;
    let one = |output: usize| {
        let center = (output as f64 + 0.5) * scale - 0.5;
        // torch does not let a linear interpolation begin before the first pixel
        let center = if filter == Filter::Bilinear { center.max(0.0) } else { center };
        let (start, t) = (center.floor(), center - center.floor());
        let place = |offset: i64| (start as i64 + offset).clamp(0, last) as usize;
        match filter {
            Filter::Bilinear => vec![(place(0), 1.0 - t), (place(1), t)],
            Filter::Bicubic => {
                let weights = [cubic(t + 1.0), cubic(t), cubic(1.0 - t), cubic(2.0 - t)];
                (-1..).map(place).zip(weights).collect()
            }
        }
    };
    (0..to).map(one).collect()
}

/// Keys' cubic as torch has it; Pillow's a is −0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    match x {
        x if x <= 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
    }
}

/// A square map [from, from, width] with another number of rows and columns, by the cubic.
pub(super) fn square(map: &[f32], from: usize, to: usize, width: usize) -> Vec<f32> {
    let taps = taps(from, to, Filter::Bicubic);
    apply(map, from, width, &taps, &taps)
}

/// A map [rows, columns, width] resized: across, then down, with single precision in between.
pub(super) fn apply(
    map: &[f32],
    columns: usize,
    width: usize,
    down: &[Taps],
    across: &[Taps],
) -> Vec<f32> {
    let rows = map.len() / (columns * width).max(1);
    let mut narrow = vec![0f32; rows * across.len() * width];
    for (line, out) in map.chunks(columns * width).zip(narrow.chunks_mut(across.len() * width)) {
        for (taps, out) in across.iter().zip(out.chunks_mut(width)) {
            for (channel, out) in out.iter_mut().enumerate() {
                let sum: f64 =
                    taps.iter().map(|(x, w)| f64::from(line[x * width + channel]) * w).sum();
                *out = sum as f32;
            }
        }
    }
    let stride = across.len() * width;
    let mut out = vec![0f32; down.len() * stride];
    for (taps, out) in down.iter().zip(out.chunks_mut(stride.max(1))) {
        for (place, out) in out.iter_mut().enumerate() {
            let sum: f64 =
                taps.iter().map(|(y, w)| f64::from(narrow[y * stride + place]) * w).sum();
            *out = sum as f32;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TORCH: [([usize; 2], Filter, &[f32]); 4] = [
        ([2, 3], Filter::Bilinear, &[54.5, 75.5, 99.8333]),
        ([2, 3], Filter::Bicubic, &[55.6043, 77.5156, 103.6029]),
        ([5, 7], Filter::Bilinear, &[6.4, 7.9, 10.3, 13.7, 17.3857, 22.0714, 25.0]),
        ([5, 7], Filter::Bicubic, &[2.402, 3.6142, 5.8228, 8.669, 12.4941, 17.1108, 20.0829]),
    ];

    /// ```python
    /// x = torch.arange(12.).reshape(1, 1, 3, 4) ** 2
    /// for size in [(2, 3), (5, 7)]:
    ///     for mode in ["bilinear", "bicubic"]:
    ///         print(F.interpolate(x, size=size, mode=mode, align_corners=False)[0, 0, 1].tolist())
    /// ```
    #[test]
    fn agrees_with_torch() {
        let map: Vec<f32> = (0..12u8).map(|i| f32::from(i).powi(2)).collect();
        for (to, filter, wanted) in TORCH {
            let (down, across) = (taps(3, to[0], filter), taps(4, to[1], filter));
            let found = apply(&map, 4, 1, &down, &across);
            for (f, w) in found[to[1]..].iter().zip(wanted) {
                assert!((f - w).abs() < 1e-3, "{to:?} {filter:?}: {f} {w}");
            }
        }
    }

    proptest! {
        #[test]
        fn constant_stays_constant(value in -5f32..5.0, to in 1usize..9, from in 1usize..9) {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let taps = taps(from, to, filter);
                let found = apply(&vec![value; from * from], from, 1, &taps, &taps);
                prop_assert!(found.len() == to * to && found.iter().all(|x| (x - value).abs() < 1e-5));
            }
        }
    }
}
