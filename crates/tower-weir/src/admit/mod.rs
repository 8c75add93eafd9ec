//! One admission for limiter and breaker.
//!
//! [`AimdConcurrencyLayer`](crate::aimd::AimdConcurrencyLayer) and
//! [`CircuitBreakerLayer`](crate::circuit_breaker::CircuitBreakerLayer) are the
//! same service, [`Admit`], with one [`Gate`] each; [`Weir`](crate::Weir) puts
//! both gates behind one admission. What this module does lives here once:
//!
//! - every host has one entry, kept in a registry that forgets the one idle the
//!   longest;
//! - a call is admitted in `call`, in the order of the calls, and carries a
//!   permit that settles exactly once: with its outcome, or as cancelled when
//!   its future is dropped;
//! - the inner service is polled ready after the permit is granted, and the
//!   attempt's time (its own, or what is left of the [`Deadline`](crate::Deadline))
//!   runs from then to the response's headers;
//! - the call ends when its response body ends: the slot is kept until then,
//!   and gRPC trailers have the last word on the outcome.

mod body;
mod count;
mod entry;
mod exchange;
mod future;
pub(crate) mod gate;
mod handle;
mod heads;
mod knobs;
mod list;
#[cfg(all(test, weir_loom, feature = "weir"))]
mod loom;
mod permit;
mod priority;
mod readiness;
mod registry;
mod service;
mod settings;
mod state;
#[cfg(all(test, feature = "weir"))]
mod tests;
mod timers;
mod waiter;

pub use self::{
    body::HeldBody,
    exchange::{Exchange, Http, Plain},
    future::ResponseFuture,
    gate::Gate,
    priority::{Priority, Weight},
    service::Admit,
    settings::Hold,
};
#[cfg(feature = "server")]
pub(crate) use self::{
    body::{Passing, Polled},
    count::Count,
    entry::Entry,
    heads::{Heads, Since},
    list::Key,
    permit::Ending,
    waiter::{Entered, Granted, Patience, Waiter, Wish, enter},
};
pub(crate) use self::{
    handle::admission_handle,
    registry::Registry,
    service::Core,
    settings::{Settings, admission_setters, common_setters, single_gate_setters, switch_setters},
};
