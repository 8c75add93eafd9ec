use std::{
    collections::HashMap,
    io::{self, Write},
    path::PathBuf,
};

use http::HeaderValue;
use indicatif::ProgressBar;
use tokio::{signal::ctrl_c, task::JoinSet};
use tower_weir::{
    BoxError,
    dead_letter::{Letter, LetterBody, file::Letters},
    retry::IdempotencyKey,
};

use crate::{
    ledger::{Known, Ledger},
    options::Options,
    report::Report,
    send::{Sender, Sent},
};

/// One replay.
pub(crate) struct Run<'a> {
    options: &'a Options,
    ledger: Ledger,
    sender: Sender,
    /// The name and the result of what is under way.
    calls: JoinSet<(String, Result<Sent, BoxError>)>,
    /// How many letters without a key there were, by what is in them: two requests
    /// can be alike in everything.
    keyless: HashMap<HeaderValue, u64>,
    report: Report,
    bar: ProgressBar,
}

impl<'a> Run<'a> {
    pub(crate) fn new(options: &'a Options, ledger: Ledger, sender: Sender) -> Self {
        Self {
            options,
            ledger,
            sender,
            calls: JoinSet::new(),
            keyless: HashMap::new(),
            report: Report::default(),
            bar: ProgressBar::hidden(),
        }
    }

    /// Sends what is in the files, in their order. The first Ctrl-C ends the
    /// taking, the second one the waiting.
    pub(crate) async fn all(mut self, files: &[PathBuf]) -> Result<Report, BoxError> {
        let mut letters = 0;
        for file in files {
            letters += Letters::open(file)?.count() as u64;
        }
        // draws on standard error, if that is a terminal
        self.bar = ProgressBar::new(letters);
        let mut interrupted = false;
        let mut interrupt = std::pin::pin!(ctrl_c());
        for file in files {
            for letter in Letters::open(file)? {
                match letter {
                    Ok(_) if interrupted => self.report.left += 1,
                    Ok(letter) => self.take(letter)?,
                    Err(error) => {
                        self.report.unreadable += 1;
                        self.tell(&error.to_string());
                        continue;
                    }
                }
                self.report.letters += 1;
                while self.calls.len() >= self.options.max_concurrency.get() && !interrupted {
                    tokio::select! {
                        biased;
                        stop = &mut interrupt => {
                            stop?;
                            interrupted = true;
                            interrupt.set(ctrl_c());
                        }
                        Some(ended) = self.calls.join_next() => self.ended(ended?)?,
                    }
                }
            }
        }
        loop {
            tokio::select! {
                ended = self.calls.join_next() => match ended {
                    Some(ended) => self.ended(ended?)?,
                    None => break,
                },
                stop = &mut interrupt => {
                    stop?;
                    if interrupted {
                        return Err("interrupted twice: stopped at once".into());
                    }
                    interrupted = true;
                    interrupt.set(ctrl_c());
                }
            }
        }
        self.bar.finish_and_clear();
        Ok(self.report)
    }

    /// Sends the letter, or says why not.
    fn take(&mut self, letter: Letter) -> Result<(), BoxError> {
        self.bar.inc(1);
        let name = self.name(&letter)?;
        let report = &mut self.report;
        let known = self.ledger.knows(&name);
        let skipped = match known {
            Known::Ours => Some((&mut report.same_key, None)),
            Known::Delivered => Some((&mut report.sent_before, None)),
            Known::Failed => Some((&mut report.failed_before, None)),
            Known::InDoubt if !self.options.doubtful => {
                Some((&mut report.in_doubt, Some("in doubt")))
            }
            _ if letter.idempotency_key().is_none() && !self.options.without_key => {
                Some((&mut report.without_key, Some("no idempotency key")))
            }
            _ if matches!(letter.body, LetterBody::Absent(_)) && !self.options.without_body => {
                Some((&mut report.without_body, Some("no body")))
            }
            _ if !self.sender.can_reach(&letter) => {
                Some((&mut report.without_host, Some("no http:// address")))
            }
            Known::No | Known::InDoubt => None,
        };
        if let Some((count, why)) = skipped {
            *count += 1;
            if let Some(why) = why {
                self.tell(&format!(
                    "{} {}: {why}: not sent",
                    letter.method, letter.uri
                ));
            }
            return Ok(());
        }
        self.ledger.sending(&name)?;
        let send = self.sender.clone().send(letter);
        self.calls.spawn(async move { (name, send.await) });
        Ok(())
    }

    fn ended(&mut self, (name, sent): (String, Result<Sent, BoxError>)) -> Result<(), BoxError> {
        let delivered = match sent? {
            Sent::Delivered => true,
            Sent::Failed(why) => {
                self.tell(&format!("failed again: {why}"));
                false
            }
        };
        self.ledger.sent(&name, delivered)?;
        match delivered {
            true => self.report.delivered += 1,
            false => self.report.failed += 1,
        }
        Ok(())
    }

    /// What a letter is known by: its idempotency key, or else what is in it, and
    /// how many of the same came before it.
    fn name(&mut self, letter: &Letter) -> Result<String, BoxError> {
        if let Some(key) = letter.idempotency_key() {
            return Ok(format!("key {}", key.as_bytes().escape_ascii()));
        }
        let line = serde_json::to_vec(letter)?;
        let content = IdempotencyKey::of_content("letter", &line);
        let same = self.keyless.entry(content.clone()).or_default();
        *same += 1;
        Ok(format!(
            "letter {} {same}",
            content.as_bytes().escape_ascii()
        ))
    }

    fn tell(&self, what: &str) {
        if !self.options.json {
            // there is nowhere else to say it
            self.bar.suspend(|| drop(writeln!(io::stderr(), "{what}")));
        }
    }
}
