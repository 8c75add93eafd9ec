use std::{
    borrow::Cow,
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, request};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Account, CloneRequest, Ending, MapReplay, MapsBodies, NoRetry, Recorder, ReplayBody,
    ReplayHandle, ResponseFuture, RetryPolicy, Source, grpc_timeout,
    live::View,
    policy::Rules,
    progress::{Plan, Terms},
    source::{CloneSource, HttpSource},
    turn::Turn,
};
use crate::{
    BoxError, Deadline,
    error::ShuttingDown,
    hosts::host_of,
    observe::{Event, Refused},
    outcome::Classify,
    shutdown::Door,
    trust::{self, Task},
};

/// The service that [`RetryLayer`](super::RetryLayer) makes.
pub struct Retry<S, C, M> {
    pub(super) inner: S,
    pub(super) policy: Arc<RetryPolicy<C>>,
    pub(super) view: View<C>,
    pub(super) map: M,
    pub(super) account: Account,
    pub(super) door: Option<Door>,
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
        poll_ready(&mut self.inner, self.door.as_mut(), cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.view.refresh(&mut self.policy);
        let (mut head, body) = request.into_parts();
        let recorder = head.extensions.remove::<Recorder>();
        let (body, replay) = recorded(body, &self.account, recorder.as_ref());
        let presence = self.door.as_ref().map(Door::enter);
        if let Some(None) = presence {
            if let Some(recorder) = &recorder {
                recorder.conclude(Ending::ShuttingDown);
            }
            let host = host_of(&head.uri, &head.headers);
            return self.refuse(&host.unwrap_or_default());
        }
        let rules = &self.policy.rules;
        let mut plan = None;
        let mut ticket = None;
        let mut source = None;
        if rules.enabled {
            let (planned, timed) = begin(rules, &mut head, recorder.as_ref());
            plan = Some(planned);
            if planned.may_retry() || recorder.is_some() {
                ticket = rules.ticket(&head.uri, &head.headers);
                source = Some(HttpSource::new(&head, replay, self.map.clone(), timed));
            }
        }
        let request = Request::from_parts(head, self.map.map(body));
        let task = rules.keeping();
        let left = trust::leave(task);
        let mut inner = readied(&mut self.inner);
        let future = inner.call(request);
        let kept = left.taken();
        let deadline = plan.as_ref().and_then(Plan::deadline);
        let mut turn = Turn::begun(source, plan, ticket, recorder);
        if task != Task::NONE && !kept {
            keep::<Response<ResB>, _>(&mut turn, rules);
        }
        let policy = self.policy.clone();
        ResponseFuture::new(inner, future, policy, deadline, turn, presence.flatten())
    }
}

impl<S: Clone, C, M> Retry<S, C, M> {
    /// A request that comes when the shutdown has begun.
    fn refuse<Req, R>(&self, host: &str) -> ResponseFuture<S, Req, C, R>
    where
        S: Service<Req>,
    {
        let rules = &self.policy.rules;
        let host: Arc<str> = match &rules.host {
            Some(name) => name.clone(),
            None => host.into(),
        };
        let refused = Event::Refused(Refused::ShuttingDown);
        rules.seam.tell(&host, refused);
        let error = ShuttingDown::unsent(host).into();
        ResponseFuture::refused(self.policy.clone(), error)
    }
}

fn poll_ready<S: Service<Req>, Req>(
    inner: &mut S,
    door: Option<&mut Door>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BoxError>>
where
    S::Error: Into<BoxError>,
{
    let ready = match door {
        Some(door) => door.poll_ready(cx, |cx| inner.poll_ready(cx)),
        None => inner.poll_ready(cx),
    };
    ready.map_err(Into::into)
}

/// The body behind a first attempt, and the handle for others. A layer further
/// out may have recorded it already: once is enough.
#[inline]
pub(crate) fn recorded<B>(
    body: B,
    account: &Account,
    recorder: Option<&Recorder>,
) -> (ReplayBody<B>, ReplayHandle)
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let Some(recorder) = recorder else {
        return ReplayBody::new(body, account);
    };
    if let Some(handle) = recorder.body()
        && let Ok(body) = handle.take_over()
    {
        return (body, handle);
    }
    let (body, handle) = ReplayBody::new(body, account);
    recorder.keep_body(&handle);
    (body, handle)
}

