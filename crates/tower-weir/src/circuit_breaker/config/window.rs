use std::{error::Error, fmt, time::Duration};

const MAX_SLICES: u32 = 1_000;
const MAX_CALLS: u32 = 1_000_000;
const MIN_SLICE: Duration = Duration::from_millis(1);

/// Which calls the rates are computed over.
///
/// The default is [`Window::time`] of 5 minutes in 30 slices: long enough for
/// 100 calls at one call in 3 seconds, and in slices of 10 s, so that what was
/// recorded is forgotten little by little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(pub(in super::super) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Time { width: Duration, slices: u32 },
    Calls(u32),
}

impl Default for Window {
    fn default() -> Self {
        Self(Kind::Time {
            width: Duration::from_secs(10),
            slices: 30,
        })
    }
}

impl Window {
    /// The calls that ended in the last `span`, kept as counts in `slices`
    /// slices of equal width.
    ///
    /// A call is forgotten with its slice, between `span` less one slice and
    /// `span` after it ended. A record costs the same at any load; each slice
    /// takes 24 bytes a host.
    ///
    /// # Errors
    ///
    /// [`InvalidWindow`] unless there are 1 to 1,000 slices of 1 ms or more.
    pub fn time(span: Duration, slices: u32) -> Result<Self, InvalidWindow> {
        if slices == 0 || slices > MAX_SLICES {
            return Err(InvalidWindow::Slices(slices));
        }
        let width = span / slices;
        if width < MIN_SLICE {
            return Err(InvalidWindow::Width(width));
        }
        Ok(Self(Kind::Time { width, slices }))
    }

    /// The last `calls` calls, however long ago they ended.
    ///
    /// It takes `calls` bytes a host. A host with little traffic is judged by
    /// old calls, which is why [`Window::time`] is the default.
    /// [`min_calls`](super::BreakerConfig::min_calls) is held at `calls` if it
    /// is more, since the window can never hold more.
    ///
    /// # Errors
    ///
    /// [`InvalidWindow`] unless `calls` is 1 to 1,000,000.
    pub const fn calls(calls: u32) -> Result<Self, InvalidWindow> {
        if calls == 0 || calls > MAX_CALLS {
            return Err(InvalidWindow::Calls(calls));
        }
        Ok(Self(Kind::Calls(calls)))
    }

    /// The most calls it can hold, if there is a bound.
    pub(crate) const fn capacity(self) -> Option<u32> {
        match self.0 {
            Kind::Time { .. } => None,
            Kind::Calls(calls) => Some(calls),
        }
    }
}

/// A window that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidWindow {
    /// This many slices: fewer than 1 or more than 1,000.
    Slices(u32),
    /// Slices this wide: narrower than 1 ms.
    Width(Duration),
    /// This many calls: fewer than 1 or more than 1,000,000.
    Calls(u32),
}

impl fmt::Display for InvalidWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slices(slices) => {
                write!(f, "a window has 1 to {MAX_SLICES} slices, not {slices}")
            }
            Self::Width(width) => {
                write!(f, "a slice is at least {MIN_SLICE:?} wide, not {width:?}")
            }
            Self::Calls(calls) => write!(f, "a window has 1 to {MAX_CALLS} calls, not {calls}"),
        }
    }
}

impl Error for InvalidWindow {}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_default_is_five_minutes_in_thirty_slices() {
        assert_eq!(Window::time(5 * MINUTE, 30), Ok(Window::default()));
    }

    #[test]
    fn bounds() {
        assert_eq!(Window::time(MINUTE, 0), Err(InvalidWindow::Slices(0)));
        assert!(Window::time(MINUTE, 1_000).is_ok());
        let error = Window::time(MINUTE, 1_001).unwrap_err();
        assert_eq!(error.to_string(), "a window has 1 to 1000 slices, not 1001");

        assert!(Window::time(MIN_SLICE * 30, 30).is_ok());
        let error = Window::time(MIN_SLICE * 15, 30).unwrap_err();
        assert_eq!(error.to_string(), "a slice is at least 1ms wide, not 500µs");

        assert!(Window::calls(1).is_ok() && Window::calls(1_000_000).is_ok());
        assert_eq!(Window::calls(0), Err(InvalidWindow::Calls(0)));
        assert!(Window::calls(1_000_001).is_err());
    }
}
