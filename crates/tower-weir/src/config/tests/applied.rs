//! Applying the settings that a layer was made with changes nothing.

use proptest::prelude::*;
use toml::{Table, Value};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::leaves;
use crate::{
    BoxError, Weir,
    aimd::AimdConcurrencyLayer,
    circuit_breaker::CircuitBreakerLayer,
    config::{Running, Settings, WhenOpenKind},
    outcome::ErrorsFail,
    retry::RetryLayer,
    server::AdmissionLayer,
    split::SplitLayer,
};

/// What a field can be instead of what it is by default, as in a file.
fn others(path: &str, default: &Value) -> Vec<&'static str> {
    match path {
        "preset" => vec!["'bulk'"],
        "retry.attempt_header" => vec!["'x-attempt'"],
        "retry.statuses" | "split.statuses" => vec!["[]", "[429, 503]"],
        "retry.codes" | "split.codes" => vec!["['UNAVAILABLE']"],
        "retry.backoff.kind" => vec!["'full-jitter'", "'equal-jitter'", "'band-jitter'"],
        "retry.budget.share" => vec!["0", "0.5", "1000"],
        "retry.budget.memory" => vec!["'1s'", "'1m'"],
        "limiter.decrease" => vec!["'halve'"],
        "circuit_breaker.when_open" => vec!["'wait'", "'pend'"],
        "circuit_breaker.count_refusals" => vec!["'always'", "'never'"],
        "circuit_breaker.window.slices" => vec!["1", "1000"],
        "calls.hold" => vec!["'headers'"],
        "limiter.initial" | "limiter.max" => vec!["1", "20", "9007199254740991"],
        "limiter.min" | "admission.adaptive.min" => vec!["1"],
        "admission.adaptive.initial" | "admission.adaptive.max" => vec!["1", "20"],
        "circuit_breaker.failure_rate" | "circuit_breaker.open_for.jitter" => {
            vec!["'none'", "0.001", "1"]
        }
        _ => match default {
            Value::Boolean(true) => vec!["false"],
            Value::Boolean(false) => vec!["true"],
            Value::Integer(_) => vec!["0", "1", "4294967295", "'none'", "'auto'"],
            Value::Float(_) => vec!["0", "0.5", "1", "2.5"],
            _ => vec![
                "'0s'",
                "'3s'",
                "'17m 3ms'",
                "'500years'",
                "'none'",
                "'auto'",
                "7",
            ],
        },
    }
}

/// Settings that differ from the default in a few fields.
fn settings() -> impl Strategy<Value = Settings> {
    let whole = Table::try_from(Settings::default()).unwrap();
    let all: Vec<(String, &str)> = leaves(&whole)
        .into_iter()
        .filter(|(path, _)| !path.ends_with("budget.kind") && !path.ends_with("window.kind"))
        .flat_map(|(path, default)| {
            let of = others(&path, &default).into_iter();
            of.map(move |other| (path.clone(), other))
        })
        // Those that are possible, each by itself.
        .filter(|(path, other)| Settings::from_toml(&format!("{path} = {other}")).is_ok())
        .collect();
    let fields: std::collections::BTreeSet<_> = all.iter().map(|(path, _)| path.clone()).collect();
    // Every field takes part; the kinds have their own lists below.
    assert_eq!(fields.len(), leaves(&whole).len() - 2);
    let kinds = prop_oneof![
        8 => Just(""),
        1 => Just("retry.budget = { kind = 'none' }\n"),
        1 => Just("retry.budget = { kind = 'grpc-throttle', max_tokens = 7, token_ratio = 0.5 }\n"),
        1 => Just("retry.budget = { kind = 'cost-quota', capacity = 7, retry_cost = 0, timeout_cost = 9 }\n"),
        1 => Just("retry.budget = { kind = 'in-flight', share = 1, at_least = 0 }\n"),
        1 => Just("circuit_breaker.window = { kind = 'calls', calls = 3 }\n"),
    ];
    let some = proptest::sample::subsequence(all, 0..12);
    (kinds, some).prop_filter_map("not together", |(kinds, some)| {
        let mut text = kinds.to_owned();
        let mut taken = Vec::new();
        for (path, other) in some {
            let table = path.rsplit_once('.').map_or("", |(table, _)| table);
            if !taken.contains(&path) && !text.contains(&format!("{table} = {{")) {
                text += &format!("{path} = {other}\n");
                taken.push(path);
            }
        }
        Settings::from_toml(&text).ok()
    })
}

fn shown(thing: &dyn std::fmt::Debug) -> String {
    format!("{thing:?}")
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_settings_that_layers_were_made_with_change_nothing(settings in settings()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(unchanged(&settings));
    }

    #[test]
    fn layers_that_take_settings_over_are_as_if_made_with_them(settings in settings()) {
        as_if_made(&settings);
    }
}

