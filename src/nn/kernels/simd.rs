//! Vector code: loops written so that the compiler turns them into the widest instructions of the CPU
//! at hand, chosen at run time.
//!
//! What runs inside [`vectorised`] must be inlined into it, or it is compiled for the oldest CPU: its
//! functions and closures are `#[inline(always)]`, without branches on values.
#![allow(clippy::needless_range_loop)] // several slices walked side by side

/// Numbers in the widest register.
const LANES: usize = 16;
/// Numbers added up side by side: several registers, since one addition takes the time of several.
const WIDE: usize = 4 * LANES;

/// Runs `f` compiled for the best instruction set of this CPU.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `f` of each element of `out` and those beside it in `xs`, which are at least as long.
///
/// The lengths are settled before the loop: a check within would keep it from being vectorised.
#[inline(always)]
pub fn update<const N: usize>(out: &mut [f32], xs: [&[f32]; N], f: impl Fn(f32, [f32; N]) -> f32) {
    let len = out.len();
    for x in xs {
        assert!(x.len() >= len);
    }
    for i in 0..len {
        // SAFETY: just checked
        out[i] = f(out[i], xs.map(|x| unsafe { *x.get_unchecked(i) }));
    }
}

/// As [`update`], without what `out` held.
#[inline(always)]
pub fn assign<const N: usize>(out: &mut [f32], xs: [&[f32]; N], f: impl Fn([f32; N]) -> f32) {
    update(
        out,
        xs,
        #[inline(always)]
        |_, xs| f(xs),
    );
}

/// Σ f over elements side by side, of slices as long as the first.
#[inline(always)]
pub fn sum<const N: usize>(xs: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    let len = xs[0].len();
    let xs = xs.map(|x| &x[..len]);
    let mut wide = [0.0; WIDE];
    let blocks = xs.map(|x| x.as_chunks::<WIDE>().0);
    for block in 0..len / WIDE {
        let xs = blocks.map(|b| &b[block]);
        for i in 0..WIDE {
            wide[i] += f(xs.map(|x| x[i]));
        }
    }
    let mut lanes = [0.0; LANES];
    let start = len - len % WIDE;
    let blocks = xs.map(|x| x[start..].as_chunks::<LANES>().0);
    for block in 0..len % WIDE / LANES {
        let xs = blocks.map(|b| &b[block]);
        for i in 0..LANES {
            lanes[i] += f(xs.map(|x| x[i]));
        }
    }
    let mut rest = 0.0;
    for i in len - len % LANES..len {
        rest += f(xs.map(|x| x[i]));
    }
    if len >= WIDE {
        for i in 0..LANES {
            lanes[i] += (wide[i] + wide[i + LANES]) + (wide[i + 2 * LANES] + wide[i + 3 * LANES]);
        }
    }
    fold(
        lanes,
        #[inline(always)]
        |a, b| a + b,
    ) + rest
}

/// Adds `f(x, columns)` of every row of `x` to `sums`, four rows at a time; `columns` are as wide as
/// `sums`.
#[inline(always)]
pub fn add_rows<const N: usize>(
    sums: &mut [f32],
    x: &[f32],
    columns: [&[f32]; N],
    f: impl Fn(f32, [f32; N]) -> f32,
) {
    let width = sums.len();
    for column in columns {
        assert!(column.len() >= width);
    }
    // SAFETY: only called below `width`, just checked
    let at = |i: usize| columns.map(|c| unsafe { *c.get_unchecked(i) });
    let mut fours = x.chunks_exact(4 * width);
    for four in &mut fours {
        let (a, rest) = four.split_at(width);
        let (b, rest) = rest.split_at(width);
        let (c, rest) = rest.split_at(width);
        let d = &rest[..width];
        for i in 0..width {
            sums[i] += (f(a[i], at(i)) + f(b[i], at(i))) + (f(c[i], at(i)) + f(d[i], at(i)));
        }
    }
    for row in fours.remainder().chunks_exact(width) {
        for i in 0..width {
            sums[i] += f(row[i], at(i));
        }
    }
}

