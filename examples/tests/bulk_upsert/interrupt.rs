//! Ctrl-C.

use std::{
    collections::HashSet,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tower_weir::dead_letter::{Letter, LetterResult};
use tower_weir_testkit::upstream::Upstream;

use super::{blocking, bulk_upsert, file, letters, report};

/// No batch is begun any more, what is under way may end, what waits for
/// an upstream that has gone away leaves a letter.
#[tokio::test]
async fn an_interrupt_ends_the_wait_and_what_was_under_way_leaves_letters() {
    for grpc in [false, true] {
        let upstream = Upstream::builder().start().await.unwrap();
        let url = if grpc {
            upstream.grpc_url()
        } else {
            upstream.url()
        };
        let name = if grpc {
            "interrupted-grpc"
        } else {
            "interrupted"
        };
        let (dead, journal) = (
            file(&format!("{name}.jsonl")),
            file(&format!("{name}.journal")),
        );
        let sizes = ["--batches", "1000", "--batch-size", "1", "--dimension", "1"];
        let files = [
            "--dead-letters",
            dead.to_str().unwrap(),
            "--journal",
            journal.to_str().unwrap(),
        ];
        let args = [&sizes[..], &files, &["--json"]].concat();
        let mut command = bulk_upsert(&[&args[..], &["--url", &url]].concat());
        let program = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while upstream.stats().successes < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let addr = upstream.addr();
        upstream.shutdown().await;
        let pid = program.id().to_string();
        let interrupt = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(interrupt.success());
        let output = blocking(|| program.wait_with_output().unwrap()).await;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |key: &str| told[key].as_u64().unwrap();
        assert!((100..1000).contains(&count("delivered")), "{told}");
        assert_eq!(count("delivered") + count("lost"), 1000);
        let letters = letters(&dead);
        assert_eq!(letters.len() as u64, count("letters"));
        // 64 workers have a batch each, which they may have sent twice.
        let keys: HashSet<_> = letters.iter().map(Letter::idempotency_key).collect();
        assert!((1..=64).contains(&keys.len()), "{}", keys.len());
        for letter in letters {
            let said = match letter.result {
                LetterResult::Error { fault, .. } => fault,
                other => panic!("{other:?}"),
            };
            // What a connection that goes does to an attempt depends on how
            // far the attempt has come.
            let gone = "connect not_sent refused_stream go_away stream_reset reset closed";
            let ended = "shutting_down cut";
            let mut known = gone.split(' ').chain(ended.split(' '));
            assert!(known.any(|fault| fault == said), "{said}");
        }
        assert_eq!(output.status.code(), Some(1));

        let upstream = Upstream::builder().addr(addr).start().await.unwrap();
        let args: Vec<_> = [&sizes[..], &files[2..], &["--resume", "--url", &url]].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        let (again, code) = blocking(move || {
            let args: Vec<_> = args.iter().map(|arg| &**arg).collect();
            report(&args)
        })
        .await;
        assert_eq!(code, Some(0));
        assert_eq!(again["skipped"], count("delivered"));
        assert_eq!(upstream.stats().distinct_ids, 1000 - count("delivered"));
    }
}
