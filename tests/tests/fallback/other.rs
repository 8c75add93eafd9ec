//! What the other answer is made of.

use std::{
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tests::BoxError;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    Deadline,
    fallback::FallbackLayer,
    observe::Event,
    outcome::{Outcome, classify_fn},
    retry::{Account, Ending, Recorder, ReplayBody, RetryLayer, RetryPolicy},
};
use tower_weir_testkit::probe::{self, DropWhen, Handle, Readiness, Reply, drop_everywhere};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn an_asynchronous_closure_that_fails_leaves_the_first_result() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let events = told.clone();
    let layer = FallbackLayer::http()
        .on([Why::Failed])
        .for_host("large")
        .observe(move |host, event| {
            let event = match event {
                Event::FellBack(mark) => format!("{host} {}: {}", mark.cause, mark.result),
                Event::FallbackFailed { cause, error } => format!("{host} {cause}! {error}"),
                event => format!("{event:?}"),
            };
            events.lock().unwrap().push(event);
        });
    let mut subscription = layer.subscribe();
    let calls = Arc::new(AtomicUsize::new(0));
    let layer = layer.answer_async(move |_| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(Duration::from_secs(1)).await;
            match call {
                0 => Ok(status(299)),
                _ => Err("no cache"),
            }
        }
    });
    let stack = layer.layer(upstream(|n| match n {
        0 | 1 => Ok(status(500)),
        _ => refused(),
    }));
    let answer = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(answer.status(), 299);
    let answer = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!((answer.status().as_u16(), cause(&answer)), (500, None));
    let error = stack.oneshot(get()).await.unwrap_err();
    assert!(error.is::<io::Error>(), "{error}");
    let expected = [
        "large failed: 500",
        "large failed! no cache",
        "large failed! no cache",
    ];
    assert_eq!(*told.lock().unwrap(), expected);
    assert_eq!(&*subscription.recv().await.unwrap().host, "large");
}

