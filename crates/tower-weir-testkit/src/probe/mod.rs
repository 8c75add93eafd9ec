//! A service that watches whether it is used as tower's contract asks.
//!
//! A [`Probe`] stands in for the innermost service of a stack. It panics when it
//! is called without having been polled ready, each clone for itself, and its
//! [`Handle`] counts calls, clones, and readiness that was taken and not used.
//! What becomes of each call says a script; when the probe is ready says
//! [`Handle::set_readiness`]. [`drop_everywhere`] then gives a future up at every
//! point where that is possible.
//!
//! Nothing here has a clock or a socket of its own, so a test under paused time
//! is exact.
//!
//! ```
//! use std::time::Duration;
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_weir_testkit::probe::{self, Reply};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (inner, handle) = probe::service(|request: &str, call| match call {
//!     0 => Reply::fail("not now"),
//!     _ => Reply::ok(request.len()).after(Duration::from_millis(1)),
//! });
//! let mut stack = ServiceBuilder::new().concurrency_limit(1).service(inner);
//! stack.ready().await.unwrap().call("one").await.unwrap_err();
//! assert_eq!(stack.ready().await.unwrap().call("two").await.unwrap(), 3);
//! assert_eq!((handle.counts().calls, handle.counts().in_flight), (2, 0));
//! # }
//! ```

mod drive;
mod reply;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread,
};

use tokio::sync::watch;
use tower_service::Service;

pub use self::{
    drive::{DropWhen, drop_everywhere, poll_at_most},
    reply::Reply,
};

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes a probe whose calls get what `script` says, given the request and the
/// number of the call, from 0. A script that panics, panics in `call`.
pub fn service<Req, Res>(
    script: impl FnMut(Req, u64) -> Reply<Res> + Send + 'static,
) -> (Probe<Req, Res>, Handle) {
    let shared = Arc::new(Shared {
        counts: watch::Sender::new(Counts {
            instances: 1,
            ..Counts::default()
        }),
        gate: Mutex::default(),
    });
    let probe = Probe {
        script: Arc::new(Mutex::new(script)),
        shared: Arc::clone(&shared),
        state: State::Idle { polls: 0 },
    };
    (probe, Handle { shared })
}

type Script<Req, Res> = Arc<Mutex<dyn FnMut(Req, u64) -> Reply<Res> + Send>>;

/// The service; made by [`service`]. Cloning it makes one that is not ready.
pub struct Probe<Req, Res> {
    script: Script<Req, Res>,
    shared: Arc<Shared>,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle { polls: u32 },
    Ready,
}

/// When a probe is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// At once.
    #[default]
    Now,
    /// Not until this changes.
    Never,
    /// When polled once more after this many polls, each of which wakes its
    /// task; anew for every call.
    After(u32),
    /// It fails with this message.
    Fails(&'static str),
}

/// What a probe and its clones have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls made.
    pub calls: u64,
    /// Calls whose futures have neither ended nor been dropped.
    pub in_flight: usize,
    /// The most calls in flight at once.
    pub peak: usize,
    /// Calls whose futures have ended, in a response or an error.
    pub completed: u64,
    /// Calls whose futures were dropped before they ended, or panicked.
    pub dropped: u64,
    /// Probes that live: the first and its clones.
    pub instances: usize,
    /// Clones made.
    pub clones: u64,
    /// Probes that were polled ready and have not been called since.
    pub ready: usize,
    /// Calls made without readiness.
    pub violations: u64,
}

/// Reads and steers a probe.
///
/// Dropping it panics if the probe was called without readiness, so that a test
/// fails even when the call was made in a task whose panic nobody looks at.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// What the probe and its clones have seen so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts.borrow().clone()
    }

    /// Waits until the counts are as wanted.
    pub async fn until(&self, wanted: impl FnMut(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        let mut wanted = wanted;
        // the sender is borrowed, so it cannot be gone
        let _ = counts.wait_for(|counts| wanted(counts)).await;
    }

    /// Changes when the probe and its clones are ready. Those that are ready
    /// stay so; those that wait are woken.
    pub fn set_readiness(&self, readiness: Readiness) {
        let mut gate = self.shared.gate();
        gate.readiness = readiness;
        gate.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let violations = self.shared.counts.borrow().violations;
        assert!(
            violations == 0 || thread::panicking(),
            "the probe was called {violations} times without having been polled ready"
        );
    }
}

#[derive(Debug)]
struct Shared {
    counts: watch::Sender<Counts>,
    gate: Mutex<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    readiness: Readiness,
    waiting: Vec<Waker>,
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Req, Res> Clone for Probe<Req, Res> {
    fn clone(&self) -> Self {
        self.shared.count(|counts| {
            counts.clones += 1;
            counts.instances += 1;
        });
        Self {
            script: Arc::clone(&self.script),
            shared: Arc::clone(&self.shared),
            // readiness is one instance's, as with tower's own services
            state: State::Idle { polls: 0 },
        }
    }
}

impl<Req, Res> Drop for Probe<Req, Res> {
    fn drop(&mut self) {
        let ready = usize::from(matches!(self.state, State::Ready));
        self.shared.count(|counts| {
            counts.instances -= 1;
            counts.ready -= ready;
        });
    }
}

impl<Req, Res> std::fmt::Debug for Probe<Req, Res> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Probe");
        f.field("state", &self.state).finish_non_exhaustive()
    }
}

impl<Req, Res> Service<Req> for Probe<Req, Res> {
    type Response = Res;
    type Error = BoxError;
    type Future = ResponseFuture<Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let State::Idle { polls } = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let mut gate = self.shared.gate();
        match gate.readiness {
            Readiness::Fails(why) => return Poll::Ready(Err(why.into())),
            Readiness::Never => {
                gate.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            Readiness::After(wanted) if *polls < wanted => {
                *polls += 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Readiness::Now | Readiness::After(_) => {}
        }
        drop(gate);
        self.state = State::Ready;
        self.shared.count(|counts| counts.ready += 1);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> ResponseFuture<Res> {
        if let State::Idle { .. } = self.state {
            self.shared.count(|counts| counts.violations += 1);
            panic!("the probe was called without having been polled ready");
        }
        self.state = State::Idle { polls: 0 };
        let mut call = 0;
        self.shared.count(|counts| {
            call = counts.calls;
            counts.calls += 1;
            counts.ready -= 1;
            counts.in_flight += 1;
            counts.peak = counts.peak.max(counts.in_flight);
        });
        // before the script, which may panic
        let flight = Flight {
            shared: Arc::clone(&self.shared),
            completed: false,
        };
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        ResponseFuture {
            reply: script(request, call),
            flight,
        }
    }
}

/// The future of a call to a [`Probe`].
#[derive(Debug)]
pub struct ResponseFuture<Res> {
    reply: Reply<Res>,
    flight: Flight,
}

impl<Res> Future for ResponseFuture<Res> {
    type Output = Result<Res, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.reply).poll(cx));
        self.flight.land();
        Poll::Ready(answer)
    }
}

/// Counts one call until it ends.
#[derive(Debug)]
struct Flight {
    shared: Arc<Shared>,
    completed: bool,
}

impl Flight {
    fn land(&mut self) {
        self.completed = true;
        self.shared.count(|counts| {
            counts.in_flight -= 1;
            counts.completed += 1;
        });
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.completed {
            self.shared.count(|counts| {
                counts.in_flight -= 1;
                counts.dropped += 1;
            });
        }
    }
}
