//! What the tests share that watch a program while it runs.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::sleep,
};

/// A test that has waited this long has failed.
const LONG: Duration = Duration::from_secs(120);

/// Starts it, to be killed when the test drops it: a program that outlives its
/// test keeps its files locked.
pub(crate) fn start(command: Command) -> Child {
    let mut command = command;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

/// By the shell's own `kill`: not every machine has a program of that name.
pub(crate) async fn signal(program: &Child, name: &str) {
    let kill = format!("kill -{name} {}", program.id().unwrap());
    let sent = Command::new("sh").args(["-c", &kill]).status().await;
    assert!(sent.unwrap().success());
}

/// What it said, and how it ended.
pub(crate) async fn ended(program: Child) -> Output {
    let output = within("the program's end", program.wait_with_output());
    output.await.unwrap()
}

/// Looks until `reached` says yes.
pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let look = async {
        while !reached() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(what, look).await;
}

/// Waits for a future, and panics after two minutes: a hang is to fail.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::select! {
        output = future => output,
        () = sleep(LONG) => panic!("waited in vain: {what}"),
    }
}
