//! What the layers answer with when they refuse a request themselves.
//!
//! Each is a small type inside [`BoxError`](crate::BoxError), found by
//! `downcast_ref`. Under the feature `tonic` each has a `tonic::Status` as its
//! [`source`](std::error::Error::source), so that a tonic client sees the right
//! code and not UNKNOWN.

#[cfg(feature = "circuit-breaker")]
mod circuit;
mod queue;
mod refusal;
#[cfg(feature = "retry")]
mod retry;
mod shutdown;
mod time;

#[cfg(feature = "circuit-breaker")]
pub use self::circuit::CircuitOpen;
#[cfg(feature = "retry")]
pub use self::retry::BudgetExhausted;
pub use self::{
    queue::{QueueFull, QueueTimeout},
    shutdown::ShuttingDown,
    time::{AttemptTimeout, DeadlineExceeded},
};
