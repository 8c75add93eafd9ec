//! A writer that is killed at any moment, and goes on.
#![cfg(unix)]

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use http::StatusCode;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::Value;
use tests::{
    program::{self, ended},
    wait::until,
};
use tokio::process::{Child, Command};
use tower_weir::dead_letter::file::Letters;
use tower_weir_testkit::upstream::{Answer, Phase, ServiceTime, Trouble, TroubleKind, Upstream};

const KILLS: usize = 20;
const BATCHES: usize = 150;
const BATCH_SIZE: usize = 4;
const WORKERS: usize = 16;

/// A run's files, made anew.
struct Files {
    journal: PathBuf,
    letters: PathBuf,
}

impl Files {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self {
            journal: folder.join("journal.jsonl"),
            letters: folder.join("letters.jsonl"),
        }
    }

    fn start(&self, url: &str, resume: bool) -> Child {
        let numbers = [BATCHES, BATCH_SIZE, WORKERS].map(|number| number.to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulk-upsert"));
        command.args(["--json", "--dimension", "4", "--url", url]);
        command.args(["--batches", &numbers[0], "--batch-size", &numbers[1]]);
        command.args(["--max-concurrency", &numbers[2]]);
        command.arg("--journal").arg(&self.journal);
        command.arg("--dead-letters").arg(&self.letters);
        command.args(resume.then_some("--resume"));
        command.stderr(Stdio::piped());
        program::start(command)
    }

    /// The ids that are written down as delivered. A last line that was torn
    /// does not count; any other must be whole.
    fn journaled(&self) -> HashSet<String> {
        let text = fs::read_to_string(&self.journal).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().skip(1);
        let ids = lines.flat_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let ids = line["ids"].as_array().unwrap().clone();
            ids.into_iter().map(|id| id.as_str().unwrap().to_owned())
        });
        ids.collect()
    }
}

fn ids() -> impl Iterator<Item = String> {
    (1..=BATCHES * BATCH_SIZE).map(|number| format!("made-{number}"))
}

/// How many letters there are; all of them must be whole.
fn letters(path: &Path) -> usize {
    match Letters::open(path) {
        Ok(letters) => letters.map(Result::unwrap).count(),
        Err(_) => 0,
    }
}

/// A server that at first refuses some of what it gets for good.
async fn upstream(seed: u64) -> Upstream {
    let upstream = Upstream::builder()
        .service_time(ServiceTime::log_normal(Duration::from_millis(10), 0.5).unwrap())
        .seed(seed)
        .start()
        .await
        .unwrap();
    let bad = TroubleKind::Answer(Answer::status(StatusCode::BAD_REQUEST));
    let phase = Phase {
        requests: Some(60),
        troubles: vec![Trouble {
            rate: 0.2,
            ..Trouble::always(bad)
        }],
        ..Phase::default()
    };
    upstream.set_phase(phase).unwrap();
    upstream
}

/// On one thread with the upstream: where that is late, so is the writer.
#[tokio::test]
async fn killed_at_any_moment_and_resumed_it_loses_nothing() {
    let mut random = SmallRng::seed_from_u64(8);
    let (mut in_the_middle, mut left_letters) = (0, 0);
    for kill in 0..KILLS {
        let upstream = upstream(kill as u64).await;
        let files = Files::new(&format!("killed-{kill}"));
        let url = upstream.url();

        let mut child = files.start(&url, false);
        // From before the first request to after the last.
        let moment = random.random_range(0..=BATCHES as u64);
        let slack = Duration::from_micros(random.random_range(0..10_000));
        until("the moment to kill", || {
            upstream.stats().successes >= moment || child.try_wait().unwrap().is_some()
        })
        .await;
        tokio::time::sleep(slack).await;
        // It may have ended by itself.
        let _ = child.start_kill();
        ended(child).await;
        until("an idle upstream", || upstream.stats().in_flight == 0).await;

        let journaled = files.journaled();
        let stored: HashSet<_> = ids().filter(|id| upstream.stored(id) > 0).collect();
        assert!(
            journaled.is_subset(&stored),
            "written down and not delivered"
        );
        // What was stored and not written down was under way: a batch a worker.
        let unsure = stored.len() - journaled.len();
        assert!(unsure <= WORKERS * BATCH_SIZE, "{unsure}");
        in_the_middle += usize::from(!journaled.is_empty() && stored.len() < BATCHES * BATCH_SIZE);
        left_letters += letters(&files.letters);

        // What the server refused for good is refused at most 60 times.
        for turn in 0.. {
            let output = ended(files.start(&url, true)).await;
            match output.status.code() {
                Some(0) => break,
                Some(1) if turn < 20 => {}
                code => panic!("{code:?}: {}", String::from_utf8_lossy(&output.stderr)),
            }
        }
        assert_eq!(upstream.stats().distinct_ids, (BATCHES * BATCH_SIZE) as u64);
        assert_eq!(files.journaled().len(), BATCHES * BATCH_SIZE);
        for id in ids() {
            let times = 1 + u64::from(stored.contains(&id) && !journaled.contains(&id));
            assert_eq!(upstream.stored(&id), times, "{id}, kill {kill}");
        }
        letters(&files.letters);
    }
    // A test whose kills all came too soon or too late would show nothing.
    assert!(in_the_middle >= KILLS / 2, "{in_the_middle}");
    assert!(left_letters > 0);
}
