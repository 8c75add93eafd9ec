//! Regions that answer by a script.

use std::{
    future::ready,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tests::BoxError;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_weir::{
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, FailureRun},
    failover::{AnsweredBy, Failover, Region},
    retry::ReplayBody,
};
use tower_weir_testkit::probe::{self, Handle, Probe, Reply};

pub(crate) type Sent = Request<Full<Bytes>>;
pub(crate) type Inner = Request<ReplayBody<Full<Bytes>>>;
pub(crate) type Answer = Response<Full<Bytes>>;
pub(crate) type Upstream = Probe<Inner, Answer>;
pub(crate) type Pair = Failover<Upstream>;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn status(status: u16) -> Answer {
    let answer = Response::builder().status(status);
    answer.body(Full::default()).unwrap()
}

pub(crate) fn says(code: u16) -> Reply<Answer> {
    Reply::ok(status(code))
}

pub(crate) fn refused() -> Reply<Answer> {
    Reply::fail(io::Error::from(io::ErrorKind::ConnectionRefused))
}

pub(crate) fn lost() -> Reply<Answer> {
    Reply::fail(io::Error::from(io::ErrorKind::ConnectionReset))
}

/// What a breaker says that is open.
pub(crate) fn open() -> Reply<Answer> {
    Reply::fail(circuit_open())
}

pub(crate) fn circuit_open() -> BoxError {
    let layer = CircuitBreakerLayer::http().for_host("it");
    let service = layer.layer(service_fn(|_: Request<()>| {
        ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())))
    }));
    let call = || at_once(service.clone().oneshot(Request::new(())));
    // The host is known with its first call.
    call().unwrap();
    assert!(layer.handle().force_open("it"));
    call().unwrap_err()
}

fn at_once<F: Future>(future: F) -> F::Output {
    let future = std::pin::pin!(future);
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// An upstream, and what it has seen.
pub(crate) fn upstream(
    script: impl FnMut(Inner, u64) -> Reply<Answer> + Send + 'static,
) -> (Upstream, Handle) {
    probe::service(script)
}

/// Two regions, `a` before `b`.
pub(crate) fn pair(
    a: impl FnMut(Inner, u64) -> Reply<Answer> + Send + 'static,
    b: impl FnMut(Inner, u64) -> Reply<Answer> + Send + 'static,
) -> (Pair, Handle, Handle) {
    let ((a, seen_a), (b, seen_b)) = (upstream(a), upstream(b));
    let failover = Failover::http([Region::new("a", a), Region::new("b", b)]).unwrap();
    (failover, seen_a, seen_b)
}

pub(crate) fn request(method: &str) -> Sent {
    let request = Request::builder().method(method).uri("http://any.test/x?y");
    request.body(Full::from("a body")).unwrap()
}

pub(crate) async fn call<S>(service: &S, request: Sent) -> Result<Answer, BoxError>
where
    S: Service<Sent, Response = Answer, Error = BoxError> + Clone,
{
    service.clone().oneshot(request).await
}

/// The status, and who gave it.
pub(crate) fn told(result: &Result<Answer, BoxError>) -> String {
    match result {
        Ok(answer) => {
            let by = answer.extensions().get::<AnsweredBy>().unwrap();
            format!("{} by {}", answer.status().as_u16(), by.name)
        }
        Err(error) => error.to_string(),
    }
}

pub(crate) fn active(failover: &Pair) -> Option<usize> {
    failover.handle().snapshot().active
}

/// A breaker that opens with the third failure.
pub(crate) fn quick(breaker: BreakerConfig) -> BreakerConfig {
    breaker.failure_run(FailureRun::new(3, Duration::ZERO))
}

/// What one of several tasks writes down and a test reads.
#[derive(Clone)]
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Log<T> {
    pub(crate) fn push(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}
