/// What is left of a value that is read from its start.
pub(super) struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Reads `byte`, or fails.
    pub(super) fn eat(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    /// Reads all bytes that `belongs` accepts, which may be none.
    pub(super) fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|byte| !belongs(*byte));
        let (taken, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Reads `word`, or fails.
    pub(super) fn word(&mut self, word: &str, any_case: bool) -> Option<()> {
        let (head, rest) = self.0.split_at_checked(word.len())?;
        if head != word.as_bytes() && !(any_case && head.eq_ignore_ascii_case(word.as_bytes())) {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    /// Fails unless everything has been read.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
