pub(crate) mod contract;
mod date;
mod grpc;
mod number;
mod properties;
mod rate_limit;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Advice, Hint, HintParser, HintSource, should_retry};

const LENIENT: HintParser = HintParser::new();
const STRICT: HintParser = HintParser::new().strict();

fn headers<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
    lines
        .into_iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
}

fn at(unix: i64) -> SystemTime {
    let distance = Duration::from_secs(unix.unsigned_abs());
    if unix < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

/// For what must not need the local clock.
fn no_clock() -> SystemTime {
    panic!("the clock was asked")
}

fn delay_ms(advice: Advice) -> Option<u128> {
    advice.hint().map(|hint| hint.delay.as_millis())
}

/// What one `Retry-After` line says, strict and lenient, in milliseconds.
fn retry_after(value: &str, unix: i64) -> [Option<u128>; 2] {
    let headers = headers([("retry-after", value)]);
    [STRICT, LENIENT].map(|parser| delay_ms(parser.parse(&headers, || at(unix))))
}

#[test]
fn the_most_binding_header_wins_and_a_bad_one_gives_way() {
    let retry_info = grpc::status_details(&[grpc::retry_info(Some((0, 2_000_000)))]);
    let all = [
        ("grpc-retry-pushback-ms", "1", HintSource::Pushback),
        (
            "grpc-status-details-bin",
            &*retry_info,
            HintSource::RetryInfo,
        ),
        ("retry-after-ms", "3", HintSource::RetryAfterMs),
        ("x-ms-retry-after-ms", "4", HintSource::XMsRetryAfterMs),
        ("x-amz-retry-after", "5", HintSource::XAmzRetryAfter),
        ("retry-after", "0.006", HintSource::RetryAfter),
        ("ratelimit", "p;r=0;t=7", HintSource::RateLimit),
    ];
    let parser = LENIENT.rate_limit(true);
    for (first, (name, _, source)) in all.iter().enumerate() {
        let delay = if *source == HintSource::RateLimit {
            Duration::from_secs(7)
        } else {
            Duration::from_millis(first as u64 + 1)
        };
        let expected = Advice::Wait(Hint {
            delay,
            source: *source,
        });
        let rest = all[first..].iter().map(|(name, value, _)| (*name, *value));
        let worse = all[..first]
            .iter()
            .filter(|(name, ..)| *name != "grpc-retry-pushback-ms")
            .map(|(name, ..)| (*name, "~"));
        assert_eq!(
            parser.parse(&headers(worse.chain(rest)), no_clock),
            expected,
            "{name}"
        );
    }
    assert_eq!(parser.parse(&HeaderMap::new(), no_clock), Advice::Nothing);
}

#[test]
fn should_retry_is_true_false_or_nothing() {
    for (values, expected) in [
        (&["true"][..], Some(true)),
        (&[" FALSE\t"], Some(false)),
        (&["yes"], None),
        (&[""], None),
        (&[], None),
        (&["garbage", "true"], Some(true)),
        (&["true", "false"], Some(false)),
        (&["false, true"], Some(false)),
    ] {
        let headers = headers(values.iter().map(|value| ("x-should-retry", *value)));
        assert_eq!(should_retry(&headers), expected, "{values:?}");
    }
}
