//! Attempts to break the admission of calls: cancelled anywhere, refused,
//! panicking, hung, all at once.
#![cfg(feature = "weir")]

mod at_once;
mod cancel;
mod circuit;
mod extremes;
mod queue;
mod retries;
mod sharing;
mod stress;
mod support;
