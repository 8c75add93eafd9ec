//! Admission on the server's side, over plain services and on paused time.
#![cfg(feature = "server")]

use std::{
    borrow::Cow,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, sleep},
};
use tokio_stream::StreamExt;
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_layer::Layer;
use tower_weir::{
    observe::Event,
    outcome::{
        Classify, HintSource, HttpClassifier, Protocol, Repeat, Verdict,
        hint::{Advice, HintParser, should_retry},
    },
    server::{
        AdmissionBody, AdmissionConfig, AdmissionLayer, Class, ClassLimits, ClassTable, Delayed,
        Reason, Rejected,
    },
};

type Answer = Response<AdmissionBody<Full<Bytes>>>;
type Server = BoxCloneSyncService<Request<String>, Answer, Infallible>;

const SERVICE: Duration = Duration::from_millis(100);

/// A server whose every request takes 100 ms; its body says when that began.
fn server(layer: &AdmissionLayer) -> Server {
    let start = Instant::now();
    BoxCloneSyncService::new(
        layer.layer(service_fn(move |_: Request<String>| async move {
            let began = start.elapsed().as_millis().to_string();
            sleep(SERVICE).await;
            Ok(Response::new(Full::from(began)))
        })),
    )
}

fn post(path: &str) -> Request<String> {
    Request::post(path).body(String::new()).unwrap()
}

fn grpc() -> Request<String> {
    let mut request = post("/index.Index/Upsert");
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc+proto".parse().unwrap());
    request
}

async fn send(server: &Server, request: Request<String>) -> Answer {
    let Ok(answer) = server.clone().oneshot(request).await;
    answer
}

/// Sends a request that is on its way when this returns.
async fn begin(server: &Server, request: Request<String>) -> JoinHandle<Answer> {
    let server = server.clone();
    let task = tokio::spawn(async move { send(&server, request).await });
    yield_now().await;
    task
}

/// Sends a request and reads the answer; tells when the server began with it.
fn serve(server: &Server, request: Request<String>) -> JoinHandle<u64> {
    let answer = server.clone().call(request);
    tokio::spawn(async move {
        let Ok(answer) = answer.await;
        text(answer).await.parse().unwrap()
    })
}

async fn text(answer: Answer) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

fn classes() -> ClassTable {
    ClassTable::new()
        .on(Method::POST, "/query", Class::EXEMPT)
        .unwrap()
        .on(Method::POST, "/clear", Class::STRUCTURAL.freeing())
        .unwrap()
        .on(Method::POST, "/move", Class::STRUCTURAL)
        .unwrap()
}

fn pending(layer: &AdmissionLayer) -> (usize, usize) {
    let snapshot = &layer.snapshot()[0];
    (snapshot.pending(), snapshot.delayed())
}

