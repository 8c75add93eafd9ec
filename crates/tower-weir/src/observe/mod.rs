//! What the layers tell of themselves.
//!
//! Every event of every layer goes through one seam, outside of any lock: to
//! `tracing`, to the layer's observers, and to whoever
//! [subscribed](Subscription). When nobody listens, an event costs a check; a
//! call that succeeds makes none.
//!
//! ```
//! use tower_weir::{Weir, observe::Event};
//!
//! let weir = Weir::http().observe(|host, event| {
//!     if let Event::Retry { attempt, .. } = event {
//!         println!("{host}: attempt {attempt}");
//!     }
//! });
//! # let _ = weir;
//! ```
//!
//! There are no metrics of this crate's own: an observer can count events, and the
//! handles' `snapshot` has numbers to read. Lines of the log have the target
//! `tower_weir::observe::event`; each [`Event`] says its level. A setter makes a value
//! that tells others: set first, then subscribe.

mod event;
#[cfg(feature = "retry")]
mod scarcity;
mod subscription;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio::sync::broadcast;
#[cfg(feature = "retry")]
use tokio::time::Instant;

pub use self::{
    event::{Event, Refused},
    subscription::{Notice, Subscription},
};
use crate::outcome::Cause;

/// A closure that is told what a layer does, as it happens.
type Observer = Arc<dyn Fn(&str, &Event) + Send + Sync>;

/// How many notices a subscriber may be behind before it misses some.
const BACKLOG: usize = 256;

/// How many throttling hosts are remembered so that each is named once.
const HOSTS: usize = 1024;

/// Where a layer's events go.
#[derive(Clone, Default)]
pub(crate) struct Seam(Arc<Listeners>);

#[derive(Default)]
struct Listeners {
    observers: Vec<Observer>,
    channel: OnceLock<broadcast::Sender<Notice>>,
    throttled: Mutex<HashSet<Box<str>>>,
    #[cfg(feature = "retry")]
    scarce: Mutex<scarcity::Scarcity>,
}

impl Seam {
    /// The same observers, and nothing else of what the old one knew.
    pub(crate) fn fresh(&self) -> Self {
        Self(Arc::new(Listeners {
            observers: self.0.observers.clone(),
            ..Listeners::default()
        }))
    }

    /// A fresh seam with one more observer.
    pub(crate) fn with(&self, observer: impl Fn(&str, &Event) + Send + Sync + 'static) -> Self {
        let mut observers = self.0.observers.clone();
        observers.push(Arc::new(observer));
        Self(Arc::new(Listeners {
            observers,
            ..Listeners::default()
        }))
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let channel = self
            .0
            .channel
            .get_or_init(|| broadcast::Sender::new(BACKLOG));
        Subscription::new(channel.subscribe())
    }

    /// Whether anybody may hear of what happens often and is logged at DEBUG. A
    /// check that costs less than the event.
    pub(crate) fn is_heard(&self) -> bool {
        tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG
            || !self.0.observers.is_empty()
            || self.0.channel.get().is_some()
    }

    pub(crate) fn tell(&self, host: &str, event: Event) {
        event.log(host);
        for observer in &self.0.observers {
            observer(host, &event);
        }
        if let Some(channel) = self.0.channel.get()
            && channel.receiver_count() > 0
        {
            let host = host.into();
            // It fails if the last subscriber has just left.
            let _ = channel.send(Notice { host, event });
        }
    }

    /// Tells of a retry that a host's budget refuses.
    #[cfg(feature = "retry")]
    pub(crate) fn budget_empty(&self, host: &str, cause: Cause, now: Instant) {
        let first = self.scarce().refuse(host, now);
        self.tell(host, Event::BudgetEmpty { cause, first });
    }

    /// A retry that was told of is still refused.
    #[cfg(feature = "retry")]
    pub(crate) fn budget_still_empty(&self, host: &str, cause: Cause, now: Instant) {
        let first = self.scarce().refuse(host, now);
        if first {
            // Another shortage than the one that was told of.
            self.tell(host, Event::BudgetEmpty { cause, first });
        }
    }

    /// A host's budget has granted a retry.
    #[cfg(feature = "retry")]
    pub(crate) fn budget_granted(&self, host: &str) {
        self.scarce().grant(host);
    }

    #[cfg(feature = "retry")]
    fn scarce(&self) -> std::sync::MutexGuard<'_, scarcity::Scarcity> {
        let scarce = self.0.scarce.lock();
        scarce.unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of the first throttling of a host. Several layers may notice it.
    pub(crate) fn throttled(&self, host: &str, cause: Cause) {
        let first = {
            let mut known = self
                .0
                .throttled
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if known.len() >= HOSTS {
                known.clear();
            }
            !known.contains(host) && known.insert(host.into())
        };
        if first {
            self.tell(host, Event::FirstThrottle { cause });
        }
    }
}

impl fmt::Debug for Seam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seam")
            .field("observers", &self.0.observers.len())
            .finish_non_exhaustive()
    }
}

/// The events of one visit to an entry: nearly always none, and then free.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Events(Vec<Event>);

#[cfg(any(feature = "aimd", feature = "circuit-breaker", feature = "server"))]
impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        self.0.push(event);
    }

    pub(crate) fn extend(&mut self, event: Option<Event>) {
        self.0.extend(event);
    }

    /// Whether there never was one: then it owns nothing.
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.capacity() == 0
    }

    pub(crate) fn tell(self, host: &str, seam: &Seam) {
        for event in self.0 {
            match event {
                Event::FirstThrottle { cause } => seam.throttled(host, cause),
                event => seam.tell(host, event),
            }
        }
    }
}
