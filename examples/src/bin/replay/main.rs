//! Sends dead letters again, through the stack, at most once for each
//! idempotency key, and goes on where it was when it is killed.

mod ledger;
mod options;
mod report;
mod run;
mod send;

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use tower_weir::{
    BoxError,
    dead_letter::file::{JsonlFile, files},
};

use self::{
    ledger::{Ledger, beside},
    options::Options,
    report::Report,
    run::Run,
    send::Sender,
};

/// The replay could not begin, or not go on.
const MISUSED: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    match replay(&Options::parse()).await {
        Ok(report) if report.is_done() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // there is nowhere else to say it
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(MISUSED)
        }
    }
}

async fn replay(options: &Options) -> Result<Report, BoxError> {
    let letters = &options.letters;
    let files = files(letters)?;
    if files.is_empty() {
        return Err(format!("{}: no such file", letters.display()).into());
    }
    let or_beside = |path: &Option<_>, suffix| path.clone().unwrap_or(beside(letters, suffix));
    let again = or_beside(&options.again, ".again");
    if files.iter().any(|file| same(file, &again)) {
        return Err("--again would write to the file that is read".into());
    }
    let ledger = Ledger::open(&or_beside(&options.progress, ".sent"))?;
    let again = JsonlFile::open(again)?;
    let sender = Sender::new(options, again.clone());
    let report = Run::new(options, ledger, sender).all(&files).await?;
    again.close().await?;
    report.print(options.json)?;
    Ok(report)
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}
