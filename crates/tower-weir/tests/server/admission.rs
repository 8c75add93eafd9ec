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
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::{
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, sleep},
};
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_layer::Layer;
use tower_weir::{
    observe::Event,
    outcome::{
        Classify, HintSource, HttpClassifier, Protocol, Repeat, Verdict,
        hint::{Advice, HintParser, should_retry},
    },
    server::{AdmissionLayer, Class, ClassLimits, Delayed, Reason, Rejected},
};

use crate::support::{
    Answer, SERVICE, Server, begin, classes, grpc, pending, post, send, serve, server, text,
};

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

/// The limit that is found where of ten answers, which take 20 ms each, one is this.
#[cfg(feature = "aimd")]
async fn limit_with_a_tenth(
    of: fn() -> http::response::Builder,
    request: fn() -> Request<String>,
) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let layer = AdmissionLayer::new().adaptive().seed(1);
    let service = layer.layer(service_fn(move |_: Request<String>| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(Duration::from_millis(20)).await;
            let answer = if nth.is_multiple_of(10) {
                of()
            } else {
                Response::builder()
            };
            Ok::<_, Infallible>(answer.body(Full::<Bytes>::default()).unwrap())
        }
    }));
    for _ in 0..64 {
        let mut service = service.clone();
        tokio::spawn(async move {
            loop {
                let Ok(_) = service.call(request()).await;
            }
        });
    }
    sleep(Duration::from_secs(10)).await;
    layer.snapshot()[0].limit
}

#[cfg(feature = "aimd")]
#[tokio::test(start_paused = true)]
async fn a_handlers_own_429_says_nothing_of_what_the_server_can_do() {
    let record = || post("/a");
    let good = limit_with_a_tenth(Response::builder, record).await;
    let quota = || Response::builder().status(429).header("retry-after", 30);
    assert_eq!(limit_with_a_tenth(quota, record).await, good);
    let exhausted = || Response::builder().header("grpc-status", 8);
    assert_eq!(limit_with_a_tenth(exhausted, grpc).await, good);
    let down = || Response::builder().status(503);
    let limit = limit_with_a_tenth(down, record).await;
    assert!(limit < good, "{limit} of {good}");
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
