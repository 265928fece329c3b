//! A run whose report grows with it.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::experiment::Session;
use super::pictures::Stored;
use crate::Result;
use crate::engine::{Crew, Event, Outcome, Todo};
use crate::log::TensorBoard;

/// Of the time of a run, what its reports may take before the last one.
const SHARE: f64 = 0.05;
/// Pictures that took longer to draw are left to the last report.
const LONG: Duration = Duration::from_secs(1);

/// Does what is missing, and writes the report anew once a cell is finished, and what `board` shows. The
/// last report, of all that was finished, is left to the caller.
pub fn run(
    session: &Session,
    todo: &[Todo],
    crew: &Crew,
    board: Option<&TensorBoard>,
) -> Result<Outcome> {
    let scores = |at: usize| session.plan.cells.iter().any(|cell| cell.scores == at);
    std::thread::scope(|scope| {
        let (finished, heard) = mpsc::channel();
        scope.spawn(move || write_reports(session, board, &heard));
        // with the run its end of the channel is dropped, and the writing ends
        session.run(todo, crew, &|event| {
            if let Some(board) = board {
                board.event(event);
            }
            if let Event::Done(at, _) | Event::DoneElsewhere(at) = *event
                && scores(at)
            {
                let _ = finished.send(());
            }
        })
    })
}

fn write_reports(session: &Session, board: Option<&TensorBoard>, heard: &Receiver<()>) {
    let start = Instant::now();
    let (mut spent, mut pictures) = (Duration::ZERO, Duration::ZERO);
    while heard.recv().is_ok() {
        // several cells, one report
        while heard.try_recv().is_ok() {}
        if spent.as_secs_f64() > SHARE * start.elapsed().as_secs_f64() {
            continue;
        }
        let begin = Instant::now();
        if let Err(e) = write(session, board, &mut pictures) {
            tracing::warn!("the report so far: {e}");
        }
        spent += begin.elapsed();
    }
}

fn write(session: &Session, board: Option<&TensorBoard>, pictures: &mut Duration) -> Result<()> {
    let results = session.results()?;
    if let Some(board) = board {
        board.results(&results, &Stored::new(session))?;
    }
    let begin = Instant::now();
    match *pictures < LONG {
        true => session.report(&results)?,
        false => session.report_tables(&results)?,
    }
    *pictures = (*pictures).max(begin.elapsed());
    Ok(())
}
