//! The Python of those tests that run against grpcio.

use std::{env, process::Stdio};

use tokio::process::Command;

/// A command that runs a script of `peers/`, by `python3`, or what the
/// environment variable `PEERS_PYTHON` names. It must have the package grpcio.
pub fn script(name: &str) -> Command {
    let python = env::var("PEERS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/").to_owned() + name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}
