use std::sync::Arc;

use tokio::time::Instant;

use super::{LawConfig, Limiter, LimiterSnapshot};
use crate::admit::{Registry, admission_handle};

/// A view into a running [`AimdConcurrencyLayer`](super::AimdConcurrencyLayer),
/// for as long as it is wanted: clones are views of the same.
#[derive(Clone)]
pub struct AimdHandle {
    pub(crate) registry: Arc<Registry<Limiter>>,
}

admission_handle!(AimdHandle);

impl AimdHandle {
    /// The state of every host that is known, in the order of their names.
    pub fn snapshot(&self) -> Vec<(Arc<str>, LimiterSnapshot)> {
        let now = Instant::now();
        self.registry
            .inspect_all(|gate, waiting| gate.snapshot(now, waiting))
    }

    /// Changes the law's settings while calls are in flight, for all hosts and
    /// those to come. A lower ceiling holds at once: slots above it are taken
    /// back as their calls end.
    ///
    /// `change` gets a copy, and keeps nobody waiting but other threads that make
    /// changes. If it panics, there was none. It may use the handle; what it changes
    /// through that in these settings, its own result replaces.
    pub fn update(&self, change: impl FnOnce(&mut LawConfig)) {
        self.registry.update(
            |config| config.law.clone(),
            |mut law| {
                change(&mut law);
                law
            },
            |config, law| config.law = law,
        );
    }
}
