//! Upstreams that answer by a script.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tests::BoxError;
use tower::{Service, service_fn};
use tower_weir::{fallback::FellBack, retry::backoff::Constant};

pub(crate) use tower_weir::fallback::FallbackCause as Why;

pub(crate) const AT_ONCE: Constant = Constant::new(Duration::from_millis(1));

pub(crate) type Answer = Response<Full<Bytes>>;

pub(crate) fn status(status: u16) -> Answer {
    let answer = Response::builder().status(status);
    answer.body(Full::default()).unwrap()
}

/// A service that answers its `n`th call with `answer(n)`, whatever the body.
pub(crate) fn upstream<B>(
    answer: impl Fn(usize) -> Result<Answer, BoxError> + Clone + Send + 'static,
) -> impl Service<
    Request<B>,
    Response = Answer,
    Error = BoxError,
    Future = impl Future<Output = Result<Answer, BoxError>> + Send,
> + Clone
+ Send
+ 'static {
    let calls = Arc::new(AtomicUsize::new(0));
    service_fn(move |_: Request<B>| {
        let result = answer(calls.fetch_add(1, Ordering::Relaxed));
        async move { result }
    })
}

pub(crate) fn post() -> Request<Full<Bytes>> {
    let request = Request::post("http://large.test/complete");
    request.body(Full::from("a prompt")).unwrap()
}

pub(crate) fn get() -> Request<Full<Bytes>> {
    Request::get("http://large.test/")
        .body(Full::default())
        .unwrap()
}

pub(crate) fn cause<B>(response: &Response<B>) -> Option<Why> {
    response
        .extensions()
        .get::<FellBack>()
        .map(|mark| mark.cause)
}

pub(crate) fn refused() -> Result<Answer, BoxError> {
    Err(io::Error::from(io::ErrorKind::ConnectionRefused).into())
}
