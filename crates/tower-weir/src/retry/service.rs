use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Account, CloneRequest, MapReplay, MapsBodies, ReplayBody, ResponseFuture, RetryPolicy,
    policy::Progress,
    source::{CloneSource, HttpSource},
};
use crate::{
    BoxError, Deadline,
    outcome::{Classify, Protocol, is_safe_to_repeat},
};

/// The service that [`RetryLayer`](super::RetryLayer) makes.
pub struct Retry<S, C, M> {
    pub(super) inner: S,
    pub(super) policy: Arc<RetryPolicy<C>>,
    pub(super) map: M,
    pub(super) account: Account,
}

impl<S, C, M, B, ResB> Service<Request<B>> for Retry<S, C, M>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    M: MapReplay<B> + MapsBodies + Clone,
    S: Service<Request<M::Out>, Response = Response<ResB>> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<Response<ResB>>,
    ResB: Body + Send + 'static,
{
    type Response = Response<ResB>;
    type Error = BoxError;
    type Future = ResponseFuture<S, Request<M::Out>, C, HttpSource<B, M>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let (body, replay) = ReplayBody::new(body, &self.account);
        let source = if self.policy.enabled {
            let protocol = Protocol::of(&head.headers);
            let given = head.extensions.get::<Deadline>().copied();
            let safe = is_safe_to_repeat(&head);
            let given = given.map(|Deadline(at)| at);
            let progress = Progress::new(&self.policy, protocol, safe, given, Instant::now);
            if let Some(at) = progress.deadline()
                && given != Some(at)
            {
                // The layers further in bound the attempt, and their queues, by it.
                head.extensions.insert(Deadline(at));
            }
            let source = HttpSource {
                head: head.clone(),
                body: replay,
                map: self.map.clone(),
                protocol,
                kind: PhantomData,
            };
            Some((source, progress))
        } else {
            None
        };
        let request = Request::from_parts(head, self.map.map(body));
        let (inner, future) = send(&mut self.inner, request);
        ResponseFuture::new(inner, future, self.policy.clone(), source)
    }
}

impl<S, C, Req> Service<Req> for Retry<S, C, CloneRequest>
where
    Req: Clone,
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, C, CloneSource<Req>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let source = self.policy.enabled.then(|| {
            let protocol = Protocol::default();
            let progress = Progress::new(&self.policy, protocol, false, None, Instant::now);
            (CloneSource(request.clone()), progress)
        });
        let (inner, future) = send(&mut self.inner, request);
        ResponseFuture::new(inner, future, self.policy.clone(), source)
    }
}

/// Calls the service that was polled ready, and keeps it for further attempts;
/// a clone stays behind.
fn send<S: Service<Req> + Clone, Req>(service: &mut S, request: Req) -> (S, S::Future) {
    let clone = service.clone();
    let mut ready = mem::replace(service, clone);
    let future = ready.call(request);
    (ready, future)
}

impl<S: Clone, C, M: Clone> Clone for Retry<S, C, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            policy: self.policy.clone(),
            map: self.map.clone(),
            account: self.account.clone(),
        }
    }
}

impl<S: fmt::Debug, C: fmt::Debug, M> fmt::Debug for Retry<S, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
