//! From a specification to pixels.

use super::canvas::{Canvas, Placement, mix, sin_cos};
use super::spec::{ObjectSpec, Pattern, PatternKind, SceneSpec};
use super::sprite::{Art, Texel};
use super::{SIZE, backdrop, style};
use crate::rng::Rng;

/// The picture of `spec`: `SIZE` × `SIZE` × 3 bytes, row by row, red first.
pub fn render(spec: &SceneSpec) -> Vec<u8> {
    let mut rng = Rng::new(spec.seed, "backdrop");
    let mut canvas = Canvas::new();
    backdrop::draw(&mut canvas, spec.background, &mut rng);
    for object in spec.objects.iter().rev() {
        shadow(&mut canvas, object);
        draw_object(&mut canvas, object);
    }
    style::apply(&mut canvas, spec.style, &mut Rng::new(spec.seed, "style"));
    debug_assert_eq!(canvas.pixels.len(), SIZE * SIZE);
    let bytes = canvas.pixels.iter().flatten();
    bytes.map(|&v| (v + 0.5).clamp(0.0, 255.0) as u8).collect()
}

impl ObjectSpec {
    pub(super) fn placement(&self) -> Placement {
        let ObjectSpec { x, y, size, tilt, aspect, flip, .. } = *self;
        Placement { x, y, size, tilt, aspect, flip }
    }

    /// Half of the width and height that it takes up, in pixels.
    pub(super) fn half_box(&self) -> (f32, f32) {
        self.placement().half_box(Art::Object(self.category).sprite().extent)
    }
}

/// A soft dark ellipse that puts the object on the ground.
fn shadow(canvas: &mut Canvas, object: &ObjectSpec) {
    let (w, h) = object.half_box();
    canvas.ellipse((object.x, object.y + h - 0.5), (0.85 * w, 1.0 + 0.09 * w), [20.0; 3], 0.22);
}

fn draw_object(canvas: &mut Canvas, object: &ObjectSpec) {
    let art = Art::Object(object.category);
    let color = object.color.map(|c| c.rgb());
    let pattern = object.pattern.map(|p| Ink::new(p, object.size));
    canvas.sprite(art, object.placement(), true, |texel, u, v| {
        let mut texel = *texel;
        if pattern.is_some() {
            // highlights (a toadstool's spots) would read as a second pattern
            texel.shade = texel.shade.min(texel.body);
        }
        let base = match color {
            Some(c) => repaint(&texel, c),
            None => texel.natural,
        };
        match &pattern {
            Some(ink) if texel.body > 0.0 => mix(base, repaint(&texel, ink.color), ink.cover(u, v)),
            _ => base,
        }
    });
}

/// The texel with the body in another colour. A shade below 1 darkens it; above 1 it lightens it
/// towards white, so that a highlight on a saturated colour stays visible.
fn repaint(texel: &Texel, color: [f32; 3]) -> [f32; 3] {
    let over = (texel.shade - texel.body).max(0.0);
    let shade = texel.shade.min(texel.body);
    [0, 1, 2].map(|k| texel.rest[k] + shade * color[k] + over * (255.0 - color[k]))
}

/// A pattern made ready to be asked about points.
struct Ink {
    kind: PatternKind,
    color: [f32; 3],
    frequency: f32,
    sin: f32,
    cos: f32,
    phase: f32,
    /// Pixels a repeat, for soft edges.
    pixels: f32,
}

impl Ink {
    fn new(p: Pattern, size: f32) -> Self {
        let (sin, cos) = sin_cos(p.angle);
        let pixels = size / p.frequency;
        Ink {
            kind: p.kind,
            color: p.color.rgb(),
            frequency: p.frequency,
            sin,
            cos,
            phase: p.phase,
            pixels,
        }
    }

    /// How much of the point (u, v) is stripe or dot.
    fn cover(&self, u: f32, v: f32) -> f32 {
        /// Share of a repeat that is stripe.
        const DUTY: f32 = 0.45;
        /// Radius of a dot, in repeats.
        const RADIUS: f32 = 0.31;
        /// Distance of the rows of a hexagonal grid.
        const ROW: f32 = 0.866;
        let a = (self.cos * u + self.sin * v) * self.frequency + self.phase;
        let b = (self.cos * v - self.sin * u) * self.frequency + self.phase;
        let distance = match self.kind {
            PatternKind::Stripes => 0.5 * DUTY - (a - a.floor() - 0.5).abs(),
            PatternKind::Dots => {
                let row = (b / ROW).floor();
                let nearest = [row, row + 1.0].map(|row| {
                    let shift = if row.rem_euclid(2.0) < 0.5 { 0.0 } else { 0.5 };
                    let dx = (a + shift) - (a + shift).round();
                    let dy = b - row * ROW;
                    (dx * dx + dy * dy).sqrt()
                });
                RADIUS - nearest[0].min(nearest[1])
            }
        };
        (distance * self.pixels + 0.5).clamp(0.0, 1.0)
    }
}
