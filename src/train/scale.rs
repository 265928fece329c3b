//! Scaling of the loss, where gradients on their way through a model are f16 and small ones would become
//! zero (Micikevicius et al. 2018, arXiv:1710.03740): number for number as `torch.amp.GradScaler`.

use candle_core::DType;
use serde::{Deserialize, Serialize};

/// The factor of the loss: large while gradients stay finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LossScale {
    /// The factor's logarithm to the base 2: powers of two change no digit.
    exponent: i32,
    /// Steps in a row with finite gradients, since the factor last changed.
    finite: u32,
    /// Steps that were skipped, of all so far.
    skipped: u64,
}

impl LossScale {
    /// The factor of the first step, 65536.
    const FIRST: i32 = 16;
    /// After so many finite steps in a row it is doubled.
    const PATIENCE: u32 = 2000;
    /// The largest that f32 has.
    const LARGEST: i32 = 127;

    /// That of the first step of a training through a model that computes in `dtype`; none where that has
    /// f32's range.
    pub fn of(dtype: DType) -> Option<Self> {
        let first = LossScale { exponent: Self::FIRST, finite: 0, skipped: 0 };
        (dtype == DType::F16).then_some(first)
    }

    /// What the loss is multiplied with.
    pub fn factor(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    /// Steps that were skipped so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether it has become so small that it makes gradients smaller: what is not finite then is not the
    /// scale's doing.
    pub fn is_exhausted(&self) -> bool {
        self.exponent < 0
    }

    /// That of the next step, after one whose gradients were all finite, or not: then it is skipped.
    pub fn after(self, finite: bool) -> Self {
        let LossScale { exponent, skipped, .. } = self;
        match self.finite + 1 {
            _ if !finite => LossScale { exponent: exponent - 1, finite: 0, skipped: skipped + 1 },
            Self::PATIENCE => {
                LossScale { exponent: (exponent + 1).min(Self::LARGEST), finite: 0, skipped }
            }
            finite => LossScale { finite, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn first() -> LossScale {
        LossScale::of(DType::F16).unwrap()
    }

    #[test]
    fn only_f16_needs_one() {
        assert_eq!([DType::F32, DType::BF16].map(LossScale::of), [None, None]);
        assert_eq!(first().factor(), 65536.0);
    }

    #[test]
    fn it_is_exhausted_below_one() {
        let mut scale = first();
        for skipped in 1..=16 {
            scale = scale.after(false);
            assert!(!scale.is_exhausted() && scale.skipped() == skipped, "{scale:?}");
        }
        assert_eq!(scale.factor(), 1.0);
        assert!(scale.after(false).is_exhausted());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        /// `torch._amp_update_scale_`, written as it is there, over runs of finite steps with one that is
        /// not between them.
        #[test]
        fn it_is_that_of_torch(runs in proptest::collection::vec(0..4500u32, 1..12)) {
            let (mut factor, mut tracker) = (65536f64, 0);
            let mut scale = first();
            let last = runs.len() - 1;
            for (i, &run) in runs.iter().enumerate() {
                for step in 0..=run {
                    let finite = step < run;
                    if !finite && i == last {
                        break;
                    }
                    if finite {
                        tracker += 1;
                        if tracker == 2000 {
                            (factor, tracker) = (factor * 2.0, 0);
                        }
                    } else {
                        (factor, tracker) = (factor * 0.5, 0);
                    }
                    scale = scale.after(finite);
                    prop_assert_eq!(scale.factor(), factor);
                }
            }
            prop_assert_eq!(scale.skipped(), last as u64);
        }
    }

    #[test]
    fn it_stays_a_number_of_f32() {
        let mut scale = LossScale { exponent: 127, ..first() };
        (0..4000).for_each(|_| scale = scale.after(true));
        assert!((scale.factor() as f32).is_finite());
    }
}
