use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{core::Core, rules::Rules};

/// How a failover treats requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub(super) rules: Rules,
    pub(super) any_method: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) ready_within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            any_method: false,
            deadline: None,
            ready_within: Duration::from_secs(1),
        }
    }
}

/// What all clones of one failover share.
pub(super) struct Shared<S, C> {
    pub(super) core: Arc<Core>,
    pub(super) policy: Policy,
    pub(super) classifier: C,
    /// What the services that are called are cloned from. Behind a lock, so that
    /// they need be no more than `Send`.
    services: Mutex<Vec<S>>,
}

impl<S: Clone, C> Shared<S, C> {
    pub(super) fn new(core: Core, policy: Policy, classifier: C, services: Vec<S>) -> Self {
        Self {
            core: Arc::new(core),
            policy,
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
