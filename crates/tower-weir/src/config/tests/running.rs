//! Layers that run are told, all or none.

use std::time::Duration;

use http::{Request, Response};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::read;
use crate::{
    BoxError, Weir,
    admit::Http,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::CircuitBreakerLayer,
    config::{Running, Settings},
    error::ShuttingDown,
    observe::Event,
    outcome::ErrorsFail,
    retry::RetryLayer,
    server::{AdmissionLayer, Class},
};

#[tokio::test]
async fn nothing_changes_unless_all_can() {
    let stack = Weir::http();
    let server = AdmissionLayer::new();
    let (client, admission) = (stack.handle(), server.handle());
    let running = Running::new().with(client.clone()).with(admission.clone());
    let before = || {
        let config = format!("{:?}", client.registry.config());
        (config, admission.limits(), format!("{stack:?}"))
    };
    let was = before();
    for (text, expected) in [
        ("limiter.enabled = false", "limiter.enabled"),
        ("circuit_breaker.enabled = false", "circuit_breaker.enabled"),
        (
            "circuit_breaker.when_open = \"pend\"",
            "circuit_breaker.when_open",
        ),
        ("admission.enabled = false", "admission.enabled"),
        ("admission.max_hold = \"1s\"", "admission.max_hold"),
        (
            "admission.drain_retry_after = \"1s\"",
            "admission.drain_retry_after",
        ),
        (
            "admission.rate_limit_headers = true",
            "admission.rate_limit_headers",
        ),
        (
            "admission.adaptive.enabled = true",
            "admission.adaptive.enabled",
        ),
    ] {
        let settings =
            format!("{text}\nlimiter.max = 5\nretry.max_retries = 9\nadmission.throttle_at = 3");
        let invalid = running.apply(&read(&settings)).unwrap_err();
        let shown = format!("{expected}: cannot change while the layer runs");
        assert_eq!(invalid.to_string(), shown);
        assert_eq!(before(), was, "{text}");
    }
    let mut settings = Settings::default();
    settings.admission.unsized_body = 0;
    let refused = running.apply(&settings).unwrap_err();
    assert_eq!(refused.path(), "admission.unsized_body");
    settings = Settings::default();
    settings.limiter.max = 0;
    assert_eq!(running.apply(&settings).unwrap_err().path(), "limiter.max");
    assert_eq!((before(), running.generation()), (was.clone(), 0));

    settings = read("limiter.max = 5\nretry.max_retries = 9\nadmission.throttle_at = 3");
    assert_eq!(running.apply(&settings), Ok(1));
    let (config, limits, shown) = before();
    assert!(config != was.0 && config.contains("max: 5"));
    assert_eq!(limits.throttle_at, 3);
    assert!(shown.contains("max_retries: Some(9)"), "{shown}");
    assert_eq!(running.apply(&Settings::default()), Ok(2));
    assert_eq!(before(), was);
}

#[tokio::test]
async fn layers_alone_are_told_too() {
    let settings = read(
        "limiter = { enabled = false, max = 7 }\n\
         circuit_breaker = { enabled = false, min_calls = 9 }\n\
         retry.max_retries = 8\n\
         calls.max_waiting = 6\n\
         split = { enabled = false, statuses = [422] }\n\
         admission.structural.reject_at = 5",
    );
    let limiter = AimdConcurrencyLayer::http();
    let breaker = CircuitBreakerLayer::http();
    let retry = RetryLayer::http();
    let split = crate::split::SplitLayer::http(());
    let admission = AdmissionLayer::new();
    let running = Running::new()
        .with(limiter.handle())
        .with(breaker.handle())
        .with(retry.handle())
        .with(split.handle())
        .with(admission.handle());
    assert_eq!(running.apply(&settings), Ok(1));
    let made = |shown: &dyn std::fmt::Debug| format!("{shown:?}");
    let configured = AimdConcurrencyLayer::http().configured(&settings).unwrap();
    let (now, wanted) = (limiter.handle().registry, configured.handle().registry);
    assert_eq!(made(&now.config()), made(&wanted.config()));
    assert_eq!(made(&now.knobs()), made(&wanted.knobs()));
    let configured = CircuitBreakerLayer::http().configured(&settings).unwrap();
    let (now, wanted) = (breaker.handle().registry, configured.handle().registry);
    assert_eq!(made(&now.config()), made(&wanted.config()));
    assert_eq!(made(&now.knobs()), made(&wanted.knobs()));
    assert!(made(&retry).contains("max_retries: Some(8)"));
    let configured = crate::split::SplitLayer::http(()).configured(&settings);
    assert_eq!(made(&split), made(&configured.unwrap()));
    let pending = admission.handle().class_limits(Class::STRUCTURAL);
    assert_eq!(pending.unwrap().reject_at, Some(5));
}

