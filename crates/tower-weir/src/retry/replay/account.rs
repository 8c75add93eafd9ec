use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::NotReplayable;

/// How much memory recorded request bodies may take, and how much they take now.
///
/// Clones are one account. A layer has one for all of its requests, in which
/// what is recorded of each body is entered, and from which it is struck off as
/// soon as no attempt can need it any more.
///
/// What counts is the length of the recorded data and trailers; the buffers
/// themselves are shared with the attempt that sends them. A body in very many
/// very small frames counts for what keeping account of its frames takes, where
/// that is more. A body that need not be recorded (`Full<Bytes>`, an empty body)
/// does not count.
#[derive(Clone, Debug)]
pub struct Account(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    per_request: AtomicUsize,
    total: AtomicUsize,
    used: AtomicUsize,
}

impl Account {
    /// What one request may record by default: 4 MiB, about the largest message
    /// that gRPC servers accept by default.
    pub const PER_REQUEST: usize = 4 << 20;

    /// What all requests of a layer may record together by default: 256 MiB, 64
    /// bodies of the greatest size.
    pub const TOTAL: usize = 256 << 20;

    /// Allows each request `per_request` bytes and all of them together `total`.
    ///
    /// With 0 for either, only bodies that need no recording can be sent again,
    /// and those of which nothing was read.
    pub fn new(per_request: usize, total: usize) -> Self {
        Self(Arc::new(Ledger {
            per_request: AtomicUsize::new(per_request),
            total: AtomicUsize::new(total),
            used: AtomicUsize::new(0),
        }))
    }

    /// Another account, of the same bounds, in which nothing is entered.
    pub(crate) fn fresh(&self) -> Self {
        Self::new(self.per_request(), self.total())
    }

    /// Changes the bounds, for whoever has a clone of the account. Nothing is struck
    /// off for it: lower ones hold for what would be recorded next.
    pub fn resize(&self, per_request: usize, total: usize) {
        self.0.per_request.store(per_request, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// How many bytes each request may record.
    pub fn per_request(&self) -> usize {
        self.0.per_request.load(Ordering::Relaxed)
    }

    /// How many bytes all requests together may record.
    pub fn total(&self) -> usize {
        self.0.total.load(Ordering::Relaxed)
    }

    /// How many bytes are recorded now. Never more than [`total`](Self::total), but
    /// for a while after that was [lowered](Self::resize).
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn open(&self) -> Charge {
        Charge {
            account: self.clone(),
            held: 0,
        }
    }
}

impl Default for Account {
    /// [`PER_REQUEST`](Self::PER_REQUEST) and [`TOTAL`](Self::TOTAL).
    fn default() -> Self {
        Self::new(Self::PER_REQUEST, Self::TOTAL)
    }
}

/// One request's part of an [`Account`], struck off when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    account: Account,
    held: usize,
}

impl Charge {
    /// Holds `to` bytes from now on, or as many as before if that is too much.
    pub(super) fn grow(&mut self, to: usize) -> Result<(), NotReplayable> {
        if to > self.account.per_request() {
            return Err(NotReplayable::OverRequestCap);
        }
        let (more, total) = (to.saturating_sub(self.held), self.account.total());
        let used = &self.account.0.used;
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more)
                .filter(|used| *used <= total || more == 0)
        })
        .map_err(|_| NotReplayable::OverLayerCap)?;
        self.held += more;
        Ok(())
    }

    /// Holds no more than `to` bytes from now on.
    pub(super) fn shrink(&mut self, to: usize) {
        let less = self.held.saturating_sub(to);
        self.account.0.used.fetch_sub(less, Ordering::Relaxed);
        self.held -= less;
    }

    pub(super) fn per_request(&self) -> usize {
        self.account.per_request()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
