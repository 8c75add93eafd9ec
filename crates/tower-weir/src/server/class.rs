use std::num::NonZeroUsize;

/// What kind of operation a request is, and with that how much it counts for
/// and which [limits](super::ClassLimits) it is under.
///
/// A class is known by its name. Its weight and whether it
/// [frees storage](Self::freeing) may differ from request to request of one
/// class.
///
/// ```
/// use std::num::NonZeroUsize;
/// use tower_weir::server::Class;
///
/// let import = Class::new("import").weighing(NonZeroUsize::new(20).unwrap());
/// assert_eq!((import.name(), import.weight()), ("import", 20));
/// assert_ne!(Class::RECORD, Class::RECORD.freeing());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    name: &'static str,
    weight: usize,
    frees: bool,
    /// Whether it is called as [`RECORD`](Self::RECORD) is. Every operation is asked, and
    /// to compare names is a good part of what one costs.
    record: bool,
}

impl Class {
    /// Queries: never counted, never delayed, never rejected, even while the
    /// layer is drained.
    pub const EXEMPT: Self = Self {
        name: "exempt",
        weight: 0,
        frees: false,
        record: false,
    };

    /// Cheap writes. Weighs 1.
    pub const RECORD: Self = Self::new("record");

    /// What is much work at once: clear, move, copy, delete by query, settings.
    /// Weighs 5, and has limits of its own:
    /// see [`ClassLimits::structural`](super::ClassLimits::structural).
    pub const STRUCTURAL: Self = Self {
        name: "structural",
        weight: 5,
        frees: false,
        record: false,
    };

    /// A class of the user's, of weight 1. It is to be declared to the layer, by
    /// [`AdmissionLayer::class`](super::AdmissionLayer::class); one that is not
    /// is under the limits of [`RECORD`](Self::RECORD) and counted there.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            weight: 1,
            frees: false,
            record: matches!(name.as_bytes(), b"record"),
        }
    }

    /// The same class, where one operation counts for `weight`.
    #[must_use]
    pub const fn weighing(mut self, weight: NonZeroUsize) -> Self {
        self.weight = weight.get();
        self
    }

    /// The same class for an operation that makes the storage emptier (a
    /// delete): it is let through when the storage is full.
    #[must_use]
    pub const fn freeing(mut self) -> Self {
        self.frees = true;
        self
    }

    /// The name, as in snapshots, events and answers.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// How many operations one of it counts for. 0 only for
    /// [`EXEMPT`](Self::EXEMPT).
    pub const fn weight(self) -> usize {
        self.weight
    }

    /// Whether it makes the storage emptier.
    pub const fn frees(self) -> bool {
        self.frees
    }

    #[inline]
    pub(super) fn is_exempt(self) -> bool {
        self.weight == 0
    }

    #[inline]
    pub(super) fn is_record(self) -> bool {
        self.record
    }
}
