use std::time::Duration;

use super::{number::digits, scan::Scan};

/// What a structured-field value is, as far as this header needs to know.
#[derive(Clone, Copy, PartialEq)]
enum Item {
    Integer(i64),
    Other,
}

/// The longest `t` among the policies of one `RateLimit` line that have nothing
/// left (`r=0`): the outer `None` if the line is no List of Items (RFC 9651),
/// the inner one if none of them says so.
pub(super) fn reset(line: &[u8]) -> Option<Option<Duration>> {
    let mut scan = Scan::new(line);
    let mut longest = None;
    loop {
        item(&mut scan)?;
        let (remaining, time) = parameters(&mut scan)?;
        if let (Some(Item::Integer(0)), Some(Item::Integer(time))) = (remaining, time) {
            longest = longest.max(u64::try_from(time).ok().map(Duration::from_secs));
        }
        spaces(&mut scan);
        if scan.end().is_some() {
            return Some(longest);
        }
        scan.eat(b',')?;
        spaces(&mut scan);
    }
}

/// The parameters `r` and `t`; of one that is repeated the last counts.
fn parameters(scan: &mut Scan<'_>) -> Option<(Option<Item>, Option<Item>)> {
    let (mut remaining, mut time) = (None, None);
    while scan.eat(b';').is_some() {
        scan.take_while(|byte| byte == b' ');
        if !matches!(scan.peek()?, b'a'..=b'z' | b'*') {
            return None;
        }
        let key = scan.take_while(
            |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'),
        );
        let value = if scan.eat(b'=').is_some() {
            item(scan)?
        } else {
            Item::Other
        };
        match key {
            b"r" => remaining = Some(value),
            b"t" => time = Some(value),
            _ => {}
        }
    }
    Some((remaining, time))
}

fn spaces(scan: &mut Scan<'_>) {
    scan.take_while(|byte| matches!(byte, b' ' | b'\t'));
}

fn item(scan: &mut Scan<'_>) -> Option<Item> {
    match scan.peek()? {
        b'-' | b'0'..=b'9' => return number(scan),
        b'"' => string(scan)?,
        b'a'..=b'z' | b'A'..=b'Z' | b'*' => {
            scan.take_while(|byte| {
                byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
            });
        }
        b'?' => {
            scan.next();
            scan.next().filter(|byte| matches!(byte, b'0' | b'1'))?;
        }
        b':' => {
            scan.next();
            scan.take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
            scan.eat(b':')?;
        }
        b'@' => {
            scan.next();
            let Item::Integer(_) = number(scan)? else {
                return None;
            };
        }
        b'%' => {
            scan.next();
            scan.eat(b'"')?;
            scan.take_while(|byte| matches!(byte, b' '..=b'~') && byte != b'"');
            scan.eat(b'"')?;
        }
        _ => return None,
    }
    Some(Item::Other)
}

fn string(scan: &mut Scan<'_>) -> Option<()> {
    scan.eat(b'"')?;
    loop {
        match scan.next()? {
            b'"' => return Some(()),
            b'\\' => {
                scan.next().filter(|byte| matches!(byte, b'"' | b'\\'))?;
            }
            b' '..=b'~' => {}
            _ => return None,
        }
    }
}

/// An Integer has at most 15 digits, a Decimal 12 before its point and 3 after.
fn number(scan: &mut Scan<'_>) -> Option<Item> {
    let negative = scan.eat(b'-').is_some();
    let whole = scan.take_while(|byte| byte.is_ascii_digit());
    if scan.eat(b'.').is_some() {
        let fraction = scan.take_while(|byte| byte.is_ascii_digit());
        return ((1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len()))
            .then_some(Item::Other);
    }
    if whole.len() > 15 {
        return None;
    }
    let number = digits(whole)?.cast_signed();
    Some(Item::Integer(if negative { -number } else { number }))
}
