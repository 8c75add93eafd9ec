//! What may go to another region, and what the caller gets.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tests::BoxError;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    Deadline, Weir,
    error::{CircuitOpen, DeadlineExceeded},
    failover::{AnsweredBy, DownCause, Failover, Origin, Region},
    observe::Event,
    outcome::{Idempotent, Processed},
    retry::{
        Account, Ending, NoRetry, NotReplayable, Recorder, ReplayBody, RetryLayer,
        backoff::Constant,
    },
};
use tower_weir_testkit::probe::Reply;

use crate::support::*;

/// What A says, and to which requests B is asked then: to GET, to a POST with
/// a key, and to a POST without one.
#[tokio::test(start_paused = true)]
async fn a_request_goes_on_as_the_rules_of_repetition_let_it() {
    type Says = fn() -> Reply<Answer>;
    let timeout: Says = || Reply::fail(BoxError::from(tower::timeout::error::Elapsed::new()));
    let cases: [(&str, Says, [bool; 3]); 10] = [
        ("success", || says(200), [false, false, false]),
        ("not found", || says(404), [false, false, false]),
        ("not implemented", || says(501), [false, false, false]),
        ("500", || says(500), [true, true, false]),
        ("503", || says(503), [true, true, false]),
        ("429", || says(429), [true, true, true]),
        ("timeout", timeout, [true, true, false]),
        ("lost", lost, [true, true, false]),
        ("refused", refused, [true, true, true]),
        ("open", open, [true, true, true]),
    ];
    for (name, a, expected) in cases {
        let keyed = || {
            let mut request = request("POST");
            let key = "7".parse().unwrap();
            request.headers_mut().insert("idempotency-key", key);
            request
        };
        for (request, goes_on) in [request("GET"), keyed(), request("POST")]
            .into_iter()
            .zip(expected)
        {
            let method = request.method().clone();
            let (failover, seen_a, seen_b) = pair(move |_, _| a(), |_, _| says(200));
            let result = call(&failover, request).await;
            assert_eq!(seen_a.counts().calls, 1);
            assert_eq!(seen_b.counts().calls, u64::from(goes_on), "{name} {method}");
            if goes_on {
                assert_eq!(told(&result), "200 by b", "{name} {method}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_callers_word_makes_any_request_go_on() {
    let (failover, ..) = pair(|_, _| says(500), |_, _| says(200));
    let mut promised = request("POST");
    promised.extensions_mut().insert(Idempotent);
    assert_eq!(told(&call(&failover, promised).await), "200 by b");
    let post = call(&failover, request("POST")).await;
    assert_eq!(told(&post), "500 by a");
    let any = failover.any_method();
    assert_eq!(told(&call(&any, request("POST")).await), "200 by b");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_followed_by_an_open_circuit_may_have_been_processed() {
    // A's own retries take any method. The breaker opens with the third failure.
    let stack = |retries| {
        let hangs = service_fn(|_: Inner2| std::future::pending::<Result<Answer, BoxError>>());
        Weir::http()
            .any_method()
            .max_retries(retries)
            .backoff(AT_ONCE)
            .attempt_timeout(SECOND)
            .breaker(quick)
            .layer(tower::util::BoxCloneService::new(hangs))
    };
    let well = || {
        let well = service_fn(|_: Inner2| async { Ok::<_, BoxError>(status(200)) });
        Weir::http().layer(tower::util::BoxCloneService::new(well))
    };
    let failover =
        || Failover::http([Region::new("a", stack(5)), Region::new("b", well())]).unwrap();
    let recorder = Recorder::new();
    let mut post = request("POST");
    post.extensions_mut().insert(recorder.clone());
    let error = failover().oneshot(post).await.unwrap_err();
    assert!(error.is::<CircuitOpen>(), "{error}");
    assert_eq!(recorder.attempts().len(), 4);
    assert_eq!(recorder.processed(), Processed::Maybe);
    assert_eq!(recorder.ending(), Some(Ending::Done));

    let answer = failover().oneshot(request("GET")).await.unwrap();
    assert_eq!(&*answer.extensions().get::<AnsweredBy>().unwrap().name, "b");

    // The same POST, where nothing was sent: the circuit is open already.
    let failover = failover();
    failover.clone().oneshot(request("GET")).await.unwrap();
    let answer = failover.oneshot(request("POST")).await.unwrap();
    assert_eq!(answer.extensions().get::<AnsweredBy>().unwrap().index, 1);
}

const AT_ONCE: Constant = Constant::new(Duration::from_millis(1));

type Inner2 = Request<ReplayBody<ReplayBody<Full<Bytes>>>>;

#[tokio::test(start_paused = true)]
async fn a_body_that_streams_is_played_again_and_recorded_once() {
    let account = Account::new(1 << 20, 12);
    let frames = || {
        let frames =
            ["one ", "two ", "end"].map(|data| Ok::<_, BoxError>(Frame::data(Bytes::from(data))));
        StreamBody::new(tokio_stream::iter(frames))
    };
    // A reads one frame and refuses; a second record would not find room.
    let read = |answers: [u16; 2], whole: bool| {
        let layer = RetryLayer::http().max_retries(1).replay(account.clone());
        let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        layer.layer(service_fn(
            move |request: Request<ReplayBody<ReplayBody<_>>>| {
                let call = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                async move {
                    let mut body = request.into_body();
                    if whole {
                        assert_eq!(body.collect().await?.to_bytes(), "one two end");
                    } else {
                        body.frame().await.unwrap()?;
                    }
                    Ok::<_, BoxError>(status(answers[call]))
                }
            },
        ))
    };
    let a = tower::util::BoxCloneService::new(read([429, 429], false));
    let b = tower::util::BoxCloneService::new(read([429, 200], true));
    let failover = Failover::http([Region::new("a", a), Region::new("b", b)]).unwrap();
    let failover = failover.replay(account.clone());
    let recorder = Recorder::new();
    let mut request = Request::post("http://a.test/").body(frames()).unwrap();
    request.extensions_mut().insert(recorder.clone());
    let answer = failover.clone().oneshot(request).await;
    assert_eq!(told(&answer), "200 by b");
    let attempts = recorder.attempts();
    assert_eq!(attempts.len(), 4, "two in each region");
    let body: ReplayBody<()> = recorder.body().unwrap().take_over().unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "one two end");
    drop(recorder);
    assert_eq!(account.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_cap_stays_where_it_was() {
    // Full bodies need no record: this one must not be one.
    let frames = || {
        let frame = Ok::<_, BoxError>(Frame::data(Bytes::from("long")));
        StreamBody::new(tokio_stream::iter([frame]))
    };
    let read = || {
        service_fn(|request: Request<ReplayBody<_>>| async move {
            request.into_body().collect().await?;
            Ok::<_, BoxError>(status(429))
        })
    };
    let failover = Failover::http([Region::new("a", read()), Region::new("b", read())]);
    let failover = failover.unwrap().replay(Account::new(3, 3));
    let recorder = Recorder::new();
    let mut request = Request::put("http://a.test/").body(frames()).unwrap();
    request.extensions_mut().insert(recorder.clone());
    assert_eq!(told(&failover.oneshot(request).await), "429 by a");
    let over = Ending::NotReplayable(NotReplayable::OverRequestCap);
    assert_eq!(recorder.ending(), Some(over));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_one_for_all_regions() {
    let deadlines = Log::default();
    let hangs = |name: &'static str| {
        let deadlines = deadlines.clone();
        let (upstream, handle) = upstream(move |request: Inner, _| {
            let deadline = request.extensions().get::<Deadline>().copied();
            deadlines.push((name, deadline.unwrap().0));
            match name {
                "a" => lost().after(4 * SECOND),
                _ => Reply::hang(),
            }
        });
        (Region::new(name, upstream), handle)
    };
    let ((a, _a), (b, _b)) = (hangs("a"), hangs("b"));
    let failover = Failover::http([a, b]).unwrap().deadline(6 * SECOND);
    let began = Instant::now();
    let recorder = Recorder::new();
    let mut get = request("GET");
    get.extensions_mut().insert(recorder.clone());
    let error = call(&failover, get).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>());
    assert_eq!(began.elapsed(), 6 * SECOND);
    let at = began + 6 * SECOND;
    assert_eq!(deadlines.all(), [("a", at), ("b", at)]);
    assert_eq!(recorder.ending(), Some(Ending::Deadline));
    assert_eq!(recorder.attempts().len(), 2);

    // The request's own is the earlier one.
    let mut get = request("GET");
    get.extensions_mut().insert(Deadline::after(SECOND));
    let began = Instant::now();
    call(&failover, get).await.unwrap_err();
    assert_eq!(began.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_next_region_is_told_what_is_left_of_a_grpc_timeout() {
    let seen = Log::default();
    let log = seen.clone();
    let (failover, ..) = pair(
        |_, _| {
            let answer = Response::builder().header("grpc-status", "14");
            let answer = answer.body(Full::default()).unwrap();
            Reply::ok(answer).after(2 * SECOND)
        },
        move |request, _| {
            log.push(request.headers()["grpc-timeout"].clone());
            says(200)
        },
    );
    let mut request = request("POST");
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("grpc-timeout", "5S".parse().unwrap());
    assert_eq!(told(&call(&failover, request).await), "200 by b");
    assert_eq!(seen.all(), ["3000000u"]);
}

#[tokio::test(start_paused = true)]
async fn a_regions_own_deadline_leaves_time_for_the_next() {
    let hangs = service_fn(|_: Inner2| std::future::pending::<Result<Answer, BoxError>>());
    let well = service_fn(|_: Inner2| async { Ok::<_, BoxError>(status(200)) });
    let stack = || Weir::http().deadline(SECOND);
    let a = stack().layer(tower::util::BoxCloneService::new(hangs));
    let b = stack().layer(tower::util::BoxCloneService::new(well));
    let failover = Failover::http([Region::new("a", a), Region::new("b", b)]).unwrap();
    let failover = failover.deadline(5 * SECOND);
    let began = Instant::now();
    let answer = failover.clone().oneshot(request("GET")).await.unwrap();
    assert_eq!(answer.extensions().get::<AnsweredBy>().unwrap().index, 1);
    assert_eq!(began.elapsed(), SECOND);
    let error = failover.oneshot(request("POST")).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>());
}

#[tokio::test(start_paused = true)]
async fn with_all_down_the_caller_gets_the_last_that_came_from_an_upstream() {
    type Says = fn() -> Reply<Answer>;
    let cases: [(Says, Says, &str); 5] = [
        (|| says(503), open, "503 by a"),
        (open, || says(503), "503 by b"),
        (|| says(500), || says(503), "503 by b"),
        (|| says(503), refused, "connection refused"),
        (open, open, "circuit open for it (manual): held open"),
    ];
    for (a, b, expected) in cases {
        let (failover, ..) = pair(move |_, _| a(), move |_, _| b());
        let result = call(&failover, request("GET")).await;
        assert_eq!(told(&result), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_hangs_while_all_regions_are_down() {
    let (failover, seen_a, seen_b) = pair(|_, _| open(), |_, _| refused());
    let began = Instant::now();
    for _ in 0..100 {
        let error = call(&failover, request("GET")).await.unwrap_err();
        assert!(
            error.is::<io::Error>(),
            "the one that came from an upstream"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(active(&failover), None);
    assert_eq!(began.elapsed(), 10 * SECOND);
    let (a, b) = (seen_a.counts().calls, seen_b.counts().calls);
    assert!((50..=100).contains(&a) && b == 100, "{a} {b}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_once_goes_on_only_if_it_was_not_sent() {
    let once = || {
        let mut request = request("GET");
        request.extensions_mut().insert(NoRetry);
        request
    };
    let (failover, ..) = pair(|_, _| open(), |_, _| says(200));
    assert_eq!(told(&call(&failover, once()).await), "200 by b");
    let (failover, _, seen_b) = pair(|_, _| says(429), |_, _| says(200));
    assert_eq!(told(&call(&failover, once()).await), "429 by a");
    assert_eq!(seen_b.counts().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_once_is_no_probe_while_another_may_be() {
    let (failover, seen_a, _) = pair(
        |_, call| if call == 0 { open() } else { says(500) },
        |_, _| says(200),
    );
    call(&failover, request("GET")).await.unwrap();
    tokio::time::sleep(SECOND).await;
    let mut once = request("GET");
    once.extensions_mut().insert(NoRetry);
    assert_eq!(told(&call(&failover, once).await), "200 by b");
    assert_eq!(seen_a.counts().calls, 1);
    assert_eq!(told(&call(&failover, request("GET")).await), "200 by b");
    assert_eq!(seen_a.counts().calls, 2);
}

#[tokio::test(start_paused = true)]
async fn each_region_gets_the_request_at_its_own_place() {
    let seen = Log::default();
    let at = |answer: u16| {
        let seen = seen.clone();
        upstream(move |request: Inner, _| {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            seen.push((request.uri().to_string(), host));
            says(answer)
        })
    };
    let ((a, _a), (b, _b)) = (at(503), at(200));
    let failover = Failover::http([
        Region::new("a", a).at(Origin::new("https://eu.test:8443").unwrap()),
        Region::new("b", b).at(Origin::new("http://us.test/v2").unwrap()),
    ])
    .unwrap();
    let mut request = request("GET");
    let host = "any.test".parse().unwrap();
    request.headers_mut().insert("host", host);
    assert_eq!(told(&call(&failover, request).await), "200 by b");
    let expected = [
        ("https://eu.test:8443/x?y", "eu.test:8443"),
        ("http://us.test/v2/x?y", "us.test"),
    ];
    assert_eq!(
        seen.all(),
        expected.map(|(uri, host)| (uri.to_owned(), host.to_owned()))
    );
}

/// A path that is nearly as long as a URI may be, and a place with one of its own.
#[tokio::test(start_paused = true)]
async fn a_place_that_a_request_does_not_fit_is_passed_over() {
    let (a, b, c) = (
        upstream(|_, _| says(503)),
        upstream(|_, _| says(200)),
        upstream(|_, _| says(299)),
    );
    let failover = Failover::http([
        Region::new("a", a.0).at(Origin::new("http://eu.test").unwrap()),
        Region::new("b", b.0).at(Origin::new("http://us.test/v2").unwrap()),
        Region::new("c", c.0).at(Origin::new("http://as.test").unwrap()),
    ])
    .unwrap();
    let long = format!("/{}", "x".repeat(usize::from(u16::MAX) - 3));
    let recorder = Recorder::new();
    let mut request = request("GET");
    *request.uri_mut() = long.parse().unwrap();
    request.extensions_mut().insert(recorder.clone());
    let result = call(&failover, request).await;
    assert_eq!(told(&result), "299 by c");
    let hosts = recorder.attempts().into_iter().map(|attempt| attempt.host);
    assert_eq!(hosts.collect::<Vec<_>>(), ["a".into(), "c".into()]);

    // None is left: the first result stays, with why there is no other.
    let (a, b) = (upstream(|_, _| says(503)), upstream(|_, _| says(200)));
    let failover = Failover::http([
        Region::new("a", a.0),
        Region::new("b", b.0).at(Origin::new("http://us.test/v2").unwrap()),
    ])
    .unwrap();
    let recorder = Recorder::new();
    let mut request = self::request("GET");
    *request.uri_mut() = long.parse().unwrap();
    request.extensions_mut().insert(recorder.clone());
    assert_eq!(told(&call(&failover, request).await), "503 by a");
    assert_eq!(recorder.ending(), Some(Ending::Exhausted));
}

#[tokio::test(start_paused = true)]
async fn each_setter_makes_fresh_state() {
    let (failover, ..) = pair(|_, _| says(200), |_, _| says(200));
    let mapped = failover
        .clone()
        .map_body(|body: ReplayBody<Full<Bytes>>| body);
    assert!(mapped.handle().pin("b"));
    let by = |failover: &Pair| failover.handle().snapshot().active;
    assert_eq!(mapped.handle().snapshot().active, Some(1));
    assert_eq!(by(&failover), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_known_elsewhere_is_asked_before() {
    let shut = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = shut.clone();
    let ((a, seen_a), (b, _b)) = (upstream(|_, _| says(200)), upstream(|_, _| says(200)));
    let a = Region::new("a", a);
    let a = a.shut_when(move || asked.load(std::sync::atomic::Ordering::Relaxed));
    let failover = Failover::http([a, Region::new("b", b)]).unwrap();
    assert_eq!(told(&call(&failover, request("POST")).await), "200 by b");
    assert_eq!(seen_a.counts().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_told() {
    let told_of = Log::default();
    let told_by = told_of.clone();
    let (failover, ..) = pair(|_, _| open(), |_, _| says(200));
    let failover = failover.observe(move |region, event| {
        told_by.push(match event {
            Event::Region(change) => {
                format!("{region} down: {:?}", change.down.map(DownCause::as_str))
            }
            Event::Elsewhere { to, cause } => format!("{region} to {to}: {cause}"),
            event => format!("{event:?}"),
        });
    });
    let mut subscription = failover.subscribe();
    call(&failover, request("POST")).await.unwrap();
    call(&failover, request("POST")).await.unwrap();
    let expected = ["a down: Some(\"circuit_open\")", "a to b: local"];
    assert_eq!(told_of.all(), expected);
    assert_eq!(&*subscription.recv().await.unwrap().host, "a");

    let snapshot = failover.handle().snapshot();
    assert_eq!(snapshot.active, Some(1));
    let counts: Vec<_> = snapshot.regions.iter().map(|one| one.counts).collect();
    assert_eq!((counts[0].sent, counts[0].shut, counts[0].good), (1, 1, 0));
    assert_eq!((counts[1].sent, counts[1].good), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn by_hand_a_region_is_preferred_pinned_and_let_go() {
    let (failover, ..) = pair(|_, _| says(500), |_, _| says(200));
    let handle = failover.handle();
    let get = async || told(&call(&failover.clone(), request("GET")).await);
    assert!(handle.prefer("b") && !handle.prefer("c"));
    assert_eq!(get().await, "200 by b");
    assert!(handle.pin("a"));
    assert_eq!(get().await, "500 by a");
    assert_eq!(handle.snapshot().pinned, Some(0));
    handle.release();
    assert_eq!(get().await, "200 by b");
    assert_eq!(handle.snapshot().preferred, 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_result_is_let_go_of_when_there_is_a_better_one() {
    struct Held(std::sync::Arc<()>);
    impl http_body::Body for Held {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            std::task::Poll::Ready(None)
        }
    }
    let alive = std::sync::Arc::new(());
    let answer = |code: u16| {
        let held = alive.clone();
        service_fn(move |_: Request<ReplayBody<Full<Bytes>>>| {
            let body = Held(held.clone());
            let answer = Response::builder().status(code).body(body);
            async move { Ok::<_, BoxError>(answer.unwrap()) }
        })
    };
    let (a, b) = (answer(503), answer(200));
    let boxed = [a, b].map(tower::util::BoxCloneService::new);
    let held = std::sync::Arc::strong_count(&alive);
    let [a, b] = boxed;
    let failover = Failover::http([Region::new("a", a), Region::new("b", b)]).unwrap();
    let response = failover.clone().oneshot(request("GET")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(std::sync::Arc::strong_count(&alive), held + 1);
    drop(response.into_body().0);
}
