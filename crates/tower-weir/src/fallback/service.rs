use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use http_body_util::Either;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Answer, Other, ResponseFuture,
    layer::Rules,
    way::{HttpAsks, HttpSays, PlainAsks, PlainSays},
};
use crate::{
    BoxError,
    deadline::far,
    outcome::{Classify, Protocol},
    retry::{Account, CloneRequest, MapReplay, MapsBodies, Recorder, Terms, recorded},
};

/// The service that [`FallbackLayer`](super::FallbackLayer) makes.
pub struct Fallback<S, A, C, M> {
    pub(super) inner: S,
    pub(super) rules: Arc<Rules<C>>,
    pub(super) answer: A,
    pub(super) map: M,
    pub(super) account: Account,
}

impl<S, A, C, M, B, ResB, OtherB> Service<Request<B>> for Fallback<S, A, C, M>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    A: Answer<Response = Response<OtherB>> + Clone,
    C: Classify<Response<ResB>>,
    M: MapsBodies,
{
    type Response = Response<Either<ResB, OtherB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, S::Response, HttpSays<A>, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let protocol = Protocol::of(&head.headers);
        let record = self.record(&mut head, None);
        let way = HttpSays(self.answer.clone());
        let future = self.inner.call(Request::from_parts(head, body));
        ResponseFuture::new(future, self.rules.clone(), protocol, record, way)
    }
}

impl<S, T, C, M, B, ResB, OtherB> Service<Request<B>> for Fallback<S, Other<T>, C, M>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    M: MapReplay<B> + MapsBodies + Clone,
    S: Service<Request<M::Out>, Response = Response<ResB>>,
    S::Error: Into<BoxError>,
    T: Service<Request<M::Out>, Response = Response<OtherB>> + Clone,
    T::Error: Into<BoxError>,
    C: Classify<Response<ResB>>,
{
    type Response = Response<Either<ResB, OtherB>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, S::Response, HttpAsks<T, B, M>, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let Terms {
            protocol, timeout, ..
        } = Terms::of(&head.method, &head.headers, &head.extensions);
        let outer = head.extensions.remove::<Recorder>();
        // What becomes of the request here is the record of the first service.
        let kept = head.clone();
        let record = self.record(&mut head, outer);
        let recorder = record.as_ref().map(|record| &record.recorder);
        let (body, handle) = recorded(body, &self.account, recorder);
        let way = HttpAsks {
            service: self.answer.0.clone(),
            head: kept,
            body: handle,
            until: timeout.map(|time| far(Instant::now(), time)),
            map: self.map.clone(),
            kind: PhantomData,
        };
        let request = Request::from_parts(head, self.map.map(body));
        let future = self.inner.call(request);
        ResponseFuture::new(future, self.rules.clone(), protocol, record, way)
    }
}

impl<S, A, C, Req> Service<Req> for Fallback<S, A, C, CloneRequest>
where
    S: Service<Req, Response = A::Response>,
    S::Error: Into<BoxError>,
    A: Answer + Clone,
    C: Classify<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, S::Response, PlainSays<A>, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let way = PlainSays(self.answer.clone());
        let future = self.inner.call(request);
        ResponseFuture::new(future, self.rules.clone(), Protocol::Http, None, way)
    }
}

impl<S, T, C, Req> Service<Req> for Fallback<S, Other<T>, C, CloneRequest>
where
    Req: Clone,
    S: Service<Req, Response = T::Response>,
    S::Error: Into<BoxError>,
    T: Service<Req> + Clone,
    T::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, S::Response, PlainAsks<T, Req>, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let way = PlainAsks {
            service: self.answer.0.clone(),
            request: request.clone(),
        };
        let future = self.inner.call(request);
        ResponseFuture::new(future, self.rules.clone(), Protocol::Http, None, way)
    }
}

/// The record of a request's attempts, while the request is under way.
pub(super) struct Record {
    pub(super) recorder: Recorder,
    /// Whether nobody further out looks at it.
    own: bool,
}

impl Drop for Record {
    fn drop(&mut self) {
        // While it has a handle on the body, what is sent of it is recorded.
        if self.own {
            self.recorder.close();
        }
    }
}

impl<S, A, C, M> Fallback<S, A, C, M> {
    /// Sees to it that the retries write down what becomes of the request: the
    /// last result alone does not tell whether an attempt before it may have been
    /// processed.
    fn record(&self, head: &mut Parts, outer: Option<Recorder>) -> Option<Record> {
        let outer = outer.or_else(|| head.extensions.get::<Recorder>().cloned());
        let own = outer.is_none();
        if own && !self.rules.enabled {
            return None;
        }
        let recorder = outer.unwrap_or_default();
        head.extensions.insert(recorder.clone());
        Some(Record { recorder, own })
    }
}

impl<S: Clone, A: Clone, C, M: Clone> Clone for Fallback<S, A, C, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            rules: self.rules.clone(),
            answer: self.answer.clone(),
            map: self.map.clone(),
            account: self.account.clone(),
        }
    }
}

impl<S: fmt::Debug, A: fmt::Debug, C, M> fmt::Debug for Fallback<S, A, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("inner", &self.inner)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}
