use super::*;

/// The rows of a table, each by its columns; the first lines are a comment and
/// the columns' names.
pub(crate) fn rows<const N: usize>(table: &str) -> Vec<[&str; N]> {
    let mut lines = table.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next().unwrap().split('\t').count(), N);
    lines
        .map(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            columns.try_into().unwrap()
        })
        .collect()
}

fn lines(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap()
}

fn expected_ms(column: &str) -> Option<u128> {
    match column {
        "none" => None,
        "max" => Some(Duration::from_secs(u64::MAX).as_millis()),
        number => Some(number.parse().unwrap()),
    }
}

#[test]
fn retry_after() {
    let rows = rows::<8>(include_str!("../../../../tests/contract/retry_after.tsv"));
    assert_eq!(rows.len(), 27);
    for [id, now, date, age, values, strict, lenient, _note] in rows {
        let now = at(now.parse().unwrap());
        let values = lines(values);
        let base = [("date", date), ("age", age)];
        let base = base.into_iter().filter(|(_, value)| *value != "-");
        let values = values.iter().map(|value| ("retry-after", value.as_str()));
        let headers = headers(values.chain(base));
        for (parser, expected) in [(STRICT, strict), (LENIENT, lenient)] {
            let advice = parser.parse(&headers, || now);
            assert_eq!(delay_ms(advice), expected_ms(expected), "{id}: {parser:?}");
        }
    }
}

#[test]
fn hint_headers() {
    let rows = rows::<3>(include_str!("../../../../tests/contract/hint_headers.tsv"));
    assert_eq!(rows.len(), 10);
    for [id, json, expected] in rows {
        let map: std::collections::BTreeMap<String, String> = serde_json::from_str(json).unwrap();
        let headers = headers(
            map.iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        // Whether `RateLimit` is read may matter only where nothing else is said.
        for rate_limit in [false, true] {
            let advice = LENIENT.rate_limit(rate_limit).parse(&headers, no_clock);
            let expected = expected_ms(expected).filter(|_| rate_limit || id != "ratelimit-only");
            assert_eq!(delay_ms(advice), expected, "{id}: {rate_limit}");
        }
    }
}

#[test]
fn pushback() {
    let rows = rows::<3>(include_str!("../../../../tests/contract/pushback.tsv"));
    assert_eq!(rows.len(), 7);
    for [id, values, expected] in rows {
        let values = lines(values);
        let values = values
            .iter()
            .map(|value| ("grpc-retry-pushback-ms", value.as_str()));
        let headers = headers(values.chain([("retry-after-ms", "7")]));
        for parser in [STRICT, LENIENT] {
            let said = match parser.parse(&headers, no_clock) {
                Advice::Wait(Hint {
                    delay,
                    source: HintSource::Pushback,
                }) => {
                    format!("retry_in:{}", delay.as_millis())
                }
                Advice::Wait(Hint {
                    source: HintSource::RetryAfterMs,
                    ..
                }) => "none".into(),
                Advice::Never => "no_retry".into(),
                other => panic!("{id}: {other:?}"),
            };
            assert_eq!(said, expected, "{id}: {parser:?}");
        }
    }
}
