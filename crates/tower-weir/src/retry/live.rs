//! A policy that can be changed while requests are under way.

use std::{
    mem::replace,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Account, RetryPolicy};
use crate::updates::Updates;

/// The policy that requests begin with from now on.
pub(super) struct Live<C> {
    /// Counts the changes.
    generation: AtomicU64,
    updates: Updates,
    policy: RwLock<Arc<RetryPolicy<C>>>,
}

impl<C> Live<C> {
    pub(super) fn new(policy: RetryPolicy<C>) -> Arc<Self> {
        Arc::new(Self {
            generation: AtomicU64::new(0),
            updates: Updates::default(),
            policy: RwLock::new(Arc::new(policy)),
        })
    }

    pub(super) fn read(&self) -> Arc<RetryPolicy<C>> {
        let policy = self.policy.read();
        policy.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&RetryPolicy<C>) -> RetryPolicy<C>) {
        let _update = self.updates.begin();
        let changed = Arc::new(change(&self.read()));
        changed.rules.bound_hosts();
        let policy = self.policy.write();
        let mut policy = policy.unwrap_or_else(PoisonError::into_inner);
        let old = replace(&mut *policy, changed);
        // While the lock is held: who sees the number finds the policy.
        self.generation.fetch_add(1, Ordering::Release);
        // What is the user's in it goes without the lock.
        drop((policy, old));
    }
}

/// A service's view of the policy: its own copy, looked up again when the number
/// says so. A request so costs the reading of a number that hardly ever changes.
pub(super) struct View<C> {
    live: Arc<Live<C>>,
    seen: u64,
}

impl<C> View<C> {
    pub(super) fn new(live: Arc<Live<C>>) -> (Self, Arc<RetryPolicy<C>>) {
        let seen = live.generation.load(Ordering::Acquire);
        let policy = live.read();
        (Self { live, seen }, policy)
    }

    #[inline]
    pub(super) fn refresh(&mut self, policy: &mut Arc<RetryPolicy<C>>) {
        let now = self.live.generation.load(Ordering::Acquire);
        if now != self.seen {
            self.seen = now;
            *policy = self.live.read();
        }
    }
}

impl<C> Clone for View<C> {
    fn clone(&self) -> Self {
        Self {
            live: self.live.clone(),
            seen: self.seen,
        }
    }
}

/// A policy of which only the rules are of interest, whatever its classifier.
trait Rules: Send + Sync {
    fn change(&self, change: &mut dyn FnMut(RetryPolicy<()>) -> RetryPolicy<()>);
}

impl<C: Clone + Send + Sync> Rules for Live<C> {
    fn change(&self, change: &mut dyn FnMut(RetryPolicy<()>) -> RetryPolicy<()>) {
        self.change(|policy| {
            let classifier = policy.classifier.clone();
            change(policy.clone().judged_by(())).judged_by(classifier)
        });
    }
}

/// A view into a running [`RetryLayer`](super::RetryLayer), for as long as it is
/// wanted: clones are views of the same.
#[derive(Clone)]
pub struct RetryHandle {
    rules: Arc<dyn Rules>,
    account: Account,
}

impl RetryHandle {
    pub(super) fn new<C>(live: Arc<Live<C>>, account: Account) -> Self
    where
        C: Clone + Send + Sync + 'static,
    {
        Self {
            rules: live,
            account,
        }
    }

    /// The account of the layer's recorded request bodies.
    pub fn replay(&self) -> &Account {
        &self.account
    }

    /// Changes the policy, all but its classifier, for the requests to come. One
    /// that is under way keeps the policy that it began with.
    ///
    /// What the budgets have counted stays, unless the change sets a
    /// [`budget`](RetryPolicy::budget).
    ///
    /// `change` gets a copy, and keeps nobody waiting but other threads that make
    /// changes. If it panics, there was none. It may use the handle; what it changes
    /// through that in these settings, its own result replaces.
    pub fn update(&self, change: impl FnOnce(RetryPolicy<()>) -> RetryPolicy<()>) {
        let mut change = Some(change);
        self.rules.change(&mut |policy| match change.take() {
            Some(change) => change(policy),
            None => policy,
        });
    }
}

impl std::fmt::Debug for RetryHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryHandle").finish_non_exhaustive()
    }
}
