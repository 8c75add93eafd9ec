#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use super::Sample;
use crate::aimd::LatencySignal;

/// Round trips that a least median holds for at the very least.
const WINDOW_ROUND_TRIPS: u32 = 50;

/// Standard errors by which a median must exceed another to be taken as longer:
/// with 64 calls of a variation of 0.3 that is a ninth, and chance alone holds
/// the limit back in fewer than one round of a hundred.
const STANDARD_ERRORS: f64 = 3.0;

/// Rounds in a row over the mark before the limit shrinks; one alone may be a
/// pause of the upstream's.
const ROUNDS_TO_SHRINK: u32 = 2;

/// Times in a row that the limit shrinks before the effect is looked at. A tenth
/// less moves the median by as much as chance does; three tenths do not.
const SHRINKS: u32 = 3;

/// The part by which the median must fall in that time. If it does not, the
/// upstream is slow by itself and the least median is out of date.
const LEAST_EFFECT: f64 = 0.09;

/// The part by which a median must exceed the least one for its renewal to need
/// a probe.
const QUEUEING: f64 = 0.05;

/// Rounds at half the limit: one in which the queue drains, one to measure.
const PROBE_ROUNDS: u32 = 2;

/// What round trips say about the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Nothing against growing.
    Free,
    /// Do not grow.
    Hold,
    /// Shrink.
    Shrink,
}

/// Watches the medians of round trips for a queue in the upstream.
///
/// All arithmetic is on logarithms: round trips vary by factors, and the spread
/// of their logarithms tells how far a median can be off.
#[derive(Debug)]
pub(super) struct Latency {
    settings: LatencySignal,
    /// Successes of calls that started in this round, and when it began.
    round: Vec<f64>,
    began: Option<Instant>,
    least: Option<Least>,
    signal: Signal,
    /// Rounds in a row over the mark to shrink.
    over: u32,
    /// How often the limit shrank in a row, and the median before the first.
    shrinks: u32,
    shrank_at: f64,
    /// Rounds of a probe still to go.
    probe: u32,
}

/// The least median of late, and when it was measured.
#[derive(Clone, Copy, Debug)]
struct Least {
    median: f64,
    at: Instant,
}

impl Latency {
    pub(super) fn new(settings: LatencySignal) -> Self {
        Self {
            settings,
            round: Vec::new(),
            began: None,
            least: None,
            signal: Signal::Free,
            over: 0,
            shrinks: 0,
            shrank_at: 0.0,
            probe: 0,
        }
    }

    /// Whether the limit is to be halved for a while.
    pub(super) fn is_probing(&self) -> bool {
        self.probe > 0
    }

    /// A refusal says more than any round trip.
    pub(super) fn overloaded(&mut self) {
        self.probe = 0;
        self.shrinks = 0;
        self.over = 0;
    }

    /// A call succeeded under `limit`, which is not halved for a probe.
    pub(super) fn succeeded(&mut self, sample: &Sample, limit: usize) -> Signal {
        let began = *self.began.get_or_insert(sample.started);
        if sample.started >= began {
            self.round.push(sample.rtt.as_secs_f64().max(1e-9).ln());
        }
        let limit = if self.is_probing() { limit / 2 } else { limit };
        if self.round.len() < (limit * 3 / 4).clamp(16, 64) {
            // Only once for each round.
            return match self.signal {
                Signal::Free => Signal::Free,
                Signal::Hold | Signal::Shrink => Signal::Hold,
            };
        }
        let (median, error) = median_and_error(&mut self.round);
        self.round.clear();
        self.began = Some(sample.now);
        self.signal = self.judge(median, error, sample.now);
        self.signal
    }

    fn judge(&mut self, median: f64, error: f64, now: Instant) -> Signal {
        let renewed = Least { median, at: now };
        if self.probe > 0 {
            self.probe -= 1;
            if self.probe > 0 {
                return Signal::Hold;
            }
            self.least = Some(renewed);
            return Signal::Free;
        }
        let least = match self.least {
            Some(least) if median > least.median => least,
            _ => *self.least.insert(renewed),
        };
        let round_trips = Duration::from_secs_f64(median.exp()).saturating_mul(WINDOW_ROUND_TRIPS);
        if now - least.at > self.settings.window.max(round_trips) {
            if median > least.median + QUEUEING.ln_1p() {
                self.probe = PROBE_ROUNDS;
                self.over = 0;
                return Signal::Hold;
            }
            self.least = Some(renewed);
        }
        let excess = median - least.median - STANDARD_ERRORS * error;
        if excess <= self.settings.shrink.ln() {
            self.over = 0;
            self.shrinks = 0;
        } else {
            self.over += 1;
        }
        if self.over >= ROUNDS_TO_SHRINK {
            self.over = 0;
            return self.shrink(renewed);
        }
        match excess > self.settings.hold.ln() {
            true => Signal::Hold,
            false => Signal::Free,
        }
    }

    fn shrink(&mut self, now: Least) -> Signal {
        if self.shrinks >= SHRINKS {
            self.shrinks = 0;
            if now.median > self.shrank_at + (-LEAST_EFFECT).ln_1p() {
                self.least = Some(now);
                return Signal::Hold;
            }
        }
        if self.shrinks == 0 {
            self.shrank_at = now.median;
        }
        self.shrinks += 1;
        Signal::Shrink
    }
}

/// The median of some logarithms, and the standard error of their mean.
fn median_and_error(logs: &mut [f64]) -> (f64, f64) {
    logs.sort_unstable_by(f64::total_cmp);
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (logs[logs.len() / 2], (variance / n).sqrt())
}
