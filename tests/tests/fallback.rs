//! Another answer for what has failed: on paused time, and over real HTTP and
//! gRPC. Nothing at the call sites says a type.

use std::{
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tests::{
    BoxError,
    client::{Over, channel, hyper},
    script::{Script, boxed, says, trailers_only},
    wait::within,
};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_weir::{
    Deadline, Weir,
    circuit_breaker::CircuitBreakerLayer,
    fallback::{FallbackCause, FallbackLayer, Fallen, FellBack},
    observe::Event,
    outcome::{Cause, Outcome, Processed, classify_fn},
    retry::{
        Account, Ending, Recorder, ReplayBody, RetryLayer, RetryPolicy, backoff::Constant,
        budget::RetryBudget,
    },
};
use tower_weir_testkit::{
    probe::{self, DropWhen, Readiness, Reply, drop_everywhere},
    proto::{QueryRequest, vector_index_client::VectorIndexClient},
    upstream::Upstream,
};

use FallbackCause as Why;

const AT_ONCE: Constant = Constant::new(Duration::from_millis(1));

type Answer = Response<Full<Bytes>>;

fn status(status: u16) -> Answer {
    let answer = Response::builder().status(status);
    answer.body(Full::default()).unwrap()
}

/// A service that answers its `n`th call with `answer(n)`, whatever the body.
fn upstream<B>(
    answer: impl Fn(usize) -> Result<Answer, BoxError> + Clone + Send + 'static,
) -> impl Service<
    Request<B>,
    Response = Answer,
    Error = BoxError,
    Future = impl Future<Output = Result<Answer, BoxError>> + Send,
> + Clone
+ Send
+ 'static {
    let calls = Arc::new(AtomicUsize::new(0));
    service_fn(move |_: Request<B>| {
        let result = answer(calls.fetch_add(1, Ordering::Relaxed));
        async move { result }
    })
}

fn post() -> Request<Full<Bytes>> {
    let request = Request::post("http://large.test/complete");
    request.body(Full::from("a prompt")).unwrap()
}

fn get() -> Request<Full<Bytes>> {
    Request::get("http://large.test/")
        .body(Full::default())
        .unwrap()
}

fn cause<B>(response: &Response<B>) -> Option<Why> {
    response
        .extensions()
        .get::<FellBack>()
        .map(|mark| mark.cause)
}

fn refused() -> Result<Answer, BoxError> {
    Err(io::Error::from(io::ErrorKind::ConnectionRefused).into())
}

