//! Retries.

pub mod backoff;
pub mod wait;
