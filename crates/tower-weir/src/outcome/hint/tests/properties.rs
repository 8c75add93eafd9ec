use proptest::prelude::*;

use super::*;

const NAMES: [&str; 10] = [
    "grpc-retry-pushback-ms",
    "grpc-status-details-bin",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "x-amz-retry-after",
    "retry-after",
    "ratelimit",
    "date",
    "age",
    "x-should-retry",
];

/// Values near enough to the grammars to get deep into the parser.
fn near_valid() -> impl Strategy<Value = String> {
    let weekday = "(Mon|Sun|fri|Monday|Sunday|thursday)";
    let month = "(Jan|Feb|feb|Dec)";
    let time = "[0-2][0-9]:[0-6][0-9]:[0-6][0-9]";
    let zone = "(GMT|gmt|UTC|[+]0000|EST)";
    let forms = [
        "[ \t]{0,2}[+-]?[0-9]{0,24}([.][0-9]{0,12})?[ \t]{0,2}".to_owned(),
        format!("{weekday}, [0-3]?[0-9] {month} [0-9]{{3,5}} {time} {zone}"),
        format!("{weekday}, [0-3]?[0-9]-{month}-[0-9]{{1,3}} {time} {zone}"),
        format!("{weekday} {month} [ 0-3]?[0-9] {time} [0-9]{{3,5}}"),
        r#"("[a-z,;\\"]{0,4}"|[a-z*]{1,4})(;[rtq](=-?[0-9]{0,17}([.][0-9]{0,4})?)?){0,4}"#.into(),
        "[A-Za-z0-9+/]{0,60}={0,3}".to_owned(),
    ];
    proptest::strategy::Union::new(forms.map(|form| prop::string::string_regex(&form).unwrap()))
}

fn any_value() -> impl Strategy<Value = HeaderValue> {
    let text = prop::collection::vec(near_valid(), 1..4)
        .prop_map(|members| members.join(","))
        .prop_map(String::into_bytes);
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    prop_oneof![3 => text, 1 => bytes].prop_filter_map("not a header's value", |bytes| {
        HeaderValue::from_bytes(&bytes).ok()
    })
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let line = (prop::sample::select(&NAMES[..]), any_value());
    prop::collection::vec(line, 0..8).prop_map(|lines| {
        lines
            .into_iter()
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    })
}

proptest! {
    #[test]
    fn no_input_panics(headers in any_headers(), unix in any::<i64>()) {
        // A system's clock need not reach as far as the number does.
        let now = at(unix.clamp(-(1 << 60), 1 << 60));
        for parser in [LENIENT, STRICT] {
            parser.parse(&headers, || now);
            parser.rate_limit(true).parse(&headers, || now);
        }
        should_retry(&headers);
    }

    #[test]
    fn no_protobuf_panics(
        details in prop::collection::vec(any::<u8>(), 0..40),
        delay in any::<Option<(i64, i64)>>(),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let status = grpc::status_details(&[details, grpc::retry_info(delay)]);
        let mut bytes = status.into_bytes();
        let (at, byte) = flip;
        let at = at.index(bytes.len());
        bytes[at] = b' ' + byte % 95;
        let value = HeaderValue::from_bytes(&bytes).unwrap();
        let headers = HeaderMap::from_iter([("grpc-status-details-bin".parse().unwrap(), value)]);
        LENIENT.parse(&headers, no_clock);
    }

    #[test]
    fn what_strict_accepts_lenient_reads_the_same(
        value in near_valid(),
        name in prop::sample::select(&NAMES[1..7]),
        unix in -100_000_000_000_i64..300_000_000_000,
    ) {
        let headers = headers([(name, value.as_str())]);
        let [strict, lenient] = [STRICT, LENIENT]
            .map(|parser| parser.rate_limit(true).parse(&headers, || at(unix)));
        if strict != Advice::Nothing {
            prop_assert_eq!(strict, lenient);
        }
    }

    #[test]
    fn of_several_lines_none_is_undercut(
        values in prop::collection::vec(near_valid(), 1..5),
        unix in 0_i64..10_000_000_000,
    ) {
        let each = values.iter().map(|value| retry_after(value, unix)).fold(
            [None; 2],
            |[strict, lenient], [s, l]| [strict.max(s), lenient.max(l)],
        );
        let lines = headers(values.iter().map(|value| ("retry-after", value.as_str())));
        let read = [STRICT, LENIENT].map(|parser| delay_ms(parser.parse(&lines, || at(unix))));
        prop_assert_eq!(read, each);
        // The same lines merged by a proxy say no less.
        prop_assert!(retry_after(&values.join(", "), unix)[1] >= each[1]);
    }

    #[test]
    fn whole_seconds_come_back_as_they_were(seconds in any::<u64>()) {
        let expected = Duration::from_secs(seconds).as_millis();
        prop_assert_eq!(retry_after(&seconds.to_string(), 0), [Some(expected); 2]);
        prop_assert_eq!(retry_after(&format!("{seconds}.0"), 0)[1], Some(expected));
    }

    #[test]
    fn a_decimal_is_rounded_up_by_less_than_a_millisecond(
        seconds in 0_u64..1_000_000, nanos in 0_u32..1_000_000_000,
    ) {
        let exact = u128::from(seconds) * 1_000_000_000 + u128::from(nanos);
        let read = retry_after(&format!("{seconds}.{nanos:09}"), 0)[1].unwrap() * 1_000_000;
        prop_assert!(read >= exact && read - exact < 1_000_000);
    }
}
