use std::sync::Arc;

use tokio::time::Instant;

use super::Joined;
use crate::{
    admit::{Registry, admission_handle},
    aimd::{LawConfig, LimiterSnapshot},
    circuit_breaker::{self, BreakerConfig, Control},
    retry::{RetryHandle, RetryPolicy},
};

/// A view into a running [`Weir`](super::Weir), for as long as it is wanted:
/// clones are views of the same.
#[derive(Clone)]
pub struct WeirHandle {
    pub(crate) registry: Arc<Registry<Joined>>,
    pub(crate) retry: RetryHandle,
}

admission_handle!(WeirHandle);

/// The state of one host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostSnapshot {
    /// The host's authority; empty for requests that name none.
    pub host: Arc<str>,
    /// The limiter's state, unless it is disabled.
    pub limiter: Option<LimiterSnapshot>,
    /// The circuit's state, unless the breaker is disabled.
    pub circuit: Option<circuit_breaker::Snapshot>,
    /// How many calls wait for their turn.
    pub waiting: usize,
}

impl WeirHandle {
    /// The state of every host that is known, in the order of their names.
    pub fn snapshot(&self) -> Vec<HostSnapshot> {
        snapshot(&self.registry)
    }

    /// Changes the limiter's settings while calls are in flight. See
    /// [`AimdHandle::update`](crate::aimd::AimdHandle::update).
    pub fn update_limiter(&self, change: impl FnOnce(&mut LawConfig)) {
        self.registry.update(
            |config| config.limiter.law.clone(),
            |mut law| {
                change(&mut law);
                law
            },
            |config, law| config.limiter.law = law,
        );
    }

    /// Changes the breaker's settings while calls are in flight. See
    /// [`CircuitBreakerHandle::update`](crate::circuit_breaker::CircuitBreakerHandle::update).
    pub fn update_breaker(&self, change: impl FnOnce(BreakerConfig) -> BreakerConfig) {
        self.registry.update(
            |config| BreakerConfig::clone(&config.breaker.breaker),
            change,
            |config, breaker| config.breaker.breaker = breaker.into(),
        );
    }

    /// Changes the retry policy, for the requests to come. See
    /// [`RetryHandle::update`].
    pub fn update_retry(&self, change: impl FnOnce(RetryPolicy<()>) -> RetryPolicy<()>) {
        self.retry.update(change);
    }

    /// Takes the circuit of a host by hand, or gives it back to the rules. See
    /// [`CircuitBreakerHandle::control`](crate::circuit_breaker::CircuitBreakerHandle::control).
    pub fn control_circuit(&self, host: &str, control: Control) -> bool {
        let now = Instant::now();
        let Some(entry) = self.registry.known(host) else {
            return false;
        };
        entry.change(now, |gate, events| {
            if let Some(breaker) = &mut gate.breaker {
                breaker.control(control, now, events);
            }
        });
        true
    }
}

pub(super) fn snapshot(registry: &Registry<Joined>) -> Vec<HostSnapshot> {
    let now = Instant::now();
    let look = |gate: &mut Joined, waiting: usize| {
        let limiter = gate.limiter.as_mut();
        let limiter = limiter.map(|limiter| limiter.snapshot(now, waiting));
        let circuit = gate.breaker.as_ref();
        let circuit = circuit.map(|circuit| circuit.snapshot(now));
        (limiter, circuit, waiting)
    };
    let snapshot = |(host, (limiter, circuit, waiting))| HostSnapshot {
        host,
        limiter,
        circuit,
        waiting,
    };
    let hosts = registry.inspect_all(look);
    hosts.into_iter().map(snapshot).collect()
}

/// What cannot change while a stack runs.
#[cfg(feature = "config")]
pub(crate) struct Fixed {
    pub(crate) limiter: bool,
    pub(crate) breaker: bool,
    pub(crate) when_open: circuit_breaker::WhenOpen,
}

#[cfg(feature = "config")]
impl WeirHandle {
    pub(crate) fn fixed(&self) -> Fixed {
        let config = self.registry.config();
        Fixed {
            limiter: config.limiter_enabled,
            breaker: config.breaker_enabled,
            when_open: config.breaker.when_open,
        }
    }

    /// Changes limiter and breaker together.
    pub(crate) fn retune(&self, change: impl FnOnce(&mut super::gate::JoinedConfig)) {
        self.registry.replace(change);
    }
}
