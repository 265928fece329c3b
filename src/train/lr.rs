//! Learning-rate schedules.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// What multiplies the learning rate over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// The course after the warm-up.
    pub decay: Decay,
    /// Over this many steps the rate rises linearly to its full value, which step `warmup − 1` has.
    pub warmup: u64,
    /// The share of the full rate that a decay ends at.
    pub floor: f64,
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It does not.
    #[default]
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).
    Cosine,
}

impl Schedule {
    /// The factor at `step`, counted from 0, of a run of `steps`.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let decaying = steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / decaying).min(1.0);
        let left = match self.decay {
            Decay::Constant => return 1.0,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (PI * done).cos()),
        };
        self.floor + (1.0 - self.floor) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_then_decay_to_the_floor() {
        let schedule = Schedule { decay: Decay::Cosine, warmup: 4, floor: 0.1 };
        let at = |step| schedule.factor(step, 14);
        assert_eq!([at(0), at(1), at(3), at(4)], [0.25, 0.5, 1.0, 1.0]);
        assert!((at(9) - 0.55).abs() < 1e-12, "half way: {}", at(9));
        assert!((at(14) - 0.1).abs() < 1e-12 && (at(100) - 0.1).abs() < 1e-12);
        let linear = Schedule { decay: Decay::Linear, ..Schedule::default() };
        assert_eq!(linear.factor(3, 4), 0.25);
        assert_eq!(Schedule::default().factor(999, 10), 1.0);
    }

    #[test]
    fn reads_from_a_configuration() {
        let schedule: Schedule = toml::from_str("decay = 'cosine'\nwarmup = 100").unwrap();
        assert_eq!(schedule, Schedule { decay: Decay::Cosine, warmup: 100, floor: 0.0 });
        assert!(toml::from_str::<Schedule>("warm_up = 100").is_err());
    }
}
