use std::num::NonZeroUsize;

/// A request extension: who goes first among those who wait for a slot.
///
/// Higher goes before lower, and first come, first served within each. Nobody
/// starves: the one who has waited the longest of all is passed over at most
/// eight times in a row.
///
/// ```
/// use tower_weir::admit::Priority;
///
/// let mut request = http::Request::get("http://index.internal/query").body(())?;
/// request.extensions_mut().insert(Priority::High);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Work that nobody waits for.
    Low = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// Work that somebody waits for.
    High = 2,
}

pub(super) const CLASSES: usize = 3;

/// Enough for a burst of urgent calls, and few enough that the others still get
/// a ninth of the slots while it lasts.
pub(super) const MAX_PASSED: u32 = 8;

/// A request extension: how many slots the request takes; 1 where there is none.
///
/// For requests that cost the upstream several times as much as others. One that
/// weighs more than the limit takes the whole limit, so that it does not wait for
/// ever; while it waits at the head of the queue, those behind it wait too.
///
/// ```
/// use std::num::NonZeroUsize;
/// use tower_weir::admit::Weight;
///
/// let mut request = http::Request::post("http://index.internal/rebuild").body(())?;
/// let four = NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN);
/// request.extensions_mut().insert(Weight(four));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub NonZeroUsize);
