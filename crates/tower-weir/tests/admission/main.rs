//! Attempts to break the admission of calls: cancelled anywhere, refused,
//! panicking, hung, all at once.
#![cfg(feature = "weir")]

mod cancel;
mod queue;
mod support;
