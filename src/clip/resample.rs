//! Resizing, bit for bit as Pillow does it.
//!
//! CLIP's published preprocessing is Pillow's: antialiased, the filter's weights in 22 bits, rows
//! first, and eight bits in between. Resizing in floating point is off by one level here and there,
//! which moves features by more than everything else in this folder.

use image::{Rgb, RgbImage};

use super::interpolate;

/// Pillow's PRECISION_BITS: 32 less 8 of the pixel and 2 for what the weights overshoot.
const BITS: u32 = 22;

/// Pillow's filters, by its numbers for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// 2
    Bilinear,
    /// 3: Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Filter::Bicubic => 0.0,
        }
    }
}

/// A part of a resized picture: it may reach beyond it, and is black there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First column and row.
    pub start: [i64; 2],
    /// Width and height.
    pub size: [u32; 2],
}

/// What one output pixel takes: the first input pixel, and weights from there on, in fixed point or not.
struct Taps<T = i32> {
    first: usize,
    weights: Vec<T>,
}

/// Of `outputs`, a part of the pixels to which a line of `from` pixels is resized.
fn taps(from: u32, to: u32, outputs: std::ops::Range<u32>, filter: Filter) -> Vec<Taps> {
    let fixed = |w: &f64| {
        let w = w * f64::from(1 << BITS);
        (w + 0.5f64.copysign(w)) as i32
    };
    let exact = weights(from, to, outputs, filter).into_iter();
    exact.map(|t| Taps { first: t.first, weights: t.weights.iter().map(fixed).collect() }).collect()
}