/// Reads a request's terms and prepares its head for all attempts; also tells
/// whether it has a `grpc-timeout`.
#[inline]
fn begin(rules: &Rules, head: &mut request::Parts, recorder: Option<&Recorder>) -> (Plan, bool) {
    #[cfg(feature = "idempotency")]
    let keyed = rules.key.as_ref().is_some_and(|key| key.apply(head));
    #[cfg(feature = "idempotency")]
    if let (Some(key), Some(recorder)) = (&rules.key, recorder)
        && let Some((name, value)) = key.of(head)
    {
        recorder.keep_key(name, value);
    }
    #[cfg(not(feature = "idempotency"))]
    let keyed = false;
    let mut terms = Terms::but_safe(&head.headers, &head.extensions);
    terms.safe = keyed;
    let Terms {
        deadline: given,
        timeout,
        ..
    } = terms;
    let mut began = None;
    let plan = Plan::new(rules, terms, || *began.insert(Instant::now()));
    let deadline = plan.deadline();
    if let Some(at) = deadline.filter(|at| given != Some(*at)) {
        // The layers further in bound the attempt, and their queues, by it.
        head.extensions.insert(Deadline(at));
    }
    if let (Some(at), Some(began), Some(timeout)) = (deadline, began, timeout)
        && at.saturating_duration_since(began) < timeout
    {
        let left = grpc_timeout::write(at.saturating_duration_since(began));
        head.headers.insert(grpc_timeout::NAME, left);
    }
    if rules.suppress_nested {
        head.extensions.insert(NoRetry);
    }
    if let Some(recorder) = recorder {
        let host = match &rules.host {
            Some(name) => Cow::Borrowed(&**name),
            None => host_of(&head.uri, &head.headers).unwrap_or_default(),
        };
        recorder.begin(host.into(), Instant::now());
    }
    (plan, timeout.is_some())
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
        poll_ready(&mut self.inner, self.door.as_mut(), cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.view.refresh(&mut self.policy);
        let presence = self.door.as_ref().map(Door::enter);
        if let Some(None) = presence {
            return self.refuse("");
        }
        let rules = &self.policy.rules;
        let mut plan = None;
        let mut ticket = None;
        let mut source = None;
        if rules.enabled {
            let planned = Plan::new(rules, Terms::default(), Instant::now);
            plan = Some(planned);
            if planned.may_retry() {
                ticket = rules.ticket_of(|| None);
                source = Some(CloneSource(request.clone()));
            }
        }
        let task = rules.keeping();
        let left = trust::leave(task);
        let mut inner = readied(&mut self.inner);
        let future = inner.call(request);
        let kept = left.taken();
        let deadline = plan.as_ref().and_then(Plan::deadline);
        let mut turn = Turn::begun(source, plan, ticket, None);
        if task != Task::NONE && !kept {
            keep::<S::Response, _>(&mut turn, rules);
        }
        let policy = self.policy.clone();
        ResponseFuture::new(inner, future, policy, deadline, turn, presence.flatten())
    }
}

/// Takes the service that was polled ready, to call it and keep it for further
/// attempts; a clone stays behind.
#[inline]
fn readied<S: Clone>(service: &mut S) -> S {
    let clone = service.clone();
    mem::replace(service, clone)
}

/// Nobody else keeps the budget of a request that is under way.
#[cold]
fn keep<Res, R: Source<Res>>(turn: &mut Option<Turn<R>>, rules: &Rules) {
    if let Some(turn) = turn {
        turn.keep_budget(rules);
    }
}

impl<S: Clone, C, M: Clone> Clone for Retry<S, C, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            policy: self.policy.clone(),
            view: self.view.clone(),
            map: self.map.clone(),
            account: self.account.clone(),
            door: self.door.clone(),
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
