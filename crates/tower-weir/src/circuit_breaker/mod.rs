//! A circuit breaker.

mod config;
mod rules;
#[cfg_attr(not(test), expect(dead_code, reason = "the gate is to use it"))]
mod state;
#[cfg(test)]
mod tests;
mod window;

pub use self::{
    config::{
        BreakerConfig, CountRefusals, FailureRun, InvalidOpenFor, InvalidRatio, InvalidWindow,
        OpenFor, Probes, Ratio, SlowCalls, Window,
    },
    state::{ChangeCause, Control, Snapshot, State, Transition},
    window::Counts,
};
