use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use toml::{Table, Value};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use super::*;
#[cfg(feature = "dead-letter")]
use crate::dead_letter::{DeadLetterLayer, sink_fn};
#[cfg(feature = "failover")]
use crate::failover::{Failover, Region};
use crate::{
    BoxError, Weir,
    admit::Settings as Admitting,
    aimd::{AimdConcurrencyLayer, LawConfig},
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, State, WhenOpen},
    error::{AttemptTimeout, CircuitOpen, QueueFull, QueueTimeout},
    outcome::{ErrorsFail, Outcome, classify_fn},
    retry::{Account, RetryHandle, RetryLayer, RetryPolicy},
    server::{AdmissionConfig, AdmissionLayer, Class},
};

const FILE: &str = include_str!("../../../../docs/config.toml");

fn read(text: &str) -> Settings {
    Settings::from_toml(text).unwrap_or_else(|invalid| panic!("{invalid}"))
}

/// Every field by its path.
fn leaves(table: &Table) -> Vec<(String, Value)> {
    fn walk(prefix: &str, table: &Table, leaves: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            let path = match prefix {
                "" => name.clone(),
                prefix => format!("{prefix}.{name}"),
            };
            match value {
                Value::Table(table) => walk(&path, table, leaves),
                value => leaves.push((path, value.clone())),
            }
        }
    }
    let mut all = Vec::new();
    walk("", table, &mut all);
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

#[test]
fn the_file_is_the_default_and_has_every_field() {
    assert_eq!(read(FILE), Settings::default());
    assert_eq!(read(""), Settings::default());
    let in_file = leaves(&toml::from_str(FILE).unwrap());
    let all = leaves(&Table::try_from(Settings::default()).unwrap());
    assert!(all.len() > 60, "{}", all.len());
    assert_eq!(in_file, all);
}

#[test]
fn what_the_files_comments_name_can_be_said() {
    for said in [
        r#"retry.budget = { kind = "grpc-throttle", max_tokens = 10, token_ratio = 0.1 }"#,
        r#"retry.budget = { kind = "cost-quota", capacity = 500, retry_cost = 5, timeout_cost = 10 }"#,
        r#"retry.budget = { kind = "in-flight", share = 0.2, at_least = 3 }"#,
        r#"retry.budget = { kind = "none" }"#,
        r#"retry.statuses = [408, 429, 500, 502, 503, 504]"#,
        r#"retry.codes = ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED"]"#,
        r#"retry.attempt_header = "x-attempt""#,
        r#"retry.backoff.kind = "full-jitter""#,
        r#"retry.backoff.kind = "equal-jitter""#,
        r#"retry.backoff.kind = "band-jitter""#,
        r#"limiter.decrease = "halve""#,
        r#"circuit_breaker.when_open = "wait""#,
        r#"circuit_breaker.when_open = "pend""#,
        r#"circuit_breaker.failure_rate = "none""#,
        r#"circuit_breaker.failure_rate = 1"#,
        r#"circuit_breaker.count_refusals = "always""#,
        r#"circuit_breaker.count_refusals = "never""#,
        r#"circuit_breaker.window = { kind = "calls", calls = 100 }"#,
        r#"calls.hold = "headers""#,
        r#"calls.max_waiting = "none""#,
        r#"split.statuses = [422]"#,
        r#"split.codes = ["INVALID_ARGUMENT"]"#,
    ] {
        let settings = read(said);
        assert_ne!(settings, Settings::default(), "{said}");
        // What is written down of them is read again.
        let written = toml::Table::try_from(&settings).unwrap();
        let again: Settings = written.try_into().unwrap();
        assert_eq!(again, settings, "{said}");
    }
    // Only the kind of a table that is replaced tells what is in it.
    assert_eq!(
        read("retry.budget.share = 0.5").retry.budget,
        BudgetSettings::Share {
            memory: Duration::from_secs(10),
            per_second: 10,
            share: 0.5
        }
    );
}

