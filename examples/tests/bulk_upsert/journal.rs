//! Going on where an earlier run ended.

use std::fs;

use super::{file, refusal, report};

#[test]
fn a_run_goes_on_where_the_journal_ends() {
    let (input, journal) = (file("resumed.jsonl"), file("journal.jsonl"));
    let record = |id| format!("{{\"id\": \"{id}\", \"vector\": [0.5]}}\n");
    fs::write(&input, (0..100).map(record).collect::<String>()).unwrap();
    let (path, journal_path) = (input.to_str().unwrap(), journal.to_str().unwrap());
    let args = [
        "--input",
        path,
        "--batch-size",
        "3",
        "--story",
        "none",
        "--journal",
        journal_path,
    ];
    let (told, code) = report(&[&args[..], &["--batches", "20"]].concat());
    assert_eq!((&told["delivered"], code), (&20.into(), Some(0)));
    let text = fs::read_to_string(&journal).unwrap();
    assert_eq!(text.lines().count(), 21);

    let said = refusal(&args);
    assert!(
        said.contains("of an earlier run: --resume goes on with it"),
        "{said}"
    );
    let said = refusal(&[&args[..], &["--resume", "--batch-size", "4"]].concat());
    assert!(said.contains("cannot be used multiple times"), "{said}");
    // What the numbers in it stand for must be the same: input, size and index.
    let text = fs::read_to_string(&input).unwrap();
    fs::write(&input, text.replace("\"7\"", "\"8\"")).unwrap();
    let other = ["--input", path, "--batch-size", "3", "--story", "none"];
    let resume = ["--journal", journal_path, "--resume"];
    let said = refusal(&[&other[..], &resume].concat());
    assert!(
        said.contains("journal.jsonl: it is of another input: resumed.jsonl, "),
        "{said}"
    );
    fs::write(&input, text).unwrap();
    for (other, why) in [
        (
            &["--batch-size", "3"][..],
            "it is of another input: resumed.jsonl, ",
        ),
        (
            &["--input", path, "--batch-size", "4"],
            "it is of batches of 3 records, and not of 4",
        ),
        (
            &[
                "--input",
                path,
                "--batch-size",
                "3",
                "--url",
                "http://b.test",
            ],
            "it is of another index: the one inside the program, and not http://b.test/",
        ),
        (
            &["--input", path, "--batch-size", "3", "--grpc"],
            "it is of another index: the one inside the program, and not the one inside the program, by gRPC",
        ),
    ] {
        let said = refusal(&[other, &resume].concat());
        assert!(said.contains(why), "{said}");
    }

    // The same under another name goes on.
    let moved = file("moved.jsonl");
    fs::rename(&input, &moved).unwrap();
    let args = [
        "--input",
        moved.to_str().unwrap(),
        "--batch-size",
        "3",
        "--story",
        "none",
    ];
    let args = [&args[..], &["--journal", journal_path]].concat();
    let (told, code) = report(&[&args[..], &["--resume"]].concat());
    assert_eq!(
        (
            &told["batches"],
            &told["skipped"],
            &told["delivered"],
            &told["lost"]
        ),
        (&34.into(), &20.into(), &14.into(), &0.into())
    );
    // Its upstream is a new one, which had the first 60 not.
    assert_eq!((&told["distinct_ids"], code), (&40.into(), Some(0)));

    fs::write(&journal, "{\"batch\":1,\"ids\":[]}\n").unwrap();
    let said = refusal(&[&args[..], &["--resume"]].concat());
    assert!(
        said.contains("its first line does not say what it is of: "),
        "{said}"
    );
}
