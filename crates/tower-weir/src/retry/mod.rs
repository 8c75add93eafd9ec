//! Retries.

pub mod backoff;