/// Two layers, one made with the settings and one that took them over, if it could.
fn as_if_made(settings: &Settings) {
    macro_rules! same {
        ($make:expr, |$layer:ident| [$($part:expr),*]) => {{
            let made = $make.configured(settings).unwrap();
            let running = $make.configured(&Settings::default()).unwrap();
            let told = Running::new().with(running.handle()).apply(settings);
            if told.is_ok() {
                let $layer = &made;
                let expected = [$(shown(&$part)),*];
                let $layer = &running;
                assert_eq!([$(shown(&$part)),*], expected);
            }
            told
        }};
    }
    let weir = || Weir::new(ErrorsFail).seed(7);
    let fixed = same!(weir(), |it| [
        it,
        it.handle().registry.config(),
        it.handle().registry.knobs(),
        it.handle().retry.replay()
    ]);
    let breaker = &settings.circuit_breaker;
    let pends = breaker.when_open == WhenOpenKind::Pend;
    let may = settings.limiter.enabled && breaker.enabled && !pends;
    assert_eq!(fixed.is_ok(), may, "{fixed:?}");
    let limiter = || AimdConcurrencyLayer::new(ErrorsFail);
    same!(limiter(), |it| [
        it.handle().registry.config(),
        it.handle().registry.knobs()
    ])
    .unwrap();
    let fixed = same!(CircuitBreakerLayer::new(ErrorsFail), |it| [
        it.handle().registry.config(),
        it.handle().registry.knobs()
    ]);
    assert_eq!(fixed.is_ok(), !pends, "{fixed:?}");
    let retry = || RetryLayer::http().seed(7);
    same!(retry(), |it| [it, it.handle().replay()]).unwrap();
    same!(SplitLayer::http(()), |it| [it]).unwrap();
    let server = same!(AdmissionLayer::new(), |it| [it]);
    let (default, own) = (Settings::default().admission, &settings.admission);
    let may = (default.enabled, default.max_hold, default.unsized_body)
        == (own.enabled, own.max_hold, own.unsized_body)
        && (default.drain_retry_after, default.rate_limit_headers)
            == (own.drain_retry_after, own.rate_limit_headers)
        && default.adaptive.enabled == own.adaptive.enabled;
    assert_eq!(server.is_ok(), may, "{server:?}");
    #[cfg(feature = "dead-letter")]
    same!(super::sections::letters(), |it| [it.handle().shown()]).unwrap();
    #[cfg(feature = "failover")]
    same!(super::sections::regions(), |it| [it.handle().shown()]).unwrap();
}

async fn unchanged(settings: &Settings) {
    let stack = Weir::new(ErrorsFail).configured(settings).unwrap();
    let limiter = AimdConcurrencyLayer::new(ErrorsFail);
    let limiter = limiter.configured(settings).unwrap();
    let breaker = CircuitBreakerLayer::new(ErrorsFail);
    let breaker = breaker.configured(settings).unwrap();
    let retry = RetryLayer::http().configured(settings).unwrap();
    let split = SplitLayer::http(()).configured(settings).unwrap();
    // However they were before.
    let servers = [
        AdmissionLayer::new(),
        AdmissionLayer::new().adaptive().enabled(false),
    ];
    let servers = servers.map(|server| server.configured(settings).unwrap());
    let handles = (stack.handle(), limiter.handle(), breaker.handle());
    let mut running = Running::new()
        .with(handles.0.clone())
        .with(handles.1.clone())
        .with(handles.2.clone())
        .with(retry.handle())
        .with(split.handle());
    for server in &servers {
        running = running.with(server.handle());
    }
    #[cfg(feature = "dead-letter")]
    let letters = super::sections::letters().configured(settings).unwrap();
    #[cfg(feature = "failover")]
    let regions = super::sections::regions().configured(settings).unwrap();
    #[cfg(feature = "dead-letter")]
    let running = running.with(letters.handle());
    #[cfg(feature = "failover")]
    let running = running.with(regions.handle());
    // With hosts that have a past.
    let fails = service_fn(|(): ()| async { Err::<(), BoxError>("down".into()) });
    let client = ServiceBuilder::new().layer(limiter.clone()).service(fails);
    client.oneshot(()).await.unwrap_err();

    let all = || {
        let mut all = vec![
            shown(&stack),
            shown(&handles.0.registry.config()),
            shown(handles.0.registry.knobs()),
            shown(handles.0.retry.replay()),
            shown(&handles.0.snapshot()),
            shown(&handles.1.registry.config()),
            shown(handles.1.registry.knobs()),
            shown(&handles.1.snapshot()),
            shown(&handles.2.registry.config()),
            shown(handles.2.registry.knobs()),
            shown(&retry),
            shown(retry.handle().replay()),
            shown(&split),
        ];
        all.extend(servers.iter().map(|server| shown(server)));
        #[cfg(feature = "dead-letter")]
        all.push(letters.handle().shown());
        #[cfg(feature = "failover")]
        all.push(regions.handle().shown());
        all
    };
    let before = all();
    running.apply(settings).unwrap();
    for (was, is) in before.iter().zip(all()) {
        assert_eq!(*was, is);
    }
}
