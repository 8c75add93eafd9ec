//! The program as its users run it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tower_weir_testkit::upstream::Upstream;

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

/// A path in a folder of this test run's own.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn lines(path: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_run_tells_what_it_did_in_one_object() {
    for protocol in [&[][..], &["--grpc"]] {
        let (report, code) = report(&[&["--batches", "100", "--story", "none"], protocol].concat());
        let keys = "batches delivered lost records distinct_ids duplicate_ids attempts rejections \
                    rejections_per_success wall_s ideal_s wall_over_ideal p50_ms p99_ms";
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
fn what_cannot_be_delivered_is_written_down_and_can_be_sent_again() {
    let (input, failed, story) = (file("in.jsonl"), file("failed.jsonl"), file("broken.toml"));
    let record = |id| format!("{{\"id\": \"{id}\", \"vector\": [0.5, -1.0]}}\n");
    fs::write(&input, ["a", "b", "c"].map(record).concat()).unwrap();
    fs::write(
        &story,
        "[[phase]]\ntroubles = [{ kind = { answer = { http = 400, grpc = 3 } } }]",
    )
    .unwrap();
    let path = |file: &PathBuf| file.to_str().unwrap().to_owned();
    let (input, failed_path, story) = (path(&input), path(&failed), path(&story));
    for (protocol, why) in [(&[][..], "400 Bad Request"), (&["--grpc"], "400")] {
        let args = ["--input", &input, "--batch-size", "2", "--story", &story];
        let (report, code) = report(&[&args, &["--failed", &failed_path][..], protocol].concat());
        assert_eq!(
            (&report["lost"], &report["delivered"]),
            (&2.into(), &0.into())
        );
        assert_eq!(
            (&report["p50_ms"], &report["rejections_per_success"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(code, Some(1));
        let mut letters = lines(&failed);
        letters.sort_by_key(|letter| letter["batch"].as_u64());
        assert_eq!(letters.len(), 2);
        assert_eq!(letters[1]["batch"], 2);
        assert_eq!(letters[1]["records"][0]["id"], "c");
        let error = letters[1]["error"].as_str().unwrap();
        assert!(error.contains(why), "{error}");
    }
    let (report, code) = report(&["--input", &failed_path, "--story", "none"]);
    assert_eq!(
        (&report["records"], &report["distinct_ids"]),
        (&3.into(), &3.into())
    );
    assert_eq!(code, Some(0));
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_sent() {
    let bad = file("bad.jsonl");
    fs::write(&bad, "{\"id\": \"a\", \"vector\": []}\n{\"id\": 7}\n").unwrap();
    let bad = bad.to_str().unwrap();
    for (args, why) in [
        (&["--input", bad][..], "bad.jsonl, line 2: "),
        (&["--input", "no/such.jsonl"], "no/such.jsonl: "),
        (&["--input", bad, "--dimension", "4"], "cannot be used with"),
        (&["--story", "no/such.toml"], "no/such.toml"),
        (&["--plot", "no/such/plot.svg"], "no/such/plot.svg: "),
        (
            &["--failed", "no/such/failed.jsonl"],
            "no/such/failed.jsonl: ",
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
fn the_input_is_not_overwritten() {
    let input = file("kept.jsonl");
    fs::write(&input, "{\"id\": \"a\", \"vector\": []}\n").unwrap();
    let path = input.to_str().unwrap();
    let said = refusal(&["--input", path, "--failed", path]);
    assert!(said.contains("--failed would overwrite --input"), "{said}");
    assert_eq!(lines(&input).len(), 1);
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

/// An upstream that goes away in the middle is waited for; Ctrl-C ends the wait,
/// and what was not delivered is in the file.
#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_ends_the_wait_and_keeps_what_was_not_delivered() {
    for grpc in [false, true] {
        let upstream = Upstream::builder().start().await.unwrap();
        let url = if grpc {
            upstream.grpc_url()
        } else {
            upstream.url()
        };
        let failed = file(if grpc {
            "interrupted-grpc.jsonl"
        } else {
            "interrupted.jsonl"
        });
        let path = failed.to_str().unwrap();
        let args = [
            "--json",
            "--batches",
            "1000",
            "--batch-size",
            "1",
            "--dimension",
            "1",
        ];
        let mut command = bulk_upsert(&[&args[..], &["--url", &url, "--failed", path]].concat());
        let program = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while upstream.stats().successes < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        upstream.shutdown().await;
        let pid = program.id().to_string();
        let interrupt = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(interrupt.success());
        let output = blocking(|| program.wait_with_output().unwrap()).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |key: &str| report[key].as_u64().unwrap();
        assert!((100..1000).contains(&count("delivered")), "{report}");
        assert_eq!(count("delivered") + count("lost"), 1000);
        let letters = lines(&failed);
        assert_eq!(letters.len() as u64, count("lost"));
        assert!(
            letters
                .iter()
                .all(|letter| letter["error"] == "interrupted")
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}
