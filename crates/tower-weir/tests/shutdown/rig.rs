//! A stack over a service that does what its requests say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{Layer, Service, ServiceExt, util::BoxCloneService};
use tower_weir::{
    BoxError, Weir,
    admit::Plain,
    error::ShuttingDown,
    outcome::{Cause, ClassifyFn, Outcome, classify_fn},
    retry::{CloneRequest, backoff::Constant},
    shutdown::Shutdown,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What the upstream does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Answers after so many seconds.
    Late(u32, u16),
    Hang,
}

pub(crate) type Judge = ClassifyFn<fn(Result<&u16, &BoxError>) -> Outcome>;
pub(crate) type Stack = Weir<Judge, CloneRequest, Plain<Judge>>;
pub(crate) type Client = BoxCloneService<Act, u16, BoxError>;

/// 429 throttles, 503 may have been processed, 200 is well.
fn judge(result: Result<&u16, &BoxError>) -> Outcome {
    let Ok(&status) = result else {
        return Outcome::failed();
    };
    let outcome = match status {
        429 => Outcome::throttled(),
        503 => Outcome::unavailable(),
        _ => Outcome::success(),
    };
    outcome.with_cause(cause(status))
}

pub(crate) fn cause(status: u16) -> Cause {
    Cause::Status(StatusCode::from_u16(status).unwrap())
}

/// A stack whose backoffs are 60 s and which may repeat anything.
pub(crate) fn stack(shutdown: &Shutdown) -> Stack {
    Weir::new(classify_fn(judge as fn(Result<&u16, &BoxError>) -> Outcome))
        .shutdown(shutdown)
        .any_method()
        .backoff(Constant::new(60 * SECOND))
        .seed(1)
}

pub(crate) struct Rig {
    pub(crate) client: Client,
    reached: Arc<AtomicUsize>,
}

impl Rig {
    pub(crate) fn over<L>(layer: &L) -> Self
    where
        L: Layer<Upstream>,
        L::Service: Service<Act, Response = u16, Error = BoxError, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let upstream = Upstream::default();
        let reached = upstream.reached.clone();
        Self {
            client: BoxCloneService::new(layer.layer(upstream)),
            reached,
        }
    }

    /// Makes a call, and lets it get to where it waits.
    pub(crate) async fn begin(&self, act: Act) -> Begun {
        let client = self.client.clone();
        let start = Instant::now();
        let call = tokio::spawn(async move {
            let result = client.oneshot(act).await;
            (result, start.elapsed())
        });
        settle().await;
        Begun(call)
    }

    pub(crate) async fn call(&self, act: Act) -> Result<u16, BoxError> {
        self.client.clone().oneshot(act).await
    }

    /// How many attempts have reached the upstream.
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

/// A call that was begun.
pub(crate) struct Begun(JoinHandle<(Result<u16, BoxError>, Duration)>);

impl Begun {
    /// Its status, and how many seconds it took.
    pub(crate) async fn status(self) -> (u16, u64) {
        let (result, took) = self.0.await.unwrap();
        (result.unwrap(), took.as_secs())
    }

    /// How it was shut down, and after how many seconds.
    pub(crate) async fn down(self) -> (ShuttingDown, u64) {
        let (result, took) = self.0.await.unwrap();
        (down(result), took.as_secs())
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    pub(crate) fn abort(self) {
        self.0.abort();
    }
}

pub(crate) fn down<T: std::fmt::Debug>(result: Result<T, BoxError>) -> ShuttingDown {
    let error = result.unwrap_err();
    let down = error.downcast::<ShuttingDown>();
    *down.unwrap_or_else(|error| panic!("not a ShuttingDown: {error}"))
}

/// Lets every task get as far as it can without time passing.
pub(crate) async fn settle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

#[derive(Clone, Default)]
pub(crate) struct Upstream {
    reached: Arc<AtomicUsize>,
}

impl Service<Act> for Upstream {
    type Response = u16;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<u16, BoxError>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, act: Act) -> Self::Future {
        self.reached.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match act {
                Act::Late(seconds, status) => {
                    sleep(SECOND * seconds).await;
                    Ok(status)
                }
                Act::Hang => std::future::pending().await,
            }
        })
    }
}
