//! Twemoji art as layers that can be recoloured exactly.
//!
//! Every fill of an SVG either belongs to the object's body or does not, so each picture is
//! rasterised three times: as it is; with the body black, which leaves what the rest contributes to
//! each antialiased pixel; and with the body as coverage and shade. A recoloured pixel is then
//! `rest + shade · colour`: no colour keying, no fringes.

use std::collections::HashMap;
use std::sync::OnceLock;

use resvg::{tiny_skia, usvg};
use twemoji_assets::svg::{SvgTwemojiAsset, codes};

use super::spec::Category;

/// Longer side of the rasters of every picture, in pixels. The largest also gives the outline's box.
const LEVELS: [u32; 3] = [64, 128, 256];
/// Shade 1 is stored as this, so that highlights fit into a byte.
const SHADE_ONE: f32 = 170.0;
/// Alpha, red, green, blue, rest of red, green, blue, body coverage × shade, body coverage.
const CHANNELS: usize = 9;

/// A picture of the scenery, always in its natural palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Prop {
    Palm,
    Cactus,
    Moon,
    Picture,
    Coral,
}

/// Which art to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Art {
    Object(Category),
    Prop(Prop),
}

impl Art {
    const PROPS: [Prop; 5] = [Prop::Palm, Prop::Cactus, Prop::Moon, Prop::Picture, Prop::Coral];

    fn source(self) -> Source {
        let source =
            |asset: SvgTwemojiAsset, body| Source { svg: asset.data.0, body, dropped: &[] };
        match self {
            Art::Object(category) => match category {
                Category::Cat => source(codes::U_1F431, &["#FFCC4D", "#F18F26"]),
                Category::Dog => source(codes::U_1F436, &["#D99E82"]),
                Category::Teddybear => source(codes::U_1F9F8, &["#C1694F", "#934035"]),
                Category::Chair => source(codes::U_1FA91, &["#C1694F", "#A4523A", "#D99E82"]),
                Category::Flower => source(codes::U_1F337, &["#F4ABBA", "#EA596E"]),
                Category::Car => source(codes::U_1F697, &["#DD2E44"]),
                // the saucer would run into one shape with the cup
                Category::Cup => Source {
                    dropped: &[
                        r##"fill="#99AAB5" cx="18" cy="26""##,
                        r##"fill="#CCD6DD" cx="18" cy="24""##,
                    ],
                    ..source(codes::U_2615, &["#F5F8FA", "#CCD6DD"])
                },
                Category::Fish => source(codes::U_1F420, &["#FFCC4D", "#FFAC33", "#F4900C"]),
                Category::Robot => source(codes::U_1F916, &["#55ACEE", "#3B88C3", "#269"]),
                Category::Mushroom => source(codes::U_1F344, &["#DD2E44", "#F4ABBA"]),
                Category::Umbrella => source(codes::U_2602, &["#9266CC", "#744EAA"]),
                // the strip of water would put a sea into every background
                Category::Boat => Source {
                    dropped: &[r##"fill="#55ACEE""##],
                    ..source(codes::U_26F5, &["#FFAC33", "#F4900C"])
                },
            },
            Art::Prop(Prop::Palm) => source(codes::U_1F334, &[]),
            Art::Prop(Prop::Cactus) => source(codes::U_1F335, &[]),
            Art::Prop(Prop::Moon) => source(codes::U_1F319, &[]),
            Art::Prop(Prop::Picture) => source(codes::U_1F5BC, &[]),
            Art::Prop(Prop::Coral) => source(codes::U_1FAB8, &[]),
        }
    }

    /// The rasters of this art; made once.
    pub(super) fn sprite(self) -> &'static Sprite {
        static SPRITES: OnceLock<HashMap<Art, Sprite>> = OnceLock::new();
        let all = SPRITES.get_or_init(|| {
            let objects = Category::ALL.iter().map(|&c| Art::Object(c));
            let arts = objects.chain(Art::PROPS.map(Art::Prop));
            arts.map(|art| (art, Sprite::rasterise(art))).collect()
        });
        &all[&self]
    }
}

/// How a picture comes about.
struct Source {
    svg: &'static str,
    /// The fills of the body; the first is its main colour.
    body: &'static [&'static str],
    /// Attributes of elements to leave out.
    dropped: &'static [&'static str],
}

