use super::{Change, ChangeCause, Decision, LawConfig, LimitLaw, Sample};

/// A limit that stays where it is put: for an upstream whose capacity is known.
///
/// It lets slots go at once and heeds no hint.
///
/// ```
/// use tower_weir::aimd::law::{FixedLimit, LimitLaw};
///
/// assert_eq!(FixedLimit::new(8).limit(), 8);
/// assert_eq!(FixedLimit::new(0).limit(), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedLimit(usize);

impl FixedLimit {
    /// A limit of `limit`; 0 counts as 1.
    pub const fn new(limit: usize) -> Self {
        Self(if limit == 0 { 1 } else { limit })
    }
}

impl LimitLaw for FixedLimit {
    fn limit(&self) -> usize {
        self.0
    }

    fn settle(&mut self, _: &Sample) -> Decision {
        Decision::default()
    }

    /// The maximum becomes the limit.
    fn reconfigure(&mut self, config: &LawConfig) -> Option<Change> {
        let before = std::mem::replace(self, Self::new(config.max)).0;
        Change::between(before, self.0, ChangeCause::Settings)
    }
}
