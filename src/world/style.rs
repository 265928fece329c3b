//! The three drawn styles, as filters over a finished scene.

use super::SIZE;
use super::canvas::{Canvas, mix};
use super::spec::Style;
use crate::rng::Rng;

/// Redraws the canvas in `style`.
pub(super) fn apply(canvas: &mut Canvas, style: Style, rng: &mut Rng) {
    match style {
        Style::Photo => {}
        Style::Watercolor => watercolor(canvas, rng),
        Style::PencilSketch => pencil(canvas, rng),
        Style::PixelArt => blocks(canvas),
    }
}

/// Smooth noise in ±1: random values on a grid, bilinear with smoothed steps between.
struct Noise {
    values: Vec<f32>,
    side: usize,
    cell: f32,
}

impl Noise {
    fn new(cell: f32, rng: &mut Rng) -> Self {
        let side = (SIZE as f32 / cell) as usize + 3;
        Noise { values: (0..side * side).map(|_| rng.uniform(-1.0, 1.0)).collect(), side, cell }
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x / self.cell, y / self.cell);
        let (ix, iy) = (x as usize, y as usize);
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        let (fx, fy) = (smooth(x - ix as f32), smooth(y - iy as f32));
        let v = |dx: usize, dy: usize| self.values[(iy + dy) * self.side + ix + dx];
        let top = v(0, 0) + fx * (v(1, 0) - v(0, 0));
        let bottom = v(0, 1) + fx * (v(1, 1) - v(0, 1));
        top + fy * (bottom - top)
    }
}

/// The pixel at a place, edges repeated, bilinear.
fn bilinear(pixels: &[[f32; 3]], x: f32, y: f32) -> [f32; 3] {
    let last = SIZE as f32 - 1.0;
    let (x, y) = (x.clamp(0.0, last), y.clamp(0.0, last));
    let (ix, iy) = ((x as usize).min(SIZE - 2), (y as usize).min(SIZE - 2));
    let (fx, fy) = (x - ix as f32, y - iy as f32);
    let p = |dx: usize, dy: usize| pixels[(iy + dy) * SIZE + ix + dx];
    mix(mix(p(0, 0), p(1, 0), fx), mix(p(0, 1), p(1, 1), fx), fy)
}

/// Mean over a square of side `2 radius + 1`, edges repeated; rows, then columns.
fn blur<const N: usize>(pixels: &[[f32; N]], radius: usize) -> Vec<[f32; N]> {
    let pass = |from: &[[f32; N]], step: usize, line: usize| {
        let mut to = vec![[0.0; N]; SIZE * SIZE];
        for a in 0..SIZE {
            for b in 0..SIZE {
                let mut sum = [0.0; N];
                for k in 0..=2 * radius {
                    let b = (b + k).saturating_sub(radius).min(SIZE - 1);
                    for (s, v) in sum.iter_mut().zip(from[a * line + b * step]) {
                        *s += v;
                    }
                }
                to[a * line + b * step] = sum.map(|s| s / (2 * radius + 1) as f32);
            }
        }
        to
    };
    pass(&pass(pixels, 1, SIZE), SIZE, 1)
}

/// Wobbling outlines, blotches of pigment, darker rims and a border of bare paper. Saturation is
/// raised first, because paper shining through takes it away again.
fn watercolor(canvas: &mut Canvas, rng: &mut Rng) {
    const PAPER: [f32; 3] = [252.0, 250.0, 244.0];
    let (wobble_x, wobble_y) = (Noise::new(7.0, rng), Noise::new(7.0, rng));
    let (wash, grain) = (Noise::new(13.0, rng), Noise::new(4.0, rng));
    let border = Noise::new(6.0, rng);
    let mut wet = vec![[0.0; 3]; SIZE * SIZE];
    for y in 0..SIZE {
        for x in 0..SIZE {
            let (fx, fy) = (x as f32, y as f32);
            let (dx, dy) = (1.6 * wobble_x.at(fx, fy), 1.6 * wobble_y.at(fx, fy));
            wet[y * SIZE + x] = bilinear(&canvas.pixels, fx + dx, fy + dy);
        }
    }
    let soft = blur(&wet, 1);
    let wide = blur(&soft, 2);
    for y in 0..SIZE {
        for x in 0..SIZE {
            let (fx, fy) = (x as f32, y as f32);
            let i = y * SIZE + x;
            let base = mix(wet[i], soft[i], 0.5);
            let grey = (base[0] + base[1] + base[2]) / 3.0;
            let strength = 0.86 + 0.13 * wash.at(fx, fy) + 0.07 * grain.at(fx, fy);
            let edge = fx.min(fy).min((SIZE - 1) as f32 - fx).min((SIZE - 1) as f32 - fy);
            let inside = ((edge - 2.2 + 2.2 * border.at(fx, fy)) / 2.0).clamp(0.0, 1.0);
            for k in 0..3 {
                let vivid = grey + 1.3 * (base[k] - grey);
                // pigment gathers on the darker side of an edge
                let rim = (base[k] - wide[i][k]).clamp(-30.0, 0.0) * 0.8;
                let wet = PAPER[k] + strength * (vivid + rim - PAPER[k]);
                canvas.pixels[i][k] = PAPER[k] + inside * (wet - PAPER[k]);
            }
        }
    }
}

