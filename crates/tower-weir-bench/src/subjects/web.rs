//! HTTP subjects: a request with a body in one piece and two headers.

use std::{
    fmt,
    future::{Ready, ready},
    hint::black_box,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Service, util::ServiceFn};

use super::{Answer, Fault, Subject, Tower};

pub(super) const HOST: &str = "index.internal:6333";

/// The body of requests and responses.
pub(crate) type Page = Full<Bytes>;

type Answered = Ready<Result<Response<Page>, Fault>>;

/// An upsert to `host`.
pub(crate) fn request(host: &str) -> Request<Page> {
    let request = Request::post(format!("http://{host}/collections/docs/points"))
        .header("content-type", "application/json")
        .header("x-api-key", "0123456789abcdef");
    let body = Full::new(Bytes::from_static(br#"{"id":1,"vector":[0.1,0.2,0.3]}"#));
    request.body(body).expect("a request of constant parts")
}

/// The inner service of HTTP subjects that send `B`.
pub(super) fn inner<B>() -> ServiceFn<fn(Request<B>) -> Answered> {
    fn answer<B>(request: Request<B>) -> Answered {
        drop(black_box(request));
        ready(Ok(Response::new(Full::new(Bytes::from_static(b"{}")))))
    }
    tower::service_fn(answer)
}

/// A service of requests as a subject. It is called with a clone of one
/// request, which is part of the price of every subject, "nothing" included.
pub(super) fn subject<S, B>(name: impl Into<String>, service: S) -> Subject
where
    S: Service<Request<Page>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: fmt::Debug + Send,
    Response<B>: Answer,
{
    let request = request(HOST);
    let make = move || request.clone();
    Subject::new(name, Tower { service, make })
}

/// The same, called with a request that is made anew, as most callers do: the
/// parts of its URI are not shared yet, and the first clone of it allocates.
pub(super) fn fresh<S, B>(name: impl Into<String>, service: S) -> Subject
where
    S: Service<Request<Page>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: fmt::Debug + Send,
    Response<B>: Answer,
{
    let make = || request(HOST);
    Subject::new(name, Tower { service, make })
}

impl<B> Answer for Response<B>
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin,
{
    async fn consume(self) {
        let mut body = self.into_body();
        while let Some(frame) = body.frame().await {
            let _ = black_box(frame);
        }
    }
}
