//! Callers that vanish anywhere, and users' code that panics.

use std::{
    convert::Infallible,
    future::{Pending, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::advance;
use tower::Service;
use tower_layer::Layer;
use tower_weir::{observe::Event, server::AdmissionLayer, shutdown::Shutdown};

use crate::support::{Wakes, pending};

/// Where the inner service waits once, and may panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Ready,
    Call,
    Head,
    Frame,
    Nowhere,
}

/// Needs two polls for everything.
#[derive(Clone, Debug)]
struct Slow {
    panics: At,
    ready: bool,
}

impl Slow {
    fn pass(&self, at: At) {
        assert_ne!(self.panics, at, "as planned");
    }
}

/// Pends once.
async fn later() {
    let mut pended = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut pended, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Service<Request<String>> for Slow {
    type Response = Response<SlowBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if std::mem::replace(&mut self.ready, true) {
            self.pass(At::Ready);
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        self.pass(At::Call);
        let this = self.clone();
        Box::pin(async move {
            later().await;
            this.pass(At::Head);
            Ok(Response::new(SlowBody {
                slow: this,
                polls: 0,
            }))
        })
    }
}

/// Two frames, each at the second time of asking.
struct SlowBody {
    slow: Slow,
    polls: u32,
}

impl Body for SlowBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polls += 1;
        match self.polls {
            1 | 3 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            2 | 4 => {
                self.slow.pass(At::Frame);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a")))))
            }
            _ => Poll::Ready(None),
        }
    }
}

/// A call of a new service, and its body's end.
async fn whole(layer: &AdmissionLayer, panics: At) {
    let slow = Slow {
        panics,
        ready: false,
    };
    let mut service = layer.layer(slow);
    let request = Request::post("/a").body(String::new()).unwrap();
    let Ok(answer) = service.call(request).await;
    let Ok(_) = answer.into_body().collect().await;
}

type Whole<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

fn begin(layer: &AdmissionLayer, panics: At) -> Whole<'_> {
    Box::pin(whole(layer, panics))
}

