//! The stack in front of a client: how a batch is sent, over HTTP or gRPC.

mod grpc;
mod http;
mod whole;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tower_weir::{
    BoxError,
    shutdown::Shutdown,
    weir::{HostSnapshot, WeirHandle},
};

pub(crate) use self::{grpc::grpc, http::http};
use crate::source::Batch;

/// The header by which an upstream tells repetitions.
const KEY: &str = "idempotency-key";

/// What else than its content makes a batch another one.
const KEY_VERSION: &str = "bulk-upsert 1";

/// Something that takes batches.
pub(crate) trait Upsert: Clone + Send + Sync + 'static {
    /// Sends a batch through the stack. Ready when the answer has been read.
    fn upsert(&self, batch: &Batch) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// What the client sees of the stack while it runs.
#[derive(Clone)]
pub(crate) struct Gauge {
    pub(crate) handle: WeirHandle,
    pub(crate) shutdown: Shutdown,
    pub(crate) tally: Tally,
}

impl Gauge {
    /// The upstream's state, once something has been sent to it.
    pub(crate) fn host(&self) -> Option<HostSnapshot> {
        self.handle.snapshot().into_iter().next()
    }
}

/// Counts below the stack, where every attempt passes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    attempts: AtomicU64,
    rejections: AtomicU64,
}

impl Tally {
    fn attempt<T>(self) -> impl Fn(T) -> T + Clone {
        move |request| {
            self.0.attempts.fetch_add(1, Ordering::Relaxed);
            request
        }
    }

    fn answer<T>(self, rejects: impl Fn(&T) -> bool + Clone) -> impl Fn(T) -> T + Clone {
        move |response| {
            let rejection = u64::from(rejects(&response));
            self.0.rejections.fetch_add(rejection, Ordering::Relaxed);
            response
        }
    }

    /// Requests sent, with those for which there was no connection.
    pub(crate) fn attempts(&self) -> u64 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Answers that said "not now".
    pub(crate) fn rejections(&self) -> u64 {
        self.0.rejections.load(Ordering::Relaxed)
    }
}