#[test]
fn the_defaults_are_the_layers() {
    let settings = Settings::default();
    let checked = settings.check().unwrap();
    assert_eq!(checked.law, LawConfig::default());
    assert_eq!(checked.breaker, BreakerConfig::default());
    assert_eq!(checked.when_open, WhenOpen::default());
    let seeded = |policy: RetryPolicy| format!("{:?}", policy.seed(7));
    assert_eq!(
        seeded(RetryPolicy::default().on(&checked.terms)),
        seeded(RetryPolicy::default())
    );

    let mut calls = Admitting {
        enabled: false,
        max_waiting: 0,
        queue_timeout: Duration::ZERO,
        attempt_timeout: None,
        max_hold: Duration::ZERO,
        max_hosts: 0,
        ..Admitting::default()
    };
    settings.calls.write_to(&mut calls);
    calls.enabled = settings.limiter.enabled;
    // All but the seam and what a file cannot say.
    let shown = |settings: &Admitting| {
        let shown = format!("{settings:?}");
        shown.split_once("host: ").unwrap().0.to_owned()
    };
    assert_eq!(shown(&calls), shown(&Admitting::default()));

    let limits = AdmissionConfig::default();
    assert_eq!(checked.admission.limits, limits.limits);
    let mut declared = AdmissionConfig::default();
    for (class, limits) in checked.admission.classes() {
        assert_eq!(
            declared.class_mut(class),
            Some(&mut limits.clone()),
            "{class:?}"
        );
    }
    let fixed = AdmissionLayer::new().handle().fixed();
    let admission = &settings.admission;
    assert_eq!(fixed.enabled, admission.enabled);
    assert_eq!(fixed.max_hold, admission.max_hold);
    assert_eq!(fixed.unsized_body, admission.unsized_body);
    assert_eq!(fixed.drain_retry_after, admission.drain_retry_after);
    assert_eq!(fixed.rate_limit_headers, admission.rate_limit_headers);
    assert_eq!(fixed.adaptive, admission.adaptive.enabled);
    let adaptive = read("admission.adaptive.enabled = true");
    let adaptive = adaptive.check().unwrap().admission.adaptive.unwrap();
    let own = AdmissionLayer::new().adaptive().handle();
    assert_eq!(own.law(), Some(adaptive));

    let split = crate::split::SplitLayer::http(());
    let configured = split.clone().configured(&settings).unwrap();
    assert_eq!(format!("{split:?}"), format!("{configured:?}"));

    let replay = Account::default();
    for said in [&settings.retry.replay, &settings.failover.replay] {
        assert_eq!(said.per_request, replay.per_request());
        assert_eq!(said.total, replay.total());
    }
}

#[cfg(feature = "dead-letter")]
fn letters() -> DeadLetterLayer {
    DeadLetterLayer::new(sink_fn(|_| async { Ok(()) }))
}

#[cfg(feature = "failover")]
fn regions() -> Failover<()> {
    Failover::http([Region::new("a", ()), Region::new("b", ())]).unwrap()
}

/// Each field of the section, with another value than its default.
#[cfg(any(feature = "dead-letter", feature = "failover"))]
fn others(section: &str) -> Vec<(String, Settings)> {
    let whole = Table::try_from(Settings::default()).unwrap();
    let fields = leaves(&whole).into_iter().filter(|(path, _)| {
        path.strip_prefix(section)
            .is_some_and(|rest| rest.starts_with('.'))
    });
    let other = |value| match value {
        Value::Boolean(value) => (!value).to_string(),
        Value::Integer(value) => (value + 1).to_string(),
        _ => "\"17s\"".to_owned(),
    };
    let all = fields.map(|(path, value)| {
        let settings = read(&format!("{path} = {}", other(value)));
        assert_ne!(settings, Settings::default(), "{path}");
        (path, settings)
    });
    all.collect()
}

#[cfg(feature = "dead-letter")]
#[test]
fn dead_letters_take_their_section() {
    let default = letters().handle().shown();
    let configured = letters().configured(&Settings::default()).unwrap();
    assert_eq!(configured.handle().shown(), default);
    let layer = letters();
    let running = Running::new().with(layer.handle());
    let all = others("dead_letter");
    assert_eq!(all.len(), 8);
    for (path, settings) in all {
        let configured = letters().configured(&settings).unwrap().handle().shown();
        assert_ne!(configured, default, "{path}");
        running.apply(&settings).unwrap();
        assert_eq!(layer.handle().shown(), configured, "{path}");
    }
    running.apply(&Settings::default()).unwrap();
    assert_eq!(layer.handle().shown(), default);
}