/// The body streams, so that it can be read once only; the retries further in
/// and the fallback have it from one record.
#[tokio::test(start_paused = true)]
async fn another_service_gets_the_request_with_its_body() {
    let account = Account::new(1 << 20, 14);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let cheaper = service_fn(move |request: Request<ReplayBody<_>>| {
        let log = log.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            log.lock()
                .unwrap()
                .push((head.headers["x-id"].clone(), body));
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("cheap")))
        }
    });
    let reads = service_fn(|request: Request<ReplayBody<ReplayBody<_>>>| async move {
        let body = request.into_body().collect().await?.to_bytes();
        assert_eq!(body, "one two three ");
        Ok::<_, BoxError>(Response::builder().status(503).body(String::new())?)
    });
    let stack = ServiceBuilder::new()
        .layer(
            FallbackLayer::http()
                .replay(account.clone())
                .service(cheaper),
        )
        .layer(
            RetryLayer::http()
                .any_method()
                .backoff(AT_ONCE)
                .replay(account.clone()),
        )
        .service(reads);
    let frames =
        ["one ", "two ", "three "].map(|data| Ok::<_, BoxError>(Frame::data(Bytes::from(data))));
    let body = StreamBody::new(tokio_stream::iter(frames));
    let request = Request::post("http://large.test/").header("x-id", "7");
    let response = stack.oneshot(request.body(body).unwrap()).await.unwrap();
    assert_eq!(cause(&response), Some(Why::RetriesExhausted));
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "cheap"
    );
    let (id, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(
        (id.to_str().unwrap(), &body[..]),
        ("7", &b"one two three "[..])
    );
    assert_eq!(account.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_had_again_leaves_the_first_result() {
    let cheaper = upstream(|_| Ok(status(299)));
    let reads = service_fn(|request: Request<ReplayBody<_>>| async move {
        request.into_body().collect().await?;
        Ok::<_, BoxError>(status(429))
    });
    let layer = FallbackLayer::http()
        .replay(Account::new(3, 3))
        .service(cheaper);
    let frame = Ok::<_, BoxError>(Frame::data(Bytes::from("long")));
    let request =
        Request::post("http://large.test/").body(StreamBody::new(tokio_stream::iter([frame])));
    let answer = layer.layer(reads).oneshot(request.unwrap()).await.unwrap();
    assert_eq!((answer.status().as_u16(), cause(&answer)), (429, None));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_for_the_other_service_unless_it_is_the_cause() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let cheaper = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let deadline = request.extensions().get::<Deadline>().copied();
        log.lock().unwrap().push(deadline);
        async { Ok::<_, BoxError>(status(200)) }
    });
    let layer = FallbackLayer::http().service(cheaper);
    let with = |deadline: Deadline| {
        let mut request = post();
        request.extensions_mut().insert(deadline);
        request
    };
    let deadline = Deadline::after(Duration::from_secs(3));
    let refuses = layer.layer(
        RetryLayer::http()
            .max_retries(0)
            .layer(upstream(|_| Ok(status(429)))),
    );
    refuses.oneshot(with(deadline)).await.unwrap();
    let hangs = service_fn(|_: Request<ReplayBody<_>>| pending::<Result<Answer, BoxError>>());
    let hangs = layer.layer(RetryLayer::http().layer(hangs));
    hangs.oneshot(with(deadline)).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [Some(deadline), None]);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_timeout_is_one_for_both_services() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let cheaper = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
        let timeout = request.headers()["grpc-timeout"].clone();
        let deadline = request.extensions().get::<Deadline>().copied();
        log.lock().unwrap().push((timeout, deadline));
        async { Ok::<_, BoxError>(status(200)) }
    });
    let slow = |wait: Duration| {
        service_fn(move |_: Request<ReplayBody<ReplayBody<_>>>| async move {
            sleep(wait).await;
            let answer = Response::builder().header("grpc-status", "8");
            Ok::<_, BoxError>(answer.body(Full::<Bytes>::default())?)
        })
    };
    let layer = FallbackLayer::http().service(cheaper);
    let call = || {
        let request = Request::post("http://large.test/pkg.Service/Call");
        let request = request.header("content-type", "application/grpc");
        let request = request.header("grpc-timeout", "5S");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let once = || RetryLayer::http().max_retries(0);
    let began = Instant::now();
    let refuses = layer.layer(once().layer(slow(Duration::from_secs(2))));
    let answer = refuses.oneshot(call()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::RetriesExhausted));
    let hangs = layer.layer(once().layer(slow(Duration::from_secs(9))));
    let answer = hangs.oneshot(call()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::Deadline));

    let seen = seen.lock().unwrap();
    let left = Some(Deadline(began + Duration::from_secs(5)));
    assert_eq!(seen[0], ("3000000u".parse().unwrap(), left));
    // It has a time of its own where that of the first was not enough.
    assert_eq!(seen[1], ("5S".parse().unwrap(), None));
}

