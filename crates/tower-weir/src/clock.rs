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

/// From now on, what the clock says further in is to be heard.
#[inline]
pub(crate) fn listen() {
    LAST.set(None);
}

/// What the clock last said since then, if a layer further in read it.
#[inline]
pub(crate) fn heard() -> Option<Instant> {
    LAST.get()
}
