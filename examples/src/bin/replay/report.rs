use std::io::{self, Write};

use serde::Serialize;

/// What came of the letters; each is counted once.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) letters: u64,
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
    /// Delivered by an earlier replay.
    pub(crate) sent_before: u64,
    /// Sent by an earlier replay, and failed.
    pub(crate) failed_before: u64,
    /// Of the same key as another one that this replay has sent.
    pub(crate) same_key: u64,
    /// An earlier replay was killed over them.
    pub(crate) in_doubt: u64,
    pub(crate) without_key: u64,
    pub(crate) without_body: u64,
    pub(crate) without_host: u64,
    /// Not come to: interrupted.
    pub(crate) left: u64,
    /// Lines that are no letters.
    pub(crate) unreadable: u64,
}

impl Report {
    /// Whether nothing is left to be done.
    pub(crate) fn is_done(&self) -> bool {
        self.delivered + self.sent_before + self.same_key == self.letters && self.unreadable == 0
    }

    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return writeln!(out);
        }
        let Self {
            letters,
            delivered,
            failed,
            ..
        } = self;
        writeln!(
            out,
            "{letters} letters: {delivered} delivered, {failed} failed again"
        )?;
        for (count, what) in [
            (self.sent_before, "delivered by an earlier replay"),
            (
                self.failed_before,
                "failed in an earlier replay: replay the file it wrote",
            ),
            (self.same_key, "with the key of another that was sent"),
            (
                self.in_doubt,
                "in doubt: an earlier replay was killed over them (--doubtful)",
            ),
            (
                self.without_key,
                "without an idempotency key (--without-key)",
            ),
            (self.without_body, "without a body (--without-body)"),
            (self.without_host, "without an http:// address (--to)"),
            (self.left, "left: interrupted"),
            (self.unreadable, "lines that are no letters"),
        ] {
            if count > 0 {
                writeln!(out, "{count} {what}")?;
            }
        }
        Ok(())
    }
}
