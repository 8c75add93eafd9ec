//! The present, read as seldom as will do: a reading costs as much as half of
//! what a layer does besides.

use std::cell::Cell;

use tokio::time::Instant;

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Reads the clock, and lets the layers further out know what it said.
#[inline]
pub(crate) fn read() -> Instant {
    let now = Instant::now();
    LAST.set(Some(now));
    now
}

/// Runs `f`, and returns what the clock last said in it, if a layer further in
/// read it.
#[inline]
pub(crate) fn heard<T>(f: impl FnOnce() -> T) -> (T, Option<Instant>) {
    LAST.set(None);
    let result = f();
    (result, LAST.get())
}
