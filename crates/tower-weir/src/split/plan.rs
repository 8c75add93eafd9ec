//! Which items go next, and together with which.

use std::{num::NonZero, ops::Range};

use super::sizing::Sizing;

/// What is still to be sent of a request that was split.
///
/// Pure: it knows ranges of items, and what was said of those that were sent.
/// The pieces go in the order of the items, each as large as is worth trying.
#[derive(Debug)]
pub(super) struct Plan {
    /// The next one last.
    pending: Vec<Piece>,
    sizing: Sizing,
    max_refusals: Option<NonZero<u32>>,
    /// Nothing more is sent.
    over: bool,
}

/// Items that go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) items: Range<usize>,
    /// How often it came back refused.
    refusals: u32,
}

/// What was said of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Delivered,
    /// There are too many items, or they are too large.
    TooLarge,
    /// One of the items is not accepted, and with it none was.
    Poisoned,
    /// "Not now", and nothing was done.
    Refused,
    /// Something that sending less does not mend.
    Failed,
}

/// What becomes of a piece that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its answer is the last word on its items.
    Settled,
    /// It goes again, whole or in halves.
    Again,
}

impl Piece {
    pub(super) fn whole(count: usize) -> Self {
        Self::of(0..count)
    }

    fn of(items: Range<usize>) -> Self {
        Self { items, refusals: 0 }
    }
}

impl Plan {
    /// Nothing is planned. A piece is halved once it was refused `max_refusals`
    /// times; `None` for never.
    pub(super) fn new(max_refusals: Option<NonZero<u32>>) -> Self {
        Self {
            over: false,
            pending: Vec::new(),
            sizing: Sizing::default(),
            max_refusals,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next piece to send.
    pub(super) fn next(&mut self) -> Option<Piece> {
        loop {
            let piece = self.pending.pop()?;
            if piece.items.len() <= 1 || self.sizing.fits(piece.items.len()) {
                return Some(piece);
            }
            self.halve(&piece);
        }
    }

    /// Takes in what was said of a piece.
    pub(super) fn settle(&mut self, piece: &Piece, said: Said) -> Fate {
        let items = piece.items.len();
        match said {
            Said::Delivered => self.sizing.fitted(items),
            Said::Failed => {}
            Said::TooLarge => {
                self.sizing.too_large(&piece.items);
                return self.halved(piece);
            }
            Said::Poisoned => {
                self.sizing.fitted(items);
                return self.halved(piece);
            }
            Said::Refused => return self.refused(piece),
        }
        Fate::Settled
    }

    fn refused(&mut self, piece: &Piece) -> Fate {
        let Some(max) = self.max_refusals else {
            return Fate::Settled;
        };
        let refusals = piece.refusals + 1;
        if refusals < max.get() && !self.over {
            let items = piece.items.clone();
            self.pending.push(Piece { items, refusals });
            return Fate::Again;
        }
        // It may be the number of the items, as with a piece that is too large.
        // A single item is the least there is.
        self.over |= piece.items.len() <= 1;
        self.sizing.too_large(&piece.items);
        self.halved(piece)
    }

    fn halved(&mut self, piece: &Piece) -> Fate {
        if piece.items.len() <= 1 || self.over {
            return Fate::Settled;
        }
        self.halve(piece);
        Fate::Again
    }

    fn halve(&mut self, piece: &Piece) {
        let Range { start, end } = piece.items;
        let middle = start + (end - start) / 2;
        self.pending.push(Piece::of(middle..end));
        self.pending.push(Piece::of(start..middle));
    }

    /// Whether sending less has been tried to the end, in vain.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Ends it, and takes what has not been sent out of the plan, in order.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.over = true;
        self.pending.drain(..).rev().map(|piece| piece.items)
    }
}
