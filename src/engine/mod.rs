//! The engine: an experiment's cells as a graph of stages, each kept under the hash of what it means.

mod cell;
mod curve;
mod external;
mod features;
mod filter;
mod foresee;
mod key;
mod origin;
mod plan;
mod presence;
mod protocol;
mod resources;
mod results;
mod run;
mod scores;
mod stage;
mod states;
mod store;
mod work;

pub use cell::{Cell, CellKind};
pub use curve::{Point, curve};
pub use filter::Filter;
pub use foresee::shortage;
pub use key::{Key, differences};
pub use origin::{Origin, origins};
pub use plan::{CheckpointPlan, Plan, plan, plan_checkpoint};
pub use resources::{Machine, Numbers, Resources, backbone_hash};
pub use results::{cell_id, results};
pub use run::{Event, Outcome, Todo, Watch, run, survey};
pub use scores::{Measured, Pictures, Scored, Scores, Source, score};
pub use stage::{Asked, Images, Kind, ScoreWork, Side, Stage, Work};
pub use store::{Provenance, StageLock, Store};
pub use work::read_image;
