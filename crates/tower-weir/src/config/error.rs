use std::{error::Error, fmt};

/// Settings that cannot be: they were not read, or not applied.
///
/// It is said with the path of the field, `circuit_breaker.failure_rate: a ratio
/// is above 0 and at most 1, not 1.5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSettings {
    path: String,
    why: String,
}

impl InvalidSettings {
    pub(super) fn new(path: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            path: path.into(),
            why: why.to_string(),
        }
    }

    /// The field that is to blame, `circuit_breaker.failure_rate`; empty if the
    /// text is no TOML.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.why),
            path => write!(f, "{path}: {}", self.why),
        }
    }
}

impl Error for InvalidSettings {}

/// What was wrong, with the path of the field that it was read from.
pub(super) trait At<T> {
    fn at(self, path: &str) -> Result<T, InvalidSettings>;
}

impl<T, E: fmt::Display> At<T> for Result<T, E> {
    fn at(self, path: &str) -> Result<T, InvalidSettings> {
        self.map_err(|why| InvalidSettings::new(path, why))
    }
}

/// Refuses a field's value unless it is good.
pub(super) fn require(
    good: bool,
    path: &str,
    why: impl fmt::Display,
) -> Result<(), InvalidSettings> {
    match good {
        true => Ok(()),
        false => Err(InvalidSettings::new(path, why)),
    }
}
