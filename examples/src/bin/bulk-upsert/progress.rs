use std::{cell::Cell, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tower_weir::circuit_breaker::State;

use crate::{sampler::Sample, send::Tally};

/// How often the line is drawn anew: as often as an eye can follow.
const EVERY: Duration = Duration::from_millis(100);

const TEMPLATE: &str = "{bar:30} {pos}/{len} {per_sec:>9} {elapsed} {msg}";

/// The live line on a terminal; on anything else it shows nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    drawn: Cell<Option<Instant>>,
}

impl Progress {
    pub(crate) fn new(batches: usize) -> Self {
        // draws on standard error, if that is a terminal
        let bar = ProgressBar::new(batches as u64);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        Self {
            bar,
            drawn: Cell::new(None),
        }
    }

    pub(crate) fn show(&self, done: usize, sample: Sample, tally: &Tally) {
        let drawn = self.drawn.get();
        if self.bar.is_hidden() || drawn.is_some_and(|drawn| drawn.elapsed() < EVERY) {
            return;
        }
        self.drawn.set(Some(Instant::now()));
        self.bar.set_position(done as u64);
        self.bar
            .set_message(message(done, sample, tally.attempts()));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn message(done: usize, sample: Sample, attempts: u64) -> String {
    let Sample {
        limit, in_flight, ..
    } = sample;
    let circuit = sample.circuit.map_or("-", State::as_str);
    // an attempt is the first of a batch, or under way, or a retry
    let retries = attempts.saturating_sub((done + in_flight) as u64);
    format!("limit {limit}, in flight {in_flight}, circuit {circuit}, {retries} retries")
}