/// Any cause of failure, by what the retries know of it.
#[tokio::test(start_paused = true)]
async fn the_cause_is_what_the_stack_knows_of_the_failure() {
    let layer = FallbackLayer::http().answer(|_| status(299));
    let of = async |retries: RetryLayer, answer: fn(usize) -> Result<Answer, BoxError>| {
        let stack = layer.layer(retries.backoff(AT_ONCE).layer(upstream(answer)));
        stack.oneshot(post()).await.map(|answer| cause(&answer))
    };
    let retries = || RetryLayer::http().max_retries(2);
    let told = of(retries(), |_| Ok(status(429))).await;
    assert_eq!(told.unwrap(), Some(Why::RetriesExhausted));
    let told = of(retries(), |_| refused()).await;
    assert_eq!(told.unwrap(), Some(Why::RetriesExhausted));
    let none = || RetryBudget::new(Duration::from_secs(10), 0, 0.0).unwrap();
    let told = of(retries().budget(none), |_| Ok(status(429))).await;
    assert_eq!(told.unwrap(), Some(Why::BudgetExhausted));
    let late = |_| {
        let answer = Response::builder().status(429).header("retry-after", "50");
        Ok(answer.body(Full::default()).unwrap())
    };
    let told = of(retries().deadline(Duration::from_secs(5)), late).await;
    assert_eq!(told.unwrap(), Some(Why::Deadline));
    let told = of(retries(), late).await;
    assert_eq!(
        told.unwrap(),
        Some(Why::RetriesExhausted),
        "it waits for 50 s twice"
    );
    let short = retries().max_hint(Duration::from_secs(1));
    assert_eq!(of(short, late).await.unwrap(), Some(Why::Refused));

    // A success, and failures that are none of the usual causes.
    assert_eq!(of(retries(), |_| Ok(status(200))).await.unwrap(), None);
    assert_eq!(of(retries(), |_| Ok(status(404))).await.unwrap(), None);
    assert_eq!(of(retries(), |_| Ok(status(500))).await.unwrap(), None);
    of(retries(), |_| Err("broken".into())).await.unwrap_err();
    let sent_twice = of(
        retries(),
        |n| if n == 0 { refused() } else { Ok(status(200)) },
    );
    assert_eq!(sent_twice.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_and_a_deadline_are_told_without_retries() {
    let breaker = CircuitBreakerLayer::http().for_host("it");
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::http().answer(|_| status(299)))
        .layer(breaker.clone())
        .service(upstream(|_| Ok(status(200))));
    let answer = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), None);
    assert!(breaker.handle().force_open("it"));
    let answer = stack.oneshot(get()).await.unwrap();
    assert_eq!(answer.status(), 299);
    assert_eq!(cause(&answer), Some(Why::CircuitOpen));

    let hangs = service_fn(|_: Request<ReplayBody<_>>| pending::<Result<Answer, BoxError>>());
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::http().answer(|_| status(299)))
        .layer(RetryLayer::http().deadline(Duration::from_secs(2)))
        .service(hangs);
    let began = Instant::now();
    let answer = stack.oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::Deadline));
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn the_causes_and_the_choice_are_the_users() {
    let stack = |causes: &[Why]| {
        let layer = FallbackLayer::http().on(causes.iter().copied());
        let layer = layer.answer(|fallen: Fallen| {
            assert_eq!(fallen.outcome.cause, Cause::Status(StatusCode::BAD_GATEWAY));
            assert_eq!(fallen.processed, Processed::Maybe);
            status(299)
        });
        layer.layer(upstream(|_| Ok(status(502))))
    };
    let told = async |causes: &[Why]| cause(&stack(causes).oneshot(post()).await.unwrap());
    assert_eq!(told(&[Why::Failed, Why::Refused]).await, Some(Why::Failed));
    assert_eq!(told(&[Why::Refused]).await, None);
    assert_eq!(told(&[]).await, None);

    let gone = FallbackLayer::http()
        .on([])
        .when(|outcome, error| outcome.cause == Cause::Status(StatusCode::GONE) && error.is_none())
        .answer(|_| status(299));
    let stack = gone.layer(upstream(|n| Ok(status([410, 500][n]))));
    let answer = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::Chosen));
    let answer = stack.oneshot(get()).await.unwrap();
    assert_eq!((answer.status().as_u16(), cause(&answer)), (500, None));

    let off = FallbackLayer::http()
        .on([Why::Failed])
        .enabled(false)
        .answer(|_| status(299));
    let answer = off
        .layer(upstream(|_| Ok(status(500))))
        .oneshot(get())
        .await
        .unwrap();
    assert_eq!(answer.status(), 500);
}

/// The last result of a request that timed out and then met an open circuit says
/// that nothing was sent.
#[tokio::test(start_paused = true)]
async fn the_choice_knows_of_all_attempts() {
    let after = async |first: fn() -> Result<Answer, BoxError>| {
        let breaker = CircuitBreakerLayer::http().for_host("it");
        let handle = breaker.handle();
        let upstream = upstream(move |_| {
            handle.force_open("it");
            first()
        });
        let asked = FallbackLayer::http()
            .on([])
            .when(|outcome, _| outcome.processed == Processed::No)
            .answer(|_| status(299))
            .layer(
                RetryLayer::http()
                    .backoff(AT_ONCE)
                    .layer(breaker.layer(upstream)),
            );
        asked.oneshot(get()).await
    };
    let timed_out = || Err(tower::timeout::error::Elapsed::new().into());
    assert!(after(timed_out).await.is_err());
    assert_eq!(cause(&after(refused).await.unwrap()), Some(Why::Chosen));

    let told = FallbackLayer::http()
        .on([Why::CircuitOpen])
        .answer(|fallen: Fallen| {
            assert_eq!(fallen.processed, Processed::Maybe);
            status(299)
        });
    let breaker = CircuitBreakerLayer::http().for_host("it");
    let handle = breaker.handle();
    let upstream = upstream(move |_| {
        handle.force_open("it");
        Ok(status(500))
    });
    let stack = RetryLayer::http()
        .backoff(AT_ONCE)
        .layer(breaker.layer(upstream));
    let answer = told.layer(stack).oneshot(get()).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::CircuitOpen));
}

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

