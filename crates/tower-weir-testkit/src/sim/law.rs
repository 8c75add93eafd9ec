use std::{fmt, str::FromStr};

use tower_weir::{
    aimd::{
        Decrease, LawConfig,
        law::{Aimd, Change, ChangeCause, Decision, FixedLimit, LimitLaw, Sample},
    },
    outcome::{Refusal, Verdict},
};

/// Which law a simulated client follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LawChoice {
    /// [`Aimd`] with [`Decrease::Proportional`].
    Proportional,
    /// [`Aimd`] with [`Decrease::Halve`].
    Halve,
    /// [`Naive`].
    Naive,
    /// [`FixedLimit`].
    Fixed(usize),
}

impl LawChoice {
    pub(super) fn make(self, config: &LawConfig, seed: u64) -> Box<dyn LimitLaw> {
        let aimd = |decrease| {
            let mut config = config.clone();
            config.decrease = decrease;
            Box::new(Aimd::new(&config, seed))
        };
        match self {
            Self::Proportional => aimd(Decrease::Proportional),
            Self::Halve => aimd(Decrease::Halve),
            Self::Naive => Box::new(Naive::default()),
            Self::Fixed(limit) => Box::new(FixedLimit::new(limit)),
        }
    }
}

impl fmt::Display for LawChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proportional => f.write_str("proportional"),
            Self::Halve => f.write_str("halve"),
            Self::Naive => f.write_str("naive"),
            Self::Fixed(limit) => write!(f, "fixed:{limit}"),
        }
    }
}

impl FromStr for LawChoice {
    type Err = UnknownLaw;

    fn from_str(text: &str) -> Result<Self, UnknownLaw> {
        match text {
            "proportional" => Ok(Self::Proportional),
            "halve" => Ok(Self::Halve),
            "naive" => Ok(Self::Naive),
            _ => text
                .strip_prefix("fixed:")
                .and_then(|limit| limit.parse().ok())
                .map(Self::Fixed)
                .ok_or(UnknownLaw),
        }
    }
}

/// Text that names no law.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLaw;

impl fmt::Display for UnknownLaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such law: proportional, halve, naive or fixed:N")
    }
}

impl std::error::Error for UnknownLaw {}

/// The rule that everybody writes first: half on each refusal, one more for
/// each ten successes. To measure the others by.
#[derive(Clone, Debug)]
pub struct Naive {
    limit: usize,
    successes: usize,
}

impl Default for Naive {
    fn default() -> Self {
        Self {
            limit: 10,
            successes: 0,
        }
    }
}

impl LimitLaw for Naive {
    fn limit(&self) -> usize {
        self.limit
    }

    fn settle(&mut self, sample: &Sample) -> Decision {
        let before = self.limit;
        let mut decision = Decision::default();
        let cause = match sample.verdict {
            Verdict::Success => {
                self.successes += 1;
                if self.successes == 10 {
                    self.successes = 0;
                    self.limit = (self.limit + 1).min(256);
                }
                ChangeCause::Success
            }
            Verdict::Refused(Refusal::Throttled | Refusal::Unavailable) => {
                self.successes = 0;
                self.limit = (self.limit / 2).max(1);
                ChangeCause::Refused
            }
            _ => return decision,
        };
        decision.change = Change::between(before, self.limit, cause);
        decision
    }
}
