use std::time::Duration;

use rand::{RngExt, rngs::Xoshiro256PlusPlus};

/// The shortest wait before a refused call is sent again.
const BASE_BACKOFF: Duration = Duration::from_millis(250);

/// What a simulated client wants to send.
#[derive(Clone, Debug)]
pub enum Load {
    /// So many workers, each of which sends its next call when the last has
    /// been delivered. With more workers than slots there is always work.
    Workers(usize),
    /// So many calls at once, and no more after them. The run ends with the
    /// last one delivered.
    Batch(usize),
    /// Calls that come at random, so many a second, whether or not the last
    /// ones are done.
    Arrivals(f64),
    /// Bursts of so many calls, so often a second on average, at random.
    Bursts(usize, f64),
    /// One worker up to a moment, nothing for a while, then so many calls at
    /// once.
    IdleThenBurst {
        /// When the worker stops.
        worker_until: Duration,
        /// When the burst comes.
        burst_at: Duration,
        /// How many calls it has.
        calls: usize,
    },
}

/// How long a bulk writer waits before it sends a refused call again: decorrelated
/// jitter that does not grow, or what the server asked and up to a tenth more.
pub(super) fn backoff(random: &mut Xoshiro256PlusPlus, hint: Option<Duration>) -> Duration {
    let own = BASE_BACKOFF.mul_f64(random.random_range(1.0..3.0));
    match hint {
        Some(hint) if hint >= own => {
            hint + hint
                .mul_f64(0.1 * random.random_range(0.0..1.0))
                .min(Duration::from_secs(5))
        }
        _ => own,
    }
}
