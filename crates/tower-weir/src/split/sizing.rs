//! How large a piece is worth sending, by what became of others.

use std::ops::Range;

/// So many pieces in a row at the limit must fit before a larger one is tried
/// again: the two halves of one that was too large, say.
const STREAK: u32 = 2;

/// What the answers say of the size that the upstream takes.
///
/// A size that was too large halves the limit, for the pieces that follow too:
/// each of them might only be refused again. Two that fit double it, since what
/// was too large may have been few items and not their number. So it takes fewer
/// requests than plain halving where all items are alike, and hardly more where
/// they are not.
#[derive(Clone, Debug)]
pub(super) struct Sizing {
    limit: usize,
    streak: u32,
    /// The pieces that were too large, each with the limit before it.
    refused: Vec<(Range<usize>, usize)>,
}

impl Default for Sizing {
    fn default() -> Self {
        Self {
            limit: usize::MAX,
            streak: 0,
            refused: Vec::new(),
        }
    }
}

impl Sizing {
    /// Whether a piece of so many items is worth sending whole.
    pub(super) fn fits(&self, items: usize) -> bool {
        items <= self.limit
    }

    /// A piece of so many items was not too large.
    pub(super) fn fitted(&mut self, items: usize) {
        // One well below the limit says nothing of the limit.
        if items <= self.limit / 2 {
            return;
        }
        self.streak += 1;
        if self.streak >= STREAK {
            self.limit = self.limit.saturating_mul(2);
            self.streak = 0;
        }
    }

    /// A piece was too large.
    pub(super) fn too_large(&mut self, items: &Range<usize>) {
        self.streak = 0;
        if items.len() > 1 {
            self.refused.push((items.clone(), self.limit));
            self.limit = self.limit.min(items.len().div_ceil(2));
            return;
        }
        // The item itself is too large, and so was whatever held it: that says
        // nothing of the others.
        let held = |(piece, _): &(Range<usize>, usize)| piece.contains(&items.start);
        if let Some((_, limit)) = self.refused.iter().find(|refused| held(refused)) {
            self.limit = *limit;
        }
        self.refused.retain(|refused| !held(refused));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_was_too_large_is_tried_again_after_two_that_fit() {
        let mut sizing = Sizing::default();
        for items in [0..512, 0..256, 0..128] {
            assert!(sizing.fits(items.len()));
            sizing.too_large(&items);
        }
        assert!(!sizing.fits(65) && sizing.fits(64));
        sizing.fitted(64);
        assert!(!sizing.fits(128));
        sizing.fitted(64);
        assert!(sizing.fits(128) && !sizing.fits(129));
        sizing.too_large(&(128..256));
        assert!(!sizing.fits(65) && sizing.fits(64));
    }

    #[test]
    fn an_item_that_is_too_large_by_itself_says_nothing_of_the_others() {
        let mut sizing = Sizing::default();
        for end in [512, 256, 128, 64, 32, 16, 8, 4, 2, 1] {
            assert!(sizing.fits(end));
            sizing.too_large(&(0..end));
        }
        assert!(sizing.fits(usize::MAX));
        sizing.too_large(&(256..512));
        assert!(!sizing.fits(256) && sizing.fits(128));
    }

    #[test]
    fn small_pieces_that_fit_prove_nothing() {
        let mut sizing = Sizing::default();
        sizing.too_large(&(0..128));
        for _ in 0..100 {
            sizing.fitted(32);
        }
        assert!(!sizing.fits(65));
        sizing.fitted(33);
        sizing.fitted(64);
        assert!(sizing.fits(128));
    }

    #[test]
    fn without_a_refusal_there_is_no_limit() {
        let mut sizing = Sizing::default();
        for _ in 0..3 {
            sizing.fitted(1);
            sizing.fitted(usize::MAX);
        }
        assert!(sizing.fits(usize::MAX));
    }
}
