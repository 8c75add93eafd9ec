//! Programs that are watched while they run.

use std::process::{Output, Stdio};

use tokio::process::{Child, Command};

use crate::wait::within;

/// Starts it, to be killed when the test drops it: a program that outlives its
/// test keeps its files locked. What it prints is kept for the test.
///
/// # Panics
/// If it cannot be started.
pub fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

/// By the shell's own `kill`: not every machine has a program of that name.
///
/// # Panics
/// If the program has ended.
pub async fn signal(program: &Child, name: &str) {
    let kill = format!("kill -{name} {}", program.id().unwrap());
    let sent = Command::new("sh").args(["-c", &kill]).status().await;
    assert!(sent.unwrap().success());
}

/// What it said, and how it ended.
///
/// # Panics
/// If it does not end in time.
pub async fn ended(program: Child) -> Output {
    let output = within("the program's end", program.wait_with_output());
    output.await.unwrap()
}
