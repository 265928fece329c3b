//! Progress on stderr: a bar with the time left on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts towards a known end. Can be shared between threads.
pub struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
}

/// Where a bar cannot be drawn.
struct Lines {
    what: String,
    total: u64,
    start: Instant,
    last: Mutex<Instant>,
}

/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// `what` is done `total` times; `unit` is what one is called, in the plural.
    pub fn new(what: &str, total: u64, unit: &str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            Some(total),
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        let template = format!(
            "{what} {{wide_bar}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left {{msg}}"
        );
        bar.set_style(ProgressStyle::with_template(&template).expect("a valid template"));
        let now = Instant::now();
        let lines = (!terminal).then(|| Lines {
            what: what.into(),
            total,
            start: now,
            last: Mutex::new(now),
        });
        Progress { bar, lines }
    }

    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.bar.inc(n);
        let Some(lines) = &self.lines else { return };
        let mut last = lines.last.lock().expect("no panic holds this lock");
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            let (done, elapsed) = (self.bar.position().max(1), lines.start.elapsed().as_secs_f64());
            let left = elapsed / done as f64 * lines.total.saturating_sub(done) as f64;
            eprintln!("{}: {done}/{}, about {left:.0} s left", lines.what, lines.total);
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
