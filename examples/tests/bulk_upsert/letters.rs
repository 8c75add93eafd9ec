//! What is left of what was not delivered.

use std::fs;

use serde_json::Value;
use tower_weir::dead_letter::LetterResult;

use super::{file, letters, refusal, report};

#[test]
fn what_cannot_be_delivered_leaves_letters_that_can_be_sent_again() {
    let (input, story) = (file("in.jsonl"), file("broken.toml"));
    let record = |id| format!("{{\"id\": \"{id}\", \"vector\": [0.5, -1.0]}}\n");
    fs::write(&input, ["a", "b", "c"].map(record).concat()).unwrap();
    fs::write(
        &story,
        "[[phase]]\ntroubles = [{ kind = { answer = { http = 400, grpc = 3 } } }]",
    )
    .unwrap();
    let (input, story) = (input.to_str().unwrap(), story.to_str().unwrap());
    for (protocol, status, name) in [
        (&[][..], 400, "letters.jsonl"),
        (&["--grpc"], 200, "letters-grpc.jsonl"),
    ] {
        let dead = file(name);
        let dead_path = dead.to_str().unwrap();
        let args = ["--input", input, "--batch-size", "2", "--story", story];
        let (told, code) = report(&[&args, &["--dead-letters", dead_path][..], protocol].concat());
        assert_eq!((&told["lost"], &told["letters"]), (&2.into(), &2.into()));
        assert_eq!(
            (&told["delivered"], &told["letters_lost"]),
            (&0.into(), &0.into())
        );
        assert_eq!(
            (&told["p50_ms"], &told["rejections_per_success"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(code, Some(1));

        let (told, code) = report(&["--input", dead_path, "--story", "none"]);
        assert_eq!(
            (&told["records"], &told["distinct_ids"]),
            (&3.into(), &3.into())
        );
        assert_eq!(code, Some(0));

        let said = refusal(&["--input", dead_path, "--dead-letters", dead_path]);
        assert!(
            said.contains("--dead-letters would write to --input"),
            "{said}"
        );
        let letters = letters(&dead);
        assert_eq!(letters.len(), 2);
        for letter in letters {
            let LetterResult::Response { status: said, .. } = letter.result else {
                panic!("{:?}", letter.result)
            };
            assert_eq!(said, status);
            assert_eq!(letter.idempotency_key().unwrap().len(), 64);
        }
    }
}

/// Its head was good, and all was stored, but who knows that?
#[test]
fn an_answer_that_never_comes_whole_leaves_one_letter() {
    let story = file("cut.toml");
    fs::write(
        &story,
        "[[phase]]\ntroubles = [{ kind = \"close_mid_response\" }]",
    )
    .unwrap();
    let story = story.to_str().unwrap();
    for (protocol, name) in [(&[][..], "cut.jsonl"), (&["--grpc"], "cut-grpc.jsonl")] {
        let dead = file(name);
        let args = ["--batches", "2", "--batch-size", "1", "--dimension", "1"];
        let files = ["--story", story, "--dead-letters", dead.to_str().unwrap()];
        let (told, code) = report(&[&args[..], &files, protocol].concat());
        assert_eq!(
            (&told["lost"], &told["letters"], code),
            (&2.into(), &2.into(), Some(1)),
            "{told}"
        );
        let letters = letters(&dead);
        assert_eq!(letters.len(), 2);
        for letter in letters {
            let LetterResult::Error { fault, .. } = &letter.result else {
                panic!("{:?}", letter.result)
            };
            assert!(
                ["closed", "reset", "stream_reset"].contains(&&**fault),
                "{fault}"
            );
            assert_eq!(letter.ending.as_deref(), Some("the retries were used up"));
            // A connection that another call cut costs attempts, too.
            assert!(letter.attempts.len() >= 3, "{:?}", letter.attempts);
            assert!(letter.request().is_ok() && letter.idempotency_key().is_some());
        }
    }
}
