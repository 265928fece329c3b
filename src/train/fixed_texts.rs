//! Hidden states of texts that nothing of a training changes.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::Result;
use crate::diffusion::model::TextEncoder;
use crate::nn::{Var, no_grad};

/// Texts that are kept: those of all class images of a concept, with room to spare. A Stable Diffusion's have
/// 0.2 MiB each.
const MOST: usize = 1024;

/// Computed once each: of texts without a token that is learnt, while the text encoder is frozen.
#[derive(Default)]
pub struct FixedTexts(HashMap<Vec<u32>, Tensor>);

impl FixedTexts {
    /// The states [length, features] of a text; none if they change, or are not kept. Each is computed
    /// alone: it does not depend on the batch that it is first seen in.
    ///
    /// # Errors
    /// Only candle's.
    pub fn of(&mut self, encoder: &TextEncoder, ids: &[u32]) -> Result<Option<Tensor>> {
        if let Some(known) = self.0.get(ids) {
            return Ok(Some(known.clone()));
        }
        if self.0.len() >= MOST || encoder.trains(ids) {
            return Ok(None);
        }
        let states = no_grad(|| encoder.forward(&[ids.to_vec()]))?.value().get(0)?;
        self.0.insert(ids.to_vec(), states.clone());
        Ok(Some(states))
    }
}

/// Texts [batch, length, features] of which `known` has some and `fresh` the others, in order.
pub fn beside(fresh: &Var, known: &[Option<Tensor>]) -> candle_core::Result<Var> {
    let mut places = vec![];
    let mut rows = vec![];
    for (i, known) in known.iter().enumerate() {
        rows.push(match known {
            Some(states) => states.clone(),
            None => {
                places.push(i as u32);
                fresh.value().get(places.len() - 1)?
            }
        });
    }
    let places = Tensor::new(places, fresh.value().device())?;
    Ok(Var::record(Tensor::stack(&rows, 0)?, [fresh], move |grad, flow| {
        flow.add_with(0, || grad.index_select(&places, 0))
    }))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::diffusion::Backbone;
    use crate::nn::ops;
    use crate::rng::Rng;

    fn distance(a: &Tensor, b: &Tensor) -> f32 {
        let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        difference.max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn only_texts_with_a_learnt_token_are_computed_again() {
        let folder = format!("{}/tests/golden/sd1", env!("CARGO_MANIFEST_DIR"));
        let mut backbone = Backbone::load(&folder, &Device::Cpu, DType::F32).unwrap();
        backbone.tokenizer.add_token("<new1>").unwrap();
        let row = backbone.text_encoder.token_embedding(5).unwrap().unsqueeze(0).unwrap();
        backbone.text_encoder.add_tokens(&row).unwrap();
        let ids = ["a <new1> dog", "a dog", "photo of a <new1>"]
            .map(|text| backbone.tokenizer.encode(text).unwrap().ids);
        let encoder = &backbone.text_encoder;
        let known = |ids: &[u32]| FixedTexts::default().of(encoder, ids).unwrap();
        assert!(ids.iter().all(|ids| known(ids).is_some()), "nothing trains yet");

        let added = encoder.added().unwrap();
        added.set_trainable(true).unwrap();
        let states = ids.each_ref().map(|ids| known(ids));
        assert_eq!(states.each_ref().map(Option::is_some), [false, true, false]);
        let weights = Rng::new(1, "weights").normal((3, ids[0].len(), 32), &Device::Cpu).unwrap();
        let gradient = |text: &Var| {
            let width = text.dims()[2];
            let weights = weights.narrow(2, 0, width.min(32)).unwrap();
            let text = ops::narrow(text, 0, width.min(32)).unwrap();
            let product = ops::mul(&text, &Var::constant(weights.contiguous().unwrap())).unwrap();
            let loss = ops::composed([&product], |[p]| p.sum_all()).unwrap();
            added.grad(&loss.backward(1.0).unwrap()).unwrap().clone()
        };
        let fresh = encoder.forward(&[ids[0].clone(), ids[2].clone()]).unwrap();
        let (found, wanted) = (beside(&fresh, &states).unwrap(), encoder.forward(&ids).unwrap());
        assert!(distance(found.value(), wanted.value()) < 1e-5);
        assert!(distance(&gradient(&found), &gradient(&wanted)) < 1e-4);

        encoder.params()[0].set_trainable(true).unwrap();
        assert!(known(&ids[1]).is_none(), "all of it trains");
    }
}
