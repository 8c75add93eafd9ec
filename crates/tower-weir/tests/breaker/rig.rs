//! A breaker in front of an upstream that does what each request tells it, once
//! as `CircuitBreakerLayer` and once within `Weir`.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, response};
use http_body::Frame;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::{task::JoinHandle, time::sleep};
use tower::{
    BoxError, Layer, ServiceExt,
    util::{BoxCloneService, service_fn},
};
use tower_weir::{
    Weir,
    circuit_breaker::{
        BreakerConfig, CircuitBreakerLayer, Control, FailureRun, OpenFor, Snapshot, State, WhenOpen,
    },
    error::CircuitOpen,
    observe::Subscription,
};

pub(crate) type Answer = Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;
pub(crate) type Stack =
    BoxCloneService<Request<String>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

pub(crate) const HOST: &str = "index.test";

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Status(u16),
    /// A status, after so many seconds.
    Late(u64, u16),
    /// A status, and `Retry-After` in seconds.
    Hint(u16, u64),
    /// 200, and a body that never ends.
    Stream,
    /// 200, and a body that breaks off.
    Break,
    Hang,
    Panic,
}

/// The body of an answer.
#[derive(Clone, Copy)]
enum Body {
    Empty,
    Endless,
    Broken,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match *self {
            Self::Empty => Poll::Ready(None),
            Self::Endless => Poll::Pending,
            Self::Broken => Poll::Ready(Some(Err("broken off".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

async fn act(act: Act) -> Result<Response<Body>, BoxError> {
    let status = |status: u16| Response::builder().status(status);
    let answer = |head: response::Builder, body| Ok(head.body(body)?);
    match act {
        Act::Status(code) => answer(status(code), Body::Empty),
        Act::Late(after, code) => {
            sleep(seconds(after)).await;
            answer(status(code), Body::Empty)
        }
        Act::Hint(code, after) => answer(status(code).header("retry-after", after), Body::Empty),
        Act::Stream => answer(status(200), Body::Endless),
        Act::Break => answer(status(200), Body::Broken),
        Act::Hang => std::future::pending().await,
        Act::Panic => panic!("as it was told"),
    }
}

/// Opens at the third failure in a row, for 1, 2, 4, 4, .. seconds.
pub(crate) fn config() -> BreakerConfig {
    let open_for = OpenFor::new(seconds(1), seconds(4)).unwrap();
    BreakerConfig::default()
        .failure_run(FailureRun::new(3, Duration::ZERO))
        .open_for(open_for.jitter(None))
}

type Change<'a> = dyn Fn(BreakerConfig) -> BreakerConfig + 'a;

pub(crate) struct Rig {
    pub(crate) service: Stack,
    pub(crate) events: Subscription,
    snapshot: Box<dyn Fn() -> Snapshot + Send + Sync>,
    control: Box<dyn Fn(Control) -> bool + Send + Sync>,
    /// Changes the settings under way.
    pub(crate) update: Box<dyn Fn(&Change<'_>) + Send + Sync>,
    reached: Arc<AtomicUsize>,
}

/// Both rigs, one after the other.
pub(crate) async fn both<F: Future<Output = ()>>(
    config: BreakerConfig,
    when_open: WhenOpen,
    scenario: impl Fn(Rig) -> F,
) {
    scenario(alone(config.clone(), when_open)).await;
    scenario(joined(config, when_open)).await;
}

macro_rules! rig {
    ($layer:ident, $handle:ident, $snapshot:expr, $update:ident, $control:expr) => {{
        let reached = Arc::new(AtomicUsize::new(0));
        let count = reached.clone();
        let upstream = service_fn(move |request: Request<_>| {
            count.fetch_add(1, Ordering::Relaxed);
            act(*request.extensions().get::<Act>().unwrap())
        });
        let service = $layer.layer(upstream);
        let service = service.map_response(|response| response.map(BodyExt::boxed_unsync));
        let $handle = $layer.handle();
        let rig = Rig {
            service: BoxCloneService::new(service),
            events: $handle.subscribe(),
            snapshot: Box::new({
                let $handle = $handle.clone();
                move || $snapshot
            }),
            control: Box::new({
                let $handle = $handle.clone();
                move |control| $control(&$handle, control)
            }),
            update: Box::new(move |change| $handle.$update(change)),
            reached,
        };
        // It is known from now on.
        rig.control(Control::Automatic);
        rig
    }};
}

pub(crate) fn alone(config: BreakerConfig, when_open: WhenOpen) -> Rig {
    let layer = CircuitBreakerLayer::http().for_host(HOST).config(config);
    let layer = layer.when_open(when_open).unwrap().attempt_timeout(None);
    rig!(
        layer,
        handle,
        handle.snapshot()[0].1,
        update,
        |handle: &tower_weir::circuit_breaker::CircuitBreakerHandle, control| handle
            .control(HOST, control)
    )
}

pub(crate) fn joined(config: BreakerConfig, when_open: WhenOpen) -> Rig {
    let weir = Weir::http().for_host(HOST).breaker(|_| config);
    let weir = weir.when_open(when_open).unwrap();
    let weir = weir.attempt_timeout(None).max_retries(0).seed(1);
    rig!(
        weir,
        handle,
        handle.snapshot()[0].circuit.unwrap(),
        update_breaker,
        |handle: &tower_weir::weir::WeirHandle, control| handle.control_circuit(HOST, control)
    )
}

pub(crate) fn request(act: Act) -> Request<String> {
    let mut request = Request::get("http://elsewhere.test/")
        .body(String::new())
        .unwrap();
    request.extensions_mut().insert(act);
    request
}

impl Rig {
    /// Makes a call in a task of its own.
    pub(crate) fn spawn(&self, act: Act) -> JoinHandle<Answer> {
        let service = self.service.clone();
        tokio::spawn(service.oneshot(request(act)))
    }

    /// Makes a call whose place is taken by the time this returns.
    pub(crate) async fn start(&self, act: Act) -> JoinHandle<Answer> {
        let reached = self.reached();
        let call = self.spawn(act);
        while self.reached() == reached {
            tokio::task::yield_now().await;
        }
        call
    }

    pub(crate) async fn call(&self, act: Act) -> Answer {
        self.spawn(act).await.unwrap()
    }

    /// Makes a call that is admitted.
    pub(crate) async fn sent(&self, act: Act) -> u16 {
        self.call(act).await.unwrap().status().as_u16()
    }

    /// Makes a call that is refused.
    pub(crate) async fn refused(&self) -> CircuitOpen {
        let reached = self.reached();
        let error = self.call(Act::Status(200)).await.unwrap_err();
        assert_eq!(self.reached(), reached);
        error.downcast_ref::<CircuitOpen>().unwrap().clone()
    }

    pub(crate) async fn panics(&self) {
        assert!(self.spawn(Act::Panic).await.unwrap_err().is_panic());
    }

    /// Opens the circuit.
    pub(crate) async fn trip(&self) {
        for _ in 0..3 {
            assert_eq!(self.state(), State::Closed);
            assert_eq!(self.sent(Act::Status(500)).await, 500);
        }
        assert_eq!(self.state(), State::Open);
    }

    /// Services that are polled ready, and not called.
    pub(crate) async fn readied(&self) -> [Stack; 3] {
        let mut services = [(); 3].map(|()| self.service.clone());
        for service in &mut services {
            service.ready().await.unwrap();
        }
        services
    }

    pub(crate) fn state(&self) -> State {
        self.snapshot().state
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        (self.snapshot)()
    }

    pub(crate) fn control(&self, control: Control) {
        assert!((self.control)(control));
    }

    /// How many calls have reached the upstream.
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

/// Goes on by so much.
pub(crate) async fn pass(time: Duration) {
    tokio::time::advance(time).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}
