//! Results in the form that other programs show them: TensorBoard's event files, runs on an MLflow server.

mod events;
mod mlflow;
mod rest;
mod tensorboard;

pub use mlflow::{Exported, export_mlflow};
pub use rest::Tracking;
pub use tensorboard::TensorBoard;
