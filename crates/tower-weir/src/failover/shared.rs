use std::sync::{Arc, Mutex, PoisonError};

use super::core::Core;

/// What all clones of one failover share.
pub(super) struct Shared<S, C> {
    pub(super) core: Arc<Core>,
    pub(super) classifier: C,
    /// What the services that are called are cloned from. Behind a lock, so that
    /// they need be no more than `Send`.
    services: Mutex<Vec<S>>,
}

impl<S: Clone, C> Shared<S, C> {
    pub(super) fn new(core: Core, classifier: C, services: Vec<S>) -> Self {
        Self {
            core: Arc::new(core),
            classifier,
            services: Mutex::new(services),
        }
    }

    pub(super) fn services(&self) -> Vec<S> {
        let services = self.services.lock();
        services.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn service(&self, region: usize) -> S {
        let services = self.services.lock();
        services.unwrap_or_else(PoisonError::into_inner)[region].clone()
    }
}
