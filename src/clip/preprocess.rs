//! Pictures to what a network takes, as transformers' image processors prepare them with Pillow.

use std::path::{Path, PathBuf};

use image::RgbImage;
use ndarray::Array4;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::resample::{Filter, Window, resize, resize_floats};
use crate::diffusion::config::read_object;
use crate::{Error, Result};

/// CLIP's own (Radford et al. 2021, the published code).
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
#[allow(clippy::excessive_precision)] // as published
const STD: [f32; 3] = [0.26862954, 0.26130258, 0.27577711];

/// ImageNet's, which DINO's weights are trained with.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// The longest side asked for that is believed.
pub(super) const MAX_SIDE: u32 = 4096;

/// What happens to a picture's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resize {
    No,
    Shorter(u32),
    /// Width and height.
    To([u32; 2]),
}

/// Resizes, crops and normalises pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    pub(super) resize: Resize,
    pub(super) filter: Filter,
    /// Shrinking takes all pixels into account.
    pub(super) antialias: bool,
    /// What is resized has eight bits again.
    pub(super) rounded: bool,
    /// Width and height.
    pub(super) crop: Option<[u32; 2]>,
    pub(super) rescale: f64,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    pub(super) side: u32,
}

/// Transformers' image processors, by what their names begin with: they differ in what is meant where
/// their files say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Clip,
    Vit,
    /// Of DINOv2.
    Bit,
}

impl Preprocessor {
    /// Reads `preprocessor_config.json`, or what transformers 5 writes instead, of a model that takes
    /// pictures of `side` × `side` pixels. Where there is neither, it is CLIP's with that size, and a
    /// warning says so.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, the key and the value.
    pub fn read(folder: &Path, side: usize) -> Result<Self> {
        let side = u32::try_from(side).unwrap_or(u32::MAX);
        let (object, path) = configuration(folder)?;
        let object = object.unwrap_or_else(|| {
            warn_of_default(folder, "OpenAI's CLIP");
            Map::from_iter(["size", "crop_size"].map(|key| (key.to_owned(), side.into())))
        });
        let file = File { object, path };
        match file.kind() {
            Some(kind) if !kind.starts_with("CLIP") => {
                file.wrong("image_processor_type", "only CLIP's is supported")
            }
            _ => Self::from_file(&file, Style::Clip, Some(side)),
        }
    }

    /// The same of a vision transformer trained on pictures of `side` pixels, which takes others, too.
    /// Where there is no file, a warning says so, and it is DINO's: the shorter side to 8/7 of that (256 for 224) by the cubic,
    /// the middle, ImageNet's mean and deviation.
    ///
    /// # Errors
    /// As [`Preprocessor::read`].
    pub fn of_vit(folder: &Path, side: usize) -> Result<Self> {
        let (object, path) = configuration(folder)?;
        let Some(object) = object else {
            warn_of_default(folder, "DINO");
            let side = u32::try_from(side).unwrap_or(u32::MAX);
            let [mean, std] = IMAGENET;
            return Ok(Preprocessor {
                resize: Resize::Shorter(side.saturating_mul(8) / 7),
                filter: Filter::Bicubic,
                antialias: true,
                rounded: true,
                crop: Some([side; 2]),
                rescale: 1.0 / 255.0,
                mean,
                std,
                side,
            });
        };
        let file = File { object, path };
        match file.kind() {
            Some(kind) if kind.starts_with("ViT") => Self::from_file(&file, Style::Vit, None),
            Some(kind) if kind.starts_with("Bit") => Self::from_file(&file, Style::Bit, None),
            _ => file.wrong("image_processor_type", "ViT's or Bit's (of DINOv2) is wanted"),
        }
    }

