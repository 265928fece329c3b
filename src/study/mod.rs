//! A preference study: people are shown a method's image beside another's, of the same concepts, prompt and
//! noise, and say which follows the text better and which looks more like the targets (Table 2 of the
//! paper).
//!
//! A study is a folder. `page/` is what raters see, and has no method's name in it; `key.json` says what
//! each trial is and stays with the researcher; `crowd.csv` has a line a trial for a crowd platform.
//! A rater has one booklet: a list of trials in an order, with sides, that were drawn when the study was
//! made, so that every pair is seen about as often as any other, and an answer says which trial it is of
//! and nothing else.

mod agreement;
mod analysis;
mod answers;
mod booklet;
mod collected;
mod crowd;
mod http;
mod key;
mod ledger;
mod make;
mod obvious;
mod page;
mod preference;
mod screen;
mod serve;
mod tables;

pub use agreement::{Agreement, alpha};
pub use analysis::{Analysis, Comparison, analyze};
pub use answers::{Answer, Question};
pub use collected::{Collected, Rater, Vote};
pub use key::{Key, KeyMetric, KeyPair, Rows, Side, Trial, What};
pub use ledger::Ledger;
pub use make::{Options, Study, make};
pub use preference::Share;
pub use screen::{Reason, Rules};
pub use serve::{Desk, serve};
pub use tables::tables;
