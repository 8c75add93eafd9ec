use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::Parser;

use super::*;

fn source(args: &[&str]) -> Result<Source, String> {
    let options = Options::parse_from([&["bulk-upsert"], args].concat());
    Source::open(&options).map_err(|error| error.to_string())
}

/// A file that is removed again.
struct Input(PathBuf);

impl Input {
    fn new(text: impl AsRef<[u8]>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulk-upsert-{}-{number}.jsonl", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn source(&self, args: &[&str]) -> Result<Source, String> {
        source(&[&["--input", self.0.to_str().unwrap()], args].concat())
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn ids(mut source: Source) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    while let Some(batch) = source.next().unwrap() {
        assert_eq!(batch.number, all.len() + 1);
        all.push(batch.records.into_iter().map(|record| record.id).collect());
    }
    all
}

#[test]
fn made_vectors_follow_from_the_seed() {
    let made = |seed| {
        let mut source = source(&["--seed", seed]).unwrap();
        assert_eq!((source.batches(), source.records()), (2000, 64_000));
        source.next().unwrap().unwrap().records
    };
    assert_eq!(made("1"), made("1"));
    assert_ne!(made("1"), made("2"));
    let records = made("1");
    assert_eq!(records.len(), 32);
    let bytes: usize = records.iter().map(|record| 4 * record.vector.len()).sum();
    assert!(bytes >= 64 << 10, "{bytes}");
}

#[test]
fn a_file_is_batched_to_its_end() {
    let input = Input::new(concat!(
        r#"{"id": "a", "vector": [0.5, -1]}"#,
        "\n\n",
        r#"{"id": "b", "vector": []}"#,
        "\n",
        r#"{"id": "c", "vector": []}"#,
        "\n",
        r#"{"id": "d", "vector": [1e3], "metadata": {"k": "v"}}"#,
    ));
    let source = input.source(&["--batch-size", "3"]).unwrap();
    assert_eq!((source.batches(), source.records()), (2, 4));
    assert_eq!(ids(source), [vec!["a", "b", "c"], vec!["d"]]);
    let first = input
        .source(&["--batch-size", "3", "--batches", "1"])
        .unwrap();
    assert_eq!(ids(first), [["a", "b", "c"]]);
}

#[test]
fn nothing_makes_no_batch() {
    assert!(ids(source(&["--batches", "0"]).unwrap()).is_empty());
    assert!(ids(Input::new("\n").source(&[]).unwrap()).is_empty());
}

#[test]
fn a_bad_line_is_told_by_its_number() {
    let good = r#"{"id": "a", "vector": [1]}"#;
    for (bad, why) in [
        (r#"{"id": "a"}"#, "missing field `vector`"),
        (r#"{"id": 1, "vector": []}"#, "expected a string"),
        (
            r#"{"id": "a", "vector": [1], "score": 2}"#,
            "unknown field `score`",
        ),
        (r#"{"id": "a", "vector": [1e39]}"#, "out of range"),
        (r#"{"id": "a", "vector": [null]}"#, "invalid type: null"),
        ("nonsense", "expected ident"),
    ] {
        let input = Input::new(format!("{good}\n{bad}\n{good}"));
        let error = input.source(&[]).unwrap_err();
        assert!(error.contains("line 2: "), "{bad}: {error}");
        assert!(error.contains(why), "{bad}: {error}");
    }
    let error = Input::new(b"\xff\n").source(&[]).unwrap_err();
    assert!(
        error.contains("line 1: ") && error.contains("UTF-8"),
        "{error}"
    );
}

#[test]
fn what_is_no_file_is_no_input() {
    let error = source(&["--input", "no/such/file.jsonl"]).unwrap_err();
    assert!(error.starts_with("no/such/file.jsonl: "), "{error}");
    let error = source(&["--input", "."]).unwrap_err();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn an_input_is_known_by_what_is_in_it() {
    let of = |text: &str| {
        let source = Input::new(text).source(&[]).unwrap();
        source.fingerprint().to_owned()
    };
    let text = "{\"id\": \"a\", \"vector\": [1], \"metadata\": {\"k\": \"v\", \"l\": \"w\"}}\n";
    let same = "\n{\"id\":\"a\",\"metadata\":{\"l\":\"w\",\"k\":\"v\"},\"vector\":[1.0]}";
    assert_eq!(of(text), of(same));
    // FNV-1a's own test: of nothing.
    assert_eq!(of(""), "0 records of sum cbf29ce484222325");
    for (part, other) in [
        ("\"a\"", "\"b\""),
        ("[1]", "[2]"),
        ("[1]", "[1, 0]"),
        ("\"v\"", "\"u\""),
        ("\"k\": \"v\", \"l\": \"w\"", ""),
        ("\n", "\n{\"id\": \"\", \"vector\": []}"),
    ] {
        assert_ne!(of(text), of(&text.replace(part, other)), "{part}");
    }
    let made = |args: &[&str]| source(args).unwrap().fingerprint().to_owned();
    assert_eq!(made(&[]), "512 of seed 0");
    assert_eq!(made(&["--seed", "1", "--dimension", "2"]), "2 of seed 1");
}
