use std::{
    cell::LazyCell,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header};

use super::{
    Advice, Hint, HintSource, base,
    date::HttpDate,
    grpc,
    number::{self, Unit},
    rate_limit,
};

/// Reads [`Hint`]s from headers and trailers.
///
/// The first of these that says something valid is taken:
///
/// 1. `grpc-retry-pushback-ms`, milliseconds, of 32 bits (gRFC A6). It decides
///    even when it is malformed: then the upstream wants no retry.
/// 2. `google.rpc.RetryInfo` in `grpc-status-details-bin`.
/// 3. `retry-after-ms`, `x-ms-retry-after-ms`, `x-amz-retry-after`, in this
///    order: milliseconds.
/// 4. `Retry-After`, seconds or a date (RFC 9110 10.2.3).
/// 5. `RateLimit`, with [`rate_limit`](Self::rate_limit): the seconds `t` of a
///    policy whose remaining quota `r` is 0.
///
/// Of a header that comes more than once the largest valid value counts, so
/// that nobody is undercut and a bad line does not hide a good one. Delays are
/// rounded up to a millisecond. A date is counted from the response's own `Date`
/// plus its `Age` (RFC 9110 6.6.1, RFC 9111 5.1) and from the local clock only
/// if it has no valid `Date`; one that has passed is a hint of zero. Negative
/// and malformed values are no hint; a number that is too big saturates at
/// [`u64::MAX`] seconds or milliseconds.
///
/// # Lenient and strict
///
/// By default (lenient) it also understands what servers really send: decimals
/// (`1.5`), several values that a proxy has merged into one line with commas,
/// and dates in any case, with runs of whitespace, a one-digit day, `UTC` or
/// `+0000` for `GMT`, or the wrong day-name. Any other zone is refused rather
/// than guessed. [`strict`](Self::strict) holds to the grammar of the RFCs.
/// A value that strict accepts, lenient accepts too and reads the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintParser {
    strict: bool,
    rate_limit: bool,
}

impl HintParser {
    /// A lenient parser that does not read `RateLimit`.
    pub const fn new() -> Self {
        Self {
            strict: false,
            rate_limit: false,
        }
    }

    /// Holds to the grammar: RFC 9110 10.2.3 and 5.6.7 for `Retry-After` and
    /// `Date`, whole numbers for milliseconds, and for a pushback no unneeded
    /// leading zeros (gRFC A6). Off by default, because what is off the grammar
    /// is seldom unclear, and to overhear it is to come back too early.
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Whether to read the `RateLimit` header, in the form
    /// `"policy";r=0;t=5` (a List of RFC 9651, as of
    /// draft-ietf-httpapi-ratelimit-headers-08; the older `limit=, remaining=,
    /// reset=` and the `X-RateLimit-*` headers, whose units differ from server
    /// to server, are not read). Off by default, because it is a draft and
    /// because an empty quota does not say that the next request is refused.
    #[must_use]
    pub const fn rate_limit(mut self, read: bool) -> Self {
        self.rate_limit = read;
        self
    }

    /// Reads `headers`, or trailers. `now` is the local clock, normally
    /// [`SystemTime::now`]; it is asked at most once, and only for a date in a
    /// response that has no valid `Date` of four-digit year.
    pub fn parse(&self, headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Advice {
        let strict = self.strict;
        match grpc::pushback(headers, strict) {
            Advice::Nothing => {}
            said => return said,
        }

        let millis = |text: &[u8]| number::delay(text, Unit::Millis, strict);
        let base = LazyCell::new(|| base::of(headers, strict, now));
        let seconds = |text: &[u8]| {
            number::delay(text, Unit::Seconds, strict).or_else(|| until(text, strict, || *base))
        };
        // A binary header's values may always be merged with commas (gRPC over
        // HTTP/2, "Binary headers").
        let found = largest(headers, "grpc-status-details-bin", true, grpc::retry_info)
            .map(|delay| (delay, HintSource::RetryInfo))
            .or_else(|| {
                [
                    ("retry-after-ms", HintSource::RetryAfterMs),
                    ("x-ms-retry-after-ms", HintSource::XMsRetryAfterMs),
                    ("x-amz-retry-after", HintSource::XAmzRetryAfter),
                ]
                .into_iter()
                .find_map(|(name, source)| Some((largest(headers, name, !strict, millis)?, source)))
            })
            .or_else(|| {
                let delay = largest(headers, header::RETRY_AFTER.as_str(), !strict, seconds)?;
                Some((delay, HintSource::RetryAfter))
            })
            .or_else(|| {
                let delay = self.rate_limit.then(|| quota_reset(headers)).flatten()?;
                Some((delay, HintSource::RateLimit))
            });
        found.map_or(Advice::Nothing, |(delay, source)| {
            Advice::Wait(Hint { delay, source })
        })
    }
}

/// What `x-should-retry` says, the server's own word on whether the request may
/// be sent again: `true` or `false`, in any case, anything else being nothing.
/// Where both are said, `false` counts.
pub fn should_retry(headers: &HeaderMap) -> Option<bool> {
    headers
        .get_all("x-should-retry")
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|word| match word.trim_ascii() {
            word if word.eq_ignore_ascii_case(b"true") => Some(true),
            word if word.eq_ignore_ascii_case(b"false") => Some(false),
            _ => None,
        })
        .min()
}

/// The largest value that `read` finds in the lines of the header `name`, or in
/// the members of its lines if they may be `merged`.
fn largest(
    headers: &HeaderMap,
    name: &str,
    merged: bool,
    read: impl Fn(&[u8]) -> Option<Duration>,
) -> Option<Duration> {
    let lines = headers.get_all(name).iter();
    lines
        .filter_map(|line| {
            if merged {
                largest_member(line.as_bytes(), &read)
            } else {
                read(line.as_bytes().trim_ascii())
            }
        })
        .max()
}

/// A member ends at the first comma or, if that makes no value, at the second,
/// because a date has a comma after its day-name.
fn largest_member(mut line: &[u8], read: impl Fn(&[u8]) -> Option<Duration>) -> Option<Duration> {
    let mut longest = None;
    while !line.is_empty() {
        let mut ends = line
            .iter()
            .enumerate()
            .filter_map(|(at, byte)| (*byte == b',').then_some(at))
            .chain([line.len()]);
        let first = ends.next().unwrap_or(line.len());
        let found = [Some(first), ends.next()]
            .into_iter()
            .flatten()
            .find_map(|end| Some((read(line[..end].trim_ascii())?, end)));
        longest = longest.max(found.map(|(delay, _)| delay));
        let end = found.map_or(first, |(_, end)| end);
        line = line.get(end + 1..).unwrap_or_default();
    }
    longest
}

/// The wait until an HTTP-date, zero if it has passed.
fn until(text: &[u8], strict: bool, base: impl Fn() -> i64) -> Option<Duration> {
    let date = HttpDate::parse(text, strict)?.unix(|| base().div_euclid(1000))?;
    let wait = date.saturating_mul(1000).saturating_sub(base());
    Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))
}

/// RFC 9651 4.2: a field that is malformed anywhere is ignored as a whole.
fn quota_reset(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("ratelimit")
        .iter()
        .try_fold(None, |longest: Option<Duration>, line| {
            Some(longest.max(rate_limit::reset(line.as_bytes().trim_ascii())?))
        })
        .flatten()
}