fn poll(whole: &mut Whole<'_>) -> Poll<()> {
    whole.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// What it needs is never more than this many polls.
const POLLS: u32 = 10;

fn to_its_end(layer: &AdmissionLayer) {
    let mut whole = begin(layer, At::Nowhere);
    assert!((0..POLLS).any(|_| poll(&mut whole).is_ready()));
    assert_eq!(pending(layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_is_dropped_at_any_poll_leaves_nothing() {
    let layer = AdmissionLayer::new().throttle_at(1);
    for polls in 0..POLLS {
        let mut runs = begin(&layer, At::Nowhere);
        for _ in 0..polls {
            if poll(&mut runs).is_ready() {
                break;
            }
        }
        drop(runs);
        assert_eq!(pending(&layer), (0, 0), "{polls}");
    }
    to_its_end(&layer);
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_and_is_dropped_at_any_poll_leaves_nothing_either() {
    let layer = AdmissionLayer::new().throttle_at(1);
    for before in 0..3 {
        for after in 0..POLLS {
            let mut runs = begin(&layer, At::Nowhere);
            assert!(poll(&mut runs).is_pending());
            let mut waits = begin(&layer, At::Nowhere);
            for _ in 0..=before {
                assert!(poll(&mut waits).is_pending());
            }
            assert_eq!(pending(&layer), (2, 1));
            drop(runs);
            assert_eq!(pending(&layer), (1, 0), "its turn has come, polled or not");
            for _ in 0..after {
                if poll(&mut waits).is_ready() {
                    break;
                }
            }
            drop(waits);
            assert_eq!(pending(&layer), (0, 0), "{before} {after}");
        }
    }
    to_its_end(&layer);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_inner_service_gives_its_place_on() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let panicked = |faulty: &mut Whole<'_>| {
        let polls = AssertUnwindSafe(|| while poll(faulty).is_pending() {});
        catch_unwind(polls).is_err()
    };
    for panics in [At::Ready, At::Call, At::Head, At::Frame] {
        // One that goes at once, and one that has waited.
        let mut faulty = begin(&layer, panics);
        assert!(panicked(&mut faulty), "{panics:?}");
        drop(faulty);
        assert_eq!(pending(&layer), (0, 0), "{panics:?}");

        let mut runs = begin(&layer, At::Nowhere);
        assert!(poll(&mut runs).is_pending());
        let [mut faulty, mut behind] = [panics, At::Nowhere].map(|panics| begin(&layer, panics));
        assert!(poll(&mut faulty).is_pending() && poll(&mut behind).is_pending());
        assert_eq!(pending(&layer), (3, 2));
        drop(runs);
        assert!(panicked(&mut faulty), "{panics:?}");
        drop(faulty);
        assert_eq!(pending(&layer), (1, 0), "{panics:?}");
        assert!((0..POLLS).any(|_| poll(&mut behind).is_ready()));
        assert_eq!(pending(&layer), (0, 0), "{panics:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_what_the_layer_was_given_leaves_nothing() {
    let panics = |armed: &AdmissionLayer| {
        let mut whole = begin(armed, At::Nowhere);
        catch_unwind(AssertUnwindSafe(|| poll(&mut whole).is_ready())).is_err()
    };
    let layer = AdmissionLayer::new().throttle_at(1);
    let faulty = [
        layer.clone().classify(|_| panic!("as planned")),
        layer.clone().key(|_| panic!("as planned")),
    ];
    for faulty in faulty {
        assert!(panics(&faulty));
        assert_eq!(pending(&faulty), (0, 0));
    }
    // Told when one is delayed, and when one is rejected.
    let faulty = layer.reject_at(2).observe(|_, event: &Event| {
        assert!(!matches!(
            event,
            Event::Delaying { .. } | Event::Rejected(_)
        ));
    });
    let mut runs = begin(&faulty, At::Nowhere);
    assert!(poll(&mut runs).is_pending());
    assert!(panics(&faulty));
    assert_eq!(pending(&faulty), (1, 0));
    // Delays are told of once a second: nobody hears of the next one.
    let mut waits = begin(&faulty, At::Nowhere);
    assert!(poll(&mut waits).is_pending());
    assert!(panics(&faulty));
    assert_eq!(pending(&faulty), (2, 1));
    drop((runs, waits));
    to_its_end(&faulty);
    let update = || faulty.handle().update(|_| panic!("as planned"));
    assert!(catch_unwind(AssertUnwindSafe(update)).is_err());
    to_its_end(&faulty);
}

/// Wakes nobody, and panics instead while it is armed.
#[derive(Default)]
struct Alarming(AtomicBool);

impl Wake for Alarming {
    fn wake(self: Arc<Self>) {
        assert!(!self.0.load(Ordering::Relaxed), "as planned");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_keeps_no_other_from_hearing_of_its_turn() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let never = tower::service_fn(|_: Request<String>| {
        std::future::pending::<Result<Response<String>, Infallible>>()
    });
    let request = || Request::post("/a").body(String::new()).unwrap();
    let call = |waker: &Waker| {
        let mut call = Box::pin(layer.layer(never).call(request()));
        let cx = &mut Context::from_waker(waker);
        assert!(call.as_mut().poll(cx).is_pending());
        call
    };
    let alarming = Arc::new(Alarming::default());
    let wakes = Arc::new(Wakes::default());
    let _runs = call(Waker::noop());
    let _first = call(&alarming.clone().into());
    let _second = call(&wakes.clone().into());
    assert_eq!(pending(&layer), (3, 2));
    let before = wakes.0.load(Ordering::Relaxed);
    alarming.0.store(true, Ordering::Relaxed);
    let handle = layer.handle();
    let update = || handle.update(|config| config.limits.throttle_at = 3);
    assert!(catch_unwind(AssertUnwindSafe(update)).is_err());
    alarming.0.store(false, Ordering::Relaxed);
    assert_eq!(pending(&layer), (3, 0));
    assert_eq!(wakes.0.load(Ordering::Relaxed), before + 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_while_the_waking_of_another_panics_leaves_nothing() {
    let hold = Duration::from_secs(1);
    // One that comes then, and one that has waited.
    for has_waited in [false, true] {
        let layer = AdmissionLayer::new().throttle_at(2).max_hold(hold);
        let alarming = Arc::new(Alarming::default());
        let waker = Waker::from(alarming.clone());
        let mut unread = Vec::new();
        for _ in 0..2 {
            let slow = Slow {
                panics: At::Nowhere,
                ready: true,
            };
            let request = Request::post("/a").body(String::new()).unwrap();
            let Ok(answer) = layer.layer(slow).call(request).await;
            unread.push(answer);
        }
        let mut woken = begin(&layer, At::Nowhere);
        let looked = woken.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(looked.is_pending());
        let mut goes = begin(&layer, At::Nowhere);
        if has_waited {
            assert!(poll(&mut goes).is_pending());
        }
        advance(hold).await;
        // Both bodies have been held for long enough, which it finds out.
        alarming.0.store(true, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut goes))).is_err());
        alarming.0.store(false, Ordering::Relaxed);
        drop(goes);
        assert_eq!(pending(&layer), (1, 0), "{has_waited}");
        drop(woken);
        assert_eq!(pending(&layer), (0, 0), "{has_waited}");
        drop(unread);
        to_its_end(&layer);
    }
}

/// Is never ready, or says that it has failed.
#[derive(Clone)]
struct Unready(Option<&'static str>);

impl Service<Request<String>> for Unready {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = Pending<Result<Response<String>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.0
            .map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        unreachable!()
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_inner_service_has_failed_is_over_when_that_is_known() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let request = || Request::post("/a").body(String::new()).unwrap();
    let call = |inner| Box::pin(layer.layer(inner).call(request()));
    let cx = &mut Context::from_waker(Waker::noop());
    let mut at_once = call(Unready(Some("broken")));
    let mut waited = call(Unready(Some("broken")));
    assert!(waited.as_mut().poll(cx).is_pending());
    for call in [&mut at_once, &mut waited] {
        let Poll::Ready(Err(error)) = call.as_mut().poll(cx) else {
            panic!("it has failed");
        };
        assert_eq!(error, "broken");
    }
    // Both futures are still there.
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_is_over_with_its_answer() {
    let shutdown = Shutdown::new();
    let layer = AdmissionLayer::new().shutdown(&shutdown);
    let request = Request::post("/a").body(String::new()).unwrap();
    let mut call = Box::pin(layer.layer(Unready(None)).call(request));
    let drained = shutdown.drain(Duration::ZERO).await;
    assert_eq!(drained.cut, 1);
    let answer = call.as_mut().await.unwrap();
    assert_eq!(answer.status(), 503);
    // The future is still there.
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_has_panicked_is_counted_until_it_is_dropped() {
    for panics in [At::Ready, At::Call, At::Head] {
        let shutdown = Shutdown::new();
        let layer = AdmissionLayer::new().shutdown(&shutdown);
        let slow = Slow {
            panics,
            ready: false,
        };
        let request = Request::post("/a").body(String::new()).unwrap();
        let mut faulty = Box::pin(layer.layer(slow).call(request));
        let cx = &mut Context::from_waker(Waker::noop());
        let polls = AssertUnwindSafe(|| while faulty.as_mut().poll(cx).is_pending() {});
        assert!(catch_unwind(polls).is_err());
        let mut drain = Box::pin(shutdown.drain(Duration::from_secs(1)));
        let begun = drain.as_mut().poll(cx);
        assert!(begun.is_pending(), "{panics:?}");
        drop(faulty);
        assert_eq!(drain.await.cancelled, 1, "{panics:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_inner_service_has_failed_was_not_done_when_it_is_cut() {
    let shutdown = Shutdown::new();
    let layer = AdmissionLayer::new().shutdown(&shutdown);
    let request = Request::post("/a").body(String::new()).unwrap();
    let call = layer.layer(Unready(Some("broken"))).call(request);
    assert_eq!(shutdown.drain(Duration::ZERO).await.cut, 1);
    // As one that never began.
    assert!(call.await.unwrap().headers().contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn nor_was_it_if_giving_its_place_on_has_panicked() {
    let shutdown = Shutdown::new();
    let layer = AdmissionLayer::new().throttle_at(1).shutdown(&shutdown);
    let alarming = Arc::new(Alarming::default());
    let request = || Request::post("/a").body(String::new()).unwrap();
    let call = |error| Box::pin(layer.layer(Unready(error)).call(request()));
    let [mut failed, mut woken] = [Some("broken"), None].map(call);
    let waker = Waker::from(alarming.clone());
    let looked = woken.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(looked.is_pending());
    alarming.0.store(true, Ordering::Relaxed);
    let cx = &mut Context::from_waker(Waker::noop());
    let polled = AssertUnwindSafe(|| failed.as_mut().poll(cx).is_ready());
    assert!(catch_unwind(polled).is_err());
    alarming.0.store(false, Ordering::Relaxed);
    drop(woken);
    assert_eq!(shutdown.drain(Duration::ZERO).await.cut, 1);
    assert!(failed.await.unwrap().headers().contains_key("retry-after"));
}

/// Panics when it is asked whether it is over, and looks as it goes how many are pending.
struct Nasty {
    layer: AdmissionLayer,
    pending: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Body for Nasty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        panic!("as planned")
    }
}

impl Drop for Nasty {
    fn drop(&mut self) {
        self.pending.lock().unwrap().push(pending(&self.layer));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_over_its_end_goes_before_its_place() {
    let layer = AdmissionLayer::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut service = layer.layer(tower::service_fn(|_: Request<String>| {
        let body = Nasty {
            layer: layer.clone(),
            pending: seen.clone(),
        };
        async { Ok::<_, Infallible>(Response::new(body)) }
    }));
    let mut call = Box::pin(service.call(Request::post("/").body(String::new()).unwrap()));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx).is_ready())).is_err());
    assert_eq!(*seen.lock().unwrap(), [(1, 0)]);
    assert_eq!(pending(&layer), (0, 0));
}
