use std::{marker::PhantomData, pin::Pin, task::Poll};

use bytes::Buf;
use http::{HeaderValue, Request, Response, request};
use http_body::Body;

use super::{MapReplay, ReplayHandle};
use crate::outcome::Protocol;

/// Reads a discarded answer to its end, so that its connection can be used
/// again.
pub(super) type Drain = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer longer than this is not worth reading for the connection's sake.
const MAX_DRAIN: u64 = 64 * 1024;

/// A response extension: the response is not that of the first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retried {
    /// How many attempts it took, the first included; at least 2.
    pub attempts: u32,
}

/// Where the requests of further attempts come from, and where the answers of
/// those that failed go.
pub trait Source<Res> {
    #[doc(hidden)]
    type Request;

    /// The request of attempt `number` (2 for the first retry), unless it
    /// cannot be had again.
    #[doc(hidden)]
    fn again(&mut self, number: u32) -> Option<Self::Request>;

    #[doc(hidden)]
    fn host(&self) -> &str;

    #[doc(hidden)]
    fn discard(response: Res) -> Option<Drain>;

    #[doc(hidden)]
    fn mark(response: &mut Res, retried: Retried);
}

/// The source of an HTTP request: its head, and a handle on its body.
pub struct HttpSource<B, M> {
    pub(super) head: request::Parts,
    pub(super) body: ReplayHandle,
    pub(super) map: M,
    pub(super) protocol: Protocol,
    pub(super) kind: PhantomData<fn() -> B>,
}

impl<B, M: MapReplay<B>, ResB> Source<Response<ResB>> for HttpSource<B, M>
where
    ResB: Body + Send + 'static,
{
    type Request = Request<M::Out>;

    fn again(&mut self, number: u32) -> Option<Self::Request> {
        let body = self.body.take_over().ok()?;
        let mut head = self.head.clone();
        if self.protocol == Protocol::Grpc {
            let before = HeaderValue::from(number - 1);
            head.headers.insert("grpc-previous-rpc-attempts", before);
        }
        Some(Request::from_parts(head, self.map.map(body)))
    }

    fn host(&self) -> &str {
        self.head.uri.authority().map_or("", |host| host.as_str())
    }

    fn discard(response: Response<ResB>) -> Option<Drain> {
        let body = response.into_body();
        let drained = body.is_end_stream() || body.size_hint().lower() > MAX_DRAIN;
        (!drained).then(|| Box::pin(drain(body)) as Drain)
    }

    fn mark(response: &mut Response<ResB>, retried: Retried) {
        response.extensions_mut().insert(retried);
    }
}

async fn drain<B: Body>(body: B) {
    let mut body = std::pin::pin!(body);
    let mut left = MAX_DRAIN;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let read = frame.data_ref().map_or(0, Buf::remaining) as u64;
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The source of a request that can be cloned.
pub struct CloneSource<Req>(pub(super) Req);

impl<Req: Clone, Res> Source<Res> for CloneSource<Req> {
    type Request = Req;

    fn again(&mut self, _: u32) -> Option<Req> {
        Some(self.0.clone())
    }

    fn host(&self) -> &str {
        ""
    }

    fn discard(_: Res) -> Option<Drain> {
        None
    }

    fn mark(_: &mut Res, _: Retried) {}
}

/// Polls what there is to drain; what is done is dropped.
pub(super) fn poll_drain(drain: &mut Option<Drain>, cx: &mut std::task::Context<'_>) {
    if let Some(draining) = drain
        && let Poll::Ready(()) = draining.as_mut().poll(cx)
    {
        *drain = None;
    }
}
