//! The eight backgrounds: a flat sky, a flat ground and a few props, so that a small model can
//! learn them, with enough jitter that no two are the same.

use super::SIZE;
use super::canvas::{Canvas, Placement};
use super::spec::Background;
use super::sprite::{Art, Prop};
use crate::rng::Rng;

const W: f32 = SIZE as f32;

/// Typical colours of what stands behind an object: sky or wall, and ground.
pub(super) fn tones(background: Background) -> [[f32; 3]; 2] {
    match background {
        Background::Beach => [[150.0, 210.0, 245.0], [228.0, 196.0, 135.0]],
        Background::Snow => [[195.0, 212.0, 235.0], [240.0, 246.0, 252.0]],
        Background::Forest => [[52.0, 105.0, 62.0], [100.0, 138.0, 62.0]],
        Background::City => [[185.0, 205.0, 222.0], [92.0, 95.0, 105.0]],
        Background::Desert => [[252.0, 205.0, 130.0], [212.0, 132.0, 66.0]],
        Background::Night => [[28.0, 32.0, 78.0], [26.0, 32.0, 44.0]],
        Background::Room => [[226.0, 196.0, 186.0], [152.0, 102.0, 60.0]],
        Background::Underwater => [[38.0, 120.0, 178.0], [205.0, 182.0, 128.0]],
    }
}

