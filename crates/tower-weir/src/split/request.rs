use std::ops::Range;

/// A request that holds items, which may as well go in several requests.
///
/// ```
/// use std::{ops::Range, sync::Arc};
/// use tower_weir::split::Split;
///
/// /// Cheap to keep: all parts share the records.
/// #[derive(Clone)]
/// struct Upsert {
///     records: Arc<[String]>,
///     range: Range<usize>,
/// }
///
/// impl Split for Upsert {
///     type Kept = Self;
///
///     fn keep(&self) -> Self {
///         self.clone()
///     }
///
///     fn count(kept: &mut Self) -> usize {
///         kept.range.len()
///     }
///
///     fn part(kept: &Self, items: Range<usize>) -> Self {
///         let first = kept.range.start;
///         let range = first + items.start..first + items.end;
///         Self { range, ..kept.clone() }
///     }
/// }
/// ```
///
/// # What parts must not share
///
/// Whatever names the whole request must not be on its parts: an
/// `Idempotency-Key` above all, under which another body is an error
/// (draft-ietf-httpapi-idempotency-key-header 2.7), or taken for a repetition
/// and dropped. Derive one: the key and the range, `KEY-0-256`, is the same when
/// the caller sends the request again and it is split again in the same places.
/// A content length, digests and signatures are the whole body's, too.
pub trait Split: Sized {
    /// What is kept of a request while it is under way, to make its parts from.
    type Kept;

    /// Keeps what it takes. It is called for every request, most of which are
    /// never split: it should cost no more than a few reference counts.
    fn keep(&self) -> Self::Kept;

    /// How many items the request has. It is asked once, when the request is to
    /// be split, or might be; one with fewer than two is not. This is the place to parse a
    /// body, and to keep what was found.
    fn count(kept: &mut Self::Kept) -> usize;

    /// The request with these items alone, of the [`count`](Self::count) that
    /// there are.
    fn part(kept: &Self::Kept, items: Range<usize>) -> Self;

    /// Whether items may be sent again though the upstream may have acted on
    /// them: that is so if doing something twice is doing it once. By default
    /// it is not, and a request is only split on an answer which says that
    /// nothing was done. A key that an upstream knows repetitions by is no
    /// reason: the parts have others.
    fn is_safe(kept: &Self::Kept) -> bool {
        let _ = kept;
        false
    }

    /// How many bytes the request with these items alone is as a gRPC message, where
    /// that is known (`encoded_len` of prost's messages). Default: it is not.
    ///
    /// It is for tonic's servers. Their word for a request over their size is
    /// OUT_OF_RANGE with the size that was found, and the client's own word for an
    /// *answer* over its size is the same, after the request was done. If the size
    /// that was found is the request's, it was the request, and it is split; if not,
    /// only if that [is safe](Self::is_safe). Compressed messages have another size.
    /// It is asked only after such a status.
    fn encoded_len(kept: &Self::Kept, items: Range<usize>) -> Option<usize> {
        let _ = (kept, items);
        None
    }
}