#[cfg(feature = "failover")]
#[tokio::test]
async fn a_failover_takes_its_section() {
    let default = regions().handle().shown();
    let configured = regions().configured(&Settings::default()).unwrap();
    assert_eq!(configured.handle().shown(), default);
    let failover = regions();
    let running = Running::new().with(failover.handle());
    let all = others("failover");
    assert_eq!(all.len(), 13);
    for (path, settings) in all {
        let configured = regions().configured(&settings).unwrap().handle().shown();
        assert_ne!(configured, default, "{path}");
        running.apply(&settings).unwrap();
        assert_eq!(failover.handle().shown(), configured, "{path}");
    }
    running.apply(&Settings::default()).unwrap();
    assert_eq!(failover.handle().shown(), default);
}

#[cfg(feature = "dead-letter")]
#[tokio::test(start_paused = true)]
async fn letters_of_requests_that_begin_follow_the_file() {
    let layer = letters();
    let (handle, running) = (layer.handle(), Running::new().with(layer.handle()));
    let service = service_fn(|_: http::Request<String>| async {
        Err::<http::Response<String>, BoxError>("down".into())
    });
    let client = ServiceBuilder::new().layer(layer).service(service);
    let failed = async || {
        let request = http::Request::new(String::new());
        assert!(client.clone().oneshot(request).await.is_err());
        handle.flush().await.unwrap();
        handle.written()
    };
    assert_eq!(failed().await, 1);
    running.apply(&read("dead_letter.enabled = false")).unwrap();
    assert_eq!(failed().await, 1);
    running.apply(&Settings::default()).unwrap();
    assert_eq!(failed().await, 2);
}

#[test]
fn recorded_bodies_have_the_bounds_of_the_file() {
    let settings = read("retry.replay = { per_request = 7, total = 70 }");
    let bounds = |account: &Account| (account.per_request(), account.total());
    let shared = Account::new(1, 2);
    let retry = RetryLayer::http().replay(shared.clone());
    let retry = retry.configured(&settings).unwrap();
    let stack = Weir::http().configured(&settings).unwrap();
    // Setters that follow make an account of the same bounds.
    let stack = stack.max_retries(1);
    assert_eq!(bounds(&shared), (1, 2));
    let given = RetryLayer::http().replay(shared.clone());
    let handles = [retry.handle(), stack.handle().retry];
    for handle in &handles {
        assert_eq!(bounds(handle.replay()), (7, 70));
    }
    let running = Running::new().with(retry.handle()).with(stack.handle());
    let running = running.with(given.handle());
    running
        .apply(&read("retry.replay.per_request = 8"))
        .unwrap();
    for account in handles.iter().map(RetryHandle::replay).chain([&shared]) {
        assert_eq!(bounds(account), (8, Account::TOTAL));
    }
}

#[test]
fn the_grace_is_read() {
    let settings = read("shutdown.grace = \"1m 5s\"");
    assert_eq!(settings.shutdown.grace, Duration::from_secs(65));
}