/// Draws `background` over the whole canvas.
pub(super) fn draw(canvas: &mut Canvas, background: Background, rng: &mut Rng) {
    let jitter = [0; 3].map(|_| rng.uniform(-9.0, 9.0));
    let tint = |c: [f32; 3]| [0, 1, 2].map(|i| (c[i] + jitter[i]).clamp(0.0, 255.0));
    let shade = |c: [f32; 3], k: f32| tint(c).map(|v| (v * k).clamp(0.0, 255.0));
    let [sky, ground] = tones(background);
    let horizon = rng.uniform(36.0, 41.0);
    // props keep to one side, where an object in the middle does not hide them
    let side = if rng.chance(0.5) { rng.uniform(3.0, 9.0) } else { W - rng.uniform(3.0, 9.0) };
    let other = W - side;
    canvas.gradient(0.0, horizon, shade(sky, 0.93), shade(sky, 1.06));
    canvas.gradient(horizon, W, shade(ground, 1.05), shade(ground, 0.93));
    let prop = |canvas: &mut Canvas, prop: Prop, x: f32, y: f32, size: f32| {
        canvas.sprite(Art::Prop(prop), Placement::plain(x, y, size), false, |t, _, _| t.natural);
    };
    match background {
        Background::Beach => {
            canvas.gradient(horizon - 9.0, horizon, [28.0, 120.0, 190.0], [60.0, 170.0, 215.0]);
            canvas.rect((0.0, W), (horizon, horizon + 1.2), [245.0, 240.0, 225.0]);
            prop(canvas, Prop::Palm, side, horizon - 4.0, rng.uniform(24.0, 30.0));
        }
        Background::Snow => {
            let hill = tint([224.0, 233.0, 246.0]);
            canvas.ellipse((side, horizon + 2.0), (30.0, rng.uniform(9.0, 14.0)), hill, 1.0);
            canvas.rect((0.0, W), (horizon, horizon + 0.8), tint([205.0, 218.0, 236.0]));
            canvas.gradient(horizon + 0.8, W, [246.0, 250.0, 254.0], [226.0, 236.0, 247.0]);
            for _ in 0..12 {
                let at = (rng.uniform(1.0, W - 1.0), rng.uniform(1.0, horizon));
                let r = rng.uniform(1.0, 1.6);
                canvas.ellipse(at, (r, r), [255.0; 3], 1.0);
            }
        }
        Background::Forest => {
            canvas.gradient(0.0, 14.0, tint([150.0, 190.0, 150.0]), tint([120.0, 165.0, 120.0]));
            canvas.gradient(14.0, horizon, tint([96.0, 142.0, 98.0]), shade(sky, 0.9));
            let start = rng.uniform(-4.0, 3.0);
            for i in 0..7 {
                let x = start + 10.5 * i as f32;
                let top = rng.uniform(2.0, 11.0);
                let green = shade([34.0, 84.0, 52.0], rng.uniform(0.85, 1.15));
                canvas.triangle(x, (top, 24.0), 6.0, green);
                canvas.triangle(x, (top + 9.0, horizon), 8.0, green);
            }
        }
        Background::City => {
            let mut x = rng.uniform(-6.0, 0.0);
            while x < W {
                let (width, top) = (rng.uniform(9.0, 14.0), rng.uniform(8.0, 24.0));
                let wall = shade([146.0, 140.0, 148.0], rng.uniform(0.8, 1.15));
                canvas.rect((x, x + width), (top, horizon), wall);
                let mut y = top + 2.5;
                while y < horizon - 3.0 {
                    canvas.rect(
                        (x + 2.0, x + width / 2.0 - 0.7),
                        (y, y + 2.6),
                        [250.0, 232.0, 160.0],
                    );
                    canvas.rect(
                        (x + width / 2.0 + 0.7, x + width - 2.0),
                        (y, y + 2.6),
                        [250.0, 232.0, 160.0],
                    );
                    y += 5.5;
                }
                x += width + 0.8;
            }
            canvas.rect((0.0, W), (horizon, horizon + 2.0), tint([176.0, 176.0, 178.0]));
            let shift = rng.uniform(-8.0, 0.0);
            for i in 0..5 {
                let x = shift + 17.0 * i as f32;
                canvas.rect((x, x + 9.0), (56.5, 58.5), [236.0, 232.0, 215.0]);
            }
        }
        Background::Desert => {
            let r = rng.uniform(4.5, 6.5);
            canvas.ellipse((other, rng.uniform(8.0, 14.0)), (r, r), [255.0, 244.0, 190.0], 1.0);
            let dune = shade([228.0, 160.0, 88.0], 1.0);
            canvas.ellipse((other, horizon + 2.0), (34.0, rng.uniform(6.0, 10.0)), dune, 1.0);
            canvas.gradient(horizon, W, shade(ground, 1.06), shade(ground, 0.9));
            prop(canvas, Prop::Cactus, side, horizon - 4.0, rng.uniform(15.0, 19.0));
        }
        Background::Night => {
            for _ in 0..16 {
                let at = (rng.uniform(1.0, W - 1.0), rng.uniform(1.0, horizon - 3.0));
                let r = rng.uniform(0.7, 1.2);
                canvas.ellipse(at, (r, r), [255.0, 246.0, 205.0], 1.0);
            }
            prop(
                canvas,
                Prop::Moon,
                other.clamp(8.0, W - 8.0),
                rng.uniform(8.0, 12.0),
                rng.uniform(11.0, 14.0),
            );
        }
        Background::Room => {
            let start = rng.uniform(-8.0, 0.0);
            for i in 0..6 {
                let x = start + 14.0 * i as f32;
                canvas.rect((x, x + 7.0), (0.0, horizon), shade(sky, 0.93));
            }
            canvas.rect((0.0, W), (horizon - 2.5, horizon), [250.0, 247.0, 242.0]);
            for y in [47.0, 55.0] {
                canvas.rect((0.0, W), (y, y + 0.8), shade(ground, 0.82));
            }
            let x = side.clamp(9.0, W - 9.0);
            prop(canvas, Prop::Picture, x, rng.uniform(10.0, 14.0), rng.uniform(14.0, 17.0));
        }
        Background::Underwater => {
            let floor = rng.uniform(52.0, 56.0);
            canvas.gradient(0.0, floor, tint([70.0, 180.0, 215.0]), tint([18.0, 72.0, 145.0]));
            canvas.gradient(floor, W, shade(ground, 1.0), shade(ground, 0.85));
            for _ in 0..6 {
                let at = (rng.uniform(2.0, W - 2.0), rng.uniform(3.0, 44.0));
                canvas.ring(at, rng.uniform(1.4, 2.8), 0.9, [215.0, 242.0, 252.0]);
            }
            prop(canvas, Prop::Coral, side, floor - 4.0, rng.uniform(13.0, 17.0));
        }
    }
}