    /// Of a network that takes pictures of `side` pixels, or any.
    fn from_file(file: &File, style: Style, side: Option<u32>) -> Result<Self> {
        let resize = match file.get("size") {
            _ if !file.flag("do_resize")? => Resize::No,
            Some(Value::Object(size)) if size.contains_key("shortest_edge") && size.len() == 1 => {
                Resize::Shorter(file.side("size", size.get("shortest_edge"))?)
            }
            Some(Value::Object(_)) => Resize::To(file.sides("size")?),
            size if style == Style::Vit => Resize::To([file.side("size", size)?; 2]),
            size => Resize::Shorter(file.side("size", size)?),
        };
        let filter = match file.get("resample").map(|r| r.as_u64()) {
            None if style == Style::Vit => Filter::Bilinear,
            None | Some(Some(3)) => Filter::Bicubic,
            Some(Some(2)) => Filter::Bilinear,
            _ => return file.wrong("resample", "only 2 (bilinear) and 3 (bicubic) are supported"),
        };
        // ViT's processor does not know the key
        let crop = match style != Style::Vit && file.flag("do_center_crop")? {
            true => Some(file.sides("crop_size")?),
            false => None,
        };
        let rescale = match (file.flag("do_rescale")?, file.get("rescale_factor")) {
            (false, _) => 1.0,
            (true, None) => 1.0 / 255.0,
            (true, Some(factor)) => match factor.as_f64() {
                Some(factor) if factor > 0.0 && factor <= 1.0 => factor,
                _ => return file.wrong("rescale_factor", "it must be above 0 and at most 1"),
            },
        };
        let (mean, std) = match file.flag("do_normalize")? {
            true => {
                let [mean, std] = if style == Style::Vit { [[0.5; 3]; 2] } else { [MEAN, STD] };
                (file.colors("image_mean", mean)?, file.colors("image_std", std)?)
            }
            false => ([0.0; 3], [1.0; 3]),
        };
        if std.iter().any(|s| *s <= 0.0) {
            return file.wrong("image_std", "it must be above 0");
        }
        let all = match (crop, resize) {
            (Some(size), _) => Some(("crop_size", size)),
            (None, Resize::To(size)) => Some(("size", size)),
            // known when a picture comes
            (None, _) => None,
        };
        let side = match (side, all) {
            (Some(side), Some((key, size))) if size != [side; 2] => {
                return file.wrong(key, &format!("the model takes {side}x{side} pixels"));
            }
            (Some(side), _) => side,
            (None, Some((_, [width, height]))) if width == height => width,
            (None, Some((key, _))) => return file.wrong(key, "only squares are supported"),
            (None, None) => return file.wrong("size", "nothing says how large pictures become"),
        };
        let (antialias, rounded) = (true, true);
        Ok(Preprocessor { resize, filter, antialias, rounded, crop, rescale, mean, std, side })
    }

    /// Width and height of what it gives.
    pub fn side(&self) -> usize {
        self.side as usize
    }

    /// The pictures, ready for the tower [n, 3, side, side]; in parallel.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty picture, or where the configuration crops nothing and a picture has
    /// another size.
    pub fn pixels(&self, images: &[&RgbImage]) -> Result<Array4<f32>> {
        let side = self.side as usize;
        let plane = side * side;
        let mut out = vec![0f32; images.len() * 3 * plane];
        let levels = self.levels();
        out.par_chunks_mut(3 * plane).zip(images).try_for_each(|(out, image)| {
            let (to, window) = self.window(image)?;
            if !(self.antialias && self.rounded) {
                self.floats(image, to, window, out);
                return Ok(());
            }
            let image = resize(image, to, window, self.filter);
            for (place, pixel) in image.pixels().enumerate() {
                for (channel, level) in pixel.0.into_iter().enumerate() {
                    out[channel * plane + place] = levels[channel][usize::from(level)];
                }
            }
            Ok::<_, Error>(())
        })?;
        Array4::from_shape_vec((images.len(), 3, side, side), out)
            .map_err(|e| Error::Tensor(candle_core::Error::Msg(e.to_string())))
    }

    /// The planes of a picture whose levels are not those of a picture any more.
    fn floats(&self, image: &RgbImage, to: [u32; 2], window: Window, out: &mut [f32]) {
        let plane = out.len() / 3;
        let sized = resize_floats(image, to, window, self.filter, self.antialias);
        for (place, pixel) in sized.chunks(3).enumerate() {
            for (channel, level) in pixel.iter().enumerate() {
                let level = if self.rounded { level.round().clamp(0.0, 255.0) } else { *level };
                let value = (f64::from(level) * self.rescale) as f32;
                out[channel * plane + place] = (value - self.mean[channel]) / self.std[channel];
            }
        }
    }

