//! What requests, answers and spans carry.

use std::{
    io,
    sync::{Arc, Mutex},
};

use http::HeaderName;
use tower::{Layer, ServiceExt};
use tower_weir::{
    outcome::{Cause, GrpcCode},
    retry::{NoRetry, ReplayBody, Retried, RetryLayer},
};
use tracing::{
    Instrument, Subscriber,
    field::{self, Field, Visit},
    info_span, span,
};
use tracing_subscriber::{Registry, layer::Context, layer::SubscriberExt};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn an_answer_tells_how_many_attempts_it_took_and_why() {
    let (http, _) = stack(&RetryLayer::http(), |n| status([503, 429, 200][n]));
    let answer = call(&http, get("http://a.test/")).await.unwrap();
    let retried = answer.extensions().get::<Retried>().unwrap();
    assert_eq!((retried.attempts, retried.reason), (3, status_cause(429)));

    let (grpc_stack, _) = stack(&RetryLayer::http(), |n| grpc_status([10, 14, 13][n], None));
    let answer = call(&grpc_stack, grpc()).await.unwrap();
    let retried = answer.extensions().get::<Retried>().unwrap();
    let reason = Cause::Code(GrpcCode::Unavailable);
    assert_eq!((retried.attempts, retried.reason), (3, reason));

    let (first, _) = stack(&RetryLayer::http(), |_| status(200));
    let answer = call(&first, get("http://a.test/")).await.unwrap();
    assert!(answer.extensions().get::<Retried>().is_none());
}

#[cfg(feature = "weir")]
#[tokio::test(start_paused = true)]
async fn the_layers_of_a_stack_tell_of_themselves_together_whatever_was_set_last() {
    use tower_weir::observe::Event;

    let told = Told::default();
    let weir = tower_weir::Weir::http()
        .observe(told.by())
        .for_host("index")
        .max_retries(2)
        .no_budget();
    let stack = weir.layer(upstream(|_| status(429)));
    let answer = stack.oneshot(get("http://a.test/")).await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(
        told.count(|event| matches!(event, Event::FirstThrottle { .. })),
        1
    );
    assert_eq!(told.count(|event| matches!(event, Event::Retry { .. })), 2);
    assert!(told.all().iter().all(|(_, host, _)| host == "index"));
}

#[tokio::test(start_paused = true)]
async fn an_http_header_with_the_number_of_attempts_is_sent_where_it_is_wanted() {
    let name = HeaderName::from_static("x-attempts-before");
    let layer = RetryLayer::http().policy(|policy| policy.attempt_header(name));
    let (http, seen) = stack(&layer, |_| status(503));
    call(&http, get("http://a.test/")).await.unwrap();
    assert_eq!(seen.headers("x-attempts-before"), ["-", "1", "2", "3"]);
    assert_eq!(seen.headers("grpc-previous-rpc-attempts"), ["-"; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_forbids_it_is_sent_once_and_keeps_its_deadline() {
    let layer = RetryLayer::http().deadline(millis(100));
    let (http, seen) = stack(&layer, |_| status(503));
    let mut request = get("http://a.test/");
    request.extensions_mut().insert(NoRetry);
    assert_eq!(status_of(&http, request).await, 503);
    let deadlines = seen.each(|head| head.extensions.get::<tower_weir::Deadline>().is_some());
    assert_eq!(deadlines, [true]);
}

#[tokio::test(start_paused = true)]
async fn a_stack_in_a_stack_repeats_only_once_where_the_outer_one_says_so() {
    let inner = || RetryLayer::http().no_budget();
    for (suppress, expected) in [(false, 16), (true, 4)] {
        let outer = RetryLayer::http()
            .no_budget()
            .policy(|policy| policy.suppress_nested(suppress));
        let upstream = upstream(|_| status(503));
        let seen = upstream.seen();
        let both = outer.layer(inner().layer(upstream));
        let answer = both.oneshot(get("http://a.test/")).await;
        assert_eq!(answer.unwrap().status().as_u16(), 503);
        assert_eq!(seen.count(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_sends_once() {
    for layer in [
        RetryLayer::http().max_retries(0),
        RetryLayer::http().enabled(false),
        RetryLayer::http()
            .max_retries(0)
            .policy(|policy| policy.patience(millis(60_000))),
    ] {
        let (http, seen) = stack(&layer, |_| status(429));
        assert_eq!(status_of(&http, get("http://a.test/")).await, 429);
        assert_eq!(seen.count(), 1);
    }
}

/// Records what spans are told of `http.request.resend_count`.
#[derive(Clone, Default)]
struct Resends(Arc<Mutex<Vec<u64>>>);

impl Visit for &Resends {
    fn record_u64(&mut self, field: &Field, value: u64) {
        assert_eq!(field.name(), "http.request.resend_count");
        self.0.lock().unwrap().push(value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        panic!("{field}: {value:?} is no u64");
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Resends {
    fn on_record(&self, _: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        values.record(&mut &*self);
    }
}

#[tokio::test(start_paused = true)]
async fn a_span_with_the_field_for_it_is_told_the_number_of_resends() {
    let resends = Resends::default();
    let subscriber = Registry::default().with(resends.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    let (http, _) = stack(&RetryLayer::http(), |n| status([503, 503, 200][n]));
    let span = info_span!("GET", http.request.resend_count = field::Empty);
    assert_eq!(
        status_of(&http, get("http://a.test/"))
            .instrument(span)
            .await,
        200
    );
    assert_eq!(*resends.0.lock().unwrap(), [1, 2]);

    let (http, _) = stack(&RetryLayer::http(), |n| status([503, 200][n]));
    let other = info_span!("GET", other = field::Empty);
    status_of(&http, get("http://a.test/"))
        .instrument(other)
        .await;
    assert_eq!(resends.0.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_is_told_of_the_attempts_that_reached_it_only() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = attempts.clone();
    let server = tower::service_fn(move |request: http::Request<ReplayBody<_>>| {
        let before = request.headers().get("grpc-previous-rpc-attempts");
        let before = before.map(|value| value.to_str().unwrap().to_owned());
        let mut seen = seen.lock().unwrap();
        seen.push(before.unwrap_or_default());
        let n = seen.len();
        async move {
            match n {
                1 | 2 | 4 => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                3 => Ok(grpc_status(14, None)),
                _ => Ok(grpc_status(0, None)),
            }
        }
    });
    let stack = RetryLayer::http().no_budget().layer(server);
    let answer = stack.oneshot(grpc()).await.unwrap();
    let retried = answer.extensions().get::<Retried>().unwrap();
    assert_eq!(retried.attempts, 5);
    assert_eq!(*attempts.lock().unwrap(), ["", "", "", "1", "1"]);
}
