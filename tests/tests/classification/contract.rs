use std::fmt;

use http::Method;
use tower_weir::outcome::{Failure, Refusal, Verdict};

const TABLE: &str = include_str!("../../../crates/tower-weir/tests/contract/classification.tsv");
const COLUMNS: &str = "kind\twhat\textra\tmethod\tretry\tbreaker\taimd";

/// What a row says of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// What the breaker and the limiter make of it, as the verdict they share.
    Is(Verdict),
    /// What they make of the status alone.
    ByStatus,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    line: usize,
    pub(crate) kind: &'static str,
    pub(crate) what: &'static str,
    pub(crate) extra: &'static str,
    method: &'static str,
    retry: &'static str,
    pub(crate) health: Health,
}

/// All rows of the table.
pub(crate) fn rows() -> Vec<Row> {
    let lines = TABLE.lines().enumerate();
    let mut lines = lines.filter(|(_, line)| !line.starts_with('#'));
    assert_eq!(lines.next().unwrap().1, COLUMNS);
    lines
        .map(|(at, line)| {
            let cells: Vec<_> = line.split('\t').collect();
            let [kind, what, extra, method, retry, breaker, aimd] = cells[..] else {
                panic!("line {}: {} cells", at + 1, cells.len());
            };
            Row {
                line: at + 1,
                kind,
                what,
                extra,
                method,
                retry,
                health: health(breaker, aimd),
            }
        })
        .collect()
}

fn health(breaker: &str, aimd: &str) -> Health {
    Health::Is(match (breaker, aimd) {
        ("by status", "by status") => return Health::ByStatus,
        ("success", "grow") => Verdict::Success,
        ("failure_hard", "release") => Verdict::Failed(Failure::Error),
        ("failure_hard", "one slot back") => Verdict::Failed(Failure::Timeout),
        ("throttle", "shrink") => Verdict::Refused(Refusal::Throttled),
        ("throttle", "release") => Verdict::Refused(Refusal::RequestTimeout),
        ("refusal", "shrink") => Verdict::Refused(Refusal::Unavailable),
        ("neutral", "release") => Verdict::Ignored,
        other => panic!("no verdict means {other:?}"),
    })
}

impl Row {
    /// The methods that the row speaks of.
    pub(crate) fn methods(&self) -> Vec<Method> {
        let idempotent = [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ];
        let others = [Method::POST, Method::PATCH];
        match self.method {
            "any" => [&idempotent[..], &others].concat(),
            "idempotent" => idempotent.to_vec(),
            "POST/PATCH" => others.to_vec(),
            // gRPC is always POST
            "POST" | "-" => vec![Method::POST],
            other => panic!("{self}: unknown method {other}"),
        }
    }

    /// How many attempts there are of a request that may be retried once. What
    /// stands in brackets is said for the reader, but for the transparent
    /// retry, which comes on top.
    pub(crate) fn attempts(&self) -> usize {
        let (said, why) = self.retry.split_once(" (").unwrap_or((self.retry, ""));
        match said {
            "no_retry" => 1,
            "retry" if why.contains("transparent") => 3,
            "retry" => 2,
            other => panic!("{self}: neither retried nor not: {other}"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            kind,
            what,
            extra,
            method,
            ..
        } = self;
        write!(f, "line {line}: {kind} {what}, {extra}, {method}")
    }
}
