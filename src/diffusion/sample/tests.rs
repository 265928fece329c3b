use super::*;
use crate::nn::reference;

fn sampling() -> Sampling {
    Sampling {
        steps: 2,
        guidance: 4.0,
        // with noise at each step
        scheduler: SchedulerKind::Ddpm,
        eta: 0.0,
        height: 32,
        width: 32,
        negative_prompt: "a wooden pot".into(),
    }
}

fn load() -> Backbone {
    let folder = format!("{}/tests/golden/sd1", env!("CARGO_MANIFEST_DIR"));
    Backbone::load(&folder, &Device::Cpu, DType::F32).unwrap()
}

fn requests() -> Vec<Request> {
    let prompts = ["a dog", "a wooden pot", "a cat in the snow", "a dog", "a red dog"];
    let word = |prompt: &str| prompt.split(' ').next_back().map(str::to_owned).into_iter();
    let request = |(seed, prompt): (u64, &&str)| Request {
        words: word(prompt).collect(),
        ..Request::new(*prompt, seed)
    };
    (0..).zip(&prompts).map(request).collect()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

/// As a GPU does it. Images are told apart by prompt and noise, so that an order that is lost shows.
#[test]
fn images_of_a_batch_are_those_made_one_at_a_time() {
    reference(|| {
        let (backbone, requests) = (load(), requests());
        let made = |denoised: usize, decoded: usize| {
            let (steps, done) = (Mutex::new(vec![]), Mutex::new(vec![]));
            let on_step = |images| {
                steps.lock().unwrap().push(images);
                Ok(())
            };
            let keep = |i, sample| {
                done.lock().unwrap().push((i, sample));
                Ok(())
            };
            let together = Together { denoised, decoded };
            backbone.sample_together(together, &requests, &sampling(), &on_step, &keep).unwrap();
            let mut done = done.into_inner().unwrap();
            done.sort_by_key(|(i, _)| *i);
            assert!(done.iter().map(|(i, _)| *i).eq(0..requests.len()));
            let mut steps = steps.into_inner().unwrap();
            steps.sort_unstable();
            (steps, done.into_iter().map(|(_, sample)| sample).collect::<Vec<_>>())
        };
        let (steps, alone) = made(1, 1);
        assert_eq!(steps, [1; 10]);
        let apart = distance(&alone[0].latents, &alone[3].latents);
        assert!(apart > 0.1, "the same prompt with other noise: {apart}");
        // all together, then more than a batch has, decoded in smaller ones
        for (denoised, decoded, wanted) in
            [(8, 8, vec![5, 5]), (3, 2, vec![2, 2, 3, 3]), (4, 1, vec![1, 1, 4, 4])]
        {
            let (steps, found) = made(denoised, decoded);
            assert_eq!(steps, wanted);
            for (i, (found, alone)) in found.iter().zip(&alone).enumerate() {
                let largest = distance(&alone.latents, &alone.latents.zeros_like().unwrap());
                let apart = distance(&found.latents, &alone.latents) / largest;
                assert!(apart < 1e-4, "image {i} of {denoised}: {apart}");
                let bytes = found.image.as_raw().iter().zip(alone.image.as_raw());
                assert!(bytes.clone().all(|(a, b)| a.abs_diff(*b) <= 1), "image {i}");
                assert_eq!(found.maps[0].word, alone.maps[0].word);
                let maps = found.maps[0].map.iter().zip(&alone.maps[0].map);
                assert!(maps.clone().all(|(a, b)| (a - b).abs() < 1e-4), "image {i}");
            }
        }
    });
}

#[test]
fn whole_batches_are_for_what_is_not_on_the_kernels() {
    let steps = |backbone: &Backbone| {
        let steps = Mutex::new(vec![]);
        let on_step = |images| {
            steps.lock().unwrap().push(images);
            Ok(())
        };
        backbone.sample(&requests(), &Sampling { steps: 1, ..sampling() }, &on_step).unwrap();
        let mut steps = steps.into_inner().unwrap();
        steps.sort_unstable();
        assert_eq!(backbone.images_together(&sampling()).unwrap().min(5), *steps.last().unwrap());
        steps
    };
    assert_eq!(steps(&load()), [1, 4]);
    assert_eq!(reference(|| steps(&load())), [5]);
}
