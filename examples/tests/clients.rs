//! The smallest programs, alone and with a URL.

use std::process::Command;

use tower_weir_testkit::upstream::Upstream;

fn run(program: &str, args: &[String]) -> Vec<String> {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    stdout.lines().map(str::to_owned).collect()
}

const HYPER: &str = env!("CARGO_BIN_EXE_hyper-client");
const TONIC: &str = env!("CARGO_BIN_EXE_tonic-client");

#[test]
fn they_run_alone() {
    let lines = run(HYPER, &[]);
    assert_eq!(lines.len(), 20);
    for line in lines {
        assert!(line.starts_with("200 OK after "), "{line}");
        assert!(line.ends_with(r#"{"accepted":1}"#), "{line}");
    }
    assert_eq!(run(TONIC, &[]), ["accepted 1"; 20]);
}

#[tokio::test]
async fn they_take_a_url() {
    for program in [HYPER, TONIC] {
        let upstream = Upstream::builder().start().await.unwrap();
        let args = [upstream.url()];
        let lines = tokio::task::spawn_blocking(move || run(program, &args)).await;
        assert_eq!(lines.unwrap().len(), 20);
        assert_eq!(upstream.stats().distinct_ids, 20);
    }
}
