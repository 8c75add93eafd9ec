//! One change of settings at a time.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

/// Lets one thread at a time change something: a user's closure computes what it
/// is to be from what it is, which must not change meanwhile. It keeps nobody from
/// reading, and the closure may change things itself: the thread comes in again.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    by: Mutex<Option<ThreadId>>,
    free: Condvar,
}

/// A change that is being made; `None` for one within another of the same thread.
#[derive(Debug)]
pub(crate) struct Update<'a>(Option<&'a Updates>);

impl Updates {
    /// Waits until no other thread changes anything.
    pub(crate) fn begin(&self) -> Update<'_> {
        let me = Some(thread::current().id());
        let mut by = self.by();
        if *by == me {
            return Update(None);
        }
        while by.is_some() {
            by = self.free.wait(by).unwrap_or_else(PoisonError::into_inner);
        }
        *by = me;
        Update(Some(self))
    }

    fn by(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Update<'_> {
    fn drop(&mut self) {
        if let Some(updates) = self.0 {
            *updates.by() = None;
            updates.free.notify_one();
        }
    }
}
