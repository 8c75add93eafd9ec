//! What cannot be, by its path.

use crate::config::Settings;

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
            "circuit_breaker.open_for.first = \"0s\"",
            "circuit_breaker.open_for.first: an open period is longer than zero",
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
            "retry.backoff = { base = \"2s\", cap = \"1s\" }",
            "retry.backoff: the base, 2s, is above the cap, 1s",
        ),
        (
            "retry.backoff = { kind = \"full-jitter\", base = \"2m\" }",
            "retry.backoff: the base, 120s, is above the cap, 60s",
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
        ("limit = {}", "", "unknown field `limit`, expected one of"),
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
