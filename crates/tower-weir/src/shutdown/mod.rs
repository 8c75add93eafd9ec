//! One handle that ends a whole stack: nothing new, nothing cut off that can
//! still finish, and a report of what became of the rest.
//!
//! ```
//! use std::time::Duration;
//! use tower_weir::{Weir, shutdown::Shutdown};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let shutdown = Shutdown::new();
//! # #[cfg(feature = "weir")]
//! let layer = Weir::http().shutdown(&shutdown);
//! // ... and on SIGTERM:
//! let drained = shutdown.drain(Duration::from_secs(20)).await;
//! assert!(drained.is_clean(), "{drained}");
//! # }
//! ```
//!
//! # What happens
//!
//! From [`begin`](Shutdown::begin) or [`drain`](Shutdown::drain) on,
//!
//! - new requests are refused with a [`ShuttingDown`];
//! - requests that wait for a slot, or for the circuit, are refused with it, and
//!   services that pend in `poll_ready` become ready, to refuse;
//! - requests that wait to be sent again end at once: their [`ShuttingDown`] says
//!   what the last attempt had come to and how many there were;
//! - an attempt that is in flight goes on. Its caller gets its result unchanged,
//!   also where it would have been repeated.
//!
//! When the grace is over, requests still in flight are cut: their futures
//! resolve with a `ShuttingDown` that says that the upstream may have acted on
//! them. A response whose head has come has been given: its body is waited for
//! within the grace, counted after it, and not cut, because its error type is
//! the inner service's own and an end without an error would look like the whole
//! answer.
//!
//! Why a wait ends with an error of ours and not with the answer before it: that
//! answer is no longer at hand, since it was read to its end for its
//! connection's sake; and whoever is shut down must know that there would have
//! been another attempt, to hand the record on instead of giving it up.
//!
//! # Where it goes
//!
//! | layer | refuses, ends waits | counts and cuts |
//! |---|---|---|
//! | `Weir`, `RetryLayer`, `AdmissionLayer` | yes | yes |
//! | `CircuitBreakerLayer`, `AimdConcurrencyLayer` | yes | no: they know attempts only |
//! | [`ShutdownLayer`] | new requests | yes |
//!
//! All are told by `.shutdown(&shutdown)`. Count each request once: in a stack of
//! single layers the retries are enough; put [`Shutdown::layer`] outermost where
//! there are none, or over a stack of other people's layers. Once a layer has
//! counted a request in, limiters and breakers with the same handle count none:
//! one that stands alone beside such a stack still refuses and is waited for, but
//! to have its calls in the report give it a handle of its own. Regions of a
//! failover, and a split request's pieces, are counted one by one.
//!
//! What calls from within what is called, a gateway's handlers say, is to be
//! drained after it, with a handle of its own: else the handlers that still run
//! are refused what they need to finish.
//!
//! # What it costs
//!
//! Nothing without a handle. With one, a request is counted in and out by one
//! atomic operation each; one that does not finish at its first poll leaves its
//! waker in one of 16 lists, each with a lock that threads seldom share.

mod door;
mod drained;
mod layer;
mod ledger;
mod presence;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use self::ledger::Ledger;
pub(crate) use self::{
    door::Door,
    ledger::{Member, Tally},
    presence::{Presence, poll_cut},
};
pub use self::{
    drained::Drained,
    layer::{Counted, CountedFuture, ShutdownLayer},
};
use crate::deadline::far;
#[cfg(doc)]
use crate::error::ShuttingDown;

/// A handle that shuts down whatever was told of it. Clones are one handle. See
/// the [module](self) for what happens.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<Ledger>);

impl Shutdown {
    /// A handle that has nothing to shut down yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer that counts requests, refuses new ones and cuts what is in flight
    /// at the end of the grace, over whatever services.
    pub fn layer(&self) -> ShutdownLayer {
        ShutdownLayer::new(self)
    }

    /// Begins: nothing new is let in, and all waits end. There is no way back.
    /// Nothing is cut until a [`drain`](Self::drain) does. The second time it
    /// does nothing.
    pub fn begin(&self) {
        self.0.begin();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.has_begun()
    }

    /// Returns when it has begun: for whatever else is to end with it, such as a
    /// worker's loop, or axum's `with_graceful_shutdown`.
    pub async fn begun(&self) {
        self.0.begun().await;
    }

    /// How many requests are in flight, counted from their call to their
    /// response's head.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// Begins, if it has not begun, and returns when everything has ended,
    /// response bodies included where a limiter, a breaker or an admission layer
    /// knows of them, or when `grace` is over and what was left has been cut. With
    /// nothing in flight it returns at once. A body is waited for until its layer's
    /// `max_hold` is over, read or not: from then on it does not count.
    ///
    /// It may be awaited more than once and at the same time; whose grace ends
    /// first cuts. Dropping the future takes nothing back: it has begun, and
    /// only the end of the grace is then up to another call.
    ///
    /// Callers whose requests were cut have been woken when it returns, not yet
    /// polled: await their tasks before the process ends.
    pub async fn drain(&self, grace: Duration) -> Drained {
        self.begin();
        let until = far(Instant::now(), grace);
        if tokio::time::timeout_at(until, self.0.over()).await.is_err() {
            // Whose wait has just been ended may not have been polled since, and
            // is not to be told that it was cut.
            yield_once().await;
            if !self.0.is_over() {
                self.0.cut();
            }
            // Somebody may be about to be tallied who ended before the cut.
            self.0.over().await;
        }
        let drained = self.0.report();
        drained.log();
        drained
    }

    /// Counts a request in; `None`, and a refusal counted, if it has begun.
    pub(crate) fn enter(&self) -> Option<Presence> {
        Presence::enter(&self.0)
    }

    /// Counts what a layer has refused without a [`Presence`], unless there are
    /// layers that count.
    pub(crate) fn tally(&self, what: Tally) {
        self.0.tally_uncounted(what, 1);
    }

    /// Takes a host of a layer in, to be closed when it begins.
    pub(crate) fn join(&self, member: &Arc<dyn Member>) {
        self.0.join(member);
    }

    /// To be notified when a member's last call has ended.
    pub(crate) fn ended(&self) -> Arc<Notify> {
        self.0.changed()
    }
}

/// Lets the tasks go first that were woken before.
async fn yield_once() {
    let mut yielded = false;
    let once = |cx: &mut Context<'_>| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    };
    std::future::poll_fn(once).await;
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("begun", &self.has_begun())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}
