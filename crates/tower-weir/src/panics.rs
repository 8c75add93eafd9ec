//! Work for many that runs the users' code: observers are told under way, and may
//! panic.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// A panic that waits until the rest is done, if there was one.
#[must_use]
pub(crate) struct Panicked(Option<Box<dyn Any + Send>>);

/// Does it for each, whatever it is that panics. What was half done must be sound.
pub(crate) fn for_each<T>(all: impl IntoIterator<Item = T>, mut work: impl FnMut(T)) -> Panicked {
    let mut panic = None;
    for one in all {
        let done = catch_unwind(AssertUnwindSafe(|| work(one)));
        panic = panic.or(done.err());
    }
    Panicked(panic)
}

impl Panicked {
    /// Lets the first one go on.
    pub(crate) fn resume(self) {
        if let Some(panic) = self.0 {
            resume_unwind(panic);
        }
    }
}
