//! A circuit breaker.

mod config;
mod gate;
mod layer;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod window;

#[cfg(feature = "weir")]
pub(crate) use self::gate::GateConfig;
pub use self::{
    config::{
        BreakerConfig, CountRefusals, FailureRun, InvalidOpenFor, InvalidRatio, InvalidWindow,
        OpenFor, Probes, Ratio, SlowCalls, Window,
    },
    state::{ChangeCause, Control, Snapshot, State, Transition},
    window::Counts,
};
pub use self::{
    gate::{Breaker, WhenOpen},
    layer::{CircuitBreaker, CircuitBreakerLayer},
};
