//! Ctrl-C.

use std::{collections::HashSet, net::TcpStream};

use serde_json::Value;
use tests::{
    program::{ended, signal, start},
    wait::until,
};
use tower_weir::dead_letter::{Letter, LetterResult};
use tower_weir_testkit::upstream::{Phase, Upstream};

use super::{bulk_upsert, file, letters};

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
        let with = |files: &[&str]| {
            let args = [&sizes[..], files, &["--json", "--url", &url]].concat();
            start(bulk_upsert(&args).into())
        };
        let program = with(&files);
        until("100 successes", || upstream.stats().successes >= 100).await;
        let outage = Phase {
            outage: true,
            ..Phase::default()
        };
        upstream.set_phase(outage).unwrap();
        until("the outage", || upstream.stats().in_flight == 0).await;
        signal(&program, "INT").await;
        let output = ended(program).await;
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

        let before = upstream.stats().successes;
        upstream.set_phase(Phase::default()).unwrap();
        until("the outage's end", || {
            TcpStream::connect(upstream.addr()).is_ok()
        })
        .await;
        let output = ended(with(&[&files[2..], &["--resume"]].concat())).await;
        assert_eq!(output.status.code(), Some(0));
        let again: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(again["skipped"], count("delivered"));
        let stats = upstream.stats();
        assert_eq!(stats.successes - before, 1000 - count("delivered"));
        assert_eq!(stats.distinct_ids, 1000);
    }
}