/// One pixel of a sprite; colours are premultiplied, 0 to 255.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Texel {
    /// 0 to 255.
    pub alpha: f32,
    /// In the natural palette.
    pub natural: [f32; 3],
    /// What is not body.
    pub rest: [f32; 3],
    /// Coverage of the body times its shade; 1 is the main colour.
    pub shade: f32,
    /// Coverage of the body, 0 to 1.
    pub body: f32,
}

/// The rasters of one picture, cropped to its outline.
pub(super) struct Sprite {
    levels: Vec<Raster>,
    /// Width and height as shares of the longer side.
    pub extent: (f32, f32),
    /// The natural main colour of the body, 0 to 255.
    pub main: [f32; 3],
}

/// Pixels with a transparent border of one.
struct Raster {
    width: usize,
    height: usize,
    texels: Vec<[u8; CHANNELS]>,
}

impl Sprite {
    fn rasterise(art: Art) -> Self {
        let Source { svg, body, dropped } = art.source();
        let svg = dropped.iter().fold(svg.to_owned(), |svg, attributes| {
            svg.replace(attributes, &format!("{attributes} display=\"none\""))
        });
        let main = body.first().map_or([128.0; 3], |hex| rgb(hex));
        let light = |c: [f32; 3]| (c[0] + c[1] + c[2]).max(1.0);
        let restyled = |of_body: &dyn Fn(&str) -> String, of_rest: Option<&str>| {
            let text = replace_fills(&svg, |fill| {
                if body.contains(&fill) { of_body(fill) } else { of_rest.unwrap_or(fill).into() }
            });
            usvg::Tree::from_str(&text, &usvg::Options::default())
                .expect("the embedded art is valid SVG")
        };
        let natural = restyled(&|fill| fill.into(), None);
        let rest = restyled(&|_| "#000".into(), None);
        let mask = restyled(
            &|fill| {
                let shade = light(rgb(fill)) / light(main);
                // half way to 1: flat colour carries a pattern better than strong shading
                let shade = (0.5 + 0.5 * shade) * SHADE_ONE;
                format!("rgb({},255,0)", shade.clamp(0.0, 255.0) as u8)
            },
            Some("#000"),
        );

        let (left, top, width, height) = outline(&natural);
        let longer = width.max(height);
        let levels = LEVELS.map(|level| {
            let scale = level as f32 / longer;
            let size = |side: f32| (side * scale).ceil() as u32 + 2;
            let (w, h) = (size(width), size(height));
            let transform = tiny_skia::Transform::from_translate(-left, -top)
                .post_scale(scale, scale)
                .post_translate(1.0, 1.0);
            let draw = |tree| draw(tree, w, h, transform);
            let (natural, rest, mask) = (draw(&natural), draw(&rest), draw(&mask));
            let texels =
                natural.chunks_exact(4).zip(rest.chunks_exact(4)).zip(mask.chunks_exact(4));
            let texels = texels
                .map(|((n, r), m)| [n[3], n[0], n[1], n[2], r[0], r[1], r[2], m[0], m[1]])
                .collect();
            Raster { width: w as usize, height: h as usize, texels }
        });
        Sprite { levels: levels.into(), extent: (width / longer, height / longer), main }
    }

    /// Reads this sprite when it is drawn `size` pixels long.
    pub(super) fn sampler(&self, size: f32) -> Sampler<'_> {
        let level = LEVELS.iter().position(|&l| l as f32 >= 2.0 * size).unwrap_or(LEVELS.len() - 1);
        Sampler { raster: &self.levels[level], scale: LEVELS[level] as f32, extent: self.extent }
    }
}

/// Bilinear access to one raster.
pub(super) struct Sampler<'a> {
    raster: &'a Raster,
    scale: f32,
    extent: (f32, f32),
}

