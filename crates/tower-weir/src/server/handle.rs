use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{AdmissionConfig, Reason, service::Shared};
use crate::observe::Subscription;

/// A view into a running [`AdmissionLayer`](super::AdmissionLayer), for as long
/// as it is wanted: clones are views of the same.
#[derive(Clone)]
pub struct AdmissionHandle {
    pub(super) shared: Arc<Shared>,
}

/// What is pending under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySnapshot {
    /// The key; empty where there is only one.
    pub key: Arc<str>,
    /// How much may run at once: [`Limits::throttle_at`](super::Limits), or what
    /// an adaptive layer has found.
    pub limit: usize,
    /// The weight of all that is pending.
    pub weight: usize,
    /// Each class, the one that goes first first.
    pub classes: Vec<ClassSnapshot>,
}

impl KeySnapshot {
    /// How many operations are pending, of all classes.
    pub fn pending(&self) -> usize {
        self.classes.iter().map(|class| class.pending).sum()
    }

    /// How many operations are delayed, of all classes.
    pub fn delayed(&self) -> usize {
        self.classes.iter().map(|class| class.delayed).sum()
    }

    /// The state of one class.
    pub fn class(&self, name: &str) -> Option<&ClassSnapshot> {
        self.classes.iter().find(|class| class.class == name)
    }
}

/// What is pending of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassSnapshot {
    /// The class's name.
    pub class: &'static str,
    /// How many operations run or are delayed.
    pub pending: usize,
    /// How many are delayed.
    pub delayed: usize,
    /// How many were rejected since the key has been known.
    pub rejected: Rejections,
    /// The age of the oldest that is pending.
    pub oldest: Option<Duration>,
    /// The size of their bodies together, known or
    /// [assumed](super::AdmissionLayer::unsized_body).
    pub bytes: u64,
}

/// How many operations were rejected, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejections {
    /// For [`Reason::TooManyJobs`].
    pub too_many_jobs: u64,
    /// For [`Reason::QueueTooLarge`].
    pub queue_too_large: u64,
    /// For [`Reason::OldJobs`].
    pub old_jobs: u64,
    /// For [`Reason::StorageFull`].
    pub storage_full: u64,
}

impl Rejections {
    /// For whatever reason.
    pub fn total(&self) -> u64 {
        self.too_many_jobs + self.queue_too_large + self.old_jobs + self.storage_full
    }

    pub(super) fn count(&mut self, reason: Reason) {
        match reason {
            Reason::TooManyJobs => self.too_many_jobs += 1,
            Reason::QueueTooLarge => self.queue_too_large += 1,
            Reason::OldJobs => self.old_jobs += 1,
            Reason::StorageFull => self.storage_full += 1,
            Reason::ShuttingDown => {}
        }
    }
}

impl AdmissionHandle {
    /// The state of every key that is known, in their order.
    pub fn snapshot(&self) -> Vec<KeySnapshot> {
        let now = Instant::now();
        let entries = self.shared.registry.entries().into_iter();
        let look = entries.map(|entry| {
            entry.reclaim(now);
            entry.inspect(|gate, _| gate.snapshot(entry.host().clone(), now))
        });
        look.collect()
    }

    /// How full the storage is: 0 is empty and 1 is full. At or above
    /// [`storage_mark`](super::Limits::storage_mark), writes are rejected. A
    /// level that is no number changes nothing.
    pub fn report_storage(&self, level: f64) {
        if !level.is_nan() {
            self.shared.registry.report(|config| config.storage = level);
        }
    }

    /// The level last reported; 0 if none was.
    pub fn storage(&self) -> f64 {
        self.shared.registry.config().storage
    }

    /// Changes the limits while operations are pending, for all keys and those
    /// to come. Greater ones let delayed operations go at once; smaller ones
    /// hold for those to come. Classes, and whether the layer is adaptive, stay
    /// as they are.
    ///
    /// `change` gets a copy, and keeps nobody waiting but other threads that make
    /// changes. If it panics, there was none. It may use the handle; what it changes
    /// through that in these settings, its own result replaces.
    pub fn update(&self, change: impl FnOnce(&mut AdmissionConfig)) {
        self.shared.registry.update(
            AdmissionConfig::clone,
            |mut config| {
                change(&mut config);
                config
            },
            |own, mut changed| {
                changed.stay(own.clone());
                *own = changed;
            },
        );
    }

    /// Everything that the layer value which the handle was taken from does from
    /// now on. See [`observe`](crate::observe).
    pub fn subscribe(&self) -> Subscription {
        self.shared.registry.seam().subscribe()
    }

    /// Admits no more operations, rejects those that are delayed, and returns
    /// when the last that runs has ended, its response body included. There is
    /// no way back.
    ///
    /// Rejected is with 503 and `Retry-After`, or UNAVAILABLE and a pushback.
    /// [Exempt](super::Class::EXEMPT) requests are let through as ever and not
    /// waited for: that is for the server's own graceful shutdown, which follows.
    /// Nor is a response's body that goes on for longer than
    /// [`max_hold`](super::AdmissionLayer::max_hold).
    pub async fn drain(&self) {
        self.shared.registry.drain().await;
    }
}

impl fmt::Debug for AdmissionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionHandle").finish_non_exhaustive()
    }
}

/// What cannot change while a layer runs.
#[cfg(feature = "config")]
pub(crate) struct Fixed {
    pub(crate) enabled: bool,
    pub(crate) max_hold: Duration,
    pub(crate) unsized_body: u64,
    pub(crate) drain_retry_after: Duration,
    pub(crate) rate_limit_headers: bool,
    pub(crate) adaptive: bool,
}

#[cfg(feature = "config")]
impl AdmissionHandle {
    pub(crate) fn fixed(&self) -> Fixed {
        let settings = &self.shared.settings;
        Fixed {
            enabled: settings.enabled,
            max_hold: settings.max_hold,
            unsized_body: settings.unsized_body,
            drain_retry_after: settings.drain_retry_after,
            rate_limit_headers: settings.rate_limit_headers,
            adaptive: self.shared.registry.config().adaptive.is_some(),
        }
    }

    /// Changes the limits, and an adaptive layer's law.
    pub(crate) fn retune(&self, change: impl FnOnce(&mut AdmissionConfig)) {
        self.shared.registry.replace(change);
    }

    pub(crate) fn set_max_keys(&self, keys: usize) {
        self.shared.registry.set_max(keys);
    }
}

#[cfg(all(test, feature = "config"))]
impl AdmissionHandle {
    pub(crate) fn limits(&self) -> super::Limits {
        self.shared.registry.config().limits
    }

    pub(crate) fn law(&self) -> Option<crate::aimd::LawConfig> {
        self.shared.registry.config().adaptive
    }

    pub(crate) fn class_limits(&self, class: super::Class) -> Option<super::ClassLimits> {
        self.shared.registry.config().class_mut(class).cloned()
    }
}
