use super::*;

#[test]
fn seconds_beyond_the_table() {
    let max = Duration::from_secs(u64::MAX).as_millis();
    for (value, strict, lenient) in [
        (" 120\t", Some(120_000), Some(120_000)),
        ("000120", Some(120_000), Some(120_000)),
        ("18446744073709551615", Some(max), Some(max)),
        (
            "99999999999999999999999999999999999999999",
            Some(max),
            Some(max),
        ),
        ("18446744073709551616.9", None, Some(max + 900)),
        ("18446744073709551616.9999", None, Some(max + 999)),
        ("5.0", None, Some(5_000)),
        ("5.0000000001", None, Some(5_001)),
        ("5.0010000000", None, Some(5_001)),
        ("5.9999", None, Some(6_000)),
        ("0.25", None, Some(250)),
        ("1.5, 0.5", None, Some(1_500)),
        ("garbage, 9", None, Some(9_000)),
        (",, 3 ,", None, Some(3_000)),
        (".5", None, None),
        (".", None, None),
        ("+5", None, None),
        ("-0", None, None),
        ("1.5.2", None, None),
        ("1 0", None, None),
        ("1\t0", None, None),
        ("0x10", None, None),
        ("1_000", None, None),
        ("NaN", None, None),
        ("inf", None, None),
        ("\"5\"", None, None),
        ("5;", None, None),
        (",", None, None),
        ("\u{665}", None, None),
    ] {
        let read = retry_after(value, 0);
        assert_eq!(read, [strict, lenient], "{value}");
    }
}

#[test]
fn milliseconds() {
    for name in ["retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after"] {
        for (value, strict, lenient) in [
            ("0", Some(0), Some(0)),
            (" 20 ", Some(20), Some(20)),
            ("20.0", None, Some(20)),
            ("20.0001", None, Some(21)),
            ("20.", None, None),
            ("-20", None, None),
            ("20, 30, x", None, Some(30)),
            (
                "99999999999999999999",
                Some(u64::MAX.into()),
                Some(u64::MAX.into()),
            ),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None, None),
        ] {
            let headers = headers([(name, value)]);
            let read = [STRICT, LENIENT].map(|parser| delay_ms(parser.parse(&headers, no_clock)));
            assert_eq!(read, [strict, lenient], "{name}: {value}");
        }
    }
}

#[test]
fn the_largest_line_counts_and_zero_is_a_hint() {
    let lines = headers([("retry-after-ms", "30"), ("retry-after-ms", "20")]);
    assert_eq!(delay_ms(STRICT.parse(&lines, no_clock)), Some(30));
    let zero = headers([("retry-after-ms", "0"), ("retry-after", "9")]);
    assert_eq!(delay_ms(LENIENT.parse(&zero, no_clock)), Some(0));
}

#[test]
fn bytes_that_are_not_text_are_no_hint() {
    let mut headers = HeaderMap::new();
    headers.append(
        "retry-after",
        HeaderValue::from_bytes(b"\xff5\x80").unwrap(),
    );
    assert_eq!(LENIENT.parse(&headers, no_clock), Advice::Nothing);
}
