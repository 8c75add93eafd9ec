//! An upstream in the same process that does what it is told, and clients that
//! give up when they are told.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep};
use tower::Service;
use tower_weir::{
    BoxError,
    aimd::{
        AimdConcurrencyLayer, LimiterSnapshot,
        law::{Decision, LimitLaw, Sample},
    },
    weir::HostSnapshot,
};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A body of frames with a pause before each, for requests and for answers.
pub(crate) struct Chunks {
    left: usize,
    gap: Duration,
    end: End,
    trailers: Option<HeaderMap>,
    sleep: Option<Pin<Box<Sleep>>>,
    _live: Option<Live>,
}

/// What comes after a body's last frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum End {
    #[default]
    Clean,
    Never,
    Error,
    Panic,
}

impl Chunks {
    pub(crate) fn new(frames: usize, gap: Duration, end: End) -> Self {
        Self {
            left: frames,
            gap,
            end,
            trailers: None,
            sleep: None,
            _live: None,
        }
    }

    /// Three frames, a millisecond apart.
    pub(crate) fn three() -> Self {
        Self::new(3, ms(1), End::Clean)
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left > 0 {
            let gap = self.gap;
            let timer = self.sleep.get_or_insert_with(|| Box::pin(sleep(gap)));
            ready!(timer.as_mut().poll(cx));
            self.sleep = None;
            self.left -= 1;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"chunk")))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match self.end {
            End::Clean => Poll::Ready(None),
            End::Never => Poll::Pending,
            End::Error => Poll::Ready(Some(Err("the upstream broke off".into()))),
            End::Panic => panic!("the body panics"),
        }
    }
}

/// What the upstream does with a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) status: u16,
    /// From the request's end to the answer's head.
    pub(crate) head: Duration,
    pub(crate) retry_after: Option<&'static str>,
    pub(crate) frames: usize,
    pub(crate) end: End,
    /// gRPC's, among the trailers.
    pub(crate) code: Option<&'static str>,
    pub(crate) does: Does,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Does {
    Answer,
    Hang,
    Fail,
    PanicInCall,
    PanicInPoll,
}

impl Step {
    /// Answers in 5 ms, with a body of two frames.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            head: ms(5),
            retry_after: None,
            frames: 2,
            end: End::Clean,
            code: None,
            does: Does::Answer,
        }
    }

    pub(crate) fn does(does: Does) -> Self {
        Self {
            does,
            ..Self::status(200)
        }
    }

    pub(crate) fn after(self, head: Duration) -> Self {
        Self { head, ..self }
    }

    pub(crate) fn body(self, frames: usize, end: End) -> Self {
        Self {
            frames,
            end,
            ..self
        }
    }
}

/// The upstream's state, which all clones of an [`Upstream`] share.
struct Script {
    steps: Mutex<VecDeque<Step>>,
    then: Mutex<Step>,
    live: AtomicUsize,
    peak: AtomicUsize,
    calls: Mutex<Vec<Instant>>,
    ready_panics: AtomicUsize,
    ready_fails: AtomicUsize,
}

/// Answers each call by the next step of its script, and when that is at its
/// end, every call alike.
pub(crate) struct Upstream {
    script: Arc<Script>,
    ready_after: Duration,
    readying: Option<Pin<Box<Sleep>>>,
}

impl Clone for Upstream {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            ready_after: self.ready_after,
            readying: None,
        }
    }
}

/// Counts a call for as long as its future or its answer's body exists.
struct Live(Arc<Script>);

