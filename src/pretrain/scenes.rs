//! Scenes as batches, rendered while the step before is trained.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::world::{Corpus, SIZE, Scene, WorldConfig};

/// Batches rendered ahead.
const AHEAD: usize = 3;

/// The batches of a run, in order. Scene `i` of step `s` is number `s · batch + i` of the sequence
/// `seed`, whatever was rendered before.
pub struct SceneStream {
    make: Arc<dyn Fn(u64) -> Vec<Scene> + Send + Sync>,
    running: Option<Running>,
}

struct Running {
    next: u64,
    // a lock, because a task is shared between threads while its batches are not
    batches: Mutex<Receiver<Vec<Scene>>>,
    _thread: JoinHandle<()>,
}

impl SceneStream {
    /// Batches of `batch` scenes; `world` gives the configuration of a step.
    pub fn new(
        seed: u64,
        batch: usize,
        world: impl Fn(u64) -> WorldConfig + Send + Sync + 'static,
    ) -> Self {
        Self::of(move |step: u64| {
            let first = step * batch as u64;
            let world = world(step);
            (first..first + batch as u64).map(|i| Scene::sample(&world, seed, i)).collect()
        })
    }

    /// Batches that `make` gives for a step.
    pub fn of(make: impl Fn(u64) -> Vec<Scene> + Send + Sync + 'static) -> Self {
        SceneStream { make: Arc::new(make), running: None }
    }

    /// The scenes of `step`.
    pub fn batch(&mut self, step: u64) -> Vec<Scene> {
        if self.running.as_ref().is_none_or(|r| r.next != step) {
            let (sender, batches) = sync_channel(AHEAD);
            let make = self.make.clone();
            // ends when the receiver is dropped
            let thread = std::thread::spawn(move || {
                for step in step.. {
                    if sender.send(make(step)).is_err() {
                        break;
                    }
                }
            });
            self.running =
                Some(Running { next: step, batches: Mutex::new(batches), _thread: thread });
        }
        let running = self.running.as_mut().expect("started above");
        running.next += 1;
        match running.batches.get_mut().unwrap_or_else(PoisonError::into_inner).recv() {
            Ok(scenes) => scenes,
            // the thread panicked: say so where the panic belongs
            Err(_) => (self.make)(step),
        }
    }
}

/// Pictures [scenes, 3, 64, 64] in [−1, 1].
pub fn pictures(scenes: &[Scene], device: &Device) -> Result<Tensor> {
    let bytes: Vec<&[u8]> = scenes.iter().map(|s| s.image.as_slice()).collect();
    pictures_of_bytes(&bytes, device)
}

/// As [`pictures`], from bytes: row by row, red first.
pub fn pictures_of_bytes<B: AsRef<[u8]> + Sync>(bytes: &[B], device: &Device) -> Result<Tensor> {
    const PIXELS: usize = SIZE * SIZE;
    let mut values = vec![0f32; bytes.len() * 3 * PIXELS];
    values.par_chunks_mut(3 * PIXELS).zip(bytes).for_each(|(planes, bytes)| {
        for (i, rgb) in bytes.as_ref().chunks_exact(3).enumerate() {
            for (c, &byte) in rgb.iter().enumerate() {
                planes[c * PIXELS + i] = f32::from(byte) / 127.5 - 1.0;
            }
        }
    });
    Ok(Tensor::from_vec(values, (bytes.len(), 3, SIZE, SIZE), &Device::Cpu)?.to_device(device)?)
}

/// The first scenes of the validation set.
pub fn held_out(count: usize) -> Vec<Scene> {
    let corpus = Corpus::validation();
    (0..count).into_par_iter().filter_map(|i| corpus.get(i)).collect()
}

/// Bytes of the pictures [n, 3, 64, 64], as [`crate::world::sheet`] takes them.
pub fn bytes(pictures: &Tensor) -> Result<Vec<Vec<u8>>> {
    let (n, ..) = pictures.dims4()?;
    (0..n)
        .map(|i| {
            let picture = pictures.get(i)?.to_device(&Device::Cpu)?;
            Ok(crate::diffusion::to_rgb(&picture)?.into_raw())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_stream_gives_the_scenes_it_would_have_given() {
        let stream = || SceneStream::new(3, 4, |_| WorldConfig::default());
        let (mut whole, mut resumed) = (stream(), stream());
        let all: Vec<Vec<Scene>> = (0..4).map(|step| whole.batch(step)).collect();
        assert_eq!(resumed.batch(2), all[2]);
        assert_eq!(resumed.batch(3), all[3]);
        assert_ne!(all[0], all[1]);
    }

    #[test]
    fn pictures_come_back_as_the_bytes_they_were() {
        let scenes = SceneStream::new(1, 2, |_| WorldConfig::default()).batch(0);
        let pictures = pictures(&scenes, &Device::Cpu).unwrap();
        let back = bytes(&pictures).unwrap();
        assert!(back.iter().zip(&scenes).all(|(bytes, scene)| *bytes == scene.image));
    }
}
