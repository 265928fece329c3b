//! How far training moved the weights of the UNet, by the kind of layer (Fig. 3 of the paper).

use super::{Better, Given, Gives, Measure, Need, Outcome, SetValue, Shown, WeightChange};
use crate::Result;

/// The mean of `‖θ' − θ‖ / ‖θ‖` over the weights of one kind.
pub(super) enum MeanChange {
    /// Of cross-attention layers.
    Cross,
    /// Of self-attention layers.
    SelfAttention,
    /// Of everything else.
    Other,
}

impl MeanChange {
    fn has(&self, weight: &WeightChange) -> bool {
        let of = |attention: &str| weight.name.split('.').any(|part| part == attention);
        match self {
            MeanChange::Cross => of("attn2"),
            MeanChange::SelfAttention => of("attn1"),
            MeanChange::Other => !of("attn1") && !of("attn2"),
        }
    }
}

impl Measure for MeanChange {
    fn name(&self) -> &'static str {
        match self {
            MeanChange::Cross => "weight-change-cross",
            MeanChange::SelfAttention => "weight-change-self",
            MeanChange::Other => "weight-change-other",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            MeanChange::Cross => "change of cross attention",
            MeanChange::SelfAttention => "change of self attention",
            MeanChange::Other => "change of other layers",
        }
    }

    fn definition(&self) -> &'static str {
        "mean over all of the UNet's weights of the kind of the norm of the change by the norm before"
    }

    fn better(&self) -> Better {
        Better::Less
    }

    fn shown(&self) -> Shown<'_> {
        Shown { scale: 1e2, unit: "%", digits: 2 }
    }

    fn tolerance(&self) -> f64 {
        1e-3
    }

    fn need(&self) -> Need {
        Need::Weights
    }

    fn gives(&self) -> Gives {
        Gives::Set
    }

    fn family(&self) -> Option<&'static str> {
        Some("change of weights")
    }

    /// No image has a part in it.
    fn titled_by_extractor(&self) -> bool {
        false
    }

    /// All weights are measured, so that a checkpoint's own value has no error: what is not known is how
    /// another concept's would be.
    fn measure(&self, given: &Given) -> Result<Option<Outcome>> {
        let changes: Vec<f64> =
            given.weights.iter().filter(|w| self.has(w)).map(|w| w.change).collect();
        let n = changes.len();
        if n == 0 {
            return Ok(None);
        }
        let value = changes.iter().sum::<f64>() / n as f64;
        let counts = [("weights".to_owned(), n)].into();
        let set = SetValue { value, se: None, se_images: Some(0.0), n: 0, counts };
        Ok(Some(Outcome::Set(set)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn weights_are_told_apart_by_their_layers() {
        let change = |name: &str, change| WeightChange { name: name.into(), change };
        let weights = [
            change("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", 0.1),
            change("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.bias", 0.3),
            change("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", 0.05),
            change("conv_in.weight", 0.0),
            change("time_embedding.linear_1.bias", 0.02),
        ];
        let none = Array2::zeros((0, 0));
        let given = Given {
            images: none.view(),
            groups: &[],
            against: none.view(),
            itself: false,
            weights: &weights,
            maps: &[],
            files: None,
        };
        let of = |kind: MeanChange| match kind.measure(&given).unwrap() {
            Some(Outcome::Set(set)) => set,
            other => panic!("{other:?}"),
        };
        let cross = of(MeanChange::Cross);
        assert!((cross.value - 0.2).abs() < 1e-12);
        assert_eq!((cross.se, cross.se_images, cross.n), (None, Some(0.0), 0));
        let own = of(MeanChange::SelfAttention);
        assert_eq!((own.value, &own.counts), (0.05, &[("weights".to_owned(), 1)].into()));
        assert!((of(MeanChange::Other).value - 0.01).abs() < 1e-12);
        let nothing = Given { weights: &[], ..given };
        assert_eq!(MeanChange::Cross.measure(&nothing).unwrap(), None);
    }
}
