use std::{
    cell::LazyCell,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, header};

use super::{date::HttpDate, number::digits};

/// The greatest `Age`, by which RFC 9111 1.2.2 replaces one that overflows.
const MAX_AGE: u64 = 1 << 31;

/// The first and the last millisecond of the four-digit years.
const YEARS: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);

/// The moment, in milliseconds since 1970, from which a date in `headers` is
/// counted: when the response was made, by the clock of who made it, plus the
/// time it spent in caches. So a clock that is wrong here does no harm. Only if
/// there is no valid `Date` is it `now`.
pub(super) fn of(headers: &HeaderMap, strict: bool, now: impl FnOnce() -> SystemTime) -> i64 {
    let now = LazyCell::new(|| unix_millis(now()));
    let date = headers
        .get(header::DATE)
        .and_then(|value| HttpDate::parse(value.as_bytes().trim_ascii(), strict))
        .and_then(|date| date.unix(|| now.div_euclid(1000)));
    match date {
        Some(date) => (date + age(headers)) * 1000,
        None => *now,
    }
}

/// RFC 9111 5.1: of a list the first member counts; an invalid one is ignored.
fn age(headers: &HeaderMap) -> i64 {
    headers
        .get(header::AGE)
        .and_then(|value| value.as_bytes().split(|byte| *byte == b',').next())
        .and_then(|first| digits(first.trim_ascii()))
        .map_or(0, |age| age.min(MAX_AGE).cast_signed())
}

/// Rounded down, so that the wait until a later moment is rounded up.
fn unix_millis(time: SystemTime) -> i64 {
    let millis = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos().div_ceil(1_000_000))
            .map_or(i64::MIN, |millis| -millis),
    };
    millis.clamp(YEARS.0, YEARS.1)
}
