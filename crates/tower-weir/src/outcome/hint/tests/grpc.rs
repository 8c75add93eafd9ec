use base64::{Engine as _, engine::general_purpose};

use super::*;

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(bytes.len() as u64),
        bytes.to_vec(),
    ]
    .concat()
}

fn any(type_url: &str, value: &[u8]) -> Vec<u8> {
    [message(1, type_url.as_bytes()), message(2, value)].concat()
}

/// A detail whose `retry_delay` has these seconds and nanoseconds.
pub(super) fn retry_info(delay: Option<(i64, i64)>) -> Vec<u8> {
    let delay =
        delay.map(|(seconds, nanos)| message(1, &[number(1, seconds), number(2, nanos)].concat()));
    any(RETRY_INFO, &delay.unwrap_or_default())
}

fn status(details: &[Vec<u8>]) -> Vec<u8> {
    let details = details.iter().map(|detail| message(3, detail));
    [number(1, 8), message(2, b"slow down")]
        .into_iter()
        .chain(details)
        .flatten()
        .collect()
}

pub(super) fn status_details(details: &[Vec<u8>]) -> String {
    general_purpose::STANDARD.encode(status(details))
}

fn read(values: &[&str]) -> Option<u128> {
    let headers = headers(
        values
            .iter()
            .map(|value| ("grpc-status-details-bin", *value)),
    );
    let [strict, lenient] = [STRICT, LENIENT].map(|parser| parser.parse(&headers, no_clock));
    assert_eq!(strict, lenient);
    assert!(
        lenient
            .hint()
            .is_none_or(|hint| hint.source == HintSource::RetryInfo)
    );
    delay_ms(lenient)
}

/// Made by protobuf's own encoder: code 8, message "quota", an ErrorInfo and a
/// RetryInfo of 1.5 s.
#[test]
fn a_status_as_a_server_encodes_it() {
    let unpadded = "CAgSBXF1b3RhGjEKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5FcnJvckluZm8SBQoDUlBNGjYKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8SCgoICAEQgMq17gE";
    assert_eq!(read(&[unpadded]), Some(1_500));
    assert_eq!(read(&[&format!("{unpadded}=")]), Some(1_500));
}

#[test]
fn the_delay_is_rounded_up_and_negative_or_absent_is_no_hint() {
    for (delay, expected) in [
        (Some((5, 0)), Some(5_000)),
        (Some((0, 0)), Some(0)),
        (Some((0, 1)), Some(1)),
        (Some((1, 999_999_999)), Some(2_000)),
        (Some((i64::MAX, 0)), Some(i64::MAX as u128 * 1000)),
        (Some((-1, 0)), None),
        (Some((0, -1)), None),
        (Some((1, -1)), None),
        (Some((1, 1_000_000_000)), None),
        (None, None),
    ] {
        assert_eq!(
            read(&[&status_details(&[retry_info(delay)])]),
            expected,
            "{delay:?}"
        );
    }
}

#[test]
fn of_several_details_the_longest_delay_counts() {
    let help = any("type.googleapis.com/google.rpc.Help", b"\xff\xff");
    let other = any(
        "type.googleapis.com/my.google.rpc.RetryInfo",
        &message(1, &number(1, 99)),
    );
    let bare = any("google.rpc.RetryInfo", &message(1, &number(1, 3)));
    let (five, two, negative) = (
        retry_info(Some((5, 0))),
        retry_info(Some((2, 0))),
        retry_info(Some((-9, 0))),
    );
    let details = [help, other, two, five, negative, bare.clone()];
    assert_eq!(read(&[&status_details(&details)]), Some(5_000));
    assert_eq!(read(&[&status_details(&[bare])]), Some(3_000));

    let [four, seven] = [4, 7].map(|s| status_details(&[retry_info(Some((s, 0)))]));
    assert_eq!(read(&[&four, &seven, "garbage!"]), Some(7_000));
    assert_eq!(read(&[&format!("{four},{seven}, ~")]), Some(7_000));
}

#[test]
fn a_message_in_pieces_is_merged_and_unknown_fields_are_skipped() {
    let delay = [
        message(1, &number(1, 2)),
        [varint(9 << 3 | 1), vec![0; 8]].concat(),
        [varint(10 << 3 | 5), vec![0; 4]].concat(),
        number(1, 77),
        message(1, &[message(1, b"x"), number(2, 500_000_000)].concat()),
    ];
    let detail = any(RETRY_INFO, &delay.concat());
    assert_eq!(read(&[&status_details(&[detail])]), Some(2_500));
}

#[test]
fn every_cut_of_a_status_is_no_hint() {
    let whole = status(&[retry_info(Some((5, 0)))]);
    // What is cut off before the detail is a status without details.
    for length in 0..whole.len() {
        let cut = general_purpose::STANDARD.encode(&whole[..length]);
        assert_eq!(read(&[&cut]), None, "{length}");
    }
    for garbage in [
        vec![0x0b],                                       // a group
        vec![0x0f],                                       // no wire type
        [vec![0x08], vec![0xff; 9], vec![0x02]].concat(), // more than 64 bits
        [vec![0x08], vec![0x80; 11]].concat(),            // a varint without end
        [vec![0x12], varint(u64::MAX)].concat(),          // longer than memory
    ] {
        let broken = general_purpose::STANDARD.encode([whole.clone(), garbage].concat());
        assert_eq!(read(&[&broken]), None);
    }
}

#[test]
fn a_pushback_is_an_integer_of_32_bits_and_nothing_else() {
    let said = |values: &[&str]| {
        let headers = headers(
            values
                .iter()
                .map(|value| ("grpc-retry-pushback-ms", *value)),
        );
        [STRICT, LENIENT].map(|parser| parser.parse(&headers, no_clock))
    };
    let exactly = |millis| {
        Advice::Wait(Hint {
            delay: Duration::from_millis(millis),
            source: HintSource::Pushback,
        })
    };
    assert_eq!(said(&["2147483647"]), [exactly(2_147_483_647); 2]);
    assert_eq!(said(&["\t7 "]), [exactly(7); 2]);
    assert_eq!(said(&["007"]), [Advice::Never, exactly(7)]);
    for never in [
        &[""][..],
        &["+5"],
        &["-0"],
        &["-2147483648"],
        &["1.0"],
        &["1e3"],
        &["5, 5"],
        &["5", "5"],
        &["99999999999999999999"],
        &["soon"],
    ] {
        assert_eq!(said(never), [Advice::Never; 2], "{never:?}");
    }
}