/// The same before it is rounded.
fn weights(from: u32, to: u32, outputs: std::ops::Range<u32>, filter: Filter) -> Vec<Taps<f64>> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    outputs
        .map(|output| {
            let center = (f64::from(output) + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from as usize);
            let weight = |x: usize| filter.at((x as f64 - center + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let norm = |w: &f64| if sum == 0.0 { *w } else { w / sum };
            Taps { first, weights: weights.iter().map(norm).collect() }
        })
        .collect()
}

/// Of pixels `step` bytes apart.
fn pixel(bytes: &[u8], step: usize, taps: &Taps) -> [u8; 3] {
    let mut sums = [1i32 << (BITS - 1); 3];
    for (bytes, weight) in bytes[taps.first * step..].chunks(step).zip(&taps.weights) {
        for (sum, byte) in sums.iter_mut().zip(bytes) {
            *sum = sum.wrapping_add(i32::from(*byte).wrapping_mul(*weight));
        }
    }
    sums.map(|sum| (sum >> BITS).clamp(0, 255) as u8)
}

/// The `window` of `image` resized to the width and height `to`. Costs nothing for what is outside the
/// window.
pub fn resize(image: &RgbImage, to: [u32; 2], window: Window, filter: Filter) -> RgbImage {
    let mut out = RgbImage::new(window.size[0], window.size[1]);
    if image.width() == 0 || image.height() == 0 {
        return out;
    }
    // the part of the window that lies on the resized picture
    let inside = |axis: usize| {
        let start = window.start[axis];
        let end = start + i64::from(window.size[axis]);
        let size = i64::from(to[axis]);
        start.clamp(0, size) as u32..end.clamp(0, size) as u32
    };
    let (columns, rows) = (inside(0), inside(1));
    let across = taps(image.width(), to[0], columns.clone(), filter);
    let down = taps(image.height(), to[1], rows.clone(), filter);
    let (Some(top), Some(bottom)) = (down.first(), down.last()) else { return out };
    if across.is_empty() {
        return out;
    }

    let first = top.first;
    let end = bottom.first + bottom.weights.len();
    let stride = image.width() as usize * 3;
    let narrow: Vec<u8> = image.as_raw()[first * stride..end * stride]
        .chunks_exact(stride)
        .flat_map(|row| across.iter().flat_map(|taps| pixel(row, 3, taps)))
        .collect();
    let stride = across.len() * 3;
    for (y, taps) in rows.zip(&down) {
        let rows = Taps { first: taps.first - first, weights: taps.weights.clone() };
        for (x, column) in columns.clone().enumerate() {
            let value = pixel(&narrow[x * 3..], stride, &rows);
            let place = [i64::from(column) - window.start[0], i64::from(y) - window.start[1]];
            out.put_pixel(place[0] as u32, place[1] as u32, Rgb(value));
        }
    }
    out
}

/// As [`resize`], in floating point: values [height, width, 3] from 0 to 255 and beyond, where the cubic
/// overshoots. With `antialias` as Pillow resizes pictures in its mode F, else as torch interpolates.
pub(super) fn resize_floats(
    image: &RgbImage,
    to: [u32; 2],
    window: Window,
    filter: Filter,
    antialias: bool,
) -> Vec<f32> {
    let (width, height) = image.dimensions();
    // the window may reach beyond the picture, where nothing is
    let line = |from: u32, axis: usize| -> Vec<interpolate::Taps> {
        let all: Vec<interpolate::Taps> = match antialias {
            true => weights(from, to[axis], 0..to[axis], filter)
                .into_iter()
                .map(|t| (t.first..).zip(t.weights).collect())
                .collect(),
            false => interpolate::taps(from as usize, to[axis] as usize, filter),
        };
        let at = |i: i64| usize::try_from(window.start[axis] + i).ok().and_then(|i| all.get(i));
        (0..i64::from(window.size[axis])).map(|i| at(i).cloned().unwrap_or_default()).collect()
    };
    let levels: Vec<f32> = image.as_raw().iter().map(|v| f32::from(*v)).collect();
    interpolate::apply(&levels, width as usize, 3, &line(height, 1), &line(width, 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PILLOW: [([u32; 2], Filter, u32, [u8; 3]); 4] = [
        ([3, 2], Filter::Bilinear, 0xc2215195, [161, 161, 83]),
        ([3, 2], Filter::Bicubic, 0x4c10f240, [169, 157, 83]),
        ([7, 6], Filter::Bilinear, 0x30cc5ac3, [37, 234, 16]),
        ([7, 6], Filter::Bicubic, 0xd8762d1c, [31, 238, 9]),
    ];

    fn whole(size: [u32; 2]) -> Window {
        Window { start: [0, 0], size }
    }

    fn noise(width: u32, height: u32) -> RgbImage {
        let mut state = 1u32;
        RgbImage::from_fn(width, height, |_, _| {
            Rgb(std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }))
        })
    }

    /// ```python
    /// image = Image.new("RGB", (5, 4))
    /// image.putdata([(i * 12, 255 - i * 7, (i * i) % 256) for i in range(20)])
    /// for size in [(3, 2), (7, 6)]:
    ///     for filter in [Image.BILINEAR, Image.BICUBIC]:
    ///         print(zlib.crc32(image.resize(size, filter).tobytes()), image.resize(size, filter).getpixel((1, 1)))
    /// ```
    #[test]
    fn agrees_with_pillow() {
        let image = RgbImage::from_fn(5, 4, |x, y| {
            let i = y * 5 + x;
            Rgb([(i * 12) as u8, (255 - i * 7) as u8, (i * i) as u8])
        });
        for (size, filter, crc, middle) in PILLOW {
            let found = resize(&image, size, whole(size), filter);
            assert_eq!(found.get_pixel(1, 1).0, middle, "{size:?} {filter:?}");
            assert_eq!(crc32fast::hash(found.as_raw()), crc, "{size:?} {filter:?}");
        }
    }

    #[test]
    fn a_hostile_shape_costs_nothing() {
        let line = noise(1, 60_000);
        let to = [1024, 61_440_000];
        let window = Window { start: [0, 30_000_000], size: [1024, 1024] };
        assert_eq!(resize(&line, to, window, Filter::Bicubic).dimensions(), (1024, 1024));
    }

    proptest! {
        #[test]
        fn constant_stays_constant(
            color: [u8; 3], w in 1u32..40, h in 1u32..40, to_w in 1u32..40, to_h in 1u32..40,
        ) {
            let image = RgbImage::from_pixel(w, h, Rgb(color));
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let found = resize(&image, [to_w, to_h], whole([to_w, to_h]), filter);
                prop_assert_eq!(found, RgbImage::from_pixel(to_w, to_h, Rgb(color)));
            }
        }

        #[test]
        fn a_window_is_a_part_of_the_whole(
            w in 1u32..30, h in 1u32..30, to_w in 1u32..30, to_h in 1u32..30,
            x in -10i64..30, y in -10i64..30, size in 1u32..20,
        ) {
            let image = noise(w, h);
            let full = resize(&image, [to_w, to_h], whole([to_w, to_h]), Filter::Bicubic);
            let window = Window { start: [x, y], size: [size, size] };
            let found = resize(&image, [to_w, to_h], window, Filter::Bicubic);
            for (i, j, color) in found.enumerate_pixels() {
                let place = (x + i64::from(i), y + i64::from(j));
                let want = match (u32::try_from(place.0), u32::try_from(place.1)) {
                    (Ok(x), Ok(y)) if x < to_w && y < to_h => *full.get_pixel(x, y),
                    _ => Rgb([0; 3]),
                };
                prop_assert_eq!(*color, want);
            }
        }

        #[test]
        fn the_same_size_changes_nothing(w in 1u32..30, h in 1u32..30) {
            let image = noise(w, h);
            prop_assert_eq!(&resize(&image, [w, h], whole([w, h]), Filter::Bicubic), &image);
        }
    }
}
