//! What is written in a file, and what is not.

use std::time::Duration;

use serde::Deserialize;
use toml::Table;

use super::{leaves, read};
use crate::{
    Weir,
    admit::Settings as Admitting,
    aimd::LawConfig,
    circuit_breaker::{BreakerConfig, WhenOpen},
    config::{Preset, Settings},
    retry::{Account, RetryPolicy, budget::BudgetRule},
    server::{AdmissionConfig, AdmissionLayer},
};

const FILE: &str = include_str!("../../../../../docs/config.toml");

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
        r#"circuit_breaker.open_for.refused_cap = "none""#,
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
        BudgetRule::Share {
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

/// A program's own settings, and ours among them.
#[derive(Deserialize)]
struct Program {
    weir: Settings,
}

#[test]
fn settings_within_others_are_read_as_a_file_is() {
    let expected = read("preset = \"bulk\"\nretry.max_retries = 7\nlimiter.max = 8");
    let toml = "[weir]\npreset = \"bulk\"\nretry.max_retries = 7\nlimiter.max = 8";
    let program: Program = toml::from_str(toml).unwrap();
    assert_eq!(program.weir, expected);
    let json =
        r#"{"weir": {"preset": "bulk", "retry": {"max_retries": 7}, "limiter": {"max": 8}}}"#;
    let program: Program = serde_json::from_str(json).unwrap();
    assert_eq!(program.weir, expected);

    // Also where it is asked for by its name.
    let bulk: Table = toml::from_str("preset = \"bulk\"").unwrap();
    assert_eq!(
        Settings::deserialize(bulk),
        Ok(Settings::preset(Preset::Bulk))
    );

    let invalid = |toml: &str| toml::from_str::<Program>(toml).map(|_| ()).unwrap_err();
    let invalid = invalid("weir.circuit_breaker.failure_rate = 1.5");
    let shown = "circuit_breaker.failure_rate: a ratio is above 0 and at most 1, not 1.5";
    assert!(invalid.message().contains(shown), "{invalid}");
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
