//! The `grpc-timeout` header, by "gRPC over HTTP2": up to eight digits and a
//! unit.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

pub(crate) const NAME: &str = "grpc-timeout";

const MAX: u128 = 99_999_999;

/// Reads the header; a malformed one says nothing.
pub(super) fn read(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(NAME)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Writes `left` in the finest unit that holds it, rounded down: a server that
/// gives up after its client has worked in vain.
pub(crate) fn write(left: Duration) -> HeaderValue {
    let units = [
        ('n', 1),
        ('u', 1_000),
        ('m', 1_000_000),
        ('S', 1_000_000_000),
        ('M', 60_000_000_000),
    ];
    let nanos = left.as_nanos().max(1);
    let (unit, count) = units
        .into_iter()
        .map(|(unit, size)| (unit, nanos / size))
        .find(|(_, count)| *count <= MAX)
        .unwrap_or_else(|| ('H', (nanos / 3_600_000_000_000).min(MAX)));
    // Digits and a letter are always a header's value.
    HeaderValue::try_from(format!("{count}{unit}")).unwrap_or(HeaderValue::from_static("1n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, value.parse().unwrap());
        read(&headers)
    }

    #[test]
    fn every_unit_is_read() {
        for (value, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("00000010S", Duration::from_secs(10)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parse(value), Some(expected), "{value}");
        }
        for value in [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "-1S",
            "1.5S",
            "1 S",
            "100000000n",
            "1µ",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
    }

    #[test]
    fn the_finest_unit_that_holds_it_is_written() {
        for (left, expected) in [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_secs(30), "30000000u"),
            (Duration::from_micros(100_000_999), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(write(left), expected, "{left:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_no_more_and_hardly_less(left in any::<Duration>()) {
            let read = parse(write(left).to_str().unwrap()).unwrap();
            let left = left.max(Duration::from_nanos(1));
            prop_assert!(read <= left);
            let longest = Duration::from_secs(99_999_999 * 3600);
            prop_assert!(left > longest || (left - read).as_secs_f64() <= left.as_secs_f64() / 1e3);
        }
    }
}
