//! The retry layer on paused time.

mod batch;
mod bodies;
mod budget;
mod contract;
mod deadline;
mod gave_up;
mod handle;
#[cfg(feature = "idempotency")]
mod idempotency;
mod load;
mod marks;
mod recorder;
#[cfg(feature = "weir")]
mod stack_budget;
mod support;
#[cfg(feature = "tonic")]
mod tonic;
mod tower_policy;