/// The greatest of `x`; NaNs are passed over.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut blocks = x.chunks_exact(LANES);
    for block in &mut blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = greater(*lane, *x);
        }
    }
    let mut greatest = fold(lanes, greater);
    for x in blocks.remainder() {
        greatest = greater(greatest, *x);
    }
    greatest
}

#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Halves at a time, as a tree.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `eˣ` to 2 units in the last place; 0 below −86.2 (4 · 10⁻³⁸), NaN for NaN.
///
/// eˣ = 2ⁿ eʳ with |r| ≤ ln 2 / 2, and eʳ by its Taylor polynomial refitted (Cephes' `expf`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to an integer, which the low bits of the sum then hold.
    const ROUND: f32 = 12_582_912.0;
    // Nothing on the way is subnormal, which would take a hundred times as long.
    const LEAST: f32 = -86.2;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let limited = if x > 89.0 { 89.0 } else { x };
    let limited = if limited < LEAST { LEAST } else { limited };
    let rounded = limited.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, limited));
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r + 1.0);
    // 2ⁿ as 2 · 2ⁿ⁻¹: n reaches 128, which alone has no float.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(126) << 23;
    let y = p * f32::from_bits(exponent) * 2.0;
    if x < LEAST { 0.0 } else { y }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The normal distribution function Φ(x), to 10⁻⁷, and its density.
///
/// erfc by Abramowitz & Stegun 7.1.26; the smaller tail is computed and the other is what it leaves
/// of 1.
#[inline(always)]
pub fn normal(x: f32) -> (f32, f32) {
    const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
    let gauss = exp(-0.5 * x * x);
    let t = 1.0 / (x.abs().mul_add(0.327_591_1 * SQRT_HALF, 1.0));
    let p = 1.061_405_4_f32;
    let p = p.mul_add(t, -1.453_152_1);
    let p = p.mul_add(t, 1.421_413_8);
    let p = p.mul_add(t, -0.284_496_72);
    let p = p.mul_add(t, 0.254_829_6);
    let tail = 0.5 * p * t * gauss;
    let cdf = if x < 0.0 { tail } else { 1.0 - tail };
    (cdf, gauss * 0.398_942_3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f32, wanted: f64, tolerance: f64) {
        let scale = wanted.abs().max(1e-37);
        assert!((f64::from(found) - wanted).abs() <= tolerance * scale, "{found} for {wanted}");
    }

    #[test]
    fn exp_is_accurate_over_its_range() {
        for i in -8619..=8870 {
            let x = i as f32 * 0.01;
            close(exp(x), f64::from(x).exp(), 2.4e-7);
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
    }

    #[test]
    fn vectorised_exp_is_the_scalar_one() {
        let x: Vec<f32> = (0..1000).map(|i| i as f32 * 0.2 - 100.0).collect();
        let mut y = vec![0.0; x.len()];
        vectorised(
            #[inline(always)]
            || y.iter_mut().zip(&x).for_each(|(y, x)| *y = exp(*x)),
        );
        assert!(x.iter().zip(&y).all(|(x, y)| exp(*x) == *y));
    }

    #[test]
    fn normal_distribution() {
        // Φ from scipy.special.ndtr
        for (x, wanted) in [
            (0.0, 0.5),
            (0.5, 0.691_462_461_274_013_1),
            (1.0, 0.841_344_746_068_542_9),
            (-1.0, 0.158_655_253_931_457_05),
            (-2.5, 0.006_209_665_325_776_132),
            (4.0, 0.999_968_328_758_166_9),
        ] {
            let found = f64::from(normal(x).0);
            assert!((found - wanted).abs() < 1.5e-7, "{x}: {found} for {wanted}");
        }
        assert_eq!(normal(f32::INFINITY).0, 1.0);
        assert_eq!(normal(f32::NEG_INFINITY).0, 0.0);
        assert!(normal(f32::NAN).0.is_nan());
        close(normal(1.0).1, 0.241_970_724_519_143_37, 2e-7);
    }

    #[test]
    fn sums_and_maxima_of_any_length() {
        for len in [0, 1, 15, 64, 65, 200] {
            let x: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32).collect();
            assert_eq!(sum([&x], |[x]| x), x.iter().sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
