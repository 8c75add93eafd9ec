//! Dead letters, sent again by the program.
#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use http::StatusCode;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tests::{
    program::{self, ended},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::{Child, Command},
};
use tower_weir::dead_letter::{Letter, file::Letters};
use tower_weir_testkit::upstream::{
    Answer, Phase, Refusal, ServiceTime, Trouble, TroubleKind, Upstream,
};

/// A file of letters in a folder of the test's own.
struct File(PathBuf);

impl File {
    fn new(test: &str, lines: &[String]) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("letters.jsonl");
        fs::write(&file, lines.concat()).unwrap();
        Self(file)
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
        command.arg(&self.0).args(args).stderr(Stdio::piped());
        program::start(command)
    }

    async fn run(&self, args: &[&str]) -> Output {
        ended(self.start(args)).await
    }

    /// The counts that are not 0, and the exit code.
    async fn replay(&self, args: &[&str]) -> (Value, Option<i32>) {
        let output = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let counts = report.as_object_mut().unwrap();
        counts.retain(|_, count| *count != 0);
        (report, output.status.code())
    }

    fn again(&self) -> Vec<Letter> {
        let path = self.0.with_extension("jsonl.again");
        Letters::open(path).unwrap().map(Result::unwrap).collect()
    }
}

/// A letter as the file has it.
fn letter(url: &str, key: Option<&str>, body: &Value) -> String {
    let key: Vec<_> = key
        .map(|key| ("idempotency-key", key))
        .into_iter()
        .collect();
    let letter = json!({
        "v": 1, "at": "2026-11-22T06:10:28.123Z", "method": "POST", "uri": url,
        "headers": key, "body": body, "attempts": [], "processed": "maybe",
        "result": { "response": { "status": 503 } },
    });
    format!("{letter}\n")
}

fn record(id: &str) -> Value {
    json!({ "text": json!({ "id": id, "vector": [0.5] }).to_string() })
}

async fn upstream() -> Upstream {
    let upstream = Upstream::builder().slots(32);
    upstream.start().await.unwrap()
}

#[tokio::test]
async fn each_key_is_sent_once_and_what_is_not_sent_is_told() {
    let upstream = upstream().await;
    let url = upstream.url() + "/v1/upsert";
    let file = File::new(
        "replay-once",
        &[
            letter(&url, Some("a"), &record("a")),
            letter(&url, Some("b"), &record("b")),
            letter(&url, Some("a"), &record("a")),
            letter(&url, None, &record("keyless")),
            letter(&url, Some("c"), &json!({ "absent": "too_long" })),
            letter("/v1/upsert", Some("d"), &record("d")),
            "rubbish\n".to_owned(),
            letter(&url, Some("torn"), &record("torn"))[..60].to_owned(),
        ],
    );
    let output = file.run(&[]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    for line in [
        format!("POST {url}: no idempotency key: not sent"),
        format!("POST {url}: no body: not sent"),
        "POST /v1/upsert: no http:// address: not sent".to_owned(),
        "letters.jsonl, line 7: expected value".to_owned(),
    ] {
        assert!(said.contains(&line), "{said}");
    }
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("6 letters: 2 delivered, 0 failed again\n"),
        "{said}"
    );
    assert_eq!((upstream.stored("a"), upstream.stored("b")), (1, 1));
    assert_eq!(upstream.stats().attempts, 2);

    // A second replay sends what it is told to, and nothing twice.
    let args = ["--without-key", "--without-body", "--to", &upstream.url()];
    let (report, code) = file.replay(&args).await;
    assert_eq!(
        report,
        json!({ "letters": 6, "delivered": 3, "sent_before": 3, "unreadable": 1 })
    );
    assert_eq!(code, Some(1));
    assert_eq!((upstream.stored("keyless"), upstream.stored("d")), (1, 1));
    let (report, _) = file.replay(&args).await;
    assert_eq!(
        report,
        json!({ "letters": 6, "sent_before": 6, "unreadable": 1 })
    );
    assert_eq!(upstream.stats().attempts, 5);
}

