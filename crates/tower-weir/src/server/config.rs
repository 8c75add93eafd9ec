use std::time::Duration;

use super::Class;
#[cfg(feature = "aimd")]
use crate::aimd::LawConfig;

/// How much a server takes on, for each key.
///
/// Operations count by their class's [weight](Class::weight). Pending are those
/// that run and those that are delayed.
///
/// The fields are plain, so that a running layer can be changed by a closure,
/// and no number is out of range.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// So many operations run at once; one more is delayed. Default 100. An
    /// operation that weighs more runs alone. With 0 none does: for a pause, of
    /// `max_delay` at most for those who wait. Without effect in an
    /// [adaptive](super::AdmissionLayer::adaptive) layer, which finds the number.
    pub throttle_at: usize,
    /// So many operations are pending at most; one more is rejected as
    /// [`TooManyJobs`](super::Reason::TooManyJobs). Default 5,000. With a number
    /// not above `throttle_at` nothing is ever delayed; with 0 all are rejected.
    pub reject_at: usize,
    /// How long an operation is delayed at most; then it is rejected as
    /// [`TooManyJobs`](super::Reason::TooManyJobs). Default 30 s, which is as
    /// long as clients commonly wait for an answer.
    pub max_delay: Duration,
    /// How many bytes the bodies of the pending operations may have together, as
    /// far as their heads say; the others count as
    /// [`unsized_body`](super::AdmissionLayer::unsized_body). More is rejected as
    /// [`QueueTooLarge`](super::Reason::QueueTooLarge). A single one of any size
    /// is let through. Default `None`: no limit.
    pub max_bytes: Option<u64>,
    /// How old the oldest pending operation may be; while it is older, others
    /// are rejected as [`OldJobs`](super::Reason::OldJobs). Default `None`: no
    /// limit.
    pub max_age: Option<Duration>,
    /// From which fill level of the storage on, 1 being full, operations that do
    /// not [free storage](Class::freeing) are rejected as
    /// [`StorageFull`](super::Reason::StorageFull). Default 0.95: what is pending
    /// must still fit.
    pub storage_mark: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            throttle_at: 100,
            reject_at: 5000,
            max_delay: Duration::from_secs(30),
            max_bytes: None,
            max_age: None,
            storage_mark: 0.95,
        }
    }
}

/// The limits of one class, for each key, besides the [`Limits`] of all. They
/// count operations of the class, whatever those weigh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassLimits {
    /// So many operations of the class run at once; one more is delayed, while
    /// other classes go on. Default `None`: no limit of its own. With 0 none
    /// does.
    pub throttle_at: Option<usize>,
    /// So many operations of the class are pending at most. Default `None`. With
    /// 0 all are rejected.
    pub reject_at: Option<usize>,
    /// How long an operation of the class is delayed at most. Default `None`: as
    /// long as others.
    pub max_delay: Option<Duration>,
}

impl ClassLimits {
    /// No limits of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// The limits of [`Class::STRUCTURAL`]: a tenth of what all have, 10 at once
    /// and 500 pending, so that a run of expensive operations leaves most of the
    /// server to the cheap ones.
    pub fn structural() -> Self {
        Self::new().throttle_at(10).reject_at(500)
    }

    /// Sets [`throttle_at`](Self#structfield.throttle_at).
    #[must_use]
    pub fn throttle_at(mut self, operations: usize) -> Self {
        self.throttle_at = Some(operations);
        self
    }

    /// Sets [`reject_at`](Self#structfield.reject_at).
    #[must_use]
    pub fn reject_at(mut self, operations: usize) -> Self {
        self.reject_at = Some(operations);
        self
    }

    /// Sets [`max_delay`](Self#structfield.max_delay).
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = Some(delay);
        self
    }
}

/// All limits of a layer, as [`AdmissionHandle::update`](super::AdmissionHandle::update)
/// changes them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdmissionConfig {
    /// The limits of each key.
    pub limits: Limits,
    /// The classes by falling weight: the last goes first.
    classes: Vec<(Class, ClassLimits)>,
    pub(super) storage: f64,
    /// How long a body may be with its caller.
    pub(crate) max_hold: Duration,
    #[cfg(feature = "aimd")]
    pub(super) adaptive: Option<LawConfig>,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        let mut config = Self {
            limits: Limits::default(),
            classes: Vec::new(),
            storage: 0.0,
            max_hold: Duration::from_secs(30),
            #[cfg(feature = "aimd")]
            adaptive: None,
        };
        config.declare(Class::RECORD, ClassLimits::new());
        config.declare(Class::STRUCTURAL, ClassLimits::structural());
        config
    }
}

impl AdmissionConfig {
    /// The limits of a class, if it was declared.
    pub fn class_mut(&mut self, class: Class) -> Option<&mut ClassLimits> {
        let mut classes = self.classes.iter_mut();
        let found = classes.find(|(own, _)| own.name() == class.name());
        found.map(|(_, limits)| limits)
    }

    #[inline]
    pub(super) fn is_adaptive(&self) -> bool {
        #[cfg(feature = "aimd")]
        return self.adaptive.is_some();
        #[cfg(not(feature = "aimd"))]
        false
    }

    /// Gives an adaptive layer's law other numbers.
    #[cfg(feature = "config")]
    pub(crate) fn set_law(&mut self, law: Option<&LawConfig>) {
        if let (Some(own), Some(law)) = (&mut self.adaptive, law) {
            own.clone_from(law);
        }
    }

    pub(super) fn declare(&mut self, class: Class, limits: ClassLimits) {
        self.classes.retain(|(own, _)| own.name() != class.name());
        let at = self
            .classes
            .partition_point(|(own, _)| own.weight() > class.weight());
        self.classes.insert(at, (class, limits));
    }

    /// Takes back what does not change while a layer runs, whatever was put in
    /// its place: the classes, whose limits are kept, whether the layer is
    /// adaptive, and the storage's level.
    pub(super) fn stay(&mut self, before: Self) {
        let mut classes = before.classes;
        for (class, limits) in &mut classes {
            if let Some(changed) = self.class_mut(*class) {
                limits.clone_from(changed);
            }
        }
        self.classes = classes;
        self.storage = before.storage;
        self.max_hold = before.max_hold;
        #[cfg(feature = "aimd")]
        if before.adaptive.is_some() != self.adaptive.is_some() {
            self.adaptive = before.adaptive;
        }
    }

    pub(super) fn lanes(&self) -> usize {
        self.classes.len()
    }

    pub(super) fn lane_of(&self, class: Class) -> usize {
        let lane = |name| self.classes.iter().position(|(own, _)| own.name() == name);
        let found = lane(class.name()).or_else(|| lane(Class::RECORD.name()));
        found.unwrap_or_default()
    }

    #[inline]
    pub(super) fn lane(&self, lane: usize) -> (Class, &ClassLimits) {
        let (class, limits) = &self.classes[lane];
        (*class, limits)
    }
}
