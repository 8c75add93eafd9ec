//! tower's contract: readiness, clones, and futures that are dropped or panic.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::{task::JoinSet, time::sleep};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, balance::p2c::Balance,
    discover::ServiceList, limit::ConcurrencyLimit, load::Constant as Load, util::Either,
};
use tower_weir::retry::{Account, RetryLayer, backoff::Constant, budget::InFlightShare};

use crate::support::*;

type Streaming = Request<UnsyncBoxBody<Bytes, Infallible>>;

/// Panics when it is called without having been polled ready. It is ready when
/// polled a second time, takes a millisecond, and refuses what `refuses` says.
struct Strict {
    polls: u32,
    calls: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    refuses: fn(usize) -> bool,
    panics: fn(usize) -> bool,
}

impl Strict {
    fn new(refuses: fn(usize) -> bool) -> Self {
        Self {
            polls: 0,
            calls: Arc::default(),
            in_flight: Arc::default(),
            refuses,
            panics: |_| false,
        }
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            polls: 0,
            calls: self.calls.clone(),
            in_flight: self.in_flight.clone(),
            ..*self
        }
    }
}

struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B> Service<Request<B>> for Strict
where
    B: http_body::Body<Error: Send> + Send + Unpin + 'static,
    B::Data: Send,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.polls += 1;
        if self.polls == 1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(self.polls > 1, "called without having been polled ready");
        self.polls = 0;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight(self.in_flight.clone());
        let (refused, panics) = ((self.refuses)(call), (self.panics)(call));
        Box::pin(async move {
            let _in_flight = in_flight;
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                drop(frame);
            }
            sleep(millis(1)).await;
            assert!(!panics, "as told");
            Ok(status(if refused { 503 } else { 200 }))
        })
    }
}

fn layer() -> RetryLayer {
    RetryLayer::http()
        .no_budget()
        .backoff(Constant::new(millis(10)))
}

fn streaming() -> Streaming {
    let frames = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
    let frames = frames.map(|data| Ok(http_body::Frame::data(data)));
    let body = StreamBody::new(tokio_stream::iter(frames));
    let request = Request::put("http://a.test/");
    request.body(body.boxed_unsync()).unwrap()
}

async fn answered<S>(stack: S) -> u16
where
    S: Service<Streaming, Response = Answer, Error = BoxError>,
{
    stack.oneshot(streaming()).await.unwrap().status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_made_by_a_service_that_is_ready() {
    let strict = Strict::new(|call| call < 3);
    assert_eq!(answered(layer().layer(strict.clone())).await, 200);
    assert_eq!(strict.calls.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn the_service_that_was_polled_is_called_and_the_clone_stays_behind() {
    let mut stack = layer().layer(Strict::new(|call| call % 2 == 0));
    for _ in 0..3 {
        poll_fn(|cx| Service::<Streaming>::poll_ready(&mut stack, cx))
            .await
            .unwrap();
        // A clone taken now is not ready, and the call must not use it.
        let idle = stack.clone();
        assert_eq!(stack.call(streaming()).await.unwrap().status(), 200);
        drop(idle);
    }
}

#[tokio::test(start_paused = true)]
async fn buffer_load_shed_balance_and_either_go_around_it() {
    let refuses = |call: usize| call % 4 != 3;
    let whole = || layer().layer(Strict::new(refuses));

    let buffered = ServiceBuilder::new().buffer(8).service(whole());
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        calls.spawn(answered(buffered.clone()));
    }
    assert!(
        calls
            .join_all()
            .await
            .iter()
            .all(|status| [200, 503].contains(status))
    );
    assert_eq!(answered(buffered).await, 200, "the buffer lives");

    // Overloaded is our own word for not ready: the first poll is.
    let shedding = ServiceBuilder::new().load_shed().service(whole());
    let shed = shedding.oneshot(streaming()).await.unwrap_err();
    assert!(shed.is::<tower::load_shed::error::Overloaded>());
    let patient = ServiceBuilder::new()
        .load_shed()
        .layer(tower::buffer::BufferLayer::new(8))
        .service(whole());
    assert_eq!(answered(patient).await, 200);

    let endpoints: Vec<_> = (0..2).map(|_| Load::new(whole(), 1)).collect();
    let mut balanced = Balance::new(ServiceList::new::<Streaming>(endpoints));
    for _ in 0..4 {
        let ready = balanced.ready().await.unwrap();
        assert_eq!(ready.call(streaming()).await.unwrap().status(), 200);
    }

    for left in [true, false] {
        let either = if left {
            Either::Left(whole())
        } else {
            Either::Right(
                RetryLayer::http()
                    .enabled(false)
                    .layer(Strict::new(refuses)),
            )
        };
        assert_eq!(answered(either).await, if left { 200 } else { 503 });
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_point_a_call_leaves_nothing_behind() {
    let account = Account::default();
    let one = || InFlightShare::new(0.0, 1).unwrap();
    let layer = layer().budget(one).max_retries(1).replay(account.clone());
    let strict = Strict::new(|call| call % 2 == 0);
    let stack = layer.layer(strict.clone());
    let mut finished = false;
    for polls in 0.. {
        strict.calls.store(0, Ordering::Relaxed);
        let mut call = Box::pin(answered(stack.clone()));
        for _ in 0..polls {
            // Every timer may pass between two polls.
            let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
            finished = polled.is_ready();
            if finished {
                break;
            }
            sleep(millis(4)).await;
        }
        drop(call);
        assert_eq!(strict.in_flight.load(Ordering::Relaxed), 0, "{polls}");
        assert_eq!(account.used(), 0, "{polls}");
        // The budget has one place: somebody else can have it.
        strict.calls.store(0, Ordering::Relaxed);
        assert_eq!(answered(stack.clone()).await, 200, "{polls}");
        if finished {
            assert!(polls > 6, "{polls}");
            break;
        }
    }
    assert!(finished);
}

#[tokio::test(start_paused = true)]
async fn a_panic_further_in_reaches_the_caller_and_ends_nothing_else() {
    let account = Account::default();
    let one = || InFlightShare::new(0.0, 1).unwrap();
    let layer = layer().budget(one).replay(account.clone());
    let mut strict = Strict::new(|call| call == 0);
    strict.panics = |call| call == 1;
    let stack = layer.layer(strict.clone());
    let task = tokio::spawn(answered(stack.clone()));
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(account.used(), 0);
    // The budget has one place, and it is free.
    strict.calls.store(0, Ordering::Relaxed);
    strict.panics = |_| false;
    assert_eq!(answered(layer.layer(strict)).await, 200);
    assert_eq!(answered(stack).await, 200);
}

async fn ready<S: Service<Sent, Error = BoxError>>(service: &mut S) -> &mut S {
    service.ready().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_ended_keeps_no_place_further_in() {
    let limited = ConcurrencyLimit::new(upstream(|_| status(503)), 1);
    let mut stack = layer().deadline(millis(1000)).layer(limited.clone());
    let mut ended = pin!(ready(&mut stack).await.call(get("http://a.test/")));
    let begun = poll_fn(|cx| Poll::Ready(ended.as_mut().poll(cx))).await;
    assert!(begun.is_pending(), "it waits for its retry");
    let mut busy = limited.clone();
    ready(&mut busy).await;
    assert!(ended.as_mut().await.is_err(), "the deadline passes");
    drop(busy);
    let mut other = limited.clone();
    let free = Service::<Sent>::poll_ready(&mut other, &mut Context::from_waker(Waker::noop()));
    assert!(free.is_ready(), "the place is taken");
}