#[tokio::test(start_paused = true)]
async fn a_layer_further_out_has_the_record_all_the_same() {
    let cheaper = upstream(|_| Ok(status(200)));
    for record in [true, false] {
        let layer = FallbackLayer::http().on(record
            .then_some(Why::RetriesExhausted)
            .into_iter()
            .chain([Why::Refused]));
        let stack = ServiceBuilder::new()
            .layer(layer.service(cheaper.clone()))
            .layer(RetryLayer::http().max_retries(1).backoff(AT_ONCE))
            .service(upstream(|_| Ok(status(429))));
        let recorder = Recorder::new();
        let mut request = post();
        request.extensions_mut().insert(recorder.clone());
        let answer = stack.oneshot(request).await.unwrap();
        let why = if record {
            Why::RetriesExhausted
        } else {
            Why::Refused
        };
        assert_eq!(cause(&answer), Some(why));
        assert_eq!(recorder.attempts().len(), 2);
        assert_eq!(recorder.ending(), Some(Ending::Exhausted));
        let body: ReplayBody<()> = recorder.body().unwrap().take_over().unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "a prompt");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_http_fall_back_too() {
    let judge = || {
        classify_fn(|result: Result<&i32, &BoxError>| match result {
            Ok(n) if *n < 0 => Outcome::throttled(),
            Ok(_) => Outcome::success(),
            Err(_) => Outcome::failed(),
        })
    };
    let negates = || service_fn(|n: i32| async move { Ok::<_, BoxError>(-n) });
    let says = FallbackLayer::new(judge()).answer(|_| 42);
    assert_eq!(says.layer(negates()).oneshot(1).await.unwrap(), 42);
    assert_eq!(says.layer(negates()).oneshot(-1).await.unwrap(), 1);
    let does = FallbackLayer::new(judge()).answer_async(|fallen| async move {
        match fallen.cause {
            Why::Refused => Ok(43),
            _ => Err("not that"),
        }
    });
    assert_eq!(does.layer(negates()).oneshot(1).await.unwrap(), 43);
    let other = FallbackLayer::new(judge()).service(service_fn(|n: i32| async move {
        Ok::<_, BoxError>(n * 100)
    }));
    let retries = RetryLayer::new(RetryPolicy::new(judge()).max_retries(1));
    let stack = ServiceBuilder::new()
        .layer(other)
        .layer(retries)
        .service(negates());
    assert_eq!(stack.oneshot(2).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_point_a_request_leaves_nothing_behind() {
    type Sent = Request<ReplayBody<Full<Bytes>>>;
    let slow = |code: u16| {
        let service = move |_: Sent, _| Reply::ok(status(code)).after(Duration::from_millis(3));
        probe::service(service)
    };
    let ((first, seen_first), (other, seen_other)) = (slow(503), slow(200));
    for handle in [&seen_first, &seen_other] {
        handle.set_readiness(Readiness::After(2));
    }
    let stack = FallbackLayer::http().service(other).layer(first);
    let none_left = async |polls: usize, when: DropWhen| {
        for handle in [&seen_first, &seen_other] {
            let counts = handle.counts();
            assert_eq!((counts.in_flight, counts.ready), (0, 0), "{polls} {when:?}");
        }
    };
    let make = || stack.clone().oneshot(get());
    let (answer, polls) = drop_everywhere(make, none_left).await;
    assert_eq!(cause(&answer.unwrap()), Some(Why::Refused));
    assert!(polls > 5, "{polls}");
    assert!(seen_first.counts().dropped > 0 && seen_other.counts().dropped > 0);
}

/// In what chooses, in what answers: the call panics, and no other.
#[tokio::test(start_paused = true)]
async fn user_code_that_panics_takes_nothing_along() {
    type Sent = Request<ReplayBody<Full<Bytes>>>;
    async fn goes_on<S, B>(service: S, seen: Handle)
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Send + 'static,
    {
        let one = || {
            let service = service.clone();
            tokio::spawn(async move { cause(&service.oneshot(post()).await.unwrap()) })
        };
        assert!(one().await.unwrap_err().is_panic());
        assert_eq!(seen.counts().in_flight, 0);
        assert!(one().await.unwrap().is_some());
    }
    let once = || {
        let armed = Arc::new(AtomicBool::new(true));
        move || assert!(!armed.swap(false, Ordering::SeqCst), "a bug of the user's")
    };
    let unavailable = || probe::service(|_: Sent, _| Reply::ok(status(503)));
    let retries = || RetryLayer::http().max_retries(0);

    let (bug, (first, seen)) = (once(), unavailable());
    let layer = FallbackLayer::http().answer(move |_| {
        bug();
        status(200)
    });
    goes_on(layer.layer(retries().layer(first)), seen).await;

    let (bug, (first, seen)) = (once(), unavailable());
    let layer = FallbackLayer::http().answer_async(move |_| {
        let bug = bug.clone();
        async move {
            bug();
            Ok::<_, BoxError>(status(200))
        }
    });
    goes_on(layer.layer(retries().layer(first)), seen).await;

    let (bug, (first, seen)) = (once(), unavailable());
    let layer = FallbackLayer::http().on([]).when(move |_, _| {
        bug();
        true
    });
    let account = Account::default();
    let layer = layer
        .replay(account.clone())
        .service(upstream(|_| Ok(status(200))));
    goes_on(layer.layer(first), seen).await;
    assert_eq!(account.used(), 0);
}
