use std::time::Duration;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderMap;

use super::{Advice, Hint, HintSource, number::digits};

/// gRPC's binary metadata comes with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads `grpc-retry-pushback-ms` (gRFC A6): a 32-bit integer; a negative one,
/// one that is not readable, and more than one, all mean "do not retry".
pub(super) fn pushback(headers: &HeaderMap, strict: bool) -> Advice {
    let mut values = headers.get_all("grpc-retry-pushback-ms").iter();
    let Some(value) = values.next() else {
        return Advice::Nothing;
    };
    let text = value.as_bytes().trim_ascii();
    let unneeded_zero = text.len() > 1 && text[0] == b'0';
    match digits(text) {
        Some(millis)
            if values.next().is_none()
                && millis <= u64::from(i32::MAX.cast_unsigned())
                && !(strict && unneeded_zero) =>
        {
            Advice::Wait(Hint {
                delay: Duration::from_millis(millis),
                source: HintSource::Pushback,
            })
        }
        _ => Advice::Never,
    }
}

/// The longest `retry_delay` among the `google.rpc.RetryInfo` details of a
/// `google.rpc.Status` in base64.
pub(super) fn retry_info(text: &[u8]) -> Option<Duration> {
    let status = BASE64.decode(text).ok()?;
    let mut longest = None;
    each_field(&status, |field, value| {
        if let (3, Value::Bytes(detail)) = (field, value) {
            longest = longest.max(detail_delay(detail)?);
        }
        Some(())
    })?;
    longest
}

/// The delay in a `google.protobuf.Any`: the outer `None` if the message is
/// malformed, the inner one if it is another detail or says nothing of use.
fn detail_delay(any: &[u8]) -> Option<Option<Duration>> {
    let (mut type_url, mut message) = (&b""[..], &b""[..]);
    each_field(any, |field, value| {
        match (field, value) {
            (1, Value::Bytes(bytes)) => type_url = bytes,
            (2, Value::Bytes(bytes)) => message = bytes,
            _ => {}
        }
        Some(())
    })?;
    if type_url.rsplit(|byte| *byte == b'/').next() != Some(b"google.rpc.RetryInfo") {
        return Some(None);
    }

    // protobuf merges what comes of one message in pieces.
    let mut delay: Option<(i64, i32)> = None;
    each_field(message, |field, value| {
        let (1, Value::Bytes(duration)) = (field, value) else {
            return Some(());
        };
        let (seconds, nanos) = delay.get_or_insert_default();
        each_field(duration, |field, value| {
            match (field, value) {
                (1, Value::Varint(number)) => *seconds = number.cast_signed(),
                (2, Value::Varint(number)) => *nanos = number as i32,
                _ => {}
            }
            Some(())
        })
    })?;
    Some(delay.and_then(|(seconds, nanos)| {
        let seconds = u64::try_from(seconds).ok()?;
        let nanos = u64::try_from(nanos).ok().filter(|n| *n < 1_000_000_000)?;
        let millis = Duration::from_millis(nanos.div_ceil(1_000_000));
        Some(Duration::from_secs(seconds).saturating_add(millis))
    }))
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Calls `read` with each field of a protobuf message; `None` if the message is
/// malformed or `read` says so.
fn each_field<'a>(
    mut message: &'a [u8],
    mut read: impl FnMut(u64, Value<'a>) -> Option<()>,
) -> Option<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut message)?),
            1 => {
                take(&mut message, 8)?;
                Value::Fixed
            }
            2 => {
                let length = varint(&mut message)?;
                Value::Bytes(take(&mut message, usize::try_from(length).ok()?)?)
            }
            5 => {
                take(&mut message, 4)?;
                Value::Fixed
            }
            _ => return None,
        };
        read(tag >> 3, value)?;
    }
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(message, 1)?[0];
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}
