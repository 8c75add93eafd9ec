//! What the breaker tells `tracing`. In a program of its own, since tests that
//! run beside it would register the same call sites with no subscriber.
#![cfg(feature = "circuit-breaker")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower::{Layer, ServiceExt, service_fn};
use tower_weir::{
    BoxError,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, Control, FailureRun, OpenFor},
    outcome::{Outcome, classify_fn},
};
use tracing::{
    Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// One event as `tracing` got it.
#[derive(Debug)]
struct Line {
    level: Level,
    fields: BTreeMap<&'static str, String>,
}

/// Keeps the events of this crate.
#[derive(Clone, Default)]
struct Capture {
    lines: Arc<Mutex<Vec<Line>>>,
    spans: Arc<AtomicU64>,
}

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_weir")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        let level = *event.metadata().level();
        self.lines.lock().unwrap().push(Line { level, fields });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Answers with what was asked for: whether it is well.
async fn upstream(well: bool) -> Result<bool, Infallible> {
    Ok(well)
}

fn judge(result: Result<&bool, &BoxError>) -> Outcome {
    match result {
        Ok(true) => Outcome::success(),
        Ok(false) | Err(_) => Outcome::failed(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_outages_two_ends_are_logged_at_info_and_the_rest_at_debug() {
    let capture = Capture::default();
    let _default = tracing::subscriber::set_default(capture.clone());
    let second = Duration::from_secs(1);
    let config = BreakerConfig::default()
        .failure_run(FailureRun::new(3, Duration::ZERO))
        .open_for(OpenFor::new(second, second).unwrap().jitter(None));
    let layer = CircuitBreakerLayer::new(classify_fn(judge));
    let layer = layer.for_host("index.test").config(config);
    let service = layer.layer(service_fn(upstream));

    for _ in 0..3 {
        service.clone().oneshot(false).await.unwrap();
    }
    for _ in 0..20 {
        service.clone().oneshot(true).await.unwrap_err();
    }
    // The first probe fails, those of the second round succeed.
    for probes in [&[false][..], &[true, true]] {
        tokio::time::advance(second).await;
        for &well in probes {
            service.clone().oneshot(well).await.unwrap();
        }
    }

    let lines = std::mem::take(&mut *capture.lines.lock().unwrap());
    let fields = |line: &Line| {
        let fields = line
            .fields
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        fields.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(lines[0].level, Level::INFO);
    assert_eq!(
        fields(&lines[0]),
        "calls=3 cause=\"failure_run\" failed=3 from=\"closed\" host=\"index.test\" \
         message=circuit opened open_for_ms=1000 rate=1.0 slow=0 to=\"open\""
    );
    for refused in &lines[1..21] {
        assert_eq!(refused.level, Level::DEBUG);
        assert_eq!(
            fields(refused),
            "host=\"index.test\" message=call refused why=\"circuit_open\""
        );
    }
    let rest: Vec<_> = lines[21..]
        .iter()
        .map(|line| (line.level, fields(line)))
        .collect();
    let line = |level, fields: &str| (level, fields.to_owned());
    let probed = line(
        Level::DEBUG,
        "calls=3 cause=\"open_elapsed\" failed=3 from=\"open\" host=\"index.test\" \
         message=circuit is being probed rate=1.0 slow=0 to=\"half_open\"",
    );
    assert_eq!(
        rest,
        [
            probed.clone(),
            line(
                Level::DEBUG,
                "calls=1 cause=\"probe_failed\" failed=1 from=\"half_open\" \
                 host=\"index.test\" message=circuit opened again open_for_ms=1000 rate=1.0 \
                 slow=0 to=\"open\"",
            ),
            probed,
            line(
                Level::INFO,
                "calls=2 cause=\"probes_succeeded\" failed=0 from=\"half_open\" \
                 host=\"index.test\" message=circuit closed rate=0.0 slow=0 to=\"closed\"",
            ),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_done_by_hand_is_logged_at_info() {
    let capture = Capture::default();
    let _default = tracing::subscriber::set_default(capture.clone());
    let layer = CircuitBreakerLayer::new(classify_fn(judge)).for_host("index.test");
    let handle = layer.handle();
    assert!(handle.control("index.test", Control::ForcedOpen));
    assert!(handle.control("index.test", Control::Automatic));
    let lines = capture.lines.lock().unwrap();
    let said = lines
        .iter()
        .map(|line| (line.level, line.fields["message"].as_str()));
    assert!(said.eq([
        (Level::INFO, "circuit opened"),
        (Level::INFO, "circuit closed")
    ]));
}
