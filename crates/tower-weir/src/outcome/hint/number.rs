use std::time::Duration;

/// What a number in a header counts.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

/// Reads `1*DIGIT`; a number too big for the type is the type's greatest.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0_u64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

/// Reads a delay: `1*DIGIT`, when lenient also `1*DIGIT "." 1*DIGIT`, rounded
/// up to a whole millisecond so that nobody comes back too early.
pub(super) fn delay(text: &[u8], unit: Unit, strict: bool) -> Option<Duration> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        None => (text, None),
        Some(_) if strict => return None,
        Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
    };
    let whole = digits(whole)?;
    let (whole, places) = match unit {
        Unit::Seconds => (Duration::from_secs(whole), 3),
        Unit::Millis => (Duration::from_millis(whole), 0),
    };
    let Some(fraction) = fraction else {
        return Some(whole);
    };
    digits(fraction)?;
    let (kept, cut) = fraction.split_at(fraction.len().min(places));
    let millis = (0..places).fold(0, |number, place| {
        number * 10 + u64::from(kept.get(place).map_or(0, |digit| digit - b'0'))
    }) + u64::from(cut.iter().any(|digit| *digit != b'0'));
    Some(whole.saturating_add(Duration::from_millis(millis)))
}