#[tokio::test]
async fn what_fails_again_goes_to_a_new_file_that_can_be_replayed() {
    let upstream = upstream().await;
    let bad = TroubleKind::Answer(Answer::status(StatusCode::BAD_REQUEST));
    let phase = Phase {
        requests: Some(1),
        troubles: vec![Trouble::always(bad)],
        ..Phase::default()
    };
    upstream.set_phase(phase).unwrap();
    let url = upstream.url();
    let letters = ["a", "b"].map(|id| letter(&url, Some(id), &record(id)));
    let file = File::new("replay-again", &letters);
    let header = [
        "--header",
        "authorization: Bearer x",
        "--max-concurrency",
        "1",
    ];
    let (report, code) = file.replay(&header).await;
    assert_eq!(report, json!({ "letters": 2, "delivered": 1, "failed": 1 }));
    assert_eq!(code, Some(1));
    let again = file.again();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].idempotency_key().unwrap(), "a");
    assert_eq!(again[0].left_out, ["authorization"]);

    // The next replay says so as the first one did.
    let (report, code) = file.replay(&[]).await;
    assert_eq!(
        (report, code),
        (
            json!({ "letters": 2, "sent_before": 1, "failed_before": 1 }),
            Some(1)
        )
    );

    let next = File(file.0.with_extension("jsonl.again"));
    let (report, code) = next.replay(&[]).await;
    assert_eq!(
        (report, code),
        (json!({ "letters": 1, "delivered": 1 }), Some(0))
    );
    assert_eq!((upstream.stored("a"), upstream.stored("b")), (1, 1));
}