    /// What each of a channel's 256 levels becomes.
    fn levels(&self) -> [Vec<f32>; 3] {
        std::array::from_fn(|channel| {
            let level = |level: u16| {
                let value = (f64::from(level) * self.rescale) as f32;
                (value - self.mean[channel]) / self.std[channel]
            };
            (0..256).map(level).collect()
        })
    }

    /// The size that a picture is resized to, and the part of that which is taken.
    fn window(&self, image: &RgbImage) -> Result<([u32; 2], Window)> {
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            return Err(Error::input(format!("a picture of {width}x{height} pixels is empty")));
        }
        let to = match self.resize {
            Resize::No => [width, height],
            Resize::To(size) => size,
            Resize::Shorter(size) => {
                let short = f64::from(width.min(height));
                let longer = |long: u32| (f64::from(size) * f64::from(long) / short) as u32;
                if width <= height { [size, longer(height)] } else { [longer(width), size] }
            }
        };
        let size = self.crop.unwrap_or(to);
        if size != [self.side; 2] {
            return Err(Error::input_hint(
                format!(
                    "a picture of {width}x{height} pixels stays {}x{}, but the network takes {}x{}",
                    size[0], size[1], self.side, self.side
                ),
                "set do_center_crop and crop_size in its preprocessor_config.json",
            ));
        }
        let start = [0, 1].map(|axis| (i64::from(to[axis]) - i64::from(size[axis])).div_euclid(2));
        Ok((to, Window { start, size }))
    }
}

/// What `preprocessor_config.json` says, or what transformers 5 writes instead, and the file.
fn configuration(folder: &Path) -> Result<(Option<Map<String, Value>>, PathBuf)> {
    let file = folder.join("preprocessor_config.json");
    let newer = folder.join("processor_config.json");
    if file.is_file() {
        return Ok((Some(read_object(&file)?), file));
    }
    if newer.is_file()
        && let Some(Value::Object(object)) = read_object(&newer)?.remove("image_processor")
    {
        return Ok((Some(object), newer));
    }
    Ok((None, file))
}

fn warn_of_default(folder: &Path, whose: &str) {
    tracing::warn!(
        "{}: there is no preprocessor_config.json: pictures are prepared as for {whose}, which moves every \
         score if this is another one",
        folder.display()
    );
}

/// A configuration file, for messages.
struct File {
    object: Map<String, Value>,
    path: PathBuf,
}

impl File {
    fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The image processor's name.
    fn kind(&self) -> Option<&str> {
        let kind = self.get("image_processor_type").or(self.get("feature_extractor_type"));
        kind.map(|kind| kind.as_str().unwrap_or_default())
    }

    fn wrong<T>(&self, key: &str, want: &str) -> Result<T> {
        let found = self.get(key).map(Value::to_string).unwrap_or("missing".into());
        let found: String = found.chars().take(80).collect();
        Err(Error::input(format!("{}: `{key}` is {found}, but {want}", self.path.display())))
    }