#[tokio::test]
async fn changes_from_many_threads_are_made_one_at_a_time() {
    let stack = Weir::http();
    let running = Running::new()
        .with(stack.handle())
        .with(AdmissionLayer::new().handle());
    let numbers = std::thread::scope(|scope| {
        let change = |max: usize| {
            let running = &running;
            move || {
                let mut settings = Settings::default();
                settings.limiter.max = max;
                settings.retry.max_retries = u32::try_from(max).ok();
                (0..50)
                    .map(|_| running.apply(&settings).unwrap())
                    .collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (1..=4).map(|max| scope.spawn(change(max))).collect();
        let numbers = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        numbers.collect::<std::collections::BTreeSet<u64>>()
    });
    assert!(numbers.into_iter().eq(1..=200));
    // One of them, and not half of one and half of another.
    let max = stack.handle().registry.config().limiter.law.max;
    assert!(format!("{stack:?}").contains(&format!("max_retries: Some({max})")));
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_ask_how_many_changes_there_were() {
    let (done, seen) = std::sync::mpsc::channel();
    let running = Running::new();
    let asked = running.clone();
    let layer = AimdConcurrencyLayer::new(ErrorsFail).observe(move |_, _| {
        let _ = done.send(asked.generation());
    });
    let running = running.with(layer.handle());
    let service = service_fn(|(): ()| async { Ok::<_, BoxError>(()) });
    let client = ServiceBuilder::new().layer(layer).service(service);
    client.oneshot(()).await.unwrap();
    std::thread::spawn(move || running.apply(&read("limiter.max = 5")));
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok(0));
}

/// An observer panics when the limit of the host is another.
fn panics_of_a(host: &str, event: &Event) {
    let limit = matches!(event, Event::Limit { .. });
    assert!(!limit || host != "a.test", "an observer");
}

async fn limits_of(layer: &AimdConcurrencyLayer<Http>) -> impl Fn() -> Vec<usize> + use<> {
    let service =
        service_fn(|_: Request<()>| async { Ok::<_, BoxError>(Response::new(String::new())) });
    let client = ServiceBuilder::new().layer(layer.clone()).service(service);
    for host in ["a", "b"] {
        let request = Request::get(format!("http://{host}.test")).body(());
        client.clone().oneshot(request.unwrap()).await.unwrap();
    }
    let handle = layer.handle();
    move || {
        let hosts = handle.snapshot();
        hosts.iter().map(|(_, host)| host.limit).collect()
    }
}

#[tokio::test]
async fn an_observer_that_panics_leaves_nothing_half_changed() {
    let first = AimdConcurrencyLayer::http().observe(panics_of_a);
    let second = AimdConcurrencyLayer::http();
    let limits = [limits_of(&first).await, limits_of(&second).await];
    let running = Running::new().with(first.handle()).with(second.handle());
    let apply = || running.apply(&read("limiter.max = 5\ncalls.max_waiting = 6"));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(apply));
    assert!(panicked.is_err());
    for limits in limits {
        assert_eq!(limits(), [5, 5]);
    }
    let knobs = format!("{:?}", first.handle().registry.knobs());
    assert!(knobs.contains("max_waiting: 6,"), "{knobs}");
    assert_eq!(running.generation(), 1);
}

#[tokio::test]
async fn an_observer_that_panics_as_a_layer_drains_leaves_no_host_open() {
    let layer = AimdConcurrencyLayer::http()
        .initial(1)
        .max_hold(Duration::from_secs(1))
        .observe(panics_of_a);
    let service = service_fn(|_: Request<()>| async {
        let pending = tokio_stream::pending::<Result<http_body::Frame<bytes::Bytes>, BoxError>>();
        Ok::<_, BoxError>(Response::new(http_body_util::StreamBody::new(pending)))
    });
    tokio::time::pause();
    let client = ServiceBuilder::new().layer(layer.clone()).service(service);
    let call = |host: &str| {
        let request = Request::get(format!("http://{host}.test")).body(());
        client.clone().oneshot(request.unwrap())
    };
    let _unread = [call("a").await.unwrap(), call("b").await.unwrap()];
    tokio::time::sleep(Duration::from_secs(2)).await;
    let handle = layer.handle();
    let drain = tokio::spawn(async move { handle.drain().await });
    assert!(drain.await.unwrap_err().is_panic());
    let refused = call("b").await.err().unwrap();
    assert!(refused.is::<ShuttingDown>(), "{refused}");
}
