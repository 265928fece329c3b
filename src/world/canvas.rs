//! A float picture with the few drawing operations a scene needs. Every operation is a fixed
//! sequence of float operations per pixel: the same bytes on any number of threads.

use super::SIZE;
use super::sprite::{Art, Texel};

/// An RGB picture of `SIZE` × `SIZE`, 0 to 255, and how much of each pixel the objects cover.
pub(super) struct Canvas {
    /// Row by row.
    pub pixels: Vec<[f32; 3]>,
    /// 0 to 1.
    pub covered: Vec<f32>,
}

/// Where and how large a sprite is drawn: see [`super::ObjectSpec`].
#[derive(Clone, Copy)]
pub(super) struct Placement {
    pub x: f32,
    pub y: f32,
    pub size: f32,
    pub tilt: f32,
    pub aspect: f32,
    pub flip: bool,
}

impl Placement {
    /// Upright, as it was drawn.
    pub(super) fn plain(x: f32, y: f32, size: f32) -> Self {
        Placement { x, y, size, tilt: 0.0, aspect: 1.0, flip: false }
    }

    /// Half of the width and height of the box around the tilted sprite, in pixels.
    pub(super) fn half_box(&self, (w, h): (f32, f32)) -> (f32, f32) {
        let (sin, cos) = sin_cos(self.tilt);
        let (sin, cos) = (sin.abs(), cos.abs());
        let root = self.aspect.sqrt();
        let (w, h) = (0.5 * self.size * w * root, 0.5 * self.size * h / root);
        // the art's corners are round: a tilted box would be too careful by about a half
        (w * cos + 0.5 * h * sin, h * cos + 0.5 * w * sin)
    }
}

/// Sine and cosine of `turns`, by a series: the system's differ in the last bit by platform.
pub(super) fn sin_cos(turns: f32) -> (f32, f32) {
    let series = |turns: f32| {
        // into ±1/4, where the series is good to 1e-6
        let t = turns - turns.round();
        let t = if t.abs() > 0.25 { 0.5 * t.signum() - t } else { t };
        let x = std::f32::consts::TAU * t;
        let q = x * x;
        x * (1.0 - q / 6.0 * (1.0 - q / 20.0 * (1.0 - q / 42.0 * (1.0 - q / 72.0))))
    };
    (series(turns), series(turns + 0.25))
}

pub(super) fn mix(a: [f32; 3], b: [f32; 3], t: f32) -> [f32; 3] {
    [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2])]
}

impl Canvas {
    pub(super) fn new() -> Self {
        Canvas { pixels: vec![[0.0; 3]; SIZE * SIZE], covered: vec![0.0; SIZE * SIZE] }
    }

    /// A vertical gradient between two heights (pixels from the top; edges may lie inside a pixel).
    pub(super) fn gradient(&mut self, top: f32, bottom: f32, from: [f32; 3], to: [f32; 3]) {
        for y in 0..SIZE {
            let cover = (bottom.min(y as f32 + 1.0) - top.max(y as f32)).clamp(0.0, 1.0);
            if cover > 0.0 {
                let t = ((y as f32 + 0.5 - top) / (bottom - top)).clamp(0.0, 1.0);
                let color = mix(from, to, t);
                for p in &mut self.pixels[y * SIZE..(y + 1) * SIZE] {
                    *p = mix(*p, color, cover);
                }
            }
        }
    }

    /// Paints where `cover` (of a pixel centre; 0 to 1) says, within a box of pixels.
    pub(super) fn shape(
        &mut self,
        (x0, x1): (f32, f32),
        (y0, y1): (f32, f32),
        color: [f32; 3],
        cover: impl Fn(f32, f32) -> f32,
    ) {
        let range = |a: f32, b: f32| {
            (a.floor().max(0.0) as usize)..(b.ceil().clamp(0.0, SIZE as f32) as usize)
        };
        for y in range(y0, y1) {
            for x in range(x0, x1) {
                let t = cover(x as f32 + 0.5, y as f32 + 0.5).clamp(0.0, 1.0);
                let p = &mut self.pixels[y * SIZE + x];
                *p = mix(*p, color, t);
            }
        }
    }

    /// An upright rectangle.
    pub(super) fn rect(&mut self, (x0, x1): (f32, f32), (y0, y1): (f32, f32), color: [f32; 3]) {
        let inside = |a: f32, b: f32, p: f32| (b.min(p + 0.5) - a.max(p - 0.5)).clamp(0.0, 1.0);
        self.shape((x0, x1), (y0, y1), color, |x, y| inside(x0, x1, x) * inside(y0, y1, y));
    }