    /// A switch that is on unless it is switched off.
    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(true),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => self.wrong(key, "it must be true or false"),
        }
    }

    fn side(&self, key: &str, value: Option<&Value>) -> Result<u32> {
        let Some(value) = value else { return Ok(224) };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(side) if (1..=MAX_SIDE).contains(&side) => Ok(side),
            _ => self.wrong(key, &format!("a number of pixels from 1 to {MAX_SIDE} is wanted")),
        }
    }

    /// Width and height.
    fn sides(&self, key: &str) -> Result<[u32; 2]> {
        match self.get(key) {
            Some(Value::Object(size)) => match (size.get("width"), size.get("height")) {
                (width @ Some(_), height @ Some(_)) if size.len() == 2 => {
                    Ok([self.side(key, width)?, self.side(key, height)?])
                }
                _ => self.wrong(key, "`height` and `width` are wanted"),
            },
            size => Ok([self.side(key, size)?; 2]),
        }
    }

    fn colors(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3]> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let numbers = value.as_array().filter(|list| list.len() == 3).map(|list| {
            [0, 1, 2].map(|i| list[i].as_f64().filter(|x| x.abs() <= 1000.0).map(|x| x as f32))
        });
        match numbers {
            Some([Some(r), Some(g), Some(b)]) => Ok([r, g, b]),
            _ => self.wrong(key, "three numbers are wanted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use ndarray::Axis;
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str, side: usize) -> Result<Preprocessor> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("preprocessor_config.json"), json).unwrap();
        Preprocessor::read(dir.path(), side)
    }

    #[test]
    fn old_and_new_sizes_mean_the_same() {
        let old = read(r#"{"size": 40, "crop_size": 32, "resample": 3}"#, 32).unwrap();
        let new = r#"{"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32},
            "image_std": null}"#;
        assert_eq!(old, read(new, 32).unwrap());
    }

    #[test]
    fn without_a_file_it_is_clips() {
        let dir = tempfile::tempdir().unwrap();
        let usual = Preprocessor::read(dir.path(), 224).unwrap();
        assert_eq!(usual, read("{}", 224).unwrap());
        let newer = r#"{"image_processor": {"size": 48, "crop_size": 48}}"#;
        std::fs::write(dir.path().join("processor_config.json"), newer).unwrap();
        assert_eq!(Preprocessor::read(dir.path(), 48).unwrap().resize, Resize::Shorter(48));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, words) in [
            (r#"{"size": 0}"#, "`size` is 0"),
            (r#"{"size": {"longest_edge": 9}}"#, "`height` and `width`"),
            (r#"{"crop_size": 225}"#, "takes 224x224"),
            (r#"{"crop_size": 1e9}"#, "`crop_size` is 1000000000.0"),
            (r#"{"resample": 1}"#, "`resample` is 1"),
            (r#"{"image_std": [1, 0, 1]}"#, "`image_std`"),
            (r#"{"image_mean": [1, 2]}"#, "`image_mean`"),
            (r#"{"do_resize": 1}"#, "`do_resize` is 1"),
            (r#"{"rescale_factor": -1}"#, "`rescale_factor`"),
            (r#"{"image_processor_type": "ViTImageProcessor"}"#, "only CLIP's"),
        ] {
            let message = read(json, 224).unwrap_err().to_string();
            assert!(message.contains(words), "{json}: {message}");
            assert!(message.contains("preprocessor_config.json"), "{message}");
        }
    }

    #[test]
    fn a_picture_that_stays_too_large_is_refused() {
        let keep = read(r#"{"do_resize": false, "do_center_crop": false}"#, 8).unwrap();
        let fits = RgbImage::new(8, 8);
        assert_eq!(keep.pixels(&[&fits]).unwrap().dim(), (1, 3, 8, 8));
        for size in [(9, 8), (0, 8)] {
            assert!(keep.pixels(&[&fits, &RgbImage::new(size.0, size.1)]).is_err());
        }
    }

    #[test]
    fn small_pictures_are_padded_if_they_are_not_resized() {
        let keep = read(r#"{"do_resize": false, "crop_size": 4, "do_normalize": false}"#, 4);
        let white = RgbImage::from_pixel(1, 3, Rgb([255; 3]));
        let found = keep.unwrap().pixels(&[&white]).unwrap();
        let rows: Vec<f32> = (0..4).map(|y| found[[0, 0, y, 2]]).collect();
        assert_eq!((rows, found.sum()), (vec![0.0, 1.0, 1.0, 1.0], 9.0));
    }

    proptest! {
        #[test]
        fn constant_pictures_stay_constant(color: [u8; 3], w in 1u32..90, h in 1u32..90) {
            let clip = read(r#"{"size": 20, "crop_size": 16}"#, 16).unwrap();
            let image = RgbImage::from_pixel(w, h, Rgb(color));
            let found = clip.pixels(&[&image]).unwrap();
            prop_assert_eq!(found.dim(), (1, 3, 16, 16));
            for channel in 0..3 {
                let want = (f32::from(color[channel]) / 255.0 - MEAN[channel]) / STD[channel];
                let same = |x: &f32| (x - want).abs() < 1e-5;
                prop_assert!(found.index_axis(Axis(1), channel).iter().all(same));
            }
        }
    }
}