/// Lines where colours change, outlines of objects, light shading where it is dark.
fn pencil(canvas: &mut Canvas, rng: &mut Rng) {
    const PAPER: f32 = 249.0;
    let pressure = Noise::new(9.0, rng);
    let grain = Noise::new(1.6, rng);
    let light = |p: &[f32; 3]| 0.3 * p[0] + 0.59 * p[1] + 0.11 * p[2];
    // luminance and object coverage side by side
    let planes: Vec<[f32; 2]> =
        (canvas.pixels.iter().zip(&canvas.covered)).map(|(p, c)| [light(p), 255.0 * c]).collect();
    let colors = canvas.pixels.clone();
    let at = |x: usize, y: usize, dx: i32, dy: i32| {
        let clamp = |v: usize, d: i32| (v as i32 + d).clamp(0, SIZE as i32 - 1) as usize;
        clamp(y, dy) * SIZE + clamp(x, dx)
    };
    for y in 0..SIZE {
        for x in 0..SIZE {
            let (mut color_edge, mut outline) = (0.0f32, 0.0f32);
            for (dx, dy) in [(1, 0), (0, 1)] {
                let (a, b) = (at(x, y, -dx, -dy), at(x, y, dx, dy));
                let d = (0..3).map(|k| (colors[b][k] - colors[a][k]).abs());
                color_edge += d.fold(0.0, f32::max);
                outline += (planes[b][1] - planes[a][1]).abs();
            }
            let i = y * SIZE + x;
            let [tone, covered] = planes[i];
            let noise = 1.0 + 0.25 * pressure.at(x as f32, y as f32);
            let lines = (0.55 * color_edge * if covered > 128.0 { 1.0 } else { 0.7 }
                + 0.55 * outline)
                .min(215.0)
                * noise;
            let dark = 1.0 - tone / 255.0;
            // shading: smooth, because a latent four times smaller cannot hold hatching
            let fill = if covered > 128.0 { 95.0 } else { 85.0 } * dark * noise;
            let g = (PAPER
                - lines.max(fill)
                - 0.3 * fill.min(lines)
                - 5.0 * grain.at(x as f32, y as f32))
            .max(25.0);
            canvas.pixels[i] = [g; 3];
        }
    }
}

/// Blocks of 4 × 4 pixels in few colours.
fn blocks(canvas: &mut Canvas) {
    const BLOCK: usize = 4;
    /// More weight in the middle keeps edges crisp.
    const WEIGHTS: [f32; BLOCK] = [1.0, 2.0, 2.0, 1.0];
    /// Levels a channel.
    const LEVELS: f32 = 16.0;
    let step = 255.0 / (LEVELS - 1.0);
    for block in 0..(SIZE / BLOCK).pow(2) {
        let (top, left) = (block / (SIZE / BLOCK) * BLOCK, block % (SIZE / BLOCK) * BLOCK);
        let (mut sum, mut weight) = ([0.0; 3], 0.0);
        for (y, v) in WEIGHTS.iter().enumerate() {
            for (x, h) in WEIGHTS.iter().enumerate() {
                weight += v * h;
                let pixel = canvas.pixels[(top + y) * SIZE + left + x];
                for (s, p) in sum.iter_mut().zip(pixel) {
                    *s += v * h * p;
                }
            }
        }
        let color = sum.map(|s| (s / weight / step).round() * step);
        for row in canvas.pixels.chunks_mut(SIZE).skip(top).take(BLOCK) {
            row[left..left + BLOCK].fill(color);
        }
    }
}
