//! The program as its users run it.

#[cfg(unix)]
mod interrupt;
mod journal;
mod letters;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use http::StatusCode;
use serde_json::Value;
use tests::{
    program::{self, ended, start},
    wait::{until, within},
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tower_weir::dead_letter::{Letter, file::Letters};
use tower_weir_testkit::upstream::{Answer, Phase, Refusal, Trouble, TroubleKind, Upstream};

fn bulk_upsert(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulk-upsert"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    bulk_upsert(args).output().unwrap()
}

/// The one JSON object, and the exit code.
fn report(args: &[&str]) -> (Value, Option<i32>) {
    let output = run(&[args, &["--json"]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "");
    (
        serde_json::from_slice(&output.stdout).unwrap(),
        output.status.code(),
    )
}

/// What it says when it does not even begin.
fn refusal(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

/// A path at which nothing is, whatever a run before has left there.
fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    path
}

/// The letters of a file that is there no more afterwards.
fn letters(path: &PathBuf) -> Vec<Letter> {
    let letters = Letters::open(path).unwrap().map(Result::unwrap).collect();
    fs::remove_file(path).unwrap();
    letters
}

#[test]
fn a_run_tells_what_it_did_in_one_object() {
    for protocol in [&[][..], &["--grpc"]] {
        let (report, code) = report(&[&["--batches", "100", "--story", "none"], protocol].concat());
        let keys = "batches skipped delivered lost letters letters_lost records distinct_ids \
                    duplicate_ids attempts rejections rejections_per_success wall_s ideal_s \
                    wall_over_ideal p50_ms p99_ms";
        let object = report.as_object().unwrap();
        assert_eq!(object.len(), keys.split_whitespace().count());
        for key in keys.split_whitespace() {
            assert!(object[key].is_number(), "{key}: {}", object[key]);
        }
        assert_eq!(
            (&report["batches"], &report["delivered"]),
            (&100.into(), &100.into())
        );
        assert_eq!(
            (&report["records"], &report["distinct_ids"]),
            (&3200.into(), &3200.into())
        );
        assert_eq!(
            (&report["lost"], &report["duplicate_ids"]),
            (&0.into(), &0.into())
        );
        let attempts = 100 + report["rejections"].as_u64().unwrap();
        assert_eq!(report["attempts"], attempts);
        assert!(
            report["wall_over_ideal"].as_f64().unwrap() >= 1.0,
            "{report}"
        );
        assert_eq!(code, Some(0));
    }
}

/// Overloads, statuses, cut connections, answers that break off and an outage:
/// what the default story has and more, in a second.
#[test]
fn a_story_of_every_trouble_loses_nothing() {
    let story = file("troubles.toml");
    let text = r#"
        [[phase]]
        requests = 60
        troubles = [
            { kind = { answer = { http = 503 } }, rate = 0.1 },
            { kind = { answer = { http = 429, retry_after = "1s" } }, rate = 0.1 },
            { kind = "close_before_response", rate = 0.02 },
            { kind = "close_mid_response", rate = 0.05 },
        ]
        [[phase]]
        outage = true
        lasts = "500ms"
        [[phase]]
        slots = 2
    "#;
    fs::write(&story, text).unwrap();
    let story = story.to_str().unwrap();
    for protocol in [&[][..], &["--grpc"]] {
        let (report, code) = report(&[&["--batches", "100", "--story", story], protocol].concat());
        assert_eq!(
            (&report["lost"], &report["delivered"]),
            (&0.into(), &100.into())
        );
        assert_eq!(report["distinct_ids"], 3200);
        assert_eq!(code, Some(0));
    }
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_sent() {
    let bad = file("bad.jsonl");
    fs::write(&bad, "{\"id\": \"a\", \"vector\": []}\n{\"id\": 7}\n").unwrap();
    let bad = bad.to_str().unwrap();
    let settings = file("settings.toml");
    fs::write(&settings, "circuit_breaker.failure_rate = 1.5").unwrap();
    let settings = settings.to_str().unwrap();
    for (args, why) in [
        (&["--input", bad][..], "bad.jsonl, line 2: "),
        (&["--input", "no/such.jsonl"], "no/such.jsonl: "),
        (&["--input", bad, "--dimension", "4"], "cannot be used with"),
        (&["--story", "no/such.toml"], "no/such.toml"),
        (&["--plot", "no/such/plot.svg"], "no/such/plot.svg: "),
        (
            &["--dead-letters", "no/such/letters.jsonl"],
            "no/such/letters.jsonl.lock: No such",
        ),
        (
            &["--journal", "no/such/journal.jsonl"],
            "no/such/journal.jsonl.lock: No such",
        ),
        (&["--resume"], "--journal"),
        (&["--config", "no/such.toml"], "no/such.toml: "),
        (
            &["--config", settings],
            "settings.toml: circuit_breaker.failure_rate: ",
        ),
        (
            &["--config", settings, "--max-concurrency", "4"],
            "cannot be used with",
        ),
        (&["--url", "https://localhost"], "no TLS"),
        (
            &["--url", "http://localhost", "--slots", "4"],
            "cannot be used with",
        ),
        (&["--slots", "0"], "invalid value '0'"),
        (&["--batch-size", "0"], "invalid value '0'"),
        (&["--max-concurrency", "0"], "invalid value '0'"),
        (&["--batches=-1"], "invalid digit"),
    ] {
        let said = refusal(args);
        assert!(said.contains(why), "{args:?}: {said}");
    }
}

#[test]
fn a_file_sets_the_stack() {
    let path = file("one.toml");
    // One after the other, so that nothing is above the upstream's slots.
    fs::write(
        &path,
        "preset = \"bulk\"\nlimiter = { initial = 1, max = 1 }",
    )
    .unwrap();
    let settings = path.to_str().unwrap();
    let args = ["--batches", "300", "--story", "none", "--config", settings];
    let (told, code) = report(&args);
    assert_eq!((&told["attempts"], &told["lost"]), (&300.into(), &0.into()));
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_file_sets_how_many_go_at_once_and_how_often() {
    let path = file("once.toml");
    let once = "limiter = { initial = 64, max = 64 }\nretry.max_retries = 0";
    fs::write(&path, once).unwrap();
    let queue = Refusal {
        queue: 64,
        ..Refusal::default()
    };
    let upstream = Upstream::builder().slots(64).refusal(queue);
    let upstream = upstream.start().await.unwrap();
    let full = Phase {
        slots: Some(0),
        ..Phase::default()
    };
    upstream.set_phase(full).unwrap();
    let (url, settings) = (upstream.url(), path.to_str().unwrap());
    let args = ["--url", &url, "--config", settings, "--batches", "74"];
    let program = start(bulk_upsert(&[&args[..], &["--json"]].concat()).into());
    until("64 at once", || upstream.stats().in_flight == 64).await;
    // Those are served, and the other ten are refused.
    let busy = TroubleKind::Answer(Answer::status(StatusCode::TOO_MANY_REQUESTS));
    let refusing = Phase {
        troubles: vec![Trouble::always(busy)],
        ..Phase::default()
    };
    upstream.set_phase(refusing).unwrap();
    let output = ended(program).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = ["attempts", "delivered", "rejections", "lost"].map(|key| &told[key]);
    assert_eq!(counts, [74, 64, 10, 10], "{told}");
    assert_eq!(output.status.code(), Some(1));
}

#[cfg(unix)]
#[tokio::test]
async fn a_hangup_has_the_file_read_again() {
    let upstream = Upstream::builder().start().await.unwrap();
    let path = file("changed.toml");
    fs::write(&path, "preset = \"bulk\"").unwrap();
    let (url, settings) = (upstream.url(), path.to_str().unwrap());
    let mut command = bulk_upsert(&["--url", &url, "--config", settings]);
    let sizes = ["--batch-size", "1", "--dimension", "1"];
    command.args(["--batches", "1000000"]).args(sizes);
    command.stderr(Stdio::piped());
    let mut program = start(command.into());
    until("a success", || upstream.stats().successes > 0).await;
    let mut said = BufReader::new(program.stderr.take().unwrap()).lines();
    for (text, answer) in [
        (
            "circuit_breaker.when_open = \"pend\"",
            "settings: circuit_breaker.when_open: ",
        ),
        (
            "preset = \"bulk\"\nlimiter = { initial = 1, max = 1 }",
            "settings: change 1 applied",
        ),
        ("limits = 1", "unknown field `limits`"),
    ] {
        fs::write(&path, text).unwrap();
        program::signal(&program, "HUP").await;
        let line = loop {
            let line = within(answer, said.next_line()).await.unwrap().unwrap();
            if line.contains("settings") {
                break line;
            }
        };
        assert!(line.contains(answer), "{text}: {line}");
    }
}

#[test]
fn nothing_to_do_is_done() {
    let plot = file("empty.svg");
    let (report, code) = report(&["--batches", "0", "--plot", plot.to_str().unwrap()]);
    assert_eq!(
        (&report["batches"], &report["lost"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        (&report["p50_ms"], &report["wall_over_ideal"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(code, Some(0));
    assert!(fs::read_to_string(plot).unwrap().ends_with("</svg>\n"));
}

#[test]
fn people_get_sentences() {
    let output = run(&["--batches", "20", "--story", "none"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("batches     20 of 20 delivered, 0 lost\n"),
        "{said}"
    );
    assert!(
        said.contains("640 distinct of 640 sent, 0 stored twice"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(0));
}

/// Against an upstream that is not the program's own.
#[tokio::test]
async fn an_endpoint_elsewhere_is_not_asked_what_it_cannot_tell() {
    let upstream = Upstream::builder().start().await.unwrap();
    for url in [upstream.url() + "/v1/upsert?wait=true", upstream.grpc_url()] {
        let args = ["--batches", "50", "--url", &url];
        let args = args.map(str::to_owned);
        let (report, code) = blocking(move || report(&args.each_ref().map(String::as_str))).await;
        for key in [
            "distinct_ids",
            "duplicate_ids",
            "ideal_s",
            "wall_over_ideal",
        ] {
            assert_eq!(report[key], Value::Null, "{key}");
        }
        assert_eq!(
            (&report["delivered"], &report["lost"]),
            (&50.into(), &0.into())
        );
        let attempts = 50 + report["rejections"].as_u64().unwrap();
        assert_eq!(report["attempts"], attempts);
        assert_eq!(code, Some(0));
    }
    let stats = upstream.stats();
    assert_eq!((stats.successes, stats.distinct_ids), (100, 1600));
}

#[tokio::test]
async fn nobody_at_the_url_is_told_at_once() {
    // bound and not listening, so that no other program can
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let said = blocking(move || refusal(&["--url", &url])).await;
    assert!(said.contains("cannot reach http://127.0.0.1"), "{said}");
    assert!(said.contains("refused"), "{said}");
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}
