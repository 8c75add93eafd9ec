use std::{borrow::Cow, marker::PhantomData, pin::Pin, sync::LazyLock, task::Poll, time::Duration};

use bytes::Buf;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    request, uri::Authority,
};
use http_body::Body;

use super::{
    MapReplay, NotReplayable, ReplayHandle,
    budget::{BatchBudget, Cost},
    grpc_timeout,
};
use crate::{
    hosts::host_of,
    outcome::{Cause, Processed, Protocol, is_safe},
};

/// Reads a discarded answer to its end, so that its connection can be used
/// again.
pub(super) type Drain = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer longer than this is not worth reading for the connection's sake.
const MAX_DRAIN: u64 = 64 * 1024;

/// gRFC A6: how many attempts the server has had already, which does not know of
/// those that never reached it.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// A response extension: the response is not that of the first attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Retried {
    /// How many attempts it took, the first included; at least 2.
    pub attempts: u32,
    /// What the attempt before this one had come to.
    pub reason: Cause,
    /// Whether the upstream may have acted on one of the attempts before.
    pub processed: Processed,
}

/// A request extension: the request is sent once, whatever comes of it.
///
/// For requests that somebody further out repeats: a caller's own loop, or a
/// stack of this crate, which [can be told](super::RetryPolicy::suppress_nested)
/// to put it into its attempts. Deadlines hold all the same.
///
/// ```
/// use tower_weir::retry::NoRetry;
///
/// let mut request = http::Request::get("http://index.internal/query").body(())?;
/// request.extensions_mut().insert(NoRetry);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoRetry;

/// Where the requests of further attempts come from, and where the answers of
/// those that failed go.
pub trait Source<Res> {
    #[doc(hidden)]
    type Request;

    /// Whether the request can be had again, as far as is known now.
    #[doc(hidden)]
    fn replayable(&self) -> Result<(), NotReplayable>;

    /// The request once more. The upstream may have seen `before` attempts of it,
    /// which is written into `header` too.
    #[doc(hidden)]
    fn again(
        &mut self,
        before: u32,
        header: Option<&HeaderName>,
    ) -> Result<Self::Request, NotReplayable>;

    /// Whether the request may be repeated though the upstream may have acted on it.
    #[doc(hidden)]
    fn is_safe(&self) -> bool;

    /// Writes what is `left` of the deadline on a request that is about to go.
    #[doc(hidden)]
    fn stamp(&self, request: &mut Self::Request, left: impl FnOnce() -> Option<Duration>);

    #[doc(hidden)]
    fn host(&self) -> Cow<'_, str>;

    /// The same as the request spells it.
    #[doc(hidden)]
    fn authority(&self) -> Option<&str>;

    #[doc(hidden)]
    fn batch(&self) -> Option<(BatchBudget, Cost)>;

    /// Whether an answer can be kept for nothing: it is whole, and holds neither a
    /// connection nor a slot.
    #[doc(hidden)]
    fn is_whole(response: &Res) -> bool;

    #[doc(hidden)]
    fn discard(response: Res) -> Option<Drain>;

    #[doc(hidden)]
    fn mark(response: &mut Res, retried: Retried);
}

/// The source of an HTTP request: its head, and a handle on its body.
pub struct HttpSource<B, M> {
    // Apart: it is put together while the request is under way to the service, and
    // would be moved with every move of the future.
    kept: Box<Kept<M>>,
    /// Whether the caller's `grpc-timeout` is kept up to date.
    timed: bool,
    kind: PhantomData<fn() -> B>,
}

struct Kept<M> {
    head: KeptHead,
    body: ReplayHandle,
    map: M,
}

impl<B, M> HttpSource<B, M> {
    #[inline]
    pub(super) fn new(head: &request::Parts, body: ReplayHandle, map: M, timed: bool) -> Self {
        let head = KeptHead::of(head);
        Self {
            kept: Box::new(Kept { head, body, map }),
            timed,
            kind: PhantomData,
        }
    }
}

/// A copy of a request's head. Most are never looked at, so the headers are a list:
/// a map's index is made when there is another attempt.
struct KeptHead {
    method: Method,
    uri: Uri,
    version: Version,
    extensions: Extensions,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What a `Host` header says, where the URI says nothing.
    host: Option<Box<str>>,
}

impl KeptHead {
    #[inline(always)]
    fn of(head: &request::Parts) -> Self {
        let mut headers = Vec::with_capacity(head.headers.len());
        for (name, value) in &head.headers {
            headers.push((name.clone(), value.clone()));
        }
        let host = match head.uri.authority() {
            Some(_) => None,
            None => host_of(&head.uri, &head.headers).map(Into::into),
        };
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            extensions: head.extensions.clone(),
            headers,
            host,
        }
    }

    fn host(&self) -> Cow<'_, str> {
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        match &self.host {
            Some(host) => Cow::Borrowed(host),
            None => host_of(&self.uri, &NONE).unwrap_or_default(),
        }
    }

    /// The request that it is the head of.
    fn with<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions.clone();
        let headers = request.headers_mut();
        // One name's values can be more than a map has room for names.
        let _ = headers.try_reserve(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        request
    }
}