#[test]
fn the_preset_for_bulk_is_the_stacks() {
    let bulk = Weir::http().bulk().seed(7);
    let settings = read(r#"preset = "bulk""#);
    assert_eq!(settings, Settings::preset(Preset::Bulk));
    let configured = Weir::http().seed(7).configured(&settings).unwrap();
    let shown = |stack: &Weir| {
        let config = stack.handle().registry.config();
        format!("{stack:?} {config:?}")
    };
    assert_eq!(shown(&configured), shown(&bulk));
    // What is said goes before what the preset says.
    let less = read("preset = \"bulk\"\nretry.patience = \"1m\"");
    assert_eq!(less.retry.patience, Some(Duration::from_secs(60)));
    assert_eq!(less.circuit_breaker.open_for.cap, Duration::from_secs(5));
}

#[test]
fn what_cannot_be_is_refused_by_its_path() {
    for (text, expected) in [
        (
            "circuit_breaker.failure_rate = 1.5",
            "circuit_breaker.failure_rate: a ratio is above 0 and at most 1, not 1.5",
        ),
        (
            "circuit_breaker.open_for.first = \"20s\"",
            "circuit_breaker.open_for: the first open period, 20s, is above its cap, 15s",
        ),
        (
            "circuit_breaker.open_for.jitter = 0.0",
            "circuit_breaker.open_for.jitter: a ratio is above 0 and at most 1, not 0",
        ),
        (
            "circuit_breaker.slow_calls.rate = -1.0",
            "circuit_breaker.slow_calls.rate: a ratio is above 0 and at most 1, not -1",
        ),
        (
            "circuit_breaker.window.slices = 0",
            "circuit_breaker.window.slices: a window has 1 to 1000 slices, not 0",
        ),
        (
            "circuit_breaker.probes.calls = 0",
            "circuit_breaker.probes.calls: must be at least 1",
        ),
        ("limiter.max = 0", "limiter.max: must be at least 1"),
        (
            "limiter = { min = 9, max = 8 }",
            "limiter.min: 9 is above max, 8",
        ),
        (
            "limiter.latency.hold = 0.9",
            "limiter.latency.hold: 0.9 is not 1 or more",
        ),
        (
            "limiter.latency.hold = nan",
            "limiter.latency.hold: NaN is not 1 or more",
        ),
        (
            "admission.adaptive.shrink = 1.1",
            "admission.adaptive.shrink: 1.1 is not 1.2, which is `hold`, or more",
        ),
        (
            "admission.storage_mark = 95.0",
            "admission.storage_mark: 95 is not within 0..=1",
        ),
        (
            "retry.backoff.base = \"0s\"",
            "retry.backoff.base: must be more than zero",
        ),
        (
            "retry.budget.memory = \"2m\"",
            "retry.budget.memory: a budget's memory must be 1 to 60 s",
        ),
        (
            "retry.budget.share = -1.0",
            "retry.budget.share: a budget's share must be 0 to 1000",
        ),
        (
            "retry.budget = { kind = \"grpc-throttle\", max_tokens = 0, token_ratio = 0.1 }",
            "retry.budget.max_tokens: a throttle's maxTokens must be 1 to 1000",
        ),
        (
            "retry.budget = { kind = \"grpc-throttle\", max_tokens = 1, token_ratio = 0.0 }",
            "retry.budget.token_ratio: a throttle's tokenRatio must be 0.001 to 1000",
        ),
        (
            "retry.budget = { kind = \"in-flight\", share = 1.5, at_least = 3 }",
            "retry.budget.share: a share of what is in flight must be 0 to 1",
        ),
        (
            "circuit_breaker.window = { kind = \"calls\", calls = 0 }",
            "circuit_breaker.window.calls: a window has 1 to 1000000 calls, not 0",
        ),
        (
            "dead_letter.max_pending = 0",
            "dead_letter.max_pending: must be at least 1",
        ),
        (
            "dead_letter.sink_timeout = \"0s\"",
            "dead_letter.sink_timeout: must be more than zero",
        ),
        (
            "failover.successes = 0",
            "failover.successes: must be at least 1",
        ),
        (
            "failover.failures.count = 0",
            "failover.failures.count: must be at least 1",
        ),
        (
            "failover.refusals.count = 0",
            "failover.refusals.count: must be at least 1",
        ),
        (
            "failover.probe_every = \"0s\"",
            "failover.probe_every: must be more than zero",
        ),
        (
            "retry.statuses = [200, 99]",
            "retry.statuses[1]: invalid status code",
        ),
        (
            "retry.codes = [\"BUSY\"]",
            "retry.codes[0]: `BUSY` is no gRPC code",
        ),
        (
            "split.codes = [\"ok\"]",
            "split.codes[0]: `ok` is no gRPC code",
        ),
        (
            "retry.attempt_header = \"a b\"",
            "retry.attempt_header: invalid HTTP header name",
        ),
    ] {
        let invalid = Settings::from_toml(text).unwrap_err();
        assert_eq!(invalid.to_string(), expected);
    }
}

#[test]
fn what_is_not_read_is_refused_by_its_path() {
    for (text, path, part) in [
        ("retry.max_wait = 5", "retry.max_wait", "duration"),
        ("retry.deadline = \"soon\"", "retry.deadline", "duration"),
        ("retry.max_retries = -1", "retry.max_retries", "-1"),
        ("retry.max_retries = \"none\"", "retry.max_retries", "none"),
        ("retry.enabled = \"yes\"", "retry.enabled", "boolean"),
        ("limiter.maximum = 5", "limiter", "unknown field `maximum`"),
        ("limit = {}", "", "unknown field `limit`"),
        (
            "circuit_breaker.probes.god = 1.0",
            "circuit_breaker.probes",
            "unknown field `god`",
        ),
        (
            "retry.budget.extra = 1",
            "retry.budget",
            "unknown field `extra`",
        ),
        (
            "retry.budget.kind = \"gold\"",
            "retry.budget",
            "unknown variant `gold`",
        ),
        (
            "circuit_breaker.window = { kind = \"calls\" }",
            "circuit_breaker.window",
            "missing field `calls`",
        ),
        ("preset = \"hasty\"", "preset", "unknown variant `hasty`"),
        ("retry = 1", "retry", "invalid type"),
        ("retry = ", "", "line 1"),
    ] {
        let invalid = Settings::from_toml(text).unwrap_err();
        assert!(invalid.path().starts_with(path), "{text}: {invalid}");
        assert!(invalid.why().contains(part), "{text}: {invalid}");
        let field = text.split([' ', '=']).next().unwrap();
        if invalid.path() != path {
            assert_eq!(invalid.path(), field, "{invalid}");
        }
    }
}

/// A stack over a service that answers with what it is told, and counts.
fn down(
    stack: Weir<ErrorsFail, crate::retry::CloneRequest, crate::admit::Plain<ErrorsFail>>,
) -> (
    impl Service<(), Response = (), Error = BoxError, Future: Send> + Clone,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = service_fn(move |(): ()| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err::<(), BoxError>("down".into()) }
    });
    (ServiceBuilder::new().layer(stack).service(service), calls)
}

