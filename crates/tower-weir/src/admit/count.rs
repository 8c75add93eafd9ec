use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many calls of a layer wait, over all hosts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

/// One call counted as waiting, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Count);

impl Count {
    /// Counts one more, unless that would be more than `max`; then tells how
    /// many there are.
    pub(crate) fn enter(&self, max: usize) -> Result<Waiting, usize> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < max).then(|| n + 1)
            })
            .map(|_| Waiting(self.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
