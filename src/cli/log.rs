//! `--log`: where a run writes its progress besides.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Result;
use crate::engine::{Plan, Store, Todo};
use crate::log::TensorBoard;

/// Options of commands that train.
#[derive(clap::Args)]
pub struct LogArgs {
    /// Write losses, learning rates, measures and samples for TensorBoard as they come [default folder:
    /// tensorboard/NAME/SCALE in the store]
    #[arg(long, value_name = "tensorboard[=DIR]")]
    log: Option<Log>,
}

/// A program that shows progress, and where it looks.
#[derive(Clone, Debug, PartialEq)]
struct Log {
    folder: Option<PathBuf>,
}

impl FromStr for Log {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (program, folder) = match text.split_once('=') {
            Some((program, folder)) => (program, Some(folder)),
            None => (text, None),
        };
        match (program, folder) {
            ("tensorboard", Some("")) => Err("the folder is missing: tensorboard=DIR".into()),
            ("tensorboard", folder) => Ok(Log { folder: folder.map(PathBuf::from) }),
            ("mlflow", _) => Err("runs go to MLflow with `cdbench export mlflow FILE`".into()),
            _ => Err("use tensorboard or tensorboard=DIR".into()),
        }
    }
}

impl LogArgs {
    /// Begins what is asked for, of one of `several` runs called `name`. By default it is below the store.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn open<'a>(
        &self,
        name: &Path,
        several: bool,
        plan: &'a Plan,
        store: &'a Store,
        todo: &[Todo],
    ) -> Result<Option<TensorBoard<'a>>> {
        let Some(log) = &self.log else { return Ok(None) };
        let root = match &log.folder {
            Some(folder) if several => folder.join(name),
            Some(folder) => folder.clone(),
            None => store.root().join("tensorboard").join(name),
        };
        let running = |at: usize| todo[at] != Todo::Nothing;
        let board = TensorBoard::open(&root, plan, store, running)?;
        eprintln!("tensorboard --logdir {}", root.display());
        Ok(Some(board))
    }
}

#[cfg(test)]
mod tests {
    use super::Log;

    #[test]
    fn a_log_is_a_program_with_a_folder() {
        assert_eq!("tensorboard".parse(), Ok(Log { folder: None }));
        assert_eq!("tensorboard=a=b".parse(), Ok(Log { folder: Some("a=b".into()) }));
        for (text, wanted) in
            [("tensorboard=", "DIR"), ("wandb", "tensorboard"), ("mlflow", "export")]
        {
            assert!(text.parse::<Log>().unwrap_err().contains(wanted), "{text}");
        }
    }
}
