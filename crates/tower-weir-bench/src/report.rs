use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::measure::{Allocations, Spread};

/// Where lines go: a JSON object or a row of a table each.
pub struct Report<W> {
    out: W,
    json: bool,
}

/// What was found out about one subject in one mode.
pub(crate) struct Line<'a> {
    pub(crate) subject: &'a str,
    pub(crate) mode: &'static str,
    pub(crate) nanos: Option<Spread>,
    pub(crate) allocations: Option<Allocations>,
    /// What the mode adds.
    pub(crate) more: Map<String, Value>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(mode: &'static str, subject: &'a str) -> Self {
        Self {
            subject,
            mode,
            nanos: None,
            allocations: None,
            more: Map::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

impl<W: Write> Report<W> {
    /// Begins with the versions of everything that is compared.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(mut out: W, json: bool) -> io::Result<Self> {
        let versions = versions();
        if json {
            let versions: Map<String, Value> = versions
                .into_iter()
                .map(|(name, version)| (name, version.into()))
                .collect();
            writeln!(out, "{}", json!({ "versions": versions }))?;
        } else {
            for (name, version) in versions {
                writeln!(out, "{name} {version}")?;
            }
        }
        Ok(Self { out, json })
    }

    pub(crate) fn line(&mut self, line: Line<'_>) -> io::Result<()> {
        if self.json {
            self.object(line)
        } else {
            self.row(&line)
        }
    }

    fn object(&mut self, line: Line<'_>) -> io::Result<()> {
        let mut object = Map::new();
        object.insert("subject".to_owned(), line.subject.into());
        object.insert("mode".to_owned(), line.mode.into());
        let nanos = line.nanos.map(|spread| spread.median);
        object.insert("ns_per_call".to_owned(), rounded(nanos));
        let allocations = line.allocations;
        let count = allocations.map(|allocations| allocations.count);
        object.insert("allocs_per_call".to_owned(), rounded(count));
        let bytes = allocations.map(|allocations| allocations.bytes);
        object.insert("bytes_per_call".to_owned(), rounded(bytes));
        if let Some(spread) = line.nanos {
            object.insert(
                "ns_quartiles".to_owned(),
                json!([tenths(spread.low), tenths(spread.high)]),
            );
        }
        object.extend(line.more);
        writeln!(self.out, "{}", Value::Object(object))?;
        self.out.flush()
    }

    fn row(&mut self, line: &Line<'_>) -> io::Result<()> {
        write!(self.out, "{:<10} {:<44}", line.mode, line.subject)?;
        if let Some(Spread { low, median, high }) = line.nanos {
            write!(self.out, " {median:>9.1} ns ({low:.1}..{high:.1})")?;
        }
        if let Some(Allocations { count, bytes }) = line.allocations {
            write!(self.out, "  {count:.2} allocations, {bytes:.0} bytes")?;
        }
        for (name, value) in &line.more {
            write!(self.out, "  {name} {value}")?;
        }
        writeln!(self.out)?;
        self.out.flush()
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn rounded(number: Option<f64>) -> Value {
    number.map_or(Value::Null, |number| {
        json!((number * 100.0).round() / 100.0)
    })
}

/// What is compared, and in which version: the versions pinned in this crate's
/// manifest.
pub fn versions() -> Vec<(String, String)> {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap_or_default();
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    let pinned = dependencies
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let version = value.as_str().or_else(|| value.get("version")?.as_str())?;
            Some((name.clone(), version.strip_prefix('=')?.to_owned()))
        });
    pinned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_names_every_rival_and_its_version() {
        let versions = versions();
        for rival in [
            "tower",
            "tower-resilience-retry",
            "recloser",
            "failsafe",
            "congestion-limiter",
        ] {
            assert!(versions.iter().any(|(name, _)| name == rival), "{rival}");
        }
    }

    #[test]
    fn a_line_of_json_has_the_columns_and_what_the_mode_adds() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, true).unwrap();
        let mut line = Line::new("overhead", "nothing").with("hosts", 256);
        line.nanos = Some(Spread {
            low: 1.04,
            median: 2.345,
            high: 3.0,
        });
        line.allocations = Some(Allocations {
            count: 2.0,
            bytes: 64.0,
        });
        report.line(line).unwrap();
        let text = String::from_utf8(out).unwrap();
        let object: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(
            object,
            json!({
                "subject": "nothing",
                "mode": "overhead",
                "ns_per_call": 2.35,
                "allocs_per_call": 2.0,
                "bytes_per_call": 64.0,
                "ns_quartiles": [1.0, 3.0],
                "hosts": 256,
            })
        );
    }
}