#[tokio::test]
async fn over_hyper_the_answer_comes_from_wherever_it_can() {
    fn is_clone_and_send<S: Clone + Send + 'static>(service: S) -> S {
        service
    }
    let large = Script::start(|_, _| says(StatusCode::SERVICE_UNAVAILABLE, &[], "")).await;
    let small =
        Script::start(|_, request| Response::new(boxed(Full::new(request.into_body())))).await;
    // Each alone over hyper's client.
    let says = FallbackLayer::http().answer(|_| Response::new(Full::<Bytes>::from("none")));
    let alone = is_clone_and_send(says.layer(hyper(Over::Http1)));
    let ask = || {
        Request::post(large.url())
            .body(Full::<Bytes>::from("a prompt"))
            .unwrap()
    };
    let answer = within("an answer", alone.oneshot(ask())).await.unwrap();
    assert_eq!(cause(&answer), Some(Why::Refused));
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "none"
    );

    // In a stack, with a stack of its own to fall back on.
    let url: http::Uri = small.url().parse().unwrap();
    let cheaper = ServiceBuilder::new()
        .map_request(move |mut request: Request<_>| {
            *request.uri_mut() = url.clone();
            request
        })
        .layer(Weir::http())
        .service(hyper(Over::Http1));
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::http().service(cheaper))
        .layer(Weir::http().max_retries(1).backoff(AT_ONCE))
        .service(hyper(Over::Http2));
    let mut stack = is_clone_and_send(stack);
    let call = stack.ready().await.unwrap().call(ask());
    let answer = within("an answer", tokio::spawn(call))
        .await
        .unwrap()
        .unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "a prompt");
}

#[tokio::test]
async fn over_tonic_a_call_gets_another_channels_answer() {
    let broken = Script::start(|_, _| trailers_only(14, &[])).await;
    let well = Upstream::builder().start().await.unwrap();
    // Alone over channels, and over stacks.
    let layer = FallbackLayer::grpc().service(channel(&well.url()));
    let mut client = VectorIndexClient::new(layer.layer(channel(&broken.url())));
    let call = client.query(QueryRequest::default());
    let answer = within("an answer", call).await.unwrap();
    assert_eq!(
        answer.extensions().get::<FellBack>().unwrap().cause,
        Why::Refused
    );

    let cheaper = Weir::grpc().layer(channel(&well.url()));
    let stack = ServiceBuilder::new()
        .layer(FallbackLayer::grpc().service(cheaper))
        .layer(Weir::grpc().max_retries(1).backoff(AT_ONCE))
        .service(channel(&broken.url()));
    let mut client = VectorIndexClient::new(stack);
    let call = client.query(QueryRequest::default());
    let answer = within("an answer", call).await.unwrap();
    assert_eq!(
        answer.extensions().get::<FellBack>().unwrap().cause,
        Why::RetriesExhausted
    );

    // A status from a closure.
    let unavailable = || {
        Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let layer = FallbackLayer::grpc().answer(move |_| unavailable());
    let stack = layer.layer(Weir::grpc().max_retries(0).layer(channel(&broken.url())));
    let mut client = VectorIndexClient::new(stack);
    let call = client.query(QueryRequest::default());
    let status = within("an answer", call).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}
