//! How many images go through the networks together when nothing is learnt.
//!
//! On the CPU's kernels a few, each such part on a thread of its own. Elsewhere as many as keep a GPU busy,
//! as far as its memory allows: the last bits of an image depend on how many, so that chance has no say.

use candle_core::DType;

use super::Backbone;
use super::config::{UNetConfig, VaeConfig};
use crate::nn::{room, whole_batches};

/// How many images are sampled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Together {
    /// Through the UNet.
    pub denoised: usize,
    /// Of those, through the decoder, whose maps are much larger.
    pub decoded: usize,
}

/// Images at once on one thread: enough to fill the kernels' vectors at the lowest resolution, few enough to
/// share a batch out to many threads.
const PART: usize = 4;
/// Above this many latent pixels, an image's own operations have work for all threads.
const LARGE: usize = 32 * 32;
/// Latent pixels with which all of a large GPU has work at the lowest resolution, too: 16 images of 512².
/// More would be no faster, and where they fit on any GPU, all have the same batches.
const ENOUGH: usize = 16 * 64 * 64;
/// The memory of a device that does not tell, in bytes.
const USUAL: u64 = 8 << 30;

/// Bytes that one image takes while it is denoised: of both halves of guidance the widest maps, into a layer,
/// inside, and out of it.
pub fn denoising(unet: &UNetConfig, latent: (usize, usize), dtype: DType) -> u64 {
    let numbers = unet.block_out_channels[0] * latent.0 * latent.1;
    (2 * 12 * numbers * dtype.size_in_bytes()) as u64
}

/// Bytes of the autoencoder's widest maps for one image of so many latents.
pub fn coding(vae: &VaeConfig, latent: (usize, usize), dtype: DType) -> u64 {
    let unit = vae.downscale();
    let numbers = 2 * vae.block_out_channels[0] * latent.0 * latent.1 * unit * unit;
    (5 * numbers * dtype.size_in_bytes()) as u64
}

/// How many images of so many latents are a batch for a device with so much [`room`], where each takes so
/// many bytes. They may fill a quarter: the rest is for attention's scores, a convolution's columns, and what
/// estimates leave out.
pub fn fitting(latent: (usize, usize), each: u64, room: Option<u64>) -> usize {
    let enough = (ENOUGH / (latent.0 * latent.1).max(1)).max(1);
    let fitting = room.unwrap_or(USUAL) / 4 / each.max(1);
    usize::try_from(fitting).unwrap_or(enough).clamp(1, enough)
}

impl Backbone {
    /// Images of so many latents that are sampled together.
    pub(super) fn together(&self, latent: (usize, usize)) -> Together {
        if !whole_batches(self.device()) {
            let part = if latent.0 * latent.1 > LARGE { 1 } else { PART };
            return Together { denoised: part, decoded: part };
        }
        let room = room(self.device());
        let denoising = denoising(self.unet.config(), latent, self.unet.compute_dtype());
        let decoding = coding(self.vae.config(), latent, DType::F32);
        Together {
            denoised: fitting(latent, denoising, room),
            decoded: fitting(latent, decoding, room),
        }
    }

    /// Images of so many latents that are encoded together.
    pub fn encoded_together(&self, latent: (usize, usize)) -> usize {
        if !whole_batches(self.device()) {
            return 1;
        }
        let encoding = coding(self.vae.config(), latent, self.vae.encoding_dtype());
        fitting(latent, encoding, room(self.device()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::presets::sd15;

    const GIB: u64 = 1 << 30;

    #[test]
    fn batches_fill_a_device_and_fit_into_its_memory() {
        let architecture = sd15();
        let of = |side: usize, dtype: DType, room: Option<u64>| {
            let latent = (side / 8, side / 8);
            let denoised = fitting(latent, denoising(&architecture.unet, latent, dtype), room);
            (denoised, fitting(latent, coding(&architecture.vae, latent, DType::F32), room))
        };
        // as many on all GPUs that have the memory, and fewer where it is short
        for room in [16, 32, 64, 128] {
            assert_eq!(of(512, DType::BF16, Some(room * GIB)).0, 16);
        }
        let mut last = (0, 0);
        for room in [1, 2, 4, 8, 16, 64] {
            let found = of(768, DType::F32, Some(room * GIB));
            assert!(found.0 >= last.0 && found.1 >= last.1, "{room} GiB: {found:?}");
            let decoding = coding(&architecture.vae, (96, 96), DType::F32);
            assert!(found.1 == 1 || found.1 as u64 * decoding <= room * GIB / 4);
            last = found;
        }
        assert!(last.0 > 1 && last.1 > 1, "{last:?}");
        assert_eq!(of(512, DType::BF16, Some(0)), (1, 1), "one image is always tried");
        assert_eq!(of(512, DType::BF16, None), of(512, DType::BF16, Some(8 * GIB)));
        assert_eq!(of(4096, DType::BF16, Some(64 * GIB)).0, 1, "an image that is enough alone");
        // the smaller, the more
        assert_eq!(of(64, DType::F32, Some(64 * GIB)).0, 1024);
    }
}