/// Retries at once, and a circuit that stays closed.
fn quiet() -> Settings {
    read(
        "retry = { any_method = true, max_retries = 3, backoff = { base = \"1ms\", cap = \"1ms\" } }\n\
         circuit_breaker = { failure_rate = \"none\", failure_run.enabled = false }",
    )
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_the_policy_that_it_began_with() {
    let stack = Weir::new(ErrorsFail).configured(&quiet()).unwrap();
    let running = Running::new().with(stack.handle());
    let (client, calls) = down(stack);
    let under_way = tokio::spawn(client.clone().oneshot(()));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    let mut fewer = quiet();
    fewer.retry.max_retries = Some(1);
    assert_eq!(running.apply(&fewer), Ok(1));
    // The service was there before the change, as a clone of it was.
    assert!(client.clone().oneshot(()).await.is_err());
    assert!(under_way.await.unwrap().is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 4 + 2);

    fewer.retry.enabled = false;
    assert_eq!(running.apply(&fewer), Ok(2));
    assert!(client.oneshot(()).await.is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 4 + 2 + 1);
}

#[tokio::test(start_paused = true)]
async fn budgets_keep_their_balance() {
    let mut settings = quiet();
    settings.retry.max_retries = Some(1);
    let share = |per_second, memory| BudgetSettings::Share {
        memory: Duration::from_secs(memory),
        per_second,
        share: 0.0,
    };
    settings.retry.budget = share(1, 10);
    let stack = Weir::new(ErrorsFail).configured(&settings).unwrap();
    let running = Running::new().with(stack.handle());
    let (client, calls) = down(stack);
    let retries = async |client: &_, requests: usize| {
        let before = calls.load(Ordering::Relaxed);
        for _ in 0..requests {
            let client = Clone::clone(client);
            assert!(ServiceExt::<()>::oneshot(client, ()).await.is_err());
        }
        calls.load(Ordering::Relaxed) - before - requests
    };
    // Ten are in reserve.
    assert_eq!(retries(&client, 200).await, 10);
    for (per_second, memory) in [(1, 10), (1, 60), (1, 1), (2, 10)] {
        settings.retry.budget = share(per_second, memory);
        running.apply(&settings).unwrap();
        assert_eq!(retries(&client, 20).await, 0, "{per_second} {memory}");
    }
    sleep(Duration::from_secs(3)).await;
    assert_eq!(retries(&client, 200).await, 6);

    // Another kind begins anew.
    settings.retry.budget = BudgetSettings::CostQuota {
        capacity: 50,
        retry_cost: 10,
        timeout_cost: 10,
    };
    running.apply(&settings).unwrap();
    assert_eq!(retries(&client, 20).await, 5);
    settings.retry.budget = BudgetSettings::None;
    running.apply(&settings).unwrap();
    assert_eq!(retries(&client, 20).await, 20);
}

#[tokio::test(start_paused = true)]
async fn limit_circuit_and_queue_change_together() {
    let settings = read(
        "retry.max_retries = 0\n\
         limiter = { initial = 2, min = 2, max = 2 }\n\
         circuit_breaker.failure_run.enabled = false",
    );
    let judge = classify_fn(|result: Result<&u32, &BoxError>| match result {
        Ok(_) => Outcome::success(),
        Err(_) => Outcome::failed(),
    });
    let stack = Weir::new(judge).configured(&settings).unwrap();
    let (handle, running) = (stack.handle(), Running::new().with(stack.handle()));
    let client = ServiceBuilder::new()
        .layer(stack)
        .service(service_fn(|n: u32| async move {
            sleep(Duration::from_secs(2)).await;
            match n {
                0 => Err(BoxError::from("down")),
                n => Ok::<_, BoxError>(n),
            }
        }));
    let send = |n: u32| tokio::spawn(client.clone().oneshot(n));
    let all: Vec<_> = (1..=5).map(send).collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(handle.snapshot()[0].waiting, 3);

    let changed = read(
        "retry.max_retries = 0\n\
         limiter = { initial = 4, min = 4, max = 4 }\n\
         circuit_breaker.failure_run = { failures = 1, lasting = \"0s\" }\n\
         calls = { queue_timeout = \"1s\" }",
    );
    assert_eq!(running.apply(&changed), Ok(1));
    sleep(Duration::from_millis(1)).await;
    // Two more went at once.
    assert_eq!(handle.snapshot()[0].waiting, 1);
    // One that comes now waits for a second only.
    let began = Instant::now();
    let impatient = send(6).await.unwrap().unwrap_err();
    assert!(impatient.is::<QueueTimeout>(), "{impatient}");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    for call in all {
        assert!(call.await.unwrap().is_ok());
    }
    // And one failure opens the circuit.
    assert!(send(0).await.unwrap().is_err());
    let circuit = handle.snapshot()[0].circuit.unwrap();
    assert_eq!(circuit.state, State::Open);
    assert!(send(1).await.unwrap().unwrap_err().is::<CircuitOpen>());
}

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

#[tokio::test(start_paused = true)]
async fn the_bounds_of_calls_hold_for_those_that_come() {
    let one = "limiter.initial = 1\nlimiter.max = 1\n";
    let layer = AimdConcurrencyLayer::new(ErrorsFail);
    let layer = layer.configured(&read(one)).unwrap();
    let running = Running::new().with(layer.handle());
    let apply = |text: &str| running.apply(&read(&format!("{one}{text}"))).unwrap();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(|time: u64| async move {
            sleep(Duration::from_secs(time)).await;
            Ok::<_, BoxError>(())
        }));
    let send = |time: u64| tokio::spawn(client.clone().oneshot(time));
    let first = send(5);
    tokio::task::yield_now().await;

    apply("calls.max_waiting = 0");
    let refused = send(5).await.unwrap().unwrap_err();
    assert!(refused.is::<QueueFull>(), "{refused}");
    apply("calls.max_waiting = \"none\"");
    let second = send(5);
    tokio::task::yield_now().await;
    assert_eq!(handle.snapshot()[0].1.waiting, 1);
    // Switched off it lets others pass, and those that wait keep their turn.
    apply("limiter.enabled = false");
    send(1).await.unwrap().unwrap();
    assert_eq!(handle.snapshot()[0].1.waiting, 1);
    apply("limiter.enabled = true");
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();

    apply("calls.attempt_timeout = \"2s\"");
    assert!(send(3).await.unwrap().unwrap_err().is::<AttemptTimeout>());
    apply("calls.attempt_timeout = \"none\"");
    send(3600).await.unwrap().unwrap();
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
async fn who_pends_for_a_circuit_is_woken_when_the_breaker_is_switched_off() {
    let pend = "circuit_breaker = { when_open = \"pend\", enabled = ENABLED }";
    let pend = |enabled: bool| read(&pend.replace("ENABLED", &enabled.to_string()));
    let layer = CircuitBreakerLayer::new(ErrorsFail);
    let layer = layer.configured(&pend(true)).unwrap();
    let (handle, running) = (layer.handle(), Running::new().with(layer.handle()));
    assert!(handle.force_open(""));
    let service = service_fn(|(): ()| async { Ok::<_, BoxError>(()) });
    let client = ServiceBuilder::new().layer(layer).service(service);
    let waits = tokio::spawn(client.oneshot(()));
    sleep(Duration::from_secs(1)).await;
    assert!(!waits.is_finished());
    running.apply(&pend(false)).unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(waits.is_finished());
    waits.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_change_that_panics_is_none() {
    let layer = CircuitBreakerLayer::http().configured(&read("circuit_breaker.min_calls = 9"));
    let handle = layer.unwrap().handle();
    let change = || handle.update(|_| panic!("no"));
    let was = format!("{:?}", handle.registry.config());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(change)).is_err());
    assert_eq!(format!("{:?}", handle.registry.config()), was);
    handle.update(|config| config);
    assert_eq!(format!("{:?}", handle.registry.config()), was);
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
