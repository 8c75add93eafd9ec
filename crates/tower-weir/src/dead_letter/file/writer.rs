//! The thread that writes.

use std::{io, num::NonZeroU64};

use tokio::sync::{mpsc, oneshot};

use super::{Fsync, LineFile};
use crate::dead_letter::Letter;

/// How many letters are written before they are acknowledged together.
const AT_ONCE: usize = 256;

pub(super) type Receipt = oneshot::Sender<io::Result<()>>;

pub(super) enum Order {
    Write(Box<Letter>, Receipt),
    Flush(Receipt),
    Close(Receipt),
}

pub(super) struct Writer {
    pub(super) file: LineFile,
    pub(super) fsync: Fsync,
    pub(super) rotate_at: Option<NonZeroU64>,
    /// Lines that are not on the disk yet.
    pub(super) unsynced: u32,
}

impl Writer {
    /// Works until the file is closed, or nobody can give orders any more.
    pub(super) fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut taken = Vec::new();
        while orders.blocking_recv_many(&mut taken, AT_ONCE) > 0 {
            let mut written = Vec::new();
            for order in taken.drain(..) {
                match order {
                    Order::Write(letter, receipt) => match self.write(&letter, &mut written) {
                        Ok(()) => written.push(receipt),
                        Err(error) => tell(receipt, Err(error)),
                    },
                    Order::Flush(receipt) => tell(receipt, self.settle(&mut written)),
                    Order::Close(receipt) => {
                        let synced = self.settle(&mut written);
                        drop(self);
                        return tell(receipt, synced);
                    }
                }
            }
            self.acknowledge(&mut written);
        }
        // The last one to ask has gone: nobody is there to hear of it.
        let _ = self.sync();
    }

    fn write(&mut self, letter: &Letter, written: &mut Vec<Receipt>) -> io::Result<()> {
        let line = serde_json::to_vec(letter)?;
        if self.file.is_gone() {
            // The old one is synced for the last time, and those are told who have
            // lines in it.
            let _ = self.settle(written);
            self.file.reopen()?;
        }
        let length = self.file.length();
        let full = |most: NonZeroU64| length > 0 && length + line.len() as u64 >= most.get();
        // A disk tells of an error once: those must hear of it whose lines it has.
        if self.rotate_at.is_some_and(full)
            && self.settle(written).is_ok()
            && let Err(error) = self.file.rotate()
        {
            tracing::debug!(%error, "the file of letters was not put aside, and grows");
        }
        self.file.append(line)?;
        self.unsynced = self.unsynced.saturating_add(1);
        Ok(())
    }

    /// Syncs if the policy wants it, and tells those whose letters are written.
    fn acknowledge(&mut self, written: &mut Vec<Receipt>) {
        let due = match self.fsync {
            Fsync::Never => false,
            Fsync::EveryLetter => self.unsynced > 0,
            Fsync::Every(letters) => self.unsynced >= letters.get(),
        };
        let synced = if due { self.sync() } else { Ok(()) };
        tell_all(written, &synced);
    }

    /// Syncs, whatever the policy, and tells those whose letters are written.
    fn settle(&mut self, written: &mut Vec<Receipt>) -> io::Result<()> {
        let synced = self.sync();
        tell_all(written, &synced);
        synced
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.unsynced = 0;
        Ok(())
    }
}

fn tell_all(receipts: &mut Vec<Receipt>, result: &io::Result<()>) {
    for receipt in receipts.drain(..) {
        let again = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        tell(receipt, result.as_ref().copied().map_err(again));
    }
}

fn tell(receipt: Receipt, result: io::Result<()>) {
    // Who gave the order may not wait any more.
    let _ = receipt.send(result);
}