    /// An ellipse of opacity `alpha`; edges as wide as a pixel.
    pub(super) fn ellipse(
        &mut self,
        (x, y): (f32, f32),
        (rx, ry): (f32, f32),
        color: [f32; 3],
        alpha: f32,
    ) {
        self.shape((x - rx - 1.0, x + rx + 1.0), (y - ry - 1.0, y + ry + 1.0), color, |px, py| {
            let (dx, dy) = ((px - x) / rx, (py - y) / ry);
            let d = (dx * dx + dy * dy).sqrt();
            alpha * ((1.0 - d) * rx.min(ry) + 0.5).clamp(0.0, 1.0)
        });
    }

    /// A ring of radius `r`.
    pub(super) fn ring(&mut self, (x, y): (f32, f32), r: f32, width: f32, color: [f32; 3]) {
        let b = r + width;
        self.shape((x - b, x + b), (y - b, y + b), color, |px, py| {
            let d = ((px - x) * (px - x) + (py - y) * (py - y)).sqrt();
            0.5 * width + 0.5 - (d - r).abs()
        });
    }

    /// An isosceles triangle on its base.
    pub(super) fn triangle(&mut self, x: f32, (top, base): (f32, f32), half: f32, color: [f32; 3]) {
        let slope = half / (base - top);
        self.shape((x - half, x + half), (top, base), color, |px, py| {
            ((py - top) * slope - (px - x).abs() + 0.5) * (base - py + 0.5).clamp(0.0, 1.0)
        });
    }

    /// Draws a sprite; `paint` gives the premultiplied colour of a texel at (u, v) of its frame.
    pub(super) fn sprite(
        &mut self,
        art: Art,
        at: Placement,
        is_object: bool,
        paint: impl Fn(&Texel, f32, f32) -> [f32; 3],
    ) {
        /// Samples a pixel, in each direction.
        const GRID: usize = 2;
        let sprite = art.sprite();
        let sampler = sprite.sampler(at.size);
        let (sin, cos) = sin_cos(at.tilt);
        let root = at.aspect.sqrt();
        let scale_u = if at.flip { -1.0 } else { 1.0 } / (at.size * root);
        let scale_v = root / at.size;
        // the box around the turned sprite, and a pixel for its soft edge
        let (w, h) =
            (0.5 * at.size * root * sprite.extent.0, 0.5 * at.size / root * sprite.extent.1);
        let (reach_x, reach_y) =
            (w * cos.abs() + h * sin.abs() + 1.0, h * cos.abs() + w * sin.abs() + 1.0);
        let range = |c: f32, reach: f32| {
            let end = (c + reach).clamp(0.0, SIZE as f32) as usize;
            ((c - reach).max(0.0) as usize)..(end + 1).min(SIZE)
        };
        for y in range(at.y, reach_y) {
            for x in range(at.x, reach_x) {
                let (mut color, mut alpha) = ([0.0f32; 3], 0.0f32);
                for i in 0..GRID * GRID {
                    let dx = x as f32 + ((i % GRID) as f32 + 0.5) / GRID as f32 - at.x;
                    let dy = y as f32 + ((i / GRID) as f32 + 0.5) / GRID as f32 - at.y;
                    let u = (cos * dx + sin * dy) * scale_u;
                    let v = (cos * dy - sin * dx) * scale_v;
                    if let Some(texel) = sampler.at(u, v) {
                        let c = paint(&texel, u, v);
                        for k in 0..3 {
                            color[k] += c[k];
                        }
                        alpha += texel.alpha;
                    }
                }
                if alpha > 0.0 {
                    let n = (GRID * GRID) as f32;
                    let left = 1.0 - alpha / (255.0 * n);
                    let p = &mut self.pixels[y * SIZE + x];
                    for k in 0..3 {
                        p[k] = p[k] * left + color[k] / n;
                    }
                    if is_object {
                        let c = &mut self.covered[y * SIZE + x];
                        *c = 1.0 - (1.0 - *c) * left;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sine_series_is_close() {
        for i in -100..=100 {
            let t = i as f32 / 50.0;
            let (sin, cos) = sin_cos(t);
            let x = std::f32::consts::TAU * t;
            assert!((sin - x.sin()).abs() < 1e-5 && (cos - x.cos()).abs() < 1e-5, "{t}");
        }
    }

    #[test]
    fn a_rectangle_covers_parts_of_pixels() {
        let mut canvas = Canvas::new();
        canvas.rect((1.0, 2.5), (0.0, 1.0), [100.0; 3]);
        let red: Vec<f32> = canvas.pixels[..4].iter().map(|p| p[0]).collect();
        assert_eq!(red, [0.0, 100.0, 50.0, 0.0]);
    }
}