#[tokio::test(start_paused = true)]
async fn a_hundred_run_the_rest_waits_and_the_5001st_is_told_why() {
    let layer = AdmissionLayer::new().table(classes());
    let server = server(&layer);
    let mut tasks = JoinSet::new();
    for _ in 0..5000 {
        // Admission happens in `call`.
        let answer = server.clone().call(post("/records"));
        tasks.spawn(async move {
            let Ok(answer) = answer.await;
            text(answer).await
        });
    }
    assert_eq!(pending(&layer), (5000, 4900));

    let refused = send(&server, post("/records")).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let after = refused.headers()["retry-after"].to_str().unwrap();
    assert_eq!(after.parse::<u64>().unwrap().max(1).to_string(), after);
    let rejected = refused.extensions().get::<Rejected>().unwrap();
    assert_eq!(rejected.reason(), Reason::TooManyJobs);

    // Searches are never touched, at any load.
    let before = Instant::now();
    assert_eq!(text(send(&server, post("/query")).await).await, "0");
    assert_eq!(before.elapsed(), SERVICE);
    let search = Request::get("/records").body(String::new()).unwrap();
    let before = Instant::now();
    send(&server, search).await;
    assert_eq!(before.elapsed(), SERVICE);

    let mut began: Vec<u64> = Vec::new();
    while let Some(text) = tasks.join_next().await {
        began.push(text.unwrap().parse().unwrap());
    }
    began.sort_unstable();
    let expected: Vec<u64> = (0..5000).map(|n| n / 100 * 100).collect();
    assert_eq!(began, expected);
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn structural_operations_are_throttled_earlier() {
    let layer = AdmissionLayer::new().table(classes());
    let server = server(&layer);
    for _ in 0..11 {
        begin(&server, post("/move")).await;
    }
    assert_eq!(pending(&layer), (11, 1));
    // They weigh five each, which leaves 50 for others.
    for _ in 0..50 {
        begin(&server, post("/records")).await;
    }
    assert_eq!(pending(&layer), (61, 1));
    begin(&server, post("/records")).await;
    assert_eq!(pending(&layer), (62, 2));
}

#[tokio::test(start_paused = true)]
async fn cheap_operations_go_first_and_do_not_starve_the_others() {
    let layer = AdmissionLayer::new()
        .table(classes())
        .throttle_at(5)
        .class(Class::STRUCTURAL, ClassLimits::new());
    let server = server(&layer);
    for _ in 0..5 {
        serve(&server, post("/records"));
    }
    let structural = serve(&server, post("/move"));
    let cheap: Vec<_> = (0..30).map(|_| serve(&server, post("/records"))).collect();
    let turn = structural.await.unwrap();
    // Passed over by 8; then it waits for room for 5.
    assert_eq!(turn, 300);
    let mut ahead = 0;
    for task in cheap {
        ahead += u32::from(task.await.unwrap() < turn);
    }
    assert_eq!(ahead, 8);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_bounded() {
    let layer = AdmissionLayer::new()
        .throttle_at(1)
        .max_delay(Duration::from_millis(150))
        .class(Class::RECORD, ClassLimits::new())
        .table(classes());
    let server = server(&layer);
    let tasks = [
        begin(&server, post("/a")).await,
        begin(&server, post("/a")).await,
        begin(&server, post("/a")).await,
    ];
    let [first, second, third] = tasks;
    assert_eq!(text(first.await.unwrap()).await, "0");
    assert_eq!(text(second.await.unwrap()).await, "100");
    let third = third.await.unwrap();
    assert_eq!(third.status(), StatusCode::TOO_MANY_REQUESTS);
    let body: serde_json::Value = serde_json::from_str(&text(third).await).unwrap();
    assert_eq!(body["code"], "too-many-jobs");
    assert_eq!(
        body["detail"],
        "it was delayed for 150ms, and others go first still"
    );
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_storage_rejects_writes_for_good_and_lets_deletes_through() {
    let layer = AdmissionLayer::new().table(classes());
    let (server, handle) = (server(&layer), layer.handle());
    handle.report_storage(0.94);
    assert_eq!(send(&server, post("/a")).await.status(), 200);
    handle.report_storage(0.95);
    handle.report_storage(f64::NAN);
    assert_eq!(handle.storage(), 0.95);

    let refused = send(&server, post("/a")).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(!refused.headers().contains_key("retry-after"));
    assert_eq!(should_retry(refused.headers()), Some(false));
    let outcome = HttpClassifier::new().classify(Protocol::Http, Ok(&refused));
    assert_eq!(
        (outcome.verdict, outcome.repeat),
        (Verdict::Ignored, Repeat::Never)
    );
    let body: serde_json::Value = serde_json::from_str(&text(refused).await).unwrap();
    assert_eq!(body["code"], "storage-full");

    let refused = send(&server, grpc()).await;
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "-1");
    let outcome = HttpClassifier::new().classify(Protocol::Grpc, Ok(&refused));
    assert_eq!(
        (outcome.verdict, outcome.repeat),
        (Verdict::Ignored, Repeat::Never)
    );
    // Without the pushback, no RetryInfo says to wait either.
    let mut headers = refused.headers().clone();
    headers.remove("grpc-retry-pushback-ms");
    let advice = HintParser::new().parse(&headers, std::time::SystemTime::now);
    assert_eq!(advice, Advice::Nothing);

    let delete = Request::delete("/a").body(String::new()).unwrap();
    assert_eq!(send(&server, delete).await.status(), 200);
    assert_eq!(send(&server, post("/clear")).await.status(), 200);
    assert_eq!(send(&server, post("/move")).await.status(), 429);
    assert_eq!(send(&server, post("/query")).await.status(), 200);
    handle.report_storage(0.5);
    assert_eq!(send(&server, post("/a")).await.status(), 200);
}

/// One operation runs and no more are taken.
async fn full(layer: AdmissionLayer) -> (AdmissionLayer, Server, JoinHandle<Answer>) {
    let layer = layer.throttle_at(1).reject_at(1);
    let server = server(&layer);
    // So that the time of an operation is known.
    send(&server, post("/a")).await;
    let running = begin(&server, post("/a")).await;
    (layer, server, running)
}

#[tokio::test(start_paused = true)]
async fn over_grpc_a_rejection_is_trailers_only_with_the_time_to_wait() {
    let (_layer, server, _running) = full(AdmissionLayer::new()).await;
    let refused = send(&server, grpc()).await;
    assert_eq!(refused.status(), StatusCode::OK);
    let headers = refused.headers();
    assert_eq!(headers["content-type"], "application/grpc+proto");
    assert_eq!(headers["grpc-status"], "8");
    assert_eq!(headers["grpc-retry-pushback-ms"], "100");
    let words = "1 operations are pending, of at most 1: too many for one more";
    assert_eq!(headers["grpc-message"], words);
    let mut info = headers.clone();
    info.remove("grpc-retry-pushback-ms");
    let advice = HintParser::new().parse(&info, std::time::SystemTime::now);
    let hint = advice.hint().unwrap();
    assert_eq!((hint.delay, hint.source), (SERVICE, HintSource::RetryInfo));
    assert!(http_body::Body::is_end_stream(refused.body()));
}

#[tokio::test(start_paused = true)]
async fn the_quota_is_said_where_it_is_wanted() {
    let (_layer, server, _running) = full(AdmissionLayer::new()).await;
    let refused = send(&server, post("/a")).await;
    assert!(!refused.headers().contains_key("ratelimit"));

    let (_layer, server, _running) = full(AdmissionLayer::new().rate_limit_headers(true)).await;
    let refused = send(&server, post("/a")).await;
    let headers = refused.headers();
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(headers["ratelimit"], r#""too-many-jobs";r=0;t=1"#);
    let policy = r#""too-many-jobs";q=1;qu="concurrent-requests""#;
    assert_eq!(headers["ratelimit-policy"], policy);
    let mut headers = headers.clone();
    headers.remove("retry-after");
    let parser = HintParser::new().rate_limit(true);
    let advice = parser.parse(&headers, std::time::SystemTime::now);
    let hint = advice.hint().unwrap();
    assert_eq!(hint.source, HintSource::RateLimit);
    assert_eq!(hint.delay, Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_leaves_nothing() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let server = server(&layer);
    let running = begin(&server, post("/a")).await;
    let waiting = begin(&server, post("/a")).await;
    let behind = begin(&server, post("/a")).await;
    assert_eq!(pending(&layer), (3, 2));
    waiting.abort();
    yield_now().await;
    assert_eq!(pending(&layer), (2, 1));
    running.abort();
    yield_now().await;
    assert_eq!(pending(&layer), (1, 0));
    assert_eq!(text(behind.await.unwrap()).await, "0");
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_operation_lasts_until_its_body_ends_and_max_hold_at_most() {
    let layer = AdmissionLayer::new()
        .throttle_at(1)
        .max_hold(Duration::from_secs(1));
    let server = server(&layer);
    let first = send(&server, post("/a")).await;
    let second = begin(&server, post("/a")).await;
    assert_eq!(pending(&layer), (2, 1));
    text(first).await;
    let second = second.await.unwrap();
    assert_eq!(pending(&layer), (1, 0));
    let before = Instant::now();
    let third = send(&server, post("/a")).await;
    assert_eq!(before.elapsed(), Duration::from_secs(1) + SERVICE);
    drop((second, third));
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_class_gets_its_turn_when_a_body_was_held_for_too_long() {
    let layer = AdmissionLayer::new()
        .max_hold(Duration::from_secs(1))
        .class(Class::RECORD, ClassLimits::new().throttle_at(1));
    let server = server(&layer);
    let unread = send(&server, post("/a")).await;
    let before = Instant::now();
    send(&server, post("/a")).await;
    assert_eq!(before.elapsed(), Duration::from_secs(1) + SERVICE);
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn a_drain_admits_nothing_new_and_waits_for_the_last() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let (server, handle) = (server(&layer), layer.handle());
    let running = begin(&server, post("/a")).await;
    let waiting = begin(&server, post("/a")).await;
    let drain = tokio::spawn({
        let handle = handle.clone();
        async move { handle.drain().await }
    });
    let refused = waiting.await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "5");
    let refused = send(&server, grpc()).await;
    assert_eq!(refused.headers()["grpc-status"], "14");
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "5000");
    let search = Request::get("/a").body(String::new()).unwrap();
    assert_eq!(send(&server, search).await.status(), 200);
    assert!(!drain.is_finished());
    text(running.await.unwrap()).await;
    drain.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_are_apart_and_forgotten() {
    let layer = AdmissionLayer::new()
        .throttle_at(1)
        .max_keys(2)
        .key(|parts| {
            let tenant = parts.headers.get("x-tenant");
            tenant
                .map_or("", |tenant| tenant.to_str().unwrap_or(""))
                .into()
        });
    let server = server(&layer);
    let of = |tenant: &str| {
        let mut request = post("/a");
        let headers = request.headers_mut();
        headers.insert("x-tenant", tenant.parse().unwrap());
        request
    };
    let one = begin(&server, of("one")).await;
    sleep(Duration::from_millis(1)).await;
    let two = begin(&server, of("two")).await;
    let keys = |layer: &AdmissionLayer| {
        let keys = layer.snapshot();
        let keys = keys.iter().map(|key| (key.key.to_string(), key.pending()));
        keys.collect::<Vec<_>>()
    };
    assert_eq!(keys(&layer), [("one".into(), 1), ("two".into(), 1)]);
    assert_eq!(text(one.await.unwrap()).await, "0");
    assert_eq!(text(two.await.unwrap()).await, "1");
    begin(&server, of("three")).await;
    assert_eq!(keys(&layer), [("three".into(), 1), ("two".into(), 0)]);
}

#[tokio::test(start_paused = true)]
async fn limits_change_while_operations_wait() {
    let layer = AdmissionLayer::new().throttle_at(1).table(classes());
    let (server, handle) = (server(&layer), layer.handle());
    for _ in 0..4 {
        begin(&server, post("/a")).await;
    }
    assert_eq!(pending(&layer), (4, 3));
    handle.update(|config| config.limits.throttle_at = 3);
    assert_eq!(pending(&layer), (4, 1));
    handle.update(|config| {
        let records = config.class_mut(Class::RECORD).unwrap();
        records.reject_at = Some(4);
        assert!(config.class_mut(Class::new("none")).is_none());
    });
    assert_eq!(send(&server, post("/a")).await.status(), 429);
}

#[tokio::test(start_paused = true)]
async fn in_a_pause_nothing_runs_and_with_no_room_nothing_waits() {
    let layer = AdmissionLayer::new().throttle_at(0).table(classes());
    let (server, handle) = (server(&layer), layer.handle());
    let waiting = begin(&server, post("/a")).await;
    let heavy = begin(&server, post("/move")).await;
    assert_eq!(pending(&layer), (2, 2));
    assert_eq!(send(&server, post("/query")).await.status(), 200);
    handle.update(|config| config.limits.reject_at = 0);
    let refused = send(&server, post("/a")).await;
    assert_eq!(refused.status(), 429);
    assert_ne!(refused.headers()["retry-after"], "0");
    handle.update(|config| {
        config.limits.throttle_at = 1;
        let structural = config.class_mut(Class::STRUCTURAL).unwrap();
        structural.throttle_at = Some(0);
    });
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert_eq!(pending(&layer), (1, 1));
    handle.update(|config| {
        let structural = config.class_mut(Class::STRUCTURAL).unwrap();
        structural.throttle_at = Some(1);
    });
    assert_eq!(heavy.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_told_how_long_it_was_delayed() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let service = layer.layer(service_fn(|request: Request<String>| async move {
        let delayed = request.extensions().get::<Delayed>().copied();
        sleep(SERVICE).await;
        Ok::<_, Infallible>(Response::new(Full::from(format!("{delayed:?}"))))
    }));
    let server: Server = BoxCloneSyncService::new(service);
    let first = begin(&server, post("/a")).await;
    sleep(SERVICE / 4).await;
    let second = begin(&server, post("/a")).await;
    assert_eq!(text(first.await.unwrap()).await, "None");
    let told = format!("{:?}", Some(Delayed(SERVICE * 3 / 4)));
    assert_eq!(text(second.await.unwrap()).await, told);
}

#[tokio::test(start_paused = true)]
async fn what_it_does_is_told() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let layer = AdmissionLayer::new()
        .throttle_at(1)
        .reject_at(3)
        .observe(move |key, event| {
            assert_eq!(key, "");
            let word = match event {
                Event::Delaying { pending } => format!("delaying {pending}"),
                Event::Rejected(rejected) => format!("rejected {}", rejected.reason()),
                other => format!("{other:?}"),
            };
            log.lock().unwrap().push(word);
        });
    let mut subscription = layer.handle().subscribe();
    let server = server(&layer);
    for _ in 0..4 {
        begin(&server, post("/a")).await;
    }
    let words = ["delaying 2", "rejected too-many-jobs"];
    assert_eq!(*seen.lock().unwrap(), words);
    let notice = subscription.recv().await.unwrap();
    assert_eq!(notice.event, Event::Delaying { pending: 2 });
}

#[tokio::test(start_paused = true)]
async fn clones_share_their_state_and_a_setter_makes_a_fresh_one() {
    let layer = AdmissionLayer::new().throttle_at(1);
    let (one, two) = (server(&layer), server(&layer.clone()));
    begin(&one, post("/a")).await;
    begin(&two, post("/a")).await;
    assert_eq!(pending(&layer), (2, 1));
    assert!(layer.clone().reject_at(9).snapshot().is_empty());
    let off = layer.enabled(false);
    let server = server(&off);
    assert_eq!(text(send(&server, post("/a")).await).await, "0");
    assert!(off.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn errors_and_readiness_of_the_inner_service_pass_through() {
    #[derive(Clone)]
    struct Broken(Arc<AtomicUsize>);
    impl Service<Request<String>> for Broken {
        type Response = Response<Full<Bytes>>;
        type Error = &'static str;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                cx.waker().wake_by_ref();
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<String>) -> Self::Future {
            std::future::ready(Err("broken"))
        }
    }
    let layer = AdmissionLayer::new();
    let polls = Arc::new(AtomicUsize::new(0));
    let service = layer.layer(Broken(polls.clone()));
    let error = service.oneshot(post("/a")).await.unwrap_err();
    assert_eq!(error, "broken");
    assert_eq!(polls.load(Ordering::Relaxed), 2);
    assert_eq!(pending(&layer), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn classes_by_a_function_and_of_the_users_own() {
    let import = Class::new("import");
    let layer = AdmissionLayer::new()
        .class(
            import,
            ClassLimits::new().throttle_at(1).max_delay(SERVICE / 2),
        )
        .classify(move |parts| match parts.headers.contains_key("x-import") {
            true => import,
            false => Class::RECORD,
        })
        .key(|_| Cow::Borrowed("all"));
    let server = server(&layer);
    let imported = || {
        let mut request = post("/a");
        request
            .headers_mut()
            .insert("x-import", "1".parse().unwrap());
        request
    };
    begin(&server, imported()).await;
    let second = begin(&server, imported()).await;
    assert_eq!(second.await.unwrap().status(), 429);
    assert_eq!(send(&server, post("/a")).await.status(), 200);
    let snapshot = &layer.snapshot()[0];
    let class = snapshot.class("import").unwrap();
    assert_eq!(class.rejected.too_many_jobs, 1);
}

#[cfg(feature = "aimd")]
#[tokio::test(start_paused = true)]
async fn an_adaptive_layer_finds_what_the_server_can_do() {
    // Eight at once, 20 ms each; more only wait, inside and unseen.
    let slots = Arc::new(tokio::sync::Semaphore::new(8));
    let layer = AdmissionLayer::new().adaptive().seed(1);
    let service = layer.layer(service_fn(move |_: Request<String>| {
        let slots = slots.clone();
        async move {
            let _slot = slots.acquire().await;
            sleep(Duration::from_millis(20)).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..64 {
        let (mut service, done) = (service.clone(), done.clone());
        tokio::spawn(async move {
            loop {
                let Ok(answer) = service.call(post("/a")).await;
                assert_eq!(answer.status(), StatusCode::OK);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    sleep(Duration::from_secs(60)).await;
    let limit = layer.snapshot()[0].limit;
    assert!((8..=16).contains(&limit), "{limit}");
    // 400 a second is all there is.
    let done = done.load(Ordering::Relaxed);
    assert!(done >= 60 * 400 * 95 / 100, "{done}");
}

#[tokio::test(start_paused = true)]
async fn an_update_may_put_all_limits_back_and_leaves_the_rest() {
    let import = Class::new("import");
    let layer = AdmissionLayer::new()
        .class(import, ClassLimits::new().throttle_at(1))
        .classify(move |_| import)
        .throttle_at(2);
    let (server, handle) = (server(&layer), layer.handle());
    for _ in 0..2 {
        begin(&server, post("/a")).await;
    }
    assert_eq!(pending(&layer), (2, 1));
    handle.report_storage(0.96);
    handle.update(|config| *config = AdmissionConfig::default());
    assert_eq!(handle.storage(), 0.96);
    let snapshot = &layer.snapshot()[0];
    assert_eq!(snapshot.limit, 100);
    let class = snapshot.class("import").unwrap();
    assert_eq!((class.pending, class.delayed), (2, 1));
    assert_eq!(send(&server, post("/a")).await.status(), 429);
    handle.update(|config| {
        assert_eq!(config.class_mut(import).unwrap().throttle_at, Some(1));
    });
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_unread_body_no_longer_than_its_hold() {
    let layer = AdmissionLayer::new().max_hold(Duration::from_secs(10));
    let unread = send(&server(&layer), post("/a")).await;
    let before = Instant::now();
    layer.handle().drain().await;
    assert_eq!(before.elapsed(), Duration::from_secs(10));
    drop(unread);
}

/// What a rejection reads of a body whose frames of `size` come every `pause`, and
/// how long it takes.
async fn read_of(
    change: impl FnOnce(&mut Request<()>),
    size: usize,
    pause: Duration,
) -> (usize, Duration) {
    let layer = AdmissionLayer::new().reject_at(0);
    let service = layer.layer(service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let read = Arc::new(AtomicUsize::new(0));
    let count = read.clone();
    let frames = tokio_stream::iter(0..1000).then(move |_| {
        let count = count.clone();
        async move {
            sleep(pause).await;
            count.fetch_add(size, Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; size])))
        }
    });
    let mut head = Request::post("/a").body(()).unwrap();
    change(&mut head);
    let request = head.map(|()| StreamBody::new(frames.take(100)));
    let before = Instant::now();
    let Ok(answer) = service.oneshot(request).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    (read.load(Ordering::Relaxed), before.elapsed())
}

#[tokio::test(start_paused = true)]
async fn what_comes_of_a_rejected_request_is_read_before_the_answer_within_bounds() {
    let millis = Duration::from_millis;
    // All of it.
    let whole = read_of(|_| {}, 10_000, millis(10)).await;
    assert_eq!(whole, (1_000_000, millis(1000)));
    // Until it has read 8 MiB, or for 5 s, or until nothing comes for 0.5 s.
    let large = read_of(|_| {}, 1 << 20, millis(10)).await;
    assert_eq!(large, (9 << 20, millis(90)));
    let slow = read_of(|_| {}, 1, millis(190)).await;
    assert_eq!(slow, (26, millis(5000)));
    let silent = read_of(|_| {}, 1, millis(1000)).await;
    assert_eq!(silent, (0, millis(500)));
    // Not where the caller can be told to stop, or has not begun.
    let http2 = read_of(
        |head| *head.version_mut() = http::Version::HTTP_2,
        1,
        millis(10),
    );
    assert_eq!(http2.await, (0, Duration::ZERO));
    let expect = http::HeaderValue::from_static("100-continue");
    let waits = read_of(
        |head| drop(head.headers_mut().insert("expect", expect)),
        1,
        millis(10),
    );
    assert_eq!(waits.await, (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_greatest_and_the_least_settings_do_what_they_say() {
    let greatest = |limits: &mut tower_weir::server::Limits| {
        limits.throttle_at = usize::MAX;
        limits.reject_at = usize::MAX;
        limits.max_delay = Duration::MAX;
        limits.max_bytes = Some(u64::MAX);
        limits.max_age = Some(Duration::MAX);
        limits.storage_mark = f64::INFINITY;
    };
    let layer = AdmissionLayer::new()
        .limits(greatest)
        .class(
            Class::RECORD,
            ClassLimits::new()
                .throttle_at(1)
                .reject_at(usize::MAX)
                .max_delay(Duration::MAX),
        )
        .max_hold(Duration::MAX)
        .max_keys(usize::MAX)
        .unsized_body(u64::MAX)
        .drain_retry_after(Duration::MAX);
    let (server, handle) = (server(&layer), layer.handle());
    handle.report_storage(f64::MAX);
    let first = send(&server, post("/a")).await;
    let second = begin(&server, post("/a")).await;
    sleep(Duration::from_secs(1_000_000)).await;
    assert_eq!(pending(&layer), (2, 1));
    drop(first);
    assert_eq!(second.await.unwrap().status(), StatusCode::OK);
    let drain = handle.drain();
    tokio::select! {
        biased;
        () = drain => {}
        () = sleep(SERVICE) => panic!("nothing runs"),
    }
    let refused = send(&server, post("/a")).await;
    let most = u64::MAX.to_string();
    assert_eq!(refused.headers()["retry-after"], &*most);
    let refused = send(&server, grpc()).await;
    let most = i32::MAX.to_string();
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], &*most);

    let least = |limits: &mut tower_weir::server::Limits| {
        limits.max_delay = Duration::ZERO;
        limits.max_bytes = Some(0);
        limits.max_age = Some(Duration::ZERO);
        limits.storage_mark = 0.0;
    };
    let layer = AdmissionLayer::new()
        .limits(least)
        .max_hold(Duration::ZERO)
        .max_keys(0)
        .drain_retry_after(Duration::ZERO);
    let server = self::server(&layer);
    let code = async |request| {
        let answer = send(&server, request).await;
        let body: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
        body["code"].as_str().map(str::to_owned)
    };
    let delete = || Request::delete("/a").body("1".to_owned()).unwrap();
    assert_eq!(code(post("/a")).await.as_deref(), Some("storage-full"));
    let running = begin(&server, delete()).await;
    assert_eq!(code(delete()).await.as_deref(), Some("queue-too-large"));
    layer
        .handle()
        .update(|config| config.limits.max_bytes = None);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(code(delete()).await.as_deref(), Some("old-jobs"));
    layer.handle().update(|config| {
        config.limits.max_age = None;
        config.limits.throttle_at = 1;
    });
    assert_eq!(code(delete()).await.as_deref(), Some("too-many-jobs"));
    // It is over with the head.
    let unread = running.await.unwrap();
    assert_eq!(pending(&layer), (0, 0));
    layer.handle().drain().await;
    let refused = send(&server, delete()).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    drop(unread);
}
