//! What the retries tell `tracing`. In a program of its own, since tests that run
//! beside it would register the same call sites with no subscriber.
#![cfg(feature = "retry")]

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    BoxError,
    retry::{
        ReplayBody, RetryLayer,
        backoff::Constant,
        budget::{BatchBudget, RetryBudget},
    },
};
use tracing::{
    Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Registry, layer::Context, layer::SubscriberExt};

/// Counts the events of the retries at WARN.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<usize>>);

impl Warnings {
    fn take(&self) -> usize {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        *self.0.lock().unwrap() += usize::from(*event.metadata().level() == Level::WARN);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_warned_of_once_however_many_retries_it_costs() {
    let warnings = Warnings::default();
    let subscriber = Registry::default().with(warnings.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    // Two retries a second, whatever happens.
    let layer = RetryLayer::http()
        .max_retries(1)
        .backoff(Constant::new(Duration::ZERO))
        .budget(|| RetryBudget::new(Duration::from_secs(1), 2, 0.0).unwrap());
    let stack = layer.layer(service_fn(|_: Request<ReplayBody<String>>| async {
        let failed = Response::builder().status(503).body(String::new());
        Ok::<_, BoxError>(failed?)
    }));
    let fail = async |requests: usize, host: &str, batch: Option<&BatchBudget>| {
        for _ in 0..requests {
            let request = Request::get(format!("http://{host}/")).body(String::new());
            let mut request = request.unwrap();
            if let Some(batch) = batch {
                request.extensions_mut().insert(batch.clone());
            }
            let answer = stack.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 503);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // 30 s of it: 60 retries are granted, and 2,940 refused.
    fail(3000, "a.test", None).await;
    assert_eq!(warnings.take(), 1);
    fail(100, "b.test", None).await;
    assert_eq!(warnings.take(), 1, "each host has its own");
    // It is over when one was let through, and nothing refused for 10 s.
    tokio::time::sleep(Duration::from_secs(10)).await;
    fail(2, "a.test", None).await;
    assert_eq!(warnings.take(), 0);
    fail(100, "a.test", None).await;
    assert_eq!(warnings.take(), 1);

    let batch = BatchBudget::new().max_retries(0);
    fail(100, "c.test", Some(&batch)).await;
    assert_eq!(
        warnings.take(),
        1,
        "a batch that is spent is warned of once too"
    );
}

/// Keeps the lines that say that a request is not sent again.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut line = Fields(event.metadata().level().to_string());
        event.record(&mut line);
        if line.0.contains("not retrying") {
            self.0.lock().unwrap().push(line.0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_is_logged_once_at_debug_with_the_reason() {
    let lines = Lines::default();
    let _default = tracing::subscriber::set_default(Registry::default().with(lines.clone()));
    let stack = RetryLayer::http().layer(service_fn(|_: Request<ReplayBody<String>>| async {
        let failed = Response::builder().status(500).body(String::new());
        Ok::<_, BoxError>(failed?)
    }));
    for request in [
        Request::get("http://a.test/"),
        Request::post("http://a.test/"),
    ] {
        let request = request.body(String::new()).unwrap();
        stack.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(
        *lines.0.lock().unwrap(),
        [
            "DEBUG message=not retrying host=\"a.test\" cause=500 attempts=4 \
             why=the retries were used up",
            "DEBUG message=not retrying host=\"a.test\" cause=500 attempts=1 \
             why=the upstream may have acted on the request",
        ]
    );
}