/// Two callers may have sent the same at the same time, and keys may be any bytes.
#[tokio::test]
async fn letters_are_told_apart() {
    let upstream = upstream().await;
    let url = upstream.url();
    let keyless = letter(&url, None, &record("keyless"));
    let keyed = |octets: &str| {
        let headers = format!(r#""headers":[["idempotency-key",{{"base64":"{octets}"}}]]"#);
        keyless.replace(r#""headers":[]"#, &headers)
    };
    let letters = [
        keyless.clone(),
        keyless.clone(),
        keyed("/w=="),
        keyed("/g=="),
    ];
    let file = File::new("replay-apart", &letters);
    for expected in ["delivered", "sent_before"] {
        let (report, code) = file.replay(&["--without-key"]).await;
        assert_eq!(report, json!({ "letters": 4, expected: 4 }));
        assert_eq!(code, Some(0));
    }
    assert_eq!(upstream.stored("keyless"), 4);
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_waited_for() {
    let upstream = upstream().await;
    let tls = letter("https://index.test/", Some("a"), &record("a"));
    let absent = letter(
        "http://index.test/",
        Some("b"),
        &json!({ "absent": "too_long" }),
    );
    let length = r#""headers":[["content-length","10000000"],"#;
    let absent = absent.replace(r#""headers":["#, length);
    let file = File::new("replay-unsendable", &[tls, absent]);
    let (report, code) = file.replay(&[]).await;
    assert_eq!(
        report,
        json!({ "letters": 2, "without_host": 1, "without_body": 1 })
    );
    assert_eq!(code, Some(1));
    let args = ["--without-body", "--to", &upstream.url()];
    let (report, code) = file.replay(&args).await;
    assert_eq!(report, json!({ "letters": 2, "delivered": 2 }));
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn what_fails_again_does_not_go_where_the_letters_come_from() {
    let file = File::new("replay-into-itself", &[]);
    let output = file.run(&["--again", file.0.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "error: --again would write to the file that is read\n"
    );
}

#[tokio::test]
async fn a_grpc_request_is_sent_again_over_http2() {
    let upstream = upstream().await;
    let bad = TroubleKind::Answer(Answer::status(StatusCode::BAD_REQUEST));
    let phase = Phase {
        troubles: vec![Trouble::always(bad)],
        ..Phase::default()
    };
    upstream.set_phase(phase).unwrap();
    let file = File::new("replay-grpc", &[]);
    let mut writer = Command::new(env!("CARGO_BIN_EXE_bulk-upsert"));
    writer.args([
        "--batches",
        "3",
        "--dimension",
        "2",
        "--url",
        &upstream.grpc_url(),
    ]);
    writer.arg("--dead-letters").arg(&file.0);
    let output = ended(program::start(writer)).await;
    assert_eq!(output.status.code(), Some(1));
    upstream.set_phase(Phase::default()).unwrap();
    // tonic's requests name no host.
    let (report, _) = file.replay(&[]).await;
    assert_eq!(report, json!({ "letters": 3, "without_host": 3 }));
    let (report, code) = file.replay(&["--to", &upstream.url()]).await;
    assert_eq!(
        (report, code),
        (json!({ "letters": 3, "delivered": 3 }), Some(0))
    );
    assert_eq!(upstream.stats().distinct_ids, 96);
}

/// The upstream may have acted on it: nobody knows.
#[tokio::test]
async fn an_answer_that_does_not_end_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert_ne!(stream.read(&mut request).await.unwrap(), 0);
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na part";
        stream.write_all(head).await.unwrap();
        // Until the other side has gone.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    });
    let file = File::new("replay-endless", &[letter(&url, Some("a"), &record("a"))]);
    let output = file.run(&["--answer-timeout", "1"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "failed again: nothing more of the answer came for 1s\n"
    );
    assert_eq!(output.status.code(), Some(1));
    server.await.unwrap();
    let again = file.again();
    assert_eq!(again[0].idempotency_key().unwrap(), "a");
    let (report, _) = file.replay(&[]).await;
    assert_eq!(report, json!({ "letters": 1, "failed_before": 1 }));
}

#[tokio::test]
async fn two_replays_of_a_file_do_not_work_at_once() {
    // The first waits here, until there is a slot.
    let queue = Refusal {
        queue: 1,
        ..Refusal::default()
    };
    let upstream = Upstream::builder().slots(0).refusal(queue);
    let upstream = upstream.start().await.unwrap();
    let line = letter(&upstream.url(), Some("a"), &record("a"));
    let file = File::new("replay-locked", &[line]);
    let first = file.start(&["--json"]);
    until("the first's request", || upstream.stats().in_flight == 1).await;
    let output = file.run(&[]).await;
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another process writes to it"), "{said}");
    upstream.set_slots(1);
    assert_eq!(ended(first).await.status.code(), Some(0));
}

/// Killed at eight moments, it has sent nothing twice; what was under way is in
/// doubt, and told.
#[tokio::test]
async fn killed_and_started_again_it_sends_no_key_twice() {
    const LETTERS: usize = 200;
    let upstream = Upstream::builder()
        .service_time(ServiceTime::log_normal(Duration::from_millis(10), 0.5).unwrap())
        .start()
        .await
        .unwrap();
    let ids: Vec<_> = (0..LETTERS).map(|number| format!("id-{number}")).collect();
    let letters: Vec<_> = ids
        .iter()
        .map(|id| letter(&upstream.url(), Some(id), &record(id)))
        .collect();
    let file = File::new("replay-killed", &letters);
    let mut random = SmallRng::seed_from_u64(88);
    for _ in 0..8 {
        let mut replay = file.start(&["--json"]);
        let goal = upstream.stats().successes + random.random_range(0..30);
        until("the moment to kill", || {
            upstream.stats().successes >= goal || replay.try_wait().unwrap().is_some()
        })
        .await;
        let slack = Duration::from_micros(random.random_range(0..10_000));
        tokio::time::sleep(slack).await;
        // It may have ended by itself.
        let _ = replay.start_kill();
        ended(replay).await;
        until("an idle upstream", || upstream.stats().in_flight == 0).await;
    }
    let (report, code) = file.replay(&[]).await;
    let doubtful = report["in_doubt"].as_u64().unwrap();
    assert!((1..=8 * 16).contains(&doubtful), "{report}");
    assert_eq!((report.get("failed"), code), (None, Some(1)));
    let stored = |times| ids.iter().filter(|id| upstream.stored(id) == times).count();
    assert_eq!(stored(0) + stored(1), LETTERS, "none was sent twice");
    assert!(stored(0) as u64 <= doubtful, "none was forgotten");
    assert_journal(&file.0);

    let (report, code) = file.replay(&["--doubtful"]).await;
    assert_eq!(report["delivered"], doubtful);
    assert_eq!((stored(0), code), (0, Some(0)));
    let (report, code) = file.replay(&[]).await;
    assert_eq!(
        report,
        json!({ "letters": LETTERS, "sent_before": LETTERS })
    );
    assert_eq!(code, Some(0));
}

/// Every name is there once as `sending`, and at most once with its result.
fn assert_journal(letters: &Path) {
    let text = fs::read_to_string(letters.with_extension("jsonl.sent")).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all);
}
