use std::sync::Arc;

use tokio::time::Instant;

use super::{Breaker, BreakerConfig, Control, Snapshot};
use crate::admit::{Registry, admission_handle};

/// A view into a running [`CircuitBreakerLayer`](super::CircuitBreakerLayer),
/// for as long as it is wanted: clones are views of the same.
#[derive(Clone)]
pub struct CircuitBreakerHandle {
    pub(crate) registry: Arc<Registry<Breaker>>,
}

admission_handle!(CircuitBreakerHandle);

impl CircuitBreakerHandle {
    /// The state of every host that is known, in the order of their names.
    pub fn snapshot(&self) -> Vec<(Arc<str>, Snapshot)> {
        let now = Instant::now();
        self.registry.inspect_all(|gate, _| gate.snapshot(now))
    }

    /// Changes the settings while calls are in flight, for all hosts and those
    /// to come: thresholds may be raised for a migration, say, and lowered
    /// after. They hold from the next call, record or opening on.
    ///
    /// `change` gets a copy, and keeps nobody waiting but other threads that make
    /// changes. If it panics, there was none. It may use the handle; what it changes
    /// through that in these settings, its own result replaces.
    pub fn update(&self, change: impl FnOnce(BreakerConfig) -> BreakerConfig) {
        self.registry.update(
            |config| BreakerConfig::clone(&config.breaker),
            change,
            |config, breaker| config.breaker = breaker.into(),
        );
    }

    #[cfg(feature = "config")]
    pub(crate) fn when_open(&self) -> super::WhenOpen {
        self.registry.config().when_open
    }

    /// Takes a host's circuit by hand, or gives it back to the rules: held open
    /// ([`Control::ForcedOpen`]), held closed ([`Control::ForcedClosed`]), held
    /// closed but recording ([`Control::MetricsOnly`]), or closed, emptied and
    /// left to the rules ([`Control::Automatic`]).
    ///
    /// Returns whether the host is known: it is from its first call on, and from
    /// the beginning if it was named by
    /// [`for_host`](super::CircuitBreakerLayer::for_host). Requests that name no
    /// host have an empty name for one.
    pub fn control(&self, host: &str, control: Control) -> bool {
        let now = Instant::now();
        let Some(entry) = self.registry.known(host) else {
            return false;
        };
        entry.change(now, |gate, events| gate.control(control, now, events));
        true
    }

    /// Holds the circuit of `host` open: every call is refused and no probe is
    /// sent, until [`reset`](Self::reset). See [`control`](Self::control).
    pub fn force_open(&self, host: &str) -> bool {
        self.control(host, Control::ForcedOpen)
    }

    /// Holds the circuit of `host` closed and records nothing, until
    /// [`reset`](Self::reset). See [`control`](Self::control).
    pub fn force_closed(&self, host: &str) -> bool {
        self.control(host, Control::ForcedClosed)
    }

    /// Holds the circuit of `host` closed and goes on recording. See
    /// [`control`](Self::control).
    pub fn metrics_only(&self, host: &str) -> bool {
        self.control(host, Control::MetricsOnly)
    }

    /// Closes the circuit of `host`, forgets what it knew and lets the rules
    /// decide again. See [`control`](Self::control).
    pub fn reset(&self, host: &str) -> bool {
        self.control(host, Control::Automatic)
    }
}
