//! What the layers tell of themselves. Every event of every layer goes through
//! here, once, outside of any lock.

use tracing::debug;
#[cfg(any(feature = "aimd", feature = "circuit-breaker"))]
use tracing::info;
#[cfg(feature = "retry")]
use {crate::outcome::Outcome, std::time::Duration};

#[cfg(feature = "aimd")]
use crate::aimd::law::Change;
#[cfg(feature = "circuit-breaker")]
use crate::circuit_breaker::Transition;
#[cfg(feature = "aimd")]
use crate::outcome::Cause;

/// Something that happened to one host.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The host refused a call for the first time.
    #[cfg(feature = "aimd")]
    FirstRefusal { cause: Cause },
    /// The host's concurrency limit moved.
    #[cfg(feature = "aimd")]
    Limit {
        change: Change,
        ceiling: Option<usize>,
    },
    /// The host's circuit changed its state.
    #[cfg(feature = "circuit-breaker")]
    Circuit(Transition),
}

/// The events of one visit to an entry: nearly always none, and then free.
#[derive(Debug, Default)]
pub struct Events(Vec<Event>);

impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        self.0.push(event);
    }
}

/// Whom a layer tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Observer;

impl Observer {
    pub(crate) fn tell(self, host: &str, events: Events) {
        for event in events.0 {
            match event {
                #[cfg(feature = "aimd")]
                Event::FirstRefusal { cause } => {
                    info!(host, %cause, "the upstream throttles: slowing down");
                }
                #[cfg(feature = "aimd")]
                Event::Limit { change, ceiling } => debug!(
                    host,
                    before = change.before,
                    after = change.after,
                    ceiling,
                    cause = change.cause.as_str(),
                    "concurrency limit changed"
                ),
                #[cfg(feature = "circuit-breaker")]
                Event::Circuit(change) => circuit(host, &change),
            }
        }
    }
}

#[cfg(feature = "circuit-breaker")]
fn circuit(host: &str, change: &Transition) {
    use crate::circuit_breaker::State;
    let open_for_ms = change.open_for.map(|open| open.as_millis() as u64);
    match change.to {
        State::Open => info!(
            host,
            from = change.from.as_str(),
            cause = change.cause.as_str(),
            calls = change.counts.calls,
            failed = change.counts.failed,
            open_for_ms,
            "circuit opened"
        ),
        State::Closed | State::HalfOpen => debug!(
            host,
            from = change.from.as_str(),
            to = change.to.as_str(),
            cause = change.cause.as_str(),
            calls = change.counts.calls,
            failed = change.counts.failed,
            "circuit changed its state"
        ),
    }
}

/// A request will be sent again.
#[cfg(feature = "retry")]
pub(crate) fn retry(host: &str, outcome: &Outcome, attempt: u32, delay: Duration) {
    debug!(
        host,
        cause = %outcome.cause,
        attempt,
        delay_ms = delay.as_millis() as u64,
        hint_ms = outcome.wait().map(|hint| hint.as_millis() as u64),
        hint_source = outcome.hint.map(|hint| tracing::field::debug(hint.source)),
        "retrying"
    );
}
