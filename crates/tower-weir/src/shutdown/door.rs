use std::{
    fmt,
    task::{Context, Poll},
};

use super::{Presence, Shutdown, presence::Watch};

/// Where requests come into a service that counts them.
pub(crate) struct Door {
    shutdown: Shutdown,
    /// While the inner service is not ready.
    watch: Option<Watch>,
}

impl Door {
    pub(crate) fn new(shutdown: &Shutdown) -> Self {
        Self {
            shutdown: shutdown.clone(),
            watch: None,
        }
    }

    /// Ready when the inner service is, and, to refuse, when it has begun: who
    /// waits for an inner service's readiness waits in a queue too.
    pub(crate) fn poll_ready<E>(
        &mut self,
        cx: &mut Context<'_>,
        inner: impl FnOnce(&mut Context<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        if self.shutdown.has_begun() {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(ready) = inner(cx) {
            self.watch = None;
            return Poll::Ready(ready);
        }
        let watch = || Watch::new(&self.shutdown.0);
        let watch = self.watch.get_or_insert_with(watch);
        watch.park(cx);
        match watch.has_begun() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Counts a request in. `None` if it has begun: then the inner service must
    /// not be called, for it may not be ready.
    pub(crate) fn enter(&self) -> Option<Presence> {
        self.shutdown.enter()
    }
}

impl Clone for Door {
    fn clone(&self) -> Self {
        // Another task's.
        Self::new(&self.shutdown)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shutdown.fmt(f)
    }
}