impl Sampler<'_> {
    /// The texel at (u, v), measured from the centre in shares of the longer side.
    pub(super) fn at(&self, u: f32, v: f32) -> Option<Texel> {
        // 1 for the border, less a half because texel centres lie between the edges
        let x = (u + 0.5 * self.extent.0) * self.scale + 0.5;
        let y = (v + 0.5 * self.extent.1) * self.scale + 0.5;
        let (w, h) = (self.raster.width, self.raster.height);
        if !(x >= 0.0 && y >= 0.0 && x < (w - 1) as f32 && y < (h - 1) as f32) {
            return None;
        }
        let (ix, iy) = (x as usize, y as usize);
        let (fx, fy) = (x - ix as f32, y - iy as f32);
        let row = &self.raster.texels[iy * w + ix..];
        let (a, b, c, d) = (&row[0], &row[1], &row[w], &row[w + 1]);
        if a[0] | b[0] | c[0] | d[0] == 0 {
            return None;
        }
        let mut m = [0.0; CHANNELS];
        for (i, m) in m.iter_mut().enumerate() {
            let top = f32::from(a[i]) + fx * (f32::from(b[i]) - f32::from(a[i]));
            let bottom = f32::from(c[i]) + fx * (f32::from(d[i]) - f32::from(c[i]));
            *m = top + fy * (bottom - top);
        }
        let [alpha, n0, n1, n2, r0, r1, r2, shade, body] = m;
        Some(Texel {
            alpha,
            natural: [n0, n1, n2],
            rest: [r0, r1, r2],
            shade: shade / SHADE_ONE,
            body: body / 255.0,
        })
    }
}

/// Rewrites each `fill="…"` of an SVG.
fn replace_fills(svg: &str, mut new: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(svg.len());
    let mut parts = svg.split("fill=\"");
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (fill, after) = part.split_once('"').unwrap_or((part, ""));
        out.push_str(&format!("fill=\"{}\"{after}", new(fill)));
    }
    out
}

/// `#RGB` or `#RRGGBB`, as 0 to 255; art uses no other form for the fills named here.
fn rgb(hex: &str) -> [f32; 3] {
    let digits: Vec<f32> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as f32).collect();
    match digits[..] {
        [r, g, b] => [17.0 * r, 17.0 * g, 17.0 * b],
        [r, r2, g, g2, b, b2] => [16.0 * r + r2, 16.0 * g + g2, 16.0 * b + b2],
        _ => [0.0; 3],
    }
}

fn draw(tree: &usvg::Tree, width: u32, height: u32, transform: tiny_skia::Transform) -> Vec<u8> {
    let mut pixmap = tiny_skia::Pixmap::new(width, height).expect("sprites have an area");
    resvg::render(tree, transform, &mut pixmap.as_mut());
    pixmap.data().to_vec()
}

/// Left, top, width and height of what is drawn, in the SVG's units.
fn outline(tree: &usvg::Tree) -> (f32, f32, f32, f32) {
    const SIDE: usize = 288;
    let scale = SIDE as f32 / tree.size().width();
    let transform = tiny_skia::Transform::from_scale(scale, scale);
    let data = draw(tree, SIDE as u32, SIDE as u32, transform);
    let filled = |i: &usize| data[4 * i + 3] > 96;
    let (mut x0, mut x1, mut y0, mut y1) = (SIDE, 0, SIDE, 0);
    for i in (0..SIDE * SIDE).filter(filled) {
        (x0, x1) = (x0.min(i % SIDE), x1.max(i % SIDE + 1));
        (y0, y1) = (y0.min(i / SIDE), y1.max(i / SIDE + 1));
    }
    let unit = |n: usize| n as f32 / scale;
    (unit(x0), unit(y0), unit(x1 - x0), unit(y1 - y0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_every_object_agree() {
        for &category in Category::ALL {
            let sprite = Art::Object(category).sprite();
            let level = &sprite.levels[1];
            let body = level.texels.iter().filter(|t| t[8] > 200).count() as f32;
            let all = level.texels.iter().filter(|t| t[0] > 200).count() as f32;
            assert!(body / all > 0.25, "{category:?}: too little to recolour, {}", body / all);
            for t in &level.texels {
                assert!(t[8] <= t[0].saturating_add(4), "{category:?}: body outside the outline");
                assert!(
                    (0..3).all(|i| t[4 + i] <= t[1 + i].saturating_add(4)),
                    "{category:?}: rest over whole"
                );
            }
            let (w, h) = sprite.extent;
            assert!(w.max(h) == 1.0 && w.min(h) > 0.4, "{category:?}: {w} × {h}");
        }
    }

    #[test]
    fn fills_are_rewritten_in_place() {
        let text = replace_fills(r##"<a fill="#123" d=""/><g fill="#456"/>"##, |f| format!("{f}!"));
        assert_eq!(text, r##"<a fill="#123!" d=""/><g fill="#456!"/>"##);
        assert_eq!(rgb("#269"), [34.0, 102.0, 153.0]);
        assert_eq!(rgb("#FF8000"), [255.0, 128.0, 0.0]);
    }
}