impl<B, M: MapReplay<B>, ResB> Source<Response<ResB>> for HttpSource<B, M>
where
    ResB: Body + Send + 'static,
{
    type Request = Request<M::Out>;

    fn replayable(&self) -> Result<(), NotReplayable> {
        self.kept.body.not_replayable().map_or(Ok(()), Err)
    }

    fn again(
        &mut self,
        before: u32,
        header: Option<&HeaderName>,
    ) -> Result<Self::Request, NotReplayable> {
        let body = self.kept.body.take_over()?;
        let mut request = self.kept.head.with(self.kept.map.map(body));
        count_attempts(request.headers_mut(), before, header);
        Ok(request)
    }

    fn is_safe(&self) -> bool {
        let head = &self.kept.head;
        is_safe(&head.method, &head.extensions, |key| {
            head.headers.iter().any(|(name, _)| name == key)
        })
    }

    fn stamp(&self, request: &mut Self::Request, left: impl FnOnce() -> Option<Duration>) {
        if self.timed
            && let Some(left) = left()
        {
            let value = grpc_timeout::write(left);
            request.headers_mut().insert(grpc_timeout::NAME, value);
        }
    }

    fn host(&self) -> Cow<'_, str> {
        self.kept.head.host()
    }

    #[inline]
    fn authority(&self) -> Option<&str> {
        let authority = self.kept.head.uri.authority().map(Authority::as_str);
        authority.or(self.kept.head.host.as_deref())
    }

    fn batch(&self) -> Option<(BatchBudget, Cost)> {
        let extensions = &self.kept.head.extensions;
        let cost = extensions.get::<Cost>().copied();
        Some((
            extensions.get::<BatchBudget>()?.clone(),
            cost.unwrap_or_default(),
        ))
    }

    fn is_whole(response: &Response<ResB>) -> bool {
        response.body().is_end_stream()
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

/// Whether nothing comes after an answer's head, as far as the head tells: a gRPC
/// answer that is trailers only, and one without content (RFC 9110 6.4.1, 8.6).
#[cfg(any(feature = "failover", feature = "fallback"))]
pub(crate) fn is_head_only<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    headers.contains_key("grpc-status")
        || headers
            .get(http::header::CONTENT_LENGTH)
            .is_some_and(|length| length == "0")
        || matches!(response.status().as_u16(), 204 | 304)
}

/// Writes on a request how many attempts the upstream may have seen before.
pub(super) fn count_attempts(headers: &mut HeaderMap, before: u32, header: Option<&HeaderName>) {
    if before > 0 {
        let grpc = Protocol::of(headers) == Protocol::Grpc;
        let grpc = grpc.then_some(PREVIOUS_ATTEMPTS);
        for name in header.cloned().into_iter().chain(grpc) {
            headers.insert(name, HeaderValue::from(before));
        }
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

    fn replayable(&self) -> Result<(), NotReplayable> {
        Ok(())
    }

    fn again(&mut self, _: u32, _: Option<&HeaderName>) -> Result<Req, NotReplayable> {
        Ok(self.0.clone())
    }

    fn is_safe(&self) -> bool {
        false
    }

    fn stamp(&self, _: &mut Req, _: impl FnOnce() -> Option<Duration>) {}

    fn host(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn authority(&self) -> Option<&str> {
        None
    }

    fn batch(&self) -> Option<(BatchBudget, Cost)> {
        None
    }

    fn is_whole(_: &Res) -> bool {
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str) -> request::Parts {
        let request = Request::post(uri).version(Version::HTTP_2);
        let request = ["a", "b", "a", "host", "a", "c", "b"]
            .iter()
            .enumerate()
            .fold(request, |request, (n, name)| {
                request.header(*name, format!("V{n}"))
            });
        request.extension(7_u8).body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_kept_head_gives_back_what_it_is_a_copy_of() {
        let head = head("http://index.test/x?y");
        let again = KeptHead::of(&head).with(()).into_parts().0;
        assert_eq!(
            (again.method, again.uri, again.version),
            (head.method, head.uri, head.version)
        );
        assert!(again.headers.iter().eq(&head.headers), "in this order too");
        assert_eq!(again.extensions.get::<u8>(), Some(&7));
    }

    #[test]
    fn as_many_values_of_one_name_as_there_can_be_are_given_back() {
        let mut head = head("http://index.test/");
        for _ in 0..40_000 {
            head.headers.append("a", HeaderValue::from_static("v"));
        }
        let again = KeptHead::of(&head).with(()).into_parts().0;
        assert!(again.headers.iter().eq(&head.headers));
    }

    #[test]
    fn its_host_is_the_uris_or_else_that_of_the_header() {
        let host = |uri: &str| KeptHead::of(&head(uri)).host().into_owned();
        assert_eq!(host("http://me@Index.test:80/x"), "index.test:80");
        assert_eq!(host("/x"), "v3");
        let mut nameless = head("/x");
        nameless.headers.clear();
        assert_eq!(KeptHead::of(&nameless).host(), "");
    }
}