impl Live {
    fn new(script: &Arc<Script>) -> Self {
        let now = script.live.fetch_add(1, Ordering::SeqCst) + 1;
        script.peak.fetch_max(now, Ordering::SeqCst);
        Self(script.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream {
    pub(crate) fn new(then: Step) -> Self {
        Self {
            script: Arc::new(Script {
                steps: Mutex::default(),
                then: Mutex::new(then),
                live: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
                calls: Mutex::default(),
                ready_panics: AtomicUsize::new(0),
                ready_fails: AtomicUsize::new(0),
            }),
            ready_after: Duration::ZERO,
            readying: None,
        }
    }

    /// One that succeeds.
    pub(crate) fn good() -> Self {
        Self::new(Step::status(200))
    }

    pub(crate) fn ready_after(mut self, time: Duration) -> Self {
        self.ready_after = time;
        self
    }

    pub(crate) fn steps(self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.script.steps.lock().unwrap().extend(steps);
        self
    }

    /// Forgets the rest of the script.
    pub(crate) fn then(&self, step: Step) {
        self.script.steps.lock().unwrap().clear();
        *self.script.then.lock().unwrap() = step;
    }

    /// How many calls are being served, bodies that are still to be sent
    /// included.
    pub(crate) fn live(&self) -> usize {
        self.script.live.load(Ordering::SeqCst)
    }

    pub(crate) fn peak(&self) -> usize {
        self.script.peak.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> usize {
        self.script.calls.lock().unwrap().len()
    }

    /// When each call came, counted from `start`.
    pub(crate) fn called_at(&self, start: Instant) -> Vec<Duration> {
        let calls = self.script.calls.lock().unwrap();
        calls.iter().map(|at| *at - start).collect()
    }

    pub(crate) fn panic_in_poll_ready(&self, times: usize) {
        self.script.ready_panics.store(times, Ordering::SeqCst);
    }

    pub(crate) fn fail_in_poll_ready(&self, times: usize) {
        self.script.ready_fails.store(times, Ordering::SeqCst);
    }
}

fn take_one(counter: &AtomicUsize) -> bool {
    let one_less = |n: usize| n.checked_sub(1);
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
        .is_ok()
}

impl<B> Service<Request<B>> for Upstream
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Chunks>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response<Chunks>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        assert!(!take_one(&self.script.ready_panics), "poll_ready panics");
        if take_one(&self.script.ready_fails) {
            return Poll::Ready(Err("not ready, and never will be".into()));
        }
        if !self.ready_after.is_zero() {
            let time = self.ready_after;
            let timer = self.readying.get_or_insert_with(|| Box::pin(sleep(time)));
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.readying = None;
        let script = &self.script;
        script.calls.lock().unwrap().push(Instant::now());
        let next = script.steps.lock().unwrap().pop_front();
        let step = next.unwrap_or_else(|| *script.then.lock().unwrap());
        assert!(step.does != Does::PanicInCall, "call panics");
        let live = Live::new(script);
        Box::pin(serve(request.into_body(), step, live))
    }
}

async fn serve<B>(body: B, step: Step, live: Live) -> Result<Response<Chunks>, BoxError>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    body.collect().await.map_err(Into::into)?;
    sleep(step.head).await;
    match step.does {
        Does::Answer => {}
        Does::Hang => std::future::pending().await,
        Does::Fail => return Err("the connection is gone".into()),
        Does::PanicInPoll | Does::PanicInCall => panic!("the future panics"),
    }
    let mut response = Response::builder().status(step.status);
    if let Some(value) = step.retry_after {
        response = response.header("retry-after", value);
    }
    let mut body = Chunks::new(step.frames, ms(1), step.end);
    if let Some(code) = step.code {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse()?);
        body.trailers = Some(trailers);
        response = response.header("content-type", "application/grpc");
    }
    body._live = Some(live);
    Ok(response.body(body)?)
}

/// A request to the host `a` with nothing in it.
pub(crate) fn get() -> Request<Chunks> {
    get_from("http://a/")
}

pub(crate) fn get_from(uri: &str) -> Request<Chunks> {
    Request::get(uri)
        .body(Chunks::new(0, Duration::ZERO, End::Clean))
        .unwrap()
}

/// A request whose body comes in pieces.
pub(crate) fn put() -> Request<Chunks> {
    Request::put("http://a/").body(Chunks::three()).unwrap()
}

/// Sends the request at once, before the first poll; then reads the answer.
pub(crate) fn exchange<S, B>(
    service: &mut S,
    request: Request<Chunks>,
) -> impl Future<Output = Result<(StatusCode, usize), BoxError>> + use<S, B>
where
    S: Service<Request<Chunks>, Response = Response<B>, Error = BoxError>,
    B: Body<Data = Bytes, Error = BoxError>,
{
    let response = service.call(request);
    async move {
        let (head, body) = response.await?.into_parts();
        let read = body.collect().await?.to_bytes().len();
        Ok((head.status, read))
    }
}

/// Sends an empty request, and keeps the call to poll it by hand.
pub(crate) fn begin<S: Service<Request<Chunks>>>(service: &mut S) -> Pin<Box<S::Future>> {
    Box::pin(service.call(get()))
}

/// Polls a future, each time that it is woken, up to `polls` times, then drops
/// it. With `polls` of 0 it is dropped as it was made.
pub(crate) async fn poll_times<F: Future>(future: F, mut polls: usize) -> Option<F::Output> {
    if polls == 0 {
        return None;
    }
    let mut future = Box::pin(future);
    poll_fn(move |cx| {
        polls -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Polls a future once, here and now.
pub(crate) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What the future brings within `time`; `None` if it takes longer.
pub(crate) async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = sleep(time) => None,
    }
}

/// The only host of a limiter.
pub(crate) fn limiter<X>(layer: &AimdConcurrencyLayer<X>) -> LimiterSnapshot {
    let [(_, snapshot)] = layer.snapshot().try_into().unwrap();
    snapshot
}

/// The only host of a stack.
pub(crate) fn stack<C, M, X>(weir: &tower_weir::Weir<C, M, X>) -> HostSnapshot {
    let [snapshot] = weir.snapshot().try_into().unwrap();
    snapshot
}

/// A law that says what it is told: on each settled call the next of these.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToldLaw(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    limit: f64,
    next: VecDeque<(f64, Decision)>,
}

impl ToldLaw {
    pub(crate) fn new(limit: f64) -> Self {
        let told = Told {
            limit,
            next: VecDeque::new(),
        };
        Self(Arc::new(Mutex::new(told)))
    }

    /// From the next call that settles on, the limit is this; its slot cools
    /// and the host pauses for so long.
    pub(crate) fn next(self, limit: f64, cool: Duration, pause: Option<Duration>) -> Self {
        let mut decision = Decision::default();
        (decision.cool, decision.pause) = (cool, pause);
        self.0.lock().unwrap().next.push_back((limit, decision));
        self
    }

    pub(crate) fn layer(&self) -> AimdConcurrencyLayer {
        let law = self.clone();
        AimdConcurrencyLayer::http().law(move |_| law.clone())
    }
}

impl LimitLaw for ToldLaw {
    fn limit(&self) -> usize {
        self.0.lock().unwrap().limit as usize
    }

    fn settle(&mut self, _: &Sample) -> Decision {
        let mut told = self.0.lock().unwrap();
        match told.next.pop_front() {
            Some((limit, decision)) => {
                told.limit = limit;
                decision
            }
            None => Decision::default(),
        }
    }
}

/// Counts how often a task is woken.
#[derive(Debug, Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls a future once, for a task of its own whose wakes are counted.
pub(crate) fn poll_as<F: Future + Unpin>(task: &Arc<Wakes>, future: &mut F) -> Poll<F::Output> {
    let waker = Waker::from(task.clone());
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}
